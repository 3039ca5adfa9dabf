#!/usr/bin/env python3
"""A chat server, one thread for each client. What a client says is not relayed so far."""

import socket
import sys
import threading


def serve(sock, name):
    """Attend to one client until it leaves."""
    print(f"{name} joined", file=sys.stderr, flush=True)
    while sock.recv(4096):  # some bytes: not a line, and not a message
        pass  # TODO: make lines of them, and send each to all the others
    sock.close()


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr, flush=True)
    while True:
        sock, (host, port) = listener.accept()
        threading.Thread(target=serve, args=[sock, f"{host}:{port}"], daemon=True).start()


main()
