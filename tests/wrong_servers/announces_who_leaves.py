"""Those in the room are told who has left."""

from base import Chat, main


class Wrong(Chat):
    def drop(self, client):
        if client.sock in self.clients:
            super().drop(client)
            self.broadcast(client, f"{client.name} left\n".encode())


main(Wrong)
