"""The prefix and the text go out one after the other."""

from base import Chat, main


class Wrong(Chat):
    options = ()

    def broadcast(self, sender, line):
        at = line.index(b" says: ") + 7
        super().broadcast(sender, line[:at])
        super().broadcast(sender, line[at:])


main(Wrong)
