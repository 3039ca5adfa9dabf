"""ASCII control characters are removed, bidirectional overrides are not."""

from base import TELNET, Chat, main


class Wrong(Chat):
    def clean(self, line):
        text = TELNET.sub(rb"\1", line).decode(errors="replace")
        return "".join(character for character in text if ord(character) >= 32 or character == "\t")


main(Wrong)
