"""Two of it can listen on one port."""

import socket

from base import Chat, main


class Wrong(Chat):
    def listen(self, port):
        return socket.create_server(("127.0.0.1", port), backlog=self.backlog, reuse_port=True)


main(Wrong)
