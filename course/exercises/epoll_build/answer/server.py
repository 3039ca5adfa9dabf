"""A chat server that waits in epoll(7), edge-triggered: an event says that something came, and only when it comes."""

import select
import socket
import sys

clients = {}  # descriptor: client
poller = select.epoll()
unread = set()  # descriptors of which something may be left to read: no event will tell of that


def run(listener):
    poller.register(listener, select.EPOLLIN)
    while True:
        for fd, _ in poller.poll(0 if unread else None):
            if fd in clients:
                unread.add(fd)
            else:
                accept(listener)
        for fd in list(unread):  # each once, so that nobody keeps the others from their turn
            receive(clients[fd])


def accept(listener):
    sock, (host, port) = listener.accept()
    clients[sock.fileno()] = Client(sock, f"{host}:{port}")
    poller.register(sock, select.EPOLLIN | select.EPOLLET)


def receive(client):
    try:
        data = client.sock.recv(4096, socket.MSG_DONTWAIT)  # this call does not wait; sendall is to wait as ever
    except BlockingIOError:  # all is read, and the next bytes are an event again
        return unread.remove(client.sock.fileno())
    *lines, client.received = (client.received + data).split(b"\n")
    for line in lines:
        if line.strip():
            broadcast(client, line)
    if not data:  # the end of the stream: the client has left
        del clients[client.sock.fileno()]
        unread.remove(client.sock.fileno())
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
