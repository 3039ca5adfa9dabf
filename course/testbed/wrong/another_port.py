"""The port that it is given is ignored."""

from base import Chat, main


class Wrong(Chat):
    def listen(self, port):
        return super().listen(0)


main(Wrong)
