"""Whoever cannot be sent to is dropped at once, its last words unread."""

from base import Chat, main


class Wrong(Chat):
    def cannot_send(self, client, error):
        self.drop(client)


main(Wrong)
