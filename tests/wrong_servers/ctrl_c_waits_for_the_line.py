"""Telnet's Ctrl-C is not seen: it is just removed with the other commands."""

from base import Chat, main


class Wrong(Chat):
    interrupt = b"\xff\xf4 is not looked for"


main(Wrong)
