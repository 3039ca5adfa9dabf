"""The sender gets its own line as well."""

from base import Chat, main


class Wrong(Chat):
    def broadcast(self, sender, line):
        super().broadcast(None, line)


main(Wrong)
