"""SIGTERM is ignored."""

import signal

from base import Chat, main


class Wrong(Chat):
    def signals(self):
        signal.signal(signal.SIGINT, self.stop)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


main(Wrong)
