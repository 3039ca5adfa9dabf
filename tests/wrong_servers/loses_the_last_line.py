"""What stands at the end of the stream without a newline is no message."""

from base import Chat, main


class Wrong(Chat):
    def last_words(self, client):
        pass


main(Wrong)
