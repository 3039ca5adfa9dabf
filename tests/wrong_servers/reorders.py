"""The lines that came together are delivered in the wrong order."""

from base import Chat, main


class Wrong(Chat):
    def split(self, data):
        *lines, rest = data.split(b"\n")
        return [*lines[::-1], rest]


main(Wrong)
