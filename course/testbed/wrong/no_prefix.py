"""Nobody is told who speaks."""

from base import Chat, main


class Wrong(Chat):
    def broadcast(self, sender, line):
        super().broadcast(sender, line.partition(b" says: ")[2])


main(Wrong)
