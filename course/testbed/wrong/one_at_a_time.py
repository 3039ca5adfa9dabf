"""Who comes second waits until the first has left."""

from base import Chat, main


class Wrong(Chat):
    def accept(self):
        if not self.clients:
            super().accept()

    def welcome_newcomers(self, yes):
        super().welcome_newcomers(yes and not self.clients)


main(Wrong)
