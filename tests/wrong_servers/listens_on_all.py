"""It listens on all addresses of the machine."""

import socket

from base import Chat, main


class Wrong(Chat):
    def listen(self, port):
        return socket.create_server(("", port), backlog=self.backlog)


main(Wrong)
