"""The descriptor of a client that left is not freed."""

import contextlib
import socket

from base import Chat, main


class Wrong(Chat):
    leaked = ()

    def drop(self, client):
        if client.sock in self.clients:
            self.leaked = *self.leaked, client.sock.dup()
            with contextlib.suppress(OSError):  # it has been reset
                client.sock.shutdown(socket.SHUT_RDWR)
        super().drop(client)


main(Wrong)
