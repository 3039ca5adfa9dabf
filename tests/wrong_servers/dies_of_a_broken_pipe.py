"""A write to a client that has closed ends everything: SIGPIPE, which other languages do not ignore."""

import signal

from base import Chat, main


class Wrong(Chat):
    def signals(self):
        super().signals()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)


main(Wrong)
