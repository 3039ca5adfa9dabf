"""The same proactor over io_uring(7): here the kernel carries the operations out, and there is no reactor below.

It needs Linux 6.3 or later, and a sandbox that allows it. PROACTOR.md tells more.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import socket
import struct
import sys
import time

from proactor import Proactor, no_memory

ENTRIES = 256  # operations that are handed to the kernel at once

# What <linux/io_uring.h> says. The numbers of the calls are the same on x86_64, aarch64 and most other processors.
SYS_SETUP, SYS_ENTER = 425, 426  # system calls: neither Python nor the C library has functions for them
SETUP_SUBMIT_ALL = 1 << 7  # an operation that is wrong does not hold up those after it
SETUP_TASKRUN_FLAG = 1 << 9  # SQ_TASKRUN is kept up to date
SETUP_SINGLE_ISSUER = 1 << 12  # all calls come from the thread that made the ring
SETUP_DEFER_TASKRUN = 1 << 13  # completions are posted inside of our calls, and at no other time
FEAT_REG_REG_RING, FEAT_NO_IOWAIT = 1 << 13, 1 << 17  # what a kernel has since 6.3, and since 6.15
ENTER_GETEVENTS = 1 << 0  # post completions, and wait for them
ENTER_NO_IOWAIT = 1 << 7  # who waits does not count as waiting for a disk, in top for instance
SQ_CQ_OVERFLOW, SQ_TASKRUN = 1 << 1, 1 << 2  # more may be done than has been posted
OFF_RINGS, OFF_ENTRIES = 0, 0x10000000  # which memory of the ring mmap is to give
OPERATIONS = {"accept": (13, socket.SOCK_CLOEXEC), "send": (26, socket.MSG_NOSIGNAL), "recv": (27, 0)}
ASYNC_CANCEL, NOBODY = 14, 0  # a cancellation, and its key: no id() is 0
ENTRY = struct.Struct("=BBHiQQIIQ24x")  # opcode, flags, ioprio, fd, off, addr, len, flags of the opcode's own, key
COMPLETION = struct.Struct("=QiI")  # key, result, flags
COUNTER = 1 << 32  # a counter that comes to this is 0 again
PARAMETERS = """
    sq_entries cq_entries flags sq_cpu sq_idle features wq_fd resv1 resv2 resv3
    sq_head sq_tail sq_mask sq_size sq_flags sq_dropped sq_array sq_resv1 sq_resv2 sq_resv3
    cq_head cq_tail cq_mask cq_size cq_overflow cq_entry cq_flags cq_resv1 cq_resv2 cq_resv3
"""

WHY_NOT = {
    errno.ENOSYS: "this kernel has no io_uring",
    errno.EPERM: "it is forbidden here, by kernel.io_uring_disabled or by a sandbox",
    errno.EINVAL: "it needs Linux 6.3 or later",
    errno.ENOMEM: "no memory for its queues (ulimit -l tells how much may be locked)",
}


class Parameters(ctypes.Structure):
    """What io_uring_setup is told, and what it tells: among others, where in the memory of the ring things are."""

    _fields_ = [(name, ctypes.c_uint32) for name in PARAMETERS.split()]


class Ring:
    """Two queues in memory that we share with the kernel: of what is to be done, and of what is done.

    Each is an array that is used round and round, with two counters: who puts moves the tail, who takes moves the head.
    Who shares memory needs barriers, which Python has not, as processors do reads and writes in another order than the
    program's. Here none is needed: SETUP_DEFER_TASKRUN has the kernel touch the queues inside of our own calls alone,
    and what is done in one thread, this thread sees in the order of the program.
    """

    def __init__(self):
        if sys.platform != "linux":
            raise OSError("only Linux has it")
        self.syscall = ctypes.CDLL(None, use_errno=True).syscall  # while it waits, other threads run
        self.syscall.argtypes = [ctypes.c_long] * 7
        self.syscall.restype = ctypes.c_long
        wanted = Parameters(flags=SETUP_SUBMIT_ALL | SETUP_TASKRUN_FLAG | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN)
        with contextlib.ExitStack() as stack:
            self.fd = self.syscall(SYS_SETUP, ENTRIES, ctypes.addressof(wanted), 0, 0, 0, 0)
            number = ctypes.get_errno() if self.fd < 0 else 0
            if not number:
                stack.callback(os.close, self.fd)
                if not wanted.features & FEAT_REG_REG_RING:  # before 6.2 another thread might post a completion
                    number = errno.EINVAL
            if number:
                raise OSError(number, WHY_NOT.get(number, os.strerror(number)))
            size = max(wanted.sq_array + 4 * ENTRIES, wanted.cq_entry + COMPLETION.size * wanted.cq_entries)
            self.rings = stack.enter_context(mmap.mmap(self.fd, size, offset=OFF_RINGS))
            self.entries = stack.enter_context(mmap.mmap(self.fd, ENTRY.size * ENTRIES, offset=OFF_ENTRIES))
            self.numbers = stack.enter_context(memoryview(self.rings).cast("I"))
            self.closing = stack.pop_all()
        self.sq_head, self.sq_tail, self.sq_flags = wanted.sq_head // 4, wanted.sq_tail // 4, wanted.sq_flags // 4
        self.cq_head, self.cq_tail = wanted.cq_head // 4, wanted.cq_tail // 4  # all these are indexes of numbers
        self.cq_entry, self.cq_entries = wanted.cq_entry, wanted.cq_entries
        for index in range(ENTRIES):  # the order in which the entries are used: that in which they are
            self.numbers[wanted.sq_array // 4 + index] = index
        self.flags = ENTER_GETEVENTS | (ENTER_NO_IOWAIT if wanted.features & FEAT_NO_IOWAIT else 0)

    def queued(self):
        """Return how many operations the kernel has not taken yet. (A count of ours a signal could put wrong.)"""
        return (self.numbers[self.sq_tail] - self.numbers[self.sq_head]) % COUNTER

    def put(self, key, opcode, fd, address, size, flags):
        """Queue an operation for the next enter(). There must be room."""
        tail = self.numbers[self.sq_tail]
        ENTRY.pack_into(self.entries, tail % ENTRIES * ENTRY.size, opcode, 0, 0, fd, 0, address, size, flags, key)
        self.numbers[self.sq_tail] = (tail + 1) % COUNTER

    def enter(self, count=0):
        """Hand over what is queued, and wait until so many operations are done, or until a signal comes."""
        if self.syscall(SYS_ENTER, self.fd, self.queued(), count, self.flags, 0, 0) >= 0:
            return
        number = ctypes.get_errno()
        if number == errno.EAGAIN:  # the kernel has no memory for it now
            time.sleep(0.01)
        # EBUSY: take() first. EINTR: a signal, whose handler Python calls before its next step.
        elif number not in (errno.EBUSY, errno.EINTR):
            raise OSError(number, os.strerror(number))

    def take(self):
        """Take what is done: pairs of a key and a result, which is negative if it is an error."""
        while True:
            head = self.numbers[self.cq_head]
            while head != self.numbers[self.cq_tail]:
                place = self.cq_entry + head % self.cq_entries * COMPLETION.size
                key, result, _ = COMPLETION.unpack_from(self.rings, place)
                head = self.numbers[self.cq_head] = (head + 1) % COUNTER
                yield key, result
            # The kernel posts at most 20 at a time of those that had to wait, and no more than there is room for.
            if not self.numbers[self.sq_flags] & (SQ_TASKRUN | SQ_CQ_OVERFLOW):
                return
            self.enter()
            # The kernel clears SQ_TASKRUN before it takes from its list: for what comes in between it stays set, though
            # nothing is left. Then nothing is posted either.
            if head == self.numbers[self.cq_tail]:
                return

    def close(self):
        """Give the memory and the descriptor back."""
        self.closing.close()


class UringProactor(Proactor):
    """A proactor whose operations are the kernel's: one system call starts many of them, and waits."""

    def __init__(self):
        self.ring = Ring()
        # The operation's id(): operation and buffer. The kernel reads and writes the buffer until it says that the
        # operation is done: here it is kept until then, whatever becomes of the socket.
        self.started = {}
        try:
            super().__init__()
        except BaseException:
            self.ring.close()
            raise

    def prepare(self, sock):
        """Make a socket fit for its operations: on a non-blocking one some may fail with EAGAIN instead of waiting."""
        sock.setblocking(True)

    def start(self, operation, name, argument):
        """Start an operation: the kernel will get it in wait(), with all the others."""
        if operation.name:
            raise RuntimeError(f"cannot {name}: {operation.name} is pending")
        operation.name, operation.result = name, None
        key, (opcode, flags) = id(operation), OPERATIONS[name]
        buffer, pinned, address, size = None, None, 0, 0
        try:
            if name != "accept":
                buffer = bytearray(argument) if name == "recv" else writable(argument)
                pinned = ctypes.c_char.from_buffer(buffer or bytearray(1))  # nothing moves the bytes while this lives
                address, size = ctypes.addressof(pinned), min(len(buffer), 1 << 30)
        except MemoryError:
            self.finish(operation, no_memory())
            return
        self.started[key] = operation, buffer, pinned
        self.submit(key, opcode, operation.channel.sock.fileno(), address, size, flags)

    def submit(self, *entry):
        """Queue an operation or a cancellation. If there is no room, the kernel gets first what is there."""
        while self.ring.queued() == ENTRIES:
            self.ring.enter()
            self.reap()
        self.ring.put(*entry)

    def wait(self):
        """Wait until something is done."""
        self.ring.enter(0 if self.sent or self.received else 1)
        self.reap()
        while not self.sent and not self.received:
            self.ring.enter(1)
            self.reap()

    def reap(self):
        """Note what is done."""
        for key, result in self.ring.take():
            operation, buffer, _ = self.started.pop(key, (None, None, None))
            if operation:  # not a cancellation
                self.finish(operation, self.outcome(operation.name, result, buffer))

    def outcome(self, name, result, buffer):
        """Return the kernel's result as the handler gets it."""
        try:
            if result < 0:
                return OSError(-result, os.strerror(-result))
            if name == "send":
                return result
            if name == "recv":
                return bytes(buffer[:result])
            sock = socket.socket(fileno=result)
        except MemoryError:
            return no_memory()
        try:
            return sock, sock.getpeername()
        except OSError as error:  # it is gone again
            sock.close()
            return error

    def abandon(self, channel):
        """Cancel what is pending on a socket, and wait until the kernel has let go of it. To close it would not do."""
        keys = id(channel.reading), id(channel.writing)
        # No cancellation finds an operation that the kernel is about to try once more: only a later one does.
        while started := [key for key in keys if key in self.started]:
            for key in started:
                self.submit(NOBODY, ASYNC_CANCEL, -1, key, 0, 0)
            self.ring.enter(1)
            self.reap()

    def close(self):
        """Remove all sockets. This is the end of the proactor, but not of the sockets."""
        super().close()
        self.ring.close()


def writable(data):
    """Return bytes in a form of which ctypes tells the address: what cannot be written to is copied."""
    view = memoryview(data).cast("B")
    return bytearray(view) if view.readonly else view
