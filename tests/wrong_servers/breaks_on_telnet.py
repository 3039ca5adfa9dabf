"""Telnet's commands are taken for text, and text that is not UTF-8 for a mistake."""

from base import UNSAFE, Chat, main


class Wrong(Chat):
    def clean(self, line):
        return UNSAFE.sub("", line.decode(errors="ignore"))


main(Wrong)
