"""It ends, with a word."""

import sys

from base import Chat, main


class Wrong(Chat):
    def listen(self, port):
        sys.exit("no configuration")


main(Wrong)
