"""The least that Python can do: the loop and the record of epoll_based/server.py, with none of its promises.

    python bench/others/bare_chat.py 9669

Nothing is cleaned, lines are taken to come whole, there is no limit to anything, and who cannot take a turn at once
misses the rest of it. What lies between this and the limit is what the calls themselves cost in Python, and what lies
between this and epoll_based what is done there for the promises. Nothing to deploy, and not much to learn from.
"""

import select
import socket
import sys

READ_SIZE = 4096


def main():
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN)
    room, heads, newcomers = {}, {}, listener.fileno()
    while True:
        record, spans = bytearray(), {}
        for fd, _ in poller.poll():
            if fd == newcomers:
                sock, (host, port) = listener.accept()
                sock.setblocking(False)
                poller.register(sock, select.EPOLLIN)
                room[sock.fileno()], heads[sock.fileno()] = sock, f"{host}:{port} says: ".encode()
                continue
            try:
                data = room[fd].recv(READ_SIZE)
            except OSError:
                data = b""
            if data:
                start = len(record)
                record += heads[fd] + data[:-1].replace(b"\n", b"\n" + heads[fd]) + b"\n"
                spans[fd] = start, len(record)
            else:
                room.pop(fd).close()
        size, record = len(record), memoryview(record * 2)
        for fd, sock in room.items() if size else ():
            start, end = spans.get(fd, (0, 0))
            try:  # suppress() was seen to cost a fifth of the speed  # noqa: SIM105
                sock.send(record[end : start + size])
            except OSError:
                pass


if __name__ == "__main__":
    main()
