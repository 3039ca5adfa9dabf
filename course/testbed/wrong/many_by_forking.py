"""Each of its processes makes another one, which makes another one: a fork bomb, which is bounded here."""

import os
import time

from base import Chat, main


class Wrong(Chat):
    def listen(self, port):
        for _ in range(8):
            os.fork()
        time.sleep(1000)


main(Wrong)
