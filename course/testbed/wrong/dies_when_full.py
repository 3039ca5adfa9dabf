"""It counts no clients, and where accept() fails for lack of descriptors, so does the server."""

from base import Chat, main


class Wrong(Chat):
    max_clients = 1 << 40

    def cannot_accept(self, error):
        raise error


main(Wrong)
