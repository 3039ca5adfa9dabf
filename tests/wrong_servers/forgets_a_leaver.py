"""An empty recv is ignored, so that a client that left is ready to be read for ever."""

from base import Chat, main


class Wrong(Chat):
    def received(self, client, data):
        if data:
            super().received(client, data)


main(Wrong)
