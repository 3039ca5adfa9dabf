"""Its port cannot be listened on for a minute after it has ended."""

import socket

from base import Chat, main


class Wrong(Chat):
    def listen(self, port):
        listener = socket.socket()
        listener.bind(("127.0.0.1", port))
        listener.listen(self.backlog)
        return listener


main(Wrong)
