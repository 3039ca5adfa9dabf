"""What the socket did not take is sent again from a little earlier."""

from base import Chat, main


class Wrong(Chat):
    def sent(self, client, count):
        super().sent(client, count if count == len(client.unsent) else max(0, count - 10))


main(Wrong)
