"""Now and then a line is delivered twice."""

from base import Chat, main


class Wrong(Chat):
    count = 0

    def broadcast(self, sender, line):
        super().broadcast(sender, line)
        self.count += 1
        if self.count % 50 == 0:
            super().broadcast(sender, line)


main(Wrong)
