"""The others are told of each newcomer."""

from base import Chat, main


class Wrong(Chat):
    def welcome(self, client):
        super().broadcast(client, f"{client.name} joined\n".encode())


main(Wrong)
