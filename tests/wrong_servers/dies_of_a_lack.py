"""It does not count its clients, and where accept() fails for lack of descriptors, so does the server."""

import sys

from base import Chat, main


class Wrong(Chat):
    max_clients = sys.maxsize

    def cannot_accept(self, error):
        raise error


main(Wrong)
