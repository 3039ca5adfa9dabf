"""A blank line is a message."""

from base import Chat, main


class Wrong(Chat):
    def is_blank(self, text):
        return not text


main(Wrong)
