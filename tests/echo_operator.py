"""Start the server of blocking/two_way with an operator who answers each line as blocking/ does.

    python tests/echo_operator.py blocking/two_way/server.py [PORT] [--host HOST]

`hello` is answered with `HOST:PORT says: hello`, which makes the two one to the suite. This process becomes the server;
the operator is a child, in a session of its own, and ends with it.
"""

import contextlib
import os
import signal
import sys

import psutil


def name_of_caller(server):
    """The address of the server's one connection, as the server writes it."""
    for connection in server.net_connections("tcp"):
        if connection.raddr:
            host, port = connection.raddr
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return "nobody"  # it has reset its connection


def sockets_of(server):
    """What tells, in less time, whether the server has the connection that it had (on Linux)."""
    folder = f"/proc/{server.pid}/fd"
    with contextlib.suppress(OSError):
        return [os.readlink(f"{folder}/{number}") for number in os.listdir(folder)]


def operate(server, screen, keyboard):
    """Answer what the screen shows until the server is gone."""
    known, name = None, ""
    for line in screen:
        sockets = sockets_of(server)
        if sockets is None or sockets != known:
            known, name = sockets, name_of_caller(server)
        if line.strip() != b"quit":
            keyboard.write(f"{name} says: ".encode() + line)
            keyboard.flush()


def main():
    closed = [number for number in (0, 1, 2) if not is_open(number)]
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass
    from_keyboard, keyboard = os.pipe()
    screen, to_screen = os.pipe()
    server = psutil.Process()
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.close(from_keyboard)
        os.close(to_screen)
        for number in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        with open(screen, "rb") as lines, open(keyboard, "wb") as answers:
            operate(server, lines, answers)
        os._exit(0)
    os.dup2(from_keyboard, 0)
    os.dup2(to_screen, 1)
    if 2 in closed:
        os.close(2)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
