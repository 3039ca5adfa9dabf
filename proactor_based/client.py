"""A chat client that waits with a proactor: one thread, for the keyboard and the socket at once.

    python client.py [HOST] [PORT]              127.0.0.1 and 9669 by default, where a server.py runs

Enter sends a line. Ctrl-D half-closes: no more is sent, what still comes is printed. Ctrl-C leaves at once.
"""

import argparse
import contextlib
import os
import selectors
import signal
import socket
import sys

from proactor import SelectorProactor

KEYBOARD, SCREEN = 0, 1  # descriptors: sys.stdin and sys.stdout have buffers and locks of their own
CHUNK = 4096  # bytes that are read at once


class Keyboard:
    """Standard input, made to look like a socket as far as the proactor cares."""

    def fileno(self):
        """Return the descriptor to wait for."""
        return KEYBOARD

    def recv(self, size):
        """Read what is typed."""
        return os.read(KEYBOARD, size)

    def setblocking(self, _):
        """Do nothing: a non-blocking keyboard would outlive the client in its shell."""


def chat(sock):
    """Carry bytes both ways until the server closes; return whether the keyboard had ended by then."""
    # The usual selectors wait with epoll or kqueue, which cannot wait for a file as the keyboard; select can.
    proactor = SelectorProactor(selectors.SelectSelector())
    keyboard, unsent, ended = Keyboard(), b"", False

    def complete(source, name, result):
        nonlocal unsent, ended
        if name == "send":
            # After a reset this fails, while recv still has what came before it: so recv is the one to tell.
            if isinstance(result, OSError):
                return
            unsent = unsent[result:]
            if unsent:
                proactor.send(sock, unsent)
            else:
                proactor.recv(keyboard, CHUNK)
        elif isinstance(result, OSError):
            raise result
        elif source is keyboard:
            unsent = result
            # Until all is sent nothing is asked of the keyboard (backpressure): it may be an endless file.
            if unsent:
                proactor.send(sock, unsent)
            else:
                ended = True
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
        elif result:
            show(result)
            proactor.recv(sock, CHUNK)
        else:
            proactor.cancel()

    proactor.register(sock, complete)
    proactor.register(keyboard, complete)
    proactor.recv(sock, CHUNK)
    proactor.recv(keyboard, CHUNK)
    proactor.run()
    return ended


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
