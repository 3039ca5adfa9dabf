"""It has no log."""

from base import Chat, main


class Wrong(Chat):
    def note(self, text):
        pass


main(Wrong)
