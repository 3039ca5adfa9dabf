"""A chat client that knows several nodes: when its own is gone, it goes on at another, and misses nothing.

    python client.py [HOST:PORT ...]            127.0.0.1:9669 by default; a lone number is a port

It asks for the number of each line, and tells the next node the last one that it had. With the numbers comes an empty
line each second. When none comes any more the node is frozen, or the network is: that is as good as gone.

Enter sends a line. Ctrl-D half-closes: no more is sent, what still comes is printed. Ctrl-C leaves at once.
"""

import argparse
import asyncio
import contextlib
import errno
import os
import re
import select
import selectors
import signal
import socket
import sys
import time

KEYBOARD, SCREEN, ERRORS = 0, 1, 2  # descriptors: sys.stdin and sys.stdout have buffers and locks of their own
CHUNK = 4096  # bytes that are read at once
PATIENCE = 30  # seconds for which we look for another node
RETRY_TIME = 0.5  # seconds until the same one is tried again
SILENCE = 2.5  # seconds after which one that says nothing is left
NUMBERED = re.compile(rb"(\d+) (.*)", re.DOTALL)
WELCOME = re.compile(rb"\* you are (\S+?)(?: in (\S+))?; ")
RENAMED = re.compile(rb"\* (\S+) is now (\S+)\n")
HOST_PORT = re.compile(r"(\[.*\]|[^:]*):(\d*)")  # an IPv6 host without brackets has more colons, and no port


class Place:
    """Where we are in the chat, so that we can come back there by another door."""

    def __init__(self, others):
        self.others = others  # whether there is another node to go to
        self.silent = None  # after how many seconds of silence we do that, if at all
        self.name, self.room = b"", b"lobby"  # which we have once we were let in
        self.number = 0  # of the last line that we had; those that were said at once have the same
        self.count = self.skip = 0  # how many of those we had, and how many of them come once more
        self.last = b""  # the last line that was shown
        self.leaves = False  # whether /quit was typed
        self.end = 0.0  # until when we try to come back
        self.inside = asyncio.Event()  # clear while we come back: nobody else types into the door's question

    def knock(self):
        """Return what to say before anything else."""
        if not self.name:
            return b"/numbers\n"
        self.skip, self.silent = self.count, SILENCE  # one that is frozen does not even ask who we are
        return b"/numbers %d %b\n%b\n" % (self.number - 1, self.room, self.name)

    def take(self, line):
        """Return what is to be shown of a line, or None if that is the door, to which we come back, refusing us."""
        if line == b"\n":
            self.silent = SILENCE if self.others else None
            return b""
        if numbered := NUMBERED.fullmatch(line):
            number, line = int(numbered[1]), numbered[2]
            if not line.startswith(b"["):  # what /history tells we may have had
                if number != self.number:
                    self.number, self.count, self.skip = number, 0, 0
                if self.skip:
                    self.skip -= 1
                    return b""
                self.count += 1
            if welcome := WELCOME.match(line):  # it has the number of our own "joined"
                self.name, self.room = welcome[1], welcome[2] or b"lobby"
                back = not self.inside.is_set()
                self.inside.set()
                if back:
                    return b""
            elif (renamed := RENAMED.fullmatch(line)) and renamed[1] == self.name:
                self.name = renamed[2]
        elif not self.inside.is_set():
            self.silent = None  # it lives, and perhaps waits for NATS
            return None if line.startswith(b"error: ") else b""
        self.last = line
        return line


async def chat(sock, place):
    """Carry bytes both ways until the server closes; return whether the keyboard had ended by then."""
    sock.setblocking(False)
    loop, ended, failed = asyncio.get_running_loop(), asyncio.Event(), []
    # Not streams: a write that fails closes them at once, also for what had come before and is still unread.
    keyboard = asyncio.create_task(send_typed(sock, ended, failed, place))
    if not place.name:
        place.inside.set()
    try:
        await loop.sock_sendall(sock, place.knock())
        rest = b""
        while received := await receive(sock, place):
            *lines, rest = (rest + received).split(b"\n")
            for line in lines:
                shown = place.take(line + b"\n")
                if shown is None:  # our name is taken, for as long as the node that was ours is not taken for dead
                    if time.monotonic() > place.end:
                        raise OSError(line.decode())
                    await asyncio.sleep(RETRY_TIME)
                    await loop.sock_sendall(sock, place.name + b"\n")
                else:
                    show(shown)
        show(rest)
    finally:
        keyboard.cancel()
        if failed:
            raise failed[0]
    return ended.is_set()


async def receive(sock, place):
    """Return the next bytes, or none at the end. TimeoutError: the node is silent, and should not be."""
    receiving = asyncio.create_task(asyncio.get_running_loop().sock_recv(sock, CHUNK))
    await asyncio.wait([receiving], timeout=place.silent)
    if receiving.done():  # also if we were stopped ourselves (Ctrl-Z): the loop looks for bytes first, then at the time
        return receiving.result()
    receiving.cancel()
    raise TimeoutError("it is silent")


async def send_typed(sock, ended, failed, place):
    """Send what is typed, until the keyboard ends or fails."""
    loop = asyncio.get_running_loop()
    await place.inside.wait()
    while not ended.is_set():
        await keyboard_is_ready(loop)
        try:
            typed = read_typed(CHUNK)
        except OSError as error:
            failed.append(error)
            return sock.shutdown(socket.SHUT_RDWR)  # this wakes the other
        # After a reset this fails, while recv still has what came before it: so recv is the one to tell.
        with contextlib.suppress(OSError):
            if typed:
                place.leaves = typed.strip().endswith(b"/quit")
                await loop.sock_sendall(sock, typed)
            elif typed == b"":
                ended.set()
                sock.shutdown(socket.SHUT_WR)


async def keyboard_is_ready(loop):
    """Wait for the keyboard. connect_read_pipe would leave it non-blocking, for the shell as well."""
    readable = asyncio.Event()
    loop.add_reader(KEYBOARD, readable.set)
    await readable.wait()
    loop.remove_reader(KEYBOARD)


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


def note(what):
    """Say something in one line, if that can be said."""
    with contextlib.suppress(OSError):
        show(os.fsencode(f"{os.path.basename(sys.argv[0])}: {what}\n"), ERRORS)


def fail(why):
    """Say in one line why the client ends, and end it with status 1."""
    note(why)
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


def address(text):
    """Return HOST:PORT, or one of them, as a pair, or raise ValueError, which argparse reports."""
    if text.isdigit():
        return "127.0.0.1", port(text)
    found = HOST_PORT.fullmatch(text)
    host, number = found.groups() if found else (text, "9669")
    return host.strip("[]"), port(number)


def connect(addresses, patience=0):
    """Connect to the first one that takes us, and have it stand last from now on. OSError says why there is none."""
    end = time.monotonic() + patience
    while True:
        for _ in addresses:
            addresses.append(addresses.pop(0))
            try:
                sock = socket.create_connection(addresses[-1], timeout=2)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a line waits for no acknowledgement
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a server that vanished is found out
                return sock
            except (OSError, UnicodeError) as error:
                failure = f"cannot connect to {name_of(addresses[-1])}: {error}"
        if time.monotonic() > end:
            raise OSError(failure)
        time.sleep(RETRY_TIME)


def name_of(address):
    """Return an address as HOST:PORT, with an IPv6 host in brackets."""
    host, number = address
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def main():
    """Read the arguments, connect, and chat until no server is left."""
    words = sys.argv[1:]
    if len(words) == 2 and words[1].isdigit() and not words[0].isdigit() and not HOST_PORT.fullmatch(words[0]):
        words = [name_of((words[0].strip("[]"), words[1]))]  # as other clients have it: HOST PORT
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])  # python -OO has no docstrings
    parser.add_argument("addresses", metavar="HOST:PORT", nargs="*", type=address, default=[("127.0.0.1", 9669)])
    addresses = parser.parse_args(words).addresses
    # A console that runs this (python -i, IPython's %run) goes on afterwards. Its Ctrl-C is a KeyboardInterrupt.
    if not (sys.flags.inspect or hasattr(sys, "ps1") or sys._getframe(1).f_back):
        end_at_signals()
    try:
        while (spare := os.open(os.devnull, os.O_RDWR)) <= ERRORS:
            pass  # a standard descriptor that the shell has closed (<&-) would become the socket's
        os.close(spare)
        sock = connect(addresses)
    except OSError as error:
        fail(error)
    # The usual loops wait with epoll or kqueue, which cannot wait for a file as the keyboard; poll can.
    loop = asyncio.SelectorEventLoop(selectors.PollSelector())
    # Not even python -X dev is to report how long a step took: a screen that was stopped is not our affair.
    with asyncio.Runner(debug=False, loop_factory=lambda: loop) as runner:
        place = Place(len(addresses) > 1)
        while True:
            with sock:
                try:
                    read_typed(0)  # what cannot be read fails here, also where nobody would type
                    ended = runner.run(chat(sock, place))
                except KeyboardInterrupt:
                    return
                except (ConnectionError, TimeoutError):
                    ended = False
                except OSError as error:
                    fail(error)
            if ended:
                return
            if len(addresses) == 1 or place.leaves or not place.name or place.last.startswith(b"error: "):
                fail("the server closed the connection")
            if place.inside.is_set():
                place.end = time.monotonic() + PATIENCE
            elif time.monotonic() > place.end:
                fail("no server lets us in")
            place.inside.clear()
            gone = name_of(addresses[-1])
            try:
                sock = connect(addresses, PATIENCE)
            except OSError as error:
                fail(f"the server closed the connection, and {error}")
            note(f"{gone} is gone; going on at {name_of(addresses[-1])}")


if __name__ == "__main__":
    main()
