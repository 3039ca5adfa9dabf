"""It is a server for echoes, and no room."""

from base import Chat, main


class Wrong(Chat):
    def broadcast(self, sender, line):
        self.send(sender, line)


main(Wrong)
