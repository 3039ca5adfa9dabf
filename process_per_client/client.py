"""A chat client that waits in two processes: one blocks on the keyboard, the other on the socket.

    python client.py [HOST] [PORT]              127.0.0.1 and 9669 by default, where a server.py runs

Enter sends a line. Ctrl-D half-closes: no more is sent, what still comes is printed. Ctrl-C leaves at once.
"""

import argparse
import contextlib
import fcntl
import mmap
import os
import signal
import socket
import sys

KEYBOARD, SCREEN = 0, 1  # descriptors: sys.stdin and sys.stdout have buffers and locks of their own
CHUNK = 4096  # bytes that are read at once


def chat(sock):
    """Carry bytes both ways until the server closes; return whether the keyboard had ended by then."""
    ended = mmap.mmap(-1, 1)  # a byte of memory that both processes have
    lifeline = os.pipe()
    keyboard = os.fork()
    if keyboard == 0:
        try:
            end_with_the_other(lifeline)
            send_typed(sock, ended)
        finally:
            os._exit(0)
    try:
        while received := sock.recv(CHUNK):
            show(received)
    finally:
        # Nothing else wakes a process that blocks on the keyboard.
        os.kill(keyboard, signal.SIGKILL)
        os.waitpid(keyboard, 0)
    return ended[0] == 1


def end_with_the_other(lifeline):
    """Have the system send SIGIO, which kills, when nobody has the pipe open for writing: the other was killed."""
    reading, writing = lifeline
    os.close(writing)
    fcntl.fcntl(reading, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(reading, fcntl.F_SETFL, os.O_ASYNC)


def send_typed(sock, ended):
    """Send what is typed, until the keyboard ends."""
    # After a reset this fails, while recv still has what came before it: so recv is the one to tell.
    with contextlib.suppress(OSError):
        while typed := os.read(KEYBOARD, CHUNK):
            sock.sendall(typed)
        ended[0] = 1
        sock.shutdown(socket.SHUT_WR)


def show(received):
    """Print bytes at once, and all of them: a write may be cut short, by Ctrl-Z for one."""
    try:
        while received:
            received = received[os.write(SCREEN, received) :]
    except BrokenPipeError:  # nobody reads any more, as after `client.py | head -1`
        sys.exit(1)


def port(text):
    """Return text as a port number, or raise ValueError, which argparse reports."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError
    return int(text)


def main():
    """Read the arguments, connect, and chat until the server closes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C kills, as it kills cat: no KeyboardInterrupt
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass  # a standard descriptor that the shell has closed (<&-) would become the socket's
    words = sys.argv[1:]
    if len(words) == 1 and words[0].isdigit():
        words.insert(0, "127.0.0.1")  # a lone number is a port
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("host", metavar="HOST", nargs="?", default="127.0.0.1")
    parser.add_argument("port", metavar="PORT", nargs="?", type=port, default=9669)
    args = parser.parse_args(words)
    try:
        sock = socket.create_connection((args.host, args.port))
    except (OSError, UnicodeError) as error:
        sys.exit(f"{parser.prog}: cannot connect to {args.host}:{args.port}: {error}")
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a line waits for no acknowledgement
    try:
        ended = chat(sock)
    except ConnectionError:
        ended = False
    except OSError as error:
        sys.exit(f"{parser.prog}: {error}")
    if not ended:
        sys.exit(f"{parser.prog}: the server closed the connection")


if __name__ == "__main__":
    main()
