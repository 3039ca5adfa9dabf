"""A log that cannot be written ends it."""

from base import Chat, main


class Wrong(Chat):
    def welcome(self, client):
        print("somebody came", flush=True)


main(Wrong)
