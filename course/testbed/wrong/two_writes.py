"""The prefix and the text go out one after the other."""

import socket

from base import Chat, main


class Wrong(Chat):
    options = ((socket.SOL_SOCKET, socket.SO_KEEPALIVE),)

    def broadcast(self, sender, line):
        at = line.index(b" says: ") + 7
        super().broadcast(sender, line[:at])
        super().broadcast(sender, line[at:])


main(Wrong)
