"""A proactor: ask for an operation on a socket, and be called when it is done. PROACTOR.md is its documentation.

The pattern is from Schmidt, Stal, Rohnert and Buschmann, "Pattern-Oriented Software Architecture", volume 2 (2000), and
the idea to emulate it on top of a reactor is told in the documentation of Boost.Asio. uring.py does without a reactor.
"""

import collections
import contextlib
import errno
import os
import selectors
import socket
from selectors import EVENT_READ, EVENT_WRITE


class Operation:
    """An operation on a socket. Each socket has one for each direction, asked for again and again."""

    __slots__ = "argument", "channel", "done", "name", "result"

    def __init__(self, channel, done):
        self.channel = channel
        self.done = done  # the queue for when it is done
        self.name = None  # "accept", "recv" or "send" while it is pending: it was asked for and is not reported yet
        self.argument = None  # a recv's size, a send's bytes
        self.result = None  # None until it is done

    def is_waiting(self):
        """Return whether it was asked for and is not done yet."""
        return self.name is not None and self.result is None


class Channel:
    """A registered socket."""

    def __init__(self, sock, handler, received, sent):
        self.sock = sock
        self.handler = handler  # None once the socket is removed
        self.reading = Operation(self, received)  # an accept or a recv
        self.writing = Operation(self, sent)  # a send
        self.watched = 0  # the events of the socket that a selector watches


class Proactor:
    """What every proactor has: the sockets and their handlers, and the queues of what is done."""

    def __init__(self):
        self.channels = {}  # socket: channel
        self.received = collections.deque()  # recvs and accepts that are done and not reported yet
        self.sent = collections.deque()  # sends likewise
        self.cancelled = False
        # A proactor is woken by an operation like any other. For signals: signal.set_wakeup_fd(proactor.waker.fileno())
        self.wakeup, self.waker = socket.socketpair()
        self.waker.setblocking(False)
        self.register(self.wakeup, lambda *_: self.recv(self.wakeup, 4096))
        self.recv(self.wakeup, 4096)

    def register(self, sock, handler):
        """Have handler(sock, name, result) called for each operation on a socket that is done."""
        self.channels[sock] = Channel(sock, handler, self.received, self.sent)
        self.prepare(sock)

    def accept(self, sock):
        """Ask for a connection. The result is the new socket and its address."""
        self.start(self.channels[sock].reading, "accept", None)

    def recv(self, sock, size):
        """Ask for bytes, at most so many. The result is the bytes; b"" is the end of the stream."""
        self.start(self.channels[sock].reading, "recv", size)

    def send(self, sock, data):
        """Ask for bytes to be sent, which must not change meanwhile. The result is how many were, perhaps not all."""
        self.start(self.channels[sock].writing, "send", data)

    def run(self):
        """Wait for operations and report them, until cancel() is called."""
        while self.turn():
            pass

    def turn(self):
        """Wait until something is done, and report all that is done by then. Return whether cancel() was not called."""
        self.wait()
        # What a handler asks for may be done before the handler returns. Its turn is the next one all the same.
        sent, received = len(self.sent), len(self.received)
        # What is sent makes room for what is received: so it comes first.
        for queue, count in (self.sent, sent), (self.received, received):
            for _ in range(count):
                if self.cancelled:
                    break
                operation = queue.popleft()
                channel, name, operation.name = operation.channel, operation.name, None
                if channel.handler:
                    channel.handler(channel.sock, name, operation.result)
        cancelled, self.cancelled = self.cancelled, False
        return not cancelled

    def cancel(self):
        """Have turn() and run() return before the next report. For handlers, other threads and signal handlers."""
        self.cancelled = True
        with contextlib.suppress(BlockingIOError):  # so many bytes are there already that it will wake
            self.waker.send(b"\0")

    def finish(self, operation, result):
        """Note that an operation is done: a later part of turn() reports it."""
        operation.result = result
        operation.done.append(operation)

    def remove(self, sock, last=b""):
        """Cancel what is pending on a socket and forget it. Its handler is not called any more; close it afterwards.

        The bytes given are sent, if the socket takes them at once. If a send is pending, they begin with its bytes.
        """
        channel = self.channels.pop(sock)
        self.abandon(channel)
        reading, writing = channel.reading, channel.writing
        channel.handler = channel.reading = channel.writing = None
        # These are done, and will not be reported any more.
        if reading.name == "accept" and isinstance(reading.result, tuple):
            reading.result[0].close()
        if writing.name and isinstance(writing.result, int):
            last = last[writing.result :]
        with contextlib.suppress(OSError):
            if last:
                sock.send(last, socket.MSG_DONTWAIT)

    def close(self):
        """Remove all sockets. This is the end of the proactor, but not of the sockets."""
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
        """Make a socket fit for its operations."""
        sock.setblocking(False)

    def start(self, operation, name, argument):
        """Start an operation. A send seldom has to wait, so that it is tried at once."""
        if operation.name:
            raise RuntimeError(f"cannot {name}: {operation.name} is pending")
        operation.name, operation.argument, operation.result = name, argument, None
        if name == "send":
            self.attempt(operation)
        event = EVENT_WRITE if name == "send" else EVENT_READ
        channel = operation.channel
        if operation.result is None and not channel.watched & event:
            try:
                self.watch(channel, channel.watched | event)
            except OSError as error:  # the kernel bounds how much is watched, for all programs of a user together
                self.finish(operation, error)

    def attempt(self, operation):
        """Carry out an operation, unless it still has to wait."""
        sock = operation.channel.sock
        try:
            if operation.name == "send":
                result = sock.send(operation.argument)
            elif operation.name == "recv":
                result = sock.recv(operation.argument)
            else:
                result = sock.accept()
        except BlockingIOError:
            return
        except OSError as error:
            result = error
        except MemoryError:
            result = no_memory()
        self.finish(operation, result)

    def wait(self):
        """Wait until something is done."""
        for key, events in self.selector.select(0 if self.sent or self.received else None):
            channel = key.data
            for event, operation in (EVENT_WRITE, channel.writing), (EVENT_READ, channel.reading):
                if events & event and operation.is_waiting():
                    self.attempt(operation)
                elif events & event and not operation.name:
                    # Nobody asks for this now, and the selector would report it for ever. It is not done earlier:
                    # most handlers ask for the next recv at once, and spare us two calls of the system.
                    self.watch(channel, channel.watched & ~event)

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
        """Have nothing waiting on a socket any more."""
        self.watch(channel, 0)

    def close(self):
        """Remove all sockets. This is the end of the proactor, but not of the sockets."""
        super().close()
        self.selector.close()


def no_memory():
    """Return Python's own lack of memory as a result like any other: as the kernel tells of its own."""
    return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
