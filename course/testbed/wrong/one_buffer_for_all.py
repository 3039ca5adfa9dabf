"""The beginning of a line is kept once, for all clients."""

from base import Chat, main


class Wrong(Chat):
    shared = b""

    def received(self, client, data):
        client.received = self.shared
        super().received(client, data)
        type(self).shared = client.received


main(Wrong)
