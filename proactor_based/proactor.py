"""A proactor: ask for an operation on a socket, and be called when it is done. PROACTOR.md is its documentation.

The pattern is that of Schmidt, Stal, Rohnert and Buschmann, "Pattern-Oriented Software Architecture", volume 2 (2000);
that a reactor can play the part of the system's asynchronous operations is from Boost.Asio. uring.py needs no such play.
"""

import collections
import contextlib
import selectors
import socket

EVENTS = {"accept": selectors.EVENT_READ, "recv": selectors.EVENT_READ, "send": selectors.EVENT_WRITE}


class Channel:
    """A registered socket."""

    def __init__(self, sock, handler):
        self.sock = sock
        self.handler = handler  # None once the socket is removed
        self.pending = {}  # name: operation that was asked for and is not reported yet
        self.watched = 0  # events of the socket that the selector watches


class Operation:
    """Something that was asked for: accept, recv or send."""

    __slots__ = "argument", "channel", "name", "result"

    def __init__(self, channel, name, argument):
        self.channel = channel
        self.name = name
        self.argument = argument  # a recv's size, a send's bytes
        self.result = None  # until it is done


class Proactor:
    """What all proactors have in common: who asked for what, and the queue of what is done."""

    def __init__(self):
        self.channels = {}  # socket: channel
        self.done = collections.deque()  # operations that are done and not reported yet
        self.cancelled = False
        # Waking the proactor is an operation like the others. For signals: signal.set_wakeup_fd(proactor.waker.fileno()).
        self.wakeup, self.waker = socket.socketpair()
        self.waker.setblocking(False)
        self.register(self.wakeup, lambda *_: self.recv(self.wakeup, 4096))
        self.recv(self.wakeup, 4096)

    def register(self, sock, handler):
        """Have handler(sock, name, result) called for each operation on a socket that is done."""
        self.channels[sock] = Channel(sock, handler)
        self.prepare(sock)

    def accept(self, sock):
        """Ask for a connection. The result is the new socket and its address."""
        self.ask(sock, "accept", None)

    def recv(self, sock, size):
        """Ask for bytes, at most so many. The result is the bytes, none at the end of the stream."""
        self.ask(sock, "recv", size)

    def send(self, sock, *parts):
        """Ask for bytes to be sent. The result is how many were: perhaps not all. Until then they must not change."""
        self.ask(sock, "send", parts)

    def ask(self, sock, name, argument):
        """Note that an operation is pending, and start it."""
        channel = self.channels[sock]
        if name in channel.pending:
            raise RuntimeError(f"a {name} is pending on this socket")
        operation = channel.pending[name] = Operation(channel, name, argument)
        self.start(operation)

    def run(self):
        """Wait for operations and report them, until cancel() is called."""
        while self.turn():
            pass

    def turn(self):
        """Wait until something is done, report all that is done by then, and return whether to go on."""
        self.wait()
        # What a handler asks for may be done at once, and is still reported in the next turn.
        for _ in range(len(self.done)):
            operation = self.done.popleft()
            channel = operation.channel
            if channel.handler:
                del channel.pending[operation.name]
                channel.handler(channel.sock, operation.name, operation.result)
        cancelled, self.cancelled = self.cancelled, False
        return not cancelled

    def cancel(self):
        """Have run() return after its turn. The one method for other threads and for signal handlers."""
        self.cancelled = True
        with contextlib.suppress(BlockingIOError):  # full of bytes that wake it as well
            self.waker.send(b"\0")

    def remove(self, sock, last=b""):
        """Cancel what is pending on a socket, never to be reported, and forget it, but do not close it.

        The bytes given are sent first, as many as the socket takes at once. If a send is pending, they begin with its.
        """
        channel = self.channels.pop(sock)
        self.abandon(channel)
        channel.handler = None
        pending = channel.pending.get("send")
        if pending and isinstance(pending.result, int):  # done, and not reported yet
            last = last[pending.result :]
        channel.pending.clear()
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            if last:
                sock.send(last)

    def close(self):
        """Remove all sockets; nothing works after this."""
        for sock in list(self.channels):
            self.remove(sock)
        self.wakeup.close()
        self.waker.close()


class SelectorProactor(Proactor):
    """A proactor on top of a reactor: it waits until an operation would not block, and then carries it out itself."""

    def __init__(self, selector=None):
        self.selector = selector or selectors.DefaultSelector()
        super().__init__()

    def prepare(self, sock):
        """Make a socket fit for start()."""
        sock.setblocking(False)

    def start(self, operation):
        """Start an operation. A send mostly need not wait, so that it is tried at once."""
        if operation.name == "send":
            self.attempt(operation)
        if operation.result is None:
            self.watch(operation.channel, operation.channel.watched | EVENTS[operation.name])

    def attempt(self, operation):
        """Carry out an operation, unless it still has to wait."""
        sock = operation.channel.sock
        try:
            if operation.name == "send":
                operation.result = sock.sendmsg(operation.argument)
            elif operation.name == "recv":
                operation.result = sock.recv(operation.argument)
            else:
                operation.result = sock.accept()
        except BlockingIOError:
            return
        except OSError as error:
            operation.result = error
        self.done.append(operation)

    def wait(self):
        """Wait until something is done."""
        for key, events in self.selector.select(0 if self.done else None):
            wanted = 0
            for operation in key.data.pending.values():
                if operation.result is None:
                    wanted |= EVENTS[operation.name]
                    if events & EVENTS[operation.name]:
                        self.attempt(operation)
            # Only now, as the next recv is mostly asked for before bytes come. Without this, ready sockets that
            # nobody asks anything of would be reported for ever.
            if events & ~wanted:
                self.watch(key.data, wanted)

    def watch(self, channel, events):
        """Have the selector watch a socket for these events and no others."""
        if not channel.watched and events:
            self.selector.register(channel.sock, events, channel)
        elif channel.watched and not events:
            self.selector.unregister(channel.sock)
        elif channel.watched != events:
            self.selector.modify(channel.sock, events, channel)
        channel.watched = events

    def abandon(self, channel):
        """Cancel what is pending on a socket."""
        self.watch(channel, 0)

    def close(self):
        """Remove all sockets; nothing works after this."""
        super().close()
        self.selector.close()
