"""Newcomers are greeted."""

from base import Chat, main


class Wrong(Chat):
    def welcome(self, client):
        self.send(client, b"welcome\n")


main(Wrong)
