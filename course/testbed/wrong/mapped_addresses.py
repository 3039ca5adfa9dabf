"""It is called by an IPv4 address in IPv6, as a socket that listens on :: has it."""

from base import Chat, main


class Wrong(Chat):
    def broadcast(self, sender, line):
        super().broadcast(sender, line.replace(b"127.0.0.1", b"::ffff:127.0.0.1", 1))


main(Wrong)
