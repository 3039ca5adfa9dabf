"""Control characters are not removed."""

from base import Chat, main


class Wrong(Chat):
    def clean(self, line):
        return line.rstrip(b"\r").decode(errors="replace")


main(Wrong)
