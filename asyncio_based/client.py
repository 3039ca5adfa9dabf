"""A chat client that waits with asyncio: one coroutine for the keyboard, another for the socket.

    python client.py [HOST] [PORT]              127.0.0.1 and 9669 by default, where a server.py runs

Enter sends a line. Ctrl-D half-closes: no more is sent, what still comes is printed. Ctrl-C leaves at once.
"""

import argparse
import asyncio
import contextlib
import os
import selectors
import signal
import socket
import sys

KEYBOARD, SCREEN = 0, 1  # descriptors: sys.stdin and sys.stdout have buffers and locks of their own
CHUNK = 4096  # bytes that are read at once


async def chat(sock):
    """Carry bytes both ways until the server closes; return whether the keyboard had ended by then."""
    sock.setblocking(False)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    # Not streams: a write that fails closes them at once, also for what had come before and is still unread.
    keyboard = asyncio.create_task(send_typed(sock, ended))
    while received := await loop.sock_recv(sock, CHUNK):
        show(received)
    keyboard.cancel()
    return ended.is_set()


async def send_typed(sock, ended):
    """Send what is typed, until the keyboard ends."""
    loop = asyncio.get_running_loop()
    # After a reset this fails, while recv still has what came before it: so recv is the one to tell.
    with contextlib.suppress(OSError):
        while typed := await read_typed(loop):
            await loop.sock_sendall(sock, typed)
        ended.set()
        sock.shutdown(socket.SHUT_WR)


async def read_typed(loop):
    """Wait for the keyboard. connect_read_pipe would leave it non-blocking, for the shell as well."""
    readable = asyncio.Event()
    loop.add_reader(KEYBOARD, readable.set)
    await readable.wait()
    loop.remove_reader(KEYBOARD)
    return os.read(KEYBOARD, CHUNK)


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
        # The usual loops wait with epoll or kqueue, which cannot wait for a file as the keyboard; select can.
        loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            ended = runner.run(chat(sock))
    except ConnectionError:
        ended = False
    except OSError as error:
        sys.exit(f"{parser.prog}: {error}")
    if not ended:
        sys.exit(f"{parser.prog}: the server closed the connection")


if __name__ == "__main__":
    main()
