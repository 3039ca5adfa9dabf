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

# What <linux/io_uring.h> says. The numbers are the same on x86_64, aarch64 and most other processors.
SYS_SETUP, SYS_ENTER = 425, 426  # system calls for which Python and the C library have no function
SETUP_SUBMIT_ALL = 1 << 7  # an operation that is wrong does not hold up those after it
SETUP_TASKRUN_FLAG = 1 << 9  # SQ_TASKRUN is kept up to date
SETUP_SINGLE_ISSUER = 1 << 12  # all calls come from the thread that made the ring
SETUP_DEFER_TASKRUN = 1 << 13  # completions are posted inside of our calls, and at no other time
FEAT_REG_REG_RING, FEAT_NO_IOWAIT = 1 << 13, 1 << 17  # what a kernel has since 6.3, and since 6.15
ENTER_GETEVENTS = 1 << 0  # post the completions, and wait for them
ENTER_NO_IOWAIT = 1 << 7  # what waits is not to look like a disk that is busy, in top for instance
SQ_CQ_OVERFLOW, SQ_TASKRUN = 1 << 1, 1 << 2  # more is done than has been posted
OFF_RINGS, OFF_ENTRIES = 0, 0x10000000  # which memory of the ring mmap is to give
OPCODES = {"accept": 13, "send": 26, "recv": 27}
OP_ASYNC_CANCEL, CANCELLATION = 14, 0  # its opcode, and the key that we give it: no id() is 0
ENTRY = struct.Struct("=BBHiQQIIQ24x")  # opcode, flags, ioprio, fd, off, addr, len, what flags it has, user_data
COMPLETION = struct.Struct("=QiI")  # user_data, result, flags

WHY_NOT = {
    errno.ENOSYS: "this kernel has no io_uring",
    errno.EPERM: "it is forbidden here, by kernel.io_uring_disabled or by a sandbox",
    errno.EINVAL: "it needs Linux 6.3 or later",
    errno.ENOMEM: "no memory can be had for its queues (how much may be locked, ulimit -l tells)",
}


def fields(names, kind=ctypes.c_uint32):
    """Return the fields of a structure, all of one type."""
    return [(name, kind) for name in names.split()]


class SubmissionOffsets(ctypes.Structure):
    _fields_ = fields("head tail ring_mask ring_entries flags dropped array resv1") + [("user_addr", ctypes.c_uint64)]


class CompletionOffsets(ctypes.Structure):
    _fields_ = fields("head tail ring_mask ring_entries overflow cqes flags resv1") + [("user_addr", ctypes.c_uint64)]


class Parameters(ctypes.Structure):
    _fields_ = fields("sq_entries cq_entries flags sq_thread_cpu sq_thread_idle features wq_fd resv0 resv1 resv2") + [
        ("sq_off", SubmissionOffsets),
        ("cq_off", CompletionOffsets),
    ]


class Ring:
    """Two queues in memory that we share with the kernel: of what is to be done, and of what is done.

    Each is an array that is used round and round, with two counters: the one who takes moves the head, the one who puts
    moves the tail. Programs that share memory need barriers, which Python does not have, as a processor may do its
    reads and writes in another order than ours. Here none is needed: the kernel touches the queues only inside of our
    own calls of enter() (so SETUP_DEFER_TASKRUN has it), and what one thread does, it sees in the order of the program.
    """

    def __init__(self):
        if sys.platform != "linux":
            raise OSError("only Linux has it")
        self.syscall = ctypes.CDLL(None, use_errno=True).syscall  # lets other threads run meanwhile
        self.syscall.argtypes = [ctypes.c_long] * 7
        self.syscall.restype = ctypes.c_long
        flags = SETUP_SUBMIT_ALL | SETUP_TASKRUN_FLAG | SETUP_SINGLE_ISSUER | SETUP_DEFER_TASKRUN
        parameters = Parameters(flags=flags)
        with contextlib.ExitStack() as stack:
            self.fd = self.syscall(SYS_SETUP, ENTRIES, ctypes.addressof(parameters), 0, 0, 0, 0)
            if self.fd < 0:
                number = ctypes.get_errno()
                raise OSError(number, WHY_NOT.get(number, os.strerror(number)))
            stack.callback(os.close, self.fd)
            # Before 6.2 a thread of the kernel's might post a completion while we look.
            if not parameters.features & FEAT_REG_REG_RING:
                raise OSError(errno.EINVAL, WHY_NOT[errno.EINVAL])
            sq, cq = parameters.sq_off, parameters.cq_off
            size = max(sq.array + 4 * parameters.sq_entries, cq.cqes + COMPLETION.size * parameters.cq_entries)
            self.rings = stack.enter_context(mmap.mmap(self.fd, size, offset=OFF_RINGS))
            self.entries = stack.enter_context(mmap.mmap(self.fd, ENTRY.size * ENTRIES, offset=OFF_ENTRIES))
            self.numbers = stack.enter_context(memoryview(self.rings).cast("I"))
            self.closing = stack.pop_all()
        self.sq_head, self.sq_tail, self.sq_flags = sq.head // 4, sq.tail // 4, sq.flags // 4  # indexes of numbers
        self.cq_head, self.cq_tail = cq.head // 4, cq.tail // 4
        self.cqes, self.cq_mask = cq.cqes, parameters.cq_entries - 1
        for index in range(ENTRIES):  # which entry is the next: for us, always the one at the same place
            self.numbers[sq.array // 4 + index] = index
        self.put_down = 0  # entries that the kernel has not taken yet
        self.flags = ENTER_GETEVENTS | (ENTER_NO_IOWAIT if parameters.features & FEAT_NO_IOWAIT else 0)

    def put(self, key, opcode, fd, address=0, size=0, flags=0):
        """Put down an operation for the next enter(). There must be room."""
        tail = self.numbers[self.sq_tail]
        ENTRY.pack_into(self.entries, tail % ENTRIES * ENTRY.size, opcode, 0, 0, fd, 0, address, size, flags, key)
        self.numbers[self.sq_tail] = (tail + 1) % (1 << 32)
        self.put_down += 1

    def enter(self, count=0):
        """Hand over what was put down, and wait until so many operations are done, or until a signal comes."""
        taken = self.syscall(SYS_ENTER, self.fd, self.put_down, count, self.flags, 0, 0)
        if taken >= 0:
            self.put_down -= taken
            return
        number = ctypes.get_errno()
        if number == errno.EAGAIN:  # the kernel has no memory for it now
            time.sleep(0.01)
        # EBUSY: take() first. EINTR: a signal came; Python calls its handler once we are back in Python.
        elif number not in (errno.EBUSY, errno.EINTR):
            raise OSError(number, os.strerror(number))

    def take(self):
        """Take what is done: pairs of a key and a result, which is negative if it is an error."""
        while True:
            head = self.numbers[self.cq_head]
            while head != self.numbers[self.cq_tail]:
                key, result, _ = COMPLETION.unpack_from(self.rings, self.cqes + (head & self.cq_mask) * COMPLETION.size)
                head = self.numbers[self.cq_head] = (head + 1) % (1 << 32)
                yield key, result
            # A call posts no more than 20 completions of operations that had to wait, and no more than there is room.
            if not self.numbers[self.sq_flags] & (SQ_TASKRUN | SQ_CQ_OVERFLOW):
                return
            self.enter()

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
        buffer, address, size, flags = None, 0, 0, socket.SOCK_CLOEXEC
        try:
            if name != "accept":
                data = memoryview(bytearray(argument) if name == "recv" else argument).cast("B")
                size, flags = min(len(data), 1 << 30), socket.MSG_NOSIGNAL
                buffer = pin(data)
                address = ctypes.addressof(buffer)
        except MemoryError:
            self.finish(operation, no_memory())
            return
        self.started[id(operation)] = operation, buffer
        self.submit(id(operation), OPCODES[name], operation.channel.sock.fileno(), address, size, flags)

    def submit(self, *entry):
        """Put down an operation or a cancellation. If there is no room, the kernel gets what is there already."""
        while self.ring.put_down == ENTRIES:
            self.ring.enter()
            self.reap()
        self.ring.put(*entry)

    def wait(self):
        """Wait until something is done."""
        while True:
            self.ring.enter(0 if self.sent or self.received else 1)
            self.reap()
            if self.sent or self.received:
                return

    def reap(self):
        """Put what is done on the queues of what is to be reported."""
        for key, result in self.ring.take():
            operation, buffer = self.started.pop(key, (None, None))
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
                return ctypes.string_at(ctypes.addressof(buffer), result)
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
        operations = channel.reading, channel.writing
        for operation in operations:
            if operation.is_waiting():
                self.submit(CANCELLATION, OP_ASYNC_CANCEL, -1, id(operation), 0, 0)
        while any(operation.is_waiting() for operation in operations):
            self.ring.enter(1)
            self.reap()

    def close(self):
        """Remove all sockets. This is the end of the proactor, but not of the sockets."""
        super().close()
        self.ring.close()


def pin(data):
    """Return something that has the address of the bytes, and keeps them there while it lives."""
    if data.readonly or not data:  # ctypes tells the address of what can be written alone: so these are copied
        data = bytearray(data) or bytearray(1)
    return ctypes.c_char.from_buffer(data)
