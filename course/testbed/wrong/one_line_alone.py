"""A client is dropped after its first line."""

from base import Chat, main


class Wrong(Chat):
    def received(self, client, data):
        super().received(client, data)
        if client.sock in self.clients and data:
            self.drop(client)


main(Wrong)
