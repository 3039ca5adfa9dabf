"""Lines end as they do on Windows."""

from base import Chat, main


class Wrong(Chat):
    def broadcast(self, sender, line):
        super().broadcast(sender, line[:-1] + b"\r\n")


main(Wrong)
