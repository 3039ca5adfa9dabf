"""A chat server that waits in processes: a child for one client's lines, the parent for newcomers and its children."""

import os
import select
import socket
import sys

clients = {}  # pipe: socket


def run(listener):
    while True:
        readable, _, _ = select.select([listener, *clients], [], [])
        for pipe in readable:
            if pipe in clients:
                collect(pipe)
            else:
                accept(listener)


def accept(listener):
    sock, (host, port) = listener.accept()
    reader, writer = os.pipe()
    if os.fork() == 0:  # fork() returns twice: 0 in the child, and the child's number in the parent
        for other in clients.values():
            other.close()  # or this child would keep the connection open when the parent closes it
        receive(sock, f"{host}:{port}", writer)
    os.close(writer)
    clients[os.fdopen(reader, "rb", buffering=0)] = sock  # a buffer would hold lines that select() does not see


def receive(sock, name, writer):
    for line in sock.makefile("rb"):
        os.write(writer, f"{name} says: ".encode() + line.rstrip() + b"\n")
    os._exit(0)  # not back to run(), which is the parent's


def collect(pipe):
    line = pipe.readline()
    if line:
        broadcast(pipe, line)
    else:  # the end of the pipe: the child has ended
        clients.pop(pipe).close()
        os.wait()


def broadcast(sender, line):
    for pipe, sock in clients.items():
        if pipe is not sender:
            sock.sendall(line)


listener = socket.create_server(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 9669))
print(f"listening on 127.0.0.1:{listener.getsockname()[1]}", file=sys.stderr)
run(listener)
