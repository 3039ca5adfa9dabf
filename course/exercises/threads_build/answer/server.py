"""A chat server that waits in blocking calls, a thread for each: one for newcomers, one for each client's lines."""

import socket
import sys
import threading

clients = set()
lock = threading.Lock()  # held by who goes through the clients: no other thread may change them meanwhile, nor send


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
    for line in client.sock.makefile("rb"):
        broadcast(client, line)
    with lock:
        clients.remove(client)
    client.sock.close()


def broadcast(sender, line):
    with lock:
        for client in clients:
            if client is not sender:
                client.sock.sendall(f"{sender.name} says: ".encode() + line.rstrip() + b"\n")


class Client:
    def __init__(self, sock, name):
        self.sock = sock
        self.name = name


listener = socket.create_server(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 9669))
print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr)
run(listener)
