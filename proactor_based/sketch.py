"""A chat server that waits until an operation that it asked for is done: then it is called with the result."""

import socket
import sys

from proactor import SelectorProactor

clients = {}  # descriptor: client
proactor = SelectorProactor()


def run(listener):
    proactor.register(listener, accept)
    proactor.accept(listener)
    proactor.run()


def accept(listener, operation, result):
    sock, (host, port) = result
    clients[sock.fileno()] = Client(sock, f"{host}:{port}")
    proactor.register(sock, receive)
    proactor.recv(sock, 4096)
    proactor.accept(listener)


def receive(sock, operation, data):
    client = clients[sock.fileno()]
    *lines, client.received = (client.received + data).split(b"\n")
    for line in lines:
        broadcast(client, line)
    if data:
        proactor.recv(sock, 4096)
    else:  # the end of the stream: the client has left
        del clients[sock.fileno()]
        proactor.remove(sock)
        sock.close()


def broadcast(sender, line):
    for client in clients.values():
        if client is not sender:
            client.sock.sendall(f"{sender.name} says: ".encode() + line.rstrip() + b"\n")


class Client:
    def __init__(self, sock, name):
        self.sock = sock
        self.name = name
        self.received = b""  # the start of a line whose end is still to come


listener = socket.create_server(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 9669))
print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr)
run(listener)
