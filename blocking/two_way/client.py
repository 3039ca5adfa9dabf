"""A chat client that waits in blocking calls: for a line from the keyboard, for its answer, in turn, until one quits.

    python client.py [HOST] [PORT]              127.0.0.1 and 9669 by default, where a server.py runs

Enter sends a line. Ctrl-D half-closes: no more is sent, what still comes is printed. Ctrl-C leaves at once.
`quit` ends the conversation, on either side.

Still fails: waiting for the one, it is deaf to the other. Stop the server while it is your turn: nothing tells
you that nobody will answer, until you have typed one more line.
"""

import argparse
import contextlib
import os
import re
import signal
import socket
import sys

KEYBOARD, SCREEN = 0, 1  # descriptors: sys.stdin and sys.stdout have buffers and locks of their own
QUIT = b"quit"  # the line that ends a conversation
BLANK = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]*")  # lines that get no answer


def chat(sock):
    """Take turns until the server closes or one quits: return whether one did, or the keyboard had ended by then."""
    answers, ended = sock.makefile("rb"), False
    for line in os.fdopen(KEYBOARD, "rb"):
        if BLANK.fullmatch(line.decode(errors="replace")):
            continue
        # After a reset this fails, while recv still has what came before it: so recv is the one to tell.
        with contextlib.suppress(OSError):
            sock.sendall(line)
        if line.strip() == QUIT:
            return True
        if line.endswith(b"\n"):
            answer = answers.readline()
            if not answer:
                return ended
            show(answer)
            if answer.strip() == QUIT:
                return True
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        ended = True
    for answer in answers:
        show(answer)
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
