"""It listens, and accepts nobody."""

from base import Chat, main


class Wrong(Chat):
    def accept(self):
        self.selector.unregister(self.listener)


main(Wrong)
