"""It listens on all addresses."""

import socket

from base import Chat, main


class Wrong(Chat):
    def listen(self, port):
        return socket.create_server(("0.0.0.0", port), backlog=self.backlog)


main(Wrong)
