"""Ctrl-C ends it with a traceback."""

import signal

from base import Chat, main


class Wrong(Chat):
    def signals(self):
        signal.signal(signal.SIGTERM, self.stop)


main(Wrong)
