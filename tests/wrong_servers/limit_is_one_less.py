"""A message may have 4095 bytes with its newline."""

from base import Chat, main


class Wrong(Chat):
    max_message = 4095


main(Wrong)
