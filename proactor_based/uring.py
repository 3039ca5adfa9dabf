"""The same proactor over io_uring(7): here the kernel carries the operations out, and there is no reactor below.

It needs Linux 6.14 or later and `pip install liburing` (seen to work with liburing 2026.3.30). PROACTOR.md tells more.
"""

import contextlib
import select
import socket

import liburing
from proactor import Proactor

ENTRIES = 1024  # operations that are handed to the kernel at once


class UringProactor(Proactor):
    """A proactor whose operations are the kernel's: one system call starts many of them."""

    def __init__(self):
        self.ring, self.entry = liburing.Ring(), liburing.Cqe()
        liburing.io_uring_queue_init(ENTRIES, self.ring)
        # The package's own waits hold Python's global lock: no other thread would run, to call cancel() for instance.
        self.poller = select.poll()
        self.poller.register(self.ring.ring_fd, select.POLLIN)
        # The operation's id(): operation and buffer. The kernel reads and writes the buffer until it says that the
        # operation is done: here it is kept until then, whatever becomes of the socket.
        self.started = {}
        super().__init__()

    def prepare(self, sock):
        """Make a socket fit for its operations: on a non-blocking one some may fail with EAGAIN instead of waiting."""
        sock.setblocking(True)

    def start(self, operation, name, argument):
        """Start an operation: the kernel will get it in wait(), with all the others."""
        if operation.name:
            raise RuntimeError(f"cannot {name}: {operation.name} is pending")
        operation.name, operation.result = name, None
        fd = operation.channel.sock.fileno()
        if name == "send":
            buffer = bytes(argument)
            self.submit(operation, liburing.io_uring_prep_send, fd, buffer, socket.MSG_NOSIGNAL)
        elif name == "recv":
            buffer = bytearray(argument)
            self.submit(operation, liburing.io_uring_prep_recv, fd, buffer)
        else:
            buffer = None
            self.submit(operation, liburing.io_uring_prep_accept, fd, None, socket.SOCK_CLOEXEC)
        self.started[id(operation)] = operation, buffer

    def submit(self, operation, prepare, *arguments):
        """Put an operation, or None for a cancellation, on the ring's submission queue."""
        entry = liburing.io_uring_get_sqe(self.ring)
        if entry is None:  # the queue is full: empty it
            liburing.io_uring_submit(self.ring)
            entry = liburing.io_uring_get_sqe(self.ring)
        prepare(entry, *arguments)
        entry.user_data = id(operation) if operation else 0

    def wait(self):
        """Wait until something is done."""
        liburing.io_uring_submit(self.ring)
        self.reap()
        while not self.sent and not self.received:
            self.poller.poll()
            self.reap()

    def reap(self):
        """Take what is done off the ring's completion queue."""
        with contextlib.suppress(BlockingIOError):  # no more
            while True:
                liburing.io_uring_peek_cqe(self.ring, self.entry)
                entry = self.entry[0]
                operation, buffer = self.started.pop(entry.user_data, (None, None))
                try:
                    result = entry.res  # raises what the operation has failed with
                except OSError as error:
                    result = error
                liburing.io_uring_cqe_seen(self.ring, entry)
                if operation:  # not a cancellation
                    operation.result = self.outcome(operation.name, result, buffer)
                    operation.done.append(operation)

    def outcome(self, name, result, buffer):
        """Return the kernel's result as the handler gets it."""
        if isinstance(result, OSError) or name == "send":
            return result
        if name == "recv":
            return bytes(buffer[:result])
        sock = socket.socket(fileno=result)
        try:
            return sock, sock.getpeername()
        except OSError as error:  # it is gone again
            sock.close()
            return error

    def abandon(self, channel):
        """Cancel what is pending on a socket, and wait until the kernel has let go of it. To close it would not do."""
        for operation in channel.reading, channel.writing:
            if operation.is_waiting():
                self.submit(None, liburing.io_uring_prep_cancel64, id(operation))
        liburing.io_uring_submit(self.ring)
        self.reap()
        while channel.reading.is_waiting() or channel.writing.is_waiting():
            self.poller.poll()
            self.reap()

    def close(self):
        """Remove all sockets. This is the end of the proactor, but not of the sockets."""
        super().close()
        liburing.io_uring_queue_exit(self.ring)
