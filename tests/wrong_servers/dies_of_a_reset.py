"""A connection reset by a client ends everything."""

from base import Chat, main


class Wrong(Chat):
    def receive(self, client):
        self.received(client, client.sock.recv(4096))


main(Wrong)
