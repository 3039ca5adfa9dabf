"""Without TCP_NODELAY a second short message waits until the first one is acknowledged."""

import socket

from base import Chat, main


class Wrong(Chat):
    options = ((socket.SOL_SOCKET, socket.SO_KEEPALIVE),)


main(Wrong)
