"""A chat client that waits with epoll(7): one thread, for the keyboard and the socket at once.

    python client.py [HOST] [PORT]              127.0.0.1 and 9669 by default, where a server.py runs

Enter sends a line. Ctrl-D half-closes: no more is sent, what still comes is printed. Ctrl-C leaves at once.
"""

import argparse
import contextlib
import errno
import os
import select
import signal
import socket
import sys

KEYBOARD, SCREEN, ERRORS = 0, 1, 2  # descriptors: sys.stdin and sys.stdout have buffers and locks of their own
CHUNK = 4096  # bytes that are read at once


def chat(sock):
    """Carry bytes both ways until the server closes; return whether the keyboard had ended by then."""
    sock.setblocking(False)
    server, unsent, ended = sock.fileno(), b"", False
    poller = select.epoll()
    poller.register(server, select.EPOLLIN)
    keyboard = KEYBOARD
    try:
        poller.register(keyboard, select.EPOLLIN)
    except PermissionError:  # epoll refuses a file and /dev/null. They are always ready: so is this eventfd
        ready = select.epoll.fromfd(os.eventfd(1))  # an object of any kind, which closes it in the end
        keyboard = ready.fileno()
        poller.register(keyboard, select.EPOLLIN)
    while True:
        events = poller.poll()
        # An error or a hang-up comes instead of POLLIN, or with it: reading tells which.
        readable = [fd for fd, event in events if event & ~select.EPOLLOUT]
        writable = [fd for fd, event in events if event & select.EPOLLOUT]
        if server in readable:
            received = sock.recv(CHUNK)
            if not received:
                return ended
            show(received)
        if keyboard in readable and (unsent := read_typed(CHUNK)) is not None:
            # While bytes are unsent the keyboard waits (backpressure): it may be an endless file.
            poller.unregister(keyboard)
            poller.modify(server, select.EPOLLIN | select.EPOLLOUT if unsent else select.EPOLLIN)
            if not unsent:
                ended = True
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_WR)
        if server in writable:
            # After a reset this fails, while recv still has what came before it: so recv is the one to tell.
            with contextlib.suppress(OSError):
                unsent = unsent[sock.send(unsent) :]
            if not unsent:
                poller.modify(server, select.EPOLLIN)
                poller.register(keyboard, select.EPOLLIN)


# ----------------------------------------------------------------------------------------------------------------------
# The same in every version: take it as given at a first reading.
# ----------------------------------------------------------------------------------------------------------------------

SIGNALS = signal.SIGINT, signal.SIGTERM  # Ctrl-C and kill


def read_typed(size):
    """Read what is typed: b"" is its end; None is nothing yet, where another program left the terminal non-blocking."""
    try:
        typed = os.read(KEYBOARD, size)
        if not typed:
            os.tcgetpgrp(KEYBOARD)  # a terminal that is gone fails here. Without this it looks like Ctrl-D
        return typed
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):  # it was no terminal that ended
            return b""
        raise OSError(f"cannot read standard input: {error.strerror}") from None


def show(received, screen=SCREEN):
    """Print bytes at once, and all of them: a write may be cut short, by Ctrl-Z for one."""
    while received:
        try:
            received = received[os.write(screen, received) :]
        except BlockingIOError:  # another program left the terminal non-blocking, and it is full
            select.select([], [screen], [])
        except BrokenPipeError:  # nobody reads any more, as after `client.py | head -1`
            sys.exit(1)
        except OSError as error:
            raise OSError(f"cannot write to standard output: {error.strerror}") from None


def fail(why):
    """Say in one line why the client ends, if that can be said, and end it with status 1."""
    with contextlib.suppress(OSError):
        show(os.fsencode(f"{os.path.basename(sys.argv[0])}: {why}\n"), ERRORS)
    sys.exit(1)


def port(text):
    """Return text as a port number, or raise ValueError, which argparse reports."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError
    return int(text)


def end_at_signals():
    """Have Ctrl-C and SIGTERM end this as they end cat: at once, and also if they were ignored or blocked before."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    if os.getpid() == 1:  # as in a container: the kernel spares this one what is the default, but not a call of _exit
        import ctypes

        libc = ctypes.CDLL(None)
        for number in SIGNALS:
            libc.signal(number, libc._exit)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def main():
    """Read the arguments, connect, and chat until the server closes."""
    if not hasattr(select, "epoll"):
        sys.exit("epoll is Linux's own; macOS and the BSDs have kqueue for it, and poll_based/client.py runs there")
    words = sys.argv[1:]
    if len(words) == 1 and words[0].isdigit():
        words.insert(0, "127.0.0.1")  # a lone number is a port
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])  # python -OO has no docstrings
    parser.add_argument("host", metavar="HOST", nargs="?", default="127.0.0.1")
    parser.add_argument("port", metavar="PORT", nargs="?", type=port, default=9669)
    args = parser.parse_args(words)
    # A console that runs this (python -i, IPython's %run) goes on afterwards. Its Ctrl-C is a KeyboardInterrupt.
    if not (sys.flags.inspect or hasattr(sys, "ps1") or sys._getframe(1).f_back):
        end_at_signals()
    try:
        while (spare := os.open(os.devnull, os.O_RDWR)) <= ERRORS:
            pass  # a standard descriptor that the shell has closed (<&-) would become the socket's
        os.close(spare)
        sock = socket.create_connection((args.host, args.port))
    except (OSError, UnicodeError) as error:
        fail(f"cannot connect to {args.host}:{args.port}: {error}")
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a line waits for no acknowledgement
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a server whose machine vanished is found out
        try:
            read_typed(0)  # what cannot be read fails here, also where nobody would type
            ended = chat(sock)
        except KeyboardInterrupt:
            return
        except ConnectionError:
            ended = False
        except OSError as error:
            fail(error)
    if not ended:
        fail("the server closed the connection")


if __name__ == "__main__":
    main()
