"""Who comes is told what was said before."""

from base import Chat, main


class Wrong(Chat):
    said = ()

    def broadcast(self, sender, line):
        self.said = [*self.said, line]
        super().broadcast(sender, line)

    def welcome(self, client):
        for line in self.said:
            self.send(client, line)


main(Wrong)
