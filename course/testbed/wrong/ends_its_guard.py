"""It ends the process that looks after it, as soon as somebody comes."""

import os
import signal

from base import Chat, main


class Wrong(Chat):
    def accept(self):
        os.kill(os.getppid(), signal.SIGKILL)
        super().accept()


main(Wrong)
