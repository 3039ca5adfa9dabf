"""What one recv gives is one message."""

from base import Chat, main


class Wrong(Chat):
    def received(self, client, data):
        super().received(client, data.rstrip(b"\n").replace(b"\n", b" ") + b"\n" if data else data)


main(Wrong)
