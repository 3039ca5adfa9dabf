"""Where accept() fails for lack of descriptors, so does the server."""

from base import Chat, main


class Wrong(Chat):
    def cannot_accept(self, error):
        raise error


main(Wrong)
