"""A peer whose machine vanished is never found out."""

import socket

from base import Chat, main


class Wrong(Chat):
    options = ((socket.IPPROTO_TCP, socket.TCP_NODELAY),)


main(Wrong)
