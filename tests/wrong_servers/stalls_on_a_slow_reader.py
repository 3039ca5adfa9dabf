"""Sends block."""

from base import Chat, main


class Wrong(Chat):
    def flush(self, client):
        client.sock.setblocking(True)
        try:
            client.sock.sendall(client.unsent)
        except OSError:
            self.drop(client)
            return
        client.sock.setblocking(False)
        client.unsent.clear()


main(Wrong)
