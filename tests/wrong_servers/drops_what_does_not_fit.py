"""What the socket does not take in one send is forgotten."""

from base import Chat, main


class Wrong(Chat):
    def sent(self, client, count):
        super().sent(client, len(client.unsent))


main(Wrong)
