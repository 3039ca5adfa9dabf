"""Name and text are sent one after the other; the text waits until the name is acknowledged."""

import socket

from base import Chat, main


class Wrong(Chat):
    options = ((socket.SOL_SOCKET, socket.SO_KEEPALIVE),)

    def send(self, client, data):
        name, says, text = data.partition(b"says: ")
        super().send(client, name + says)
        if text:
            super().send(client, text)


main(Wrong)
