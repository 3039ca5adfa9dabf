"""A chat server that waits in select(2) for all sockets at once, until some of them can be read, or written to."""

import select
import socket
import sys

MAX_UNSENT = 1 << 20  # bytes that wait for a client, before it is dropped

clients = {}  # descriptor: client


def run(listener):
    while True:
        # Only those with unsent bytes are asked about: an idle socket is always writable.
        writers = [fd for fd, client in clients.items() if client.unsent]
        readable, writable, _ = select.select([listener, *clients], writers, [])
        for fd in writable:
            send(clients[fd])
        for fd in readable:
            if fd in clients:
                receive(clients[fd])
            else:
                accept(listener)


def accept(listener):
    sock, (host, port) = listener.accept()
    sock.setblocking(False)
    clients[sock.fileno()] = Client(sock, f"{host}:{port}")


def receive(client):
    try:
        data = client.sock.recv(4096)
    except OSError:  # a reset: half a line is no message, and the end follows
        data = client.received = b""
    *lines, client.received = (client.received + data).split(b"\n")
    for line in lines:
        broadcast(client, line)
    if not data:  # the end of the stream: the client has left
        del clients[client.sock.fileno()]
        client.sock.close()


def broadcast(sender, line):
    for client in clients.values():
        if client is not sender:
            send(client, f"{sender.name} says: ".encode() + line.rstrip() + b"\n")


def send(client, data=b""):
    client.unsent += data
    try:
        sent = client.sock.send(client.unsent)  # as much as the socket takes now
    except BlockingIOError:
        sent = 0
    except OSError:  # it has gone: its recv will tell
        sent = len(client.unsent)
    del client.unsent[:sent]
    if len(client.unsent) > MAX_UNSENT:
        client.unsent.clear()
        client.sock.shutdown(socket.SHUT_RDWR)  # its recv reports the end now


class Client:
    def __init__(self, sock, name):
        self.sock = sock
        self.name = name
        self.received = b""  # the start of a line whose end is still to come
        self.unsent = bytearray()  # what the socket would not take yet


listener = socket.create_server(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 9669))
print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr)
run(listener)
