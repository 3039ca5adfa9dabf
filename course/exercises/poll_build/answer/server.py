"""A chat server that waits in poll(2) for the sockets registered with it, until any of them has something to read."""

import select
import socket
import sys

clients = {}  # descriptor: client
poller = select.poll()


def run(listener):
    poller.register(listener, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            if fd in clients:
                receive(clients[fd])
            else:
                accept(listener)


def accept(listener):
    sock, (host, port) = listener.accept()
    clients[sock.fileno()] = Client(sock, f"{host}:{port}")
    poller.register(sock, select.POLLIN)


def receive(client):
    data = client.sock.recv(4096)
    *lines, client.received = (client.received + data).split(b"\n")
    for line in lines:
        broadcast(client, line)
    if not data:  # the end of the stream: the client has left
        del clients[client.sock.fileno()]
        poller.unregister(client.sock)
        client.sock.close()


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
