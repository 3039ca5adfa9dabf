"""A client that does not read may cost any memory, and is never dropped."""

from base import Chat, main


class Wrong(Chat):
    max_unsent = 1 << 40


main(Wrong)
