"""It stops when the last client has left."""

from base import Chat, main


class Wrong(Chat):
    def finished(self):
        return self.stopping and not self.clients


main(Wrong)
