"""Of a line that is too long the end is delivered, as a message of its own."""

from base import TOO_LONG, Chat, main


class Wrong(Chat):
    def too_long(self, client):
        self.send(client, TOO_LONG)
        client.received = b""


main(Wrong)
