"""The newline is not taken off, and one is added."""

from base import Chat, main


class Wrong(Chat):
    def broadcast(self, sender, line):
        super().broadcast(sender, line + b"\n")


main(Wrong)
