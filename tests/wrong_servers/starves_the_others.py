"""A client is read for as long as there is something to be read."""

from base import Chat, main


class Wrong(Chat):
    def receive(self, client):
        while client.sock in self.clients:
            try:
                data = client.sock.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                return self.drop(client)
            self.received(client, data)


main(Wrong)
