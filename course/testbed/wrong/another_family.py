"""It listens on ::1."""

import socket

from base import Chat, main


class Wrong(Chat):
    def listen(self, port):
        return socket.create_server(("::1", port), family=socket.AF_INET6)


main(Wrong)
