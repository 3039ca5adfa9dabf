"""A chat server that waits in blocking calls, a thread for each: for newcomers, for a client's lines, for its queue."""

import contextlib
import queue
import socket
import sys
import threading

MAX_LINES = 1000  # that wait for a client, before it is dropped

clients = set()
lock = threading.Lock()  # held by who goes through the clients: no other thread may change them meanwhile


def run(listener):
    while True:
        client = accept(listener)
        threading.Thread(target=receive, args=[client], daemon=True).start()


def accept(listener):
    sock, (host, port) = listener.accept()
    client = Client(sock, f"{host}:{port}")
    with lock:
        clients.add(client)
    return client


def receive(client):
    sender = threading.Thread(target=send, args=[client], daemon=True)
    sender.start()
    with contextlib.suppress(OSError):
        for line in client.sock.makefile("rb"):
            broadcast(client, line)
    with lock:
        clients.remove(client)
    drop(client)
    with contextlib.suppress(queue.Full):  # if it is full the sender does not wait for it
        client.lines.put_nowait(None)
    sender.join()
    client.sock.close()


def broadcast(sender, line):
    with lock:
        for client in clients:
            if client is not sender:
                try:
                    client.lines.put_nowait(f"{sender.name} says: ".encode() + line.rstrip() + b"\n")
                except queue.Full:
                    drop(client)


def send(client):
    with contextlib.suppress(OSError):
        while line := client.lines.get():
            client.sock.sendall(line)


def drop(client):
    with contextlib.suppress(OSError):
        client.sock.shutdown(socket.SHUT_RDWR)  # ends the calls in which its two threads wait


class Client:
    def __init__(self, sock, name):
        self.sock = sock
        self.name = name
        self.lines = queue.Queue(MAX_LINES)  # what it is still to be sent


listener = socket.create_server(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 9669))
print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr)
run(listener)
