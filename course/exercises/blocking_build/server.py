"""A chat server that waits in one blocking call at a time: for a client to come, then for each of its lines."""

import socket
import sys


def run(listener):
    while True:
        client = accept(listener)
        receive(client)


def accept(listener):
    sock, (host, port) = listener.accept()
    return Client(sock, f"{host}:{port}")


def receive(client):
    for line in client.sock.makefile("rb"):
        client.sock.sendall(f"{client.name} says: ".encode() + line.rstrip() + b"\n")
    client.sock.close()


class Client:
    def __init__(self, sock, name):
        self.sock = sock
        self.name = name


listener = socket.create_server(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 9669))
print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr)
run(listener)
