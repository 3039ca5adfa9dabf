"""The newline is taken off, and none is added."""

from base import Chat, main


class Wrong(Chat):
    def broadcast(self, sender, line):
        super().broadcast(sender, line[:-1])


main(Wrong)
