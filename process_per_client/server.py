"""A chat server that waits in many processes: a child for each client, pipes, signals, and words in shared memory.

    python server.py [PORT] [--host HOST]       9669 and 127.0.0.1 by default; then, in other terminals,
    python client.py                            or telnet 127.0.0.1 9669, or nc 127.0.0.1 9669

Who says nothing for 300 seconds, or `--idle SECONDS`, is dropped; 0 is for never.

Still hurts: who says nothing costs a process meanwhile. See in `free -m` what these take away, here and elsewhere:

    python -c "from socket import *; a = [create_connection(('localhost', 9669)) for _ in range(1000)]; input()"
"""

import argparse
import collections
import contextlib
import errno
import logging
import math
import mmap
import os
import re
import resource
import select
import signal
import socket
import struct
import sys
import tempfile
import time

MAX_MESSAGE = 4096  # bytes of a message as received, with its newline; and the most read from a client at once
MAX_RECORD = 1 << 18  # bytes that are said before everybody is told: short lines make twelve times what was received
MAX_UNSENT = 1 << 20  # bytes kept for a client that reads too slowly, before it is dropped
MAX_CLIENTS = 2000  # children, so that a flood of connections is no fork bomb
MAX_WORDS = 1 << 18  # bytes that become of what is read at once: 2048 messages of one letter, each with a name
MAX_TURN = 2 * (MAX_RECORD + MAX_WORDS)  # bytes of shared memory for what everybody is told, written down twice
PATIENCE = 5  # seconds in which a child must have taken what was said, before it is killed
LAST_CHANCE = 1  # seconds that the children have to end when the server stops
SPARE_DESCRIPTORS = 8  # descriptors kept back: for the newcomer who is refused, and for Python itself
BACKLOG = 1024  # connections that the kernel holds until they are accepted

NOTICE = struct.Struct("=iQI")  # goes through the pipes: who spoke (a pid, or 0), where the words start, their length
IDLE = NOTICE.pack(0, 0, 0)  # what the parent tells a child whose client has said nothing for too long
LEFT, TOO_SLOW, FAILED = 0, 254, 255  # exit statuses of a child; all others are numbers of errors
REASONS = {LEFT: "left", TOO_SLOW: "dropped: too slow", FAILED: "dropped: its process failed"}

IAC, INTERRUPT = 0xFF, b"\xff\xf4"  # telnet's commands begin with IAC (RFC 854); its Ctrl-C is IAC IP
TELNET = re.compile(  # IAC SB to IAC SE or the line's end; WILL, WONT, DO, DONT and an option; others; IAC IAC: data
    rb"\xff(?:\xfa(?:[^\xff\n]|\xff[^\xf0\n])*(?:\xff\xf0?)?|[\xfb-\xfe].?|[\xec-\xf9]|(\xff)|$)", re.MULTILINE
)
CONTROLS = bytes({*range(32), 127} - {*b"\t\n"})  # control characters of ASCII, but not tab and newline
UNSAFE = re.compile("[\x80-\x9f\u202a-\u202e\u2066-\u2069]")  # those beyond ASCII, and bidirectional characters


class Client:
    """One connection, and the process that serves it."""

    def __init__(self, sock, address):
        self.sock = sock
        self.name = name_of(address)
        self.says = f"{self.name} says: "  # what stands before each of its messages
        self.received = b""  # the start of a line whose end is still to come
        self.unsent = bytearray()  # bytes that the socket would not take yet
        self.speaking = False  # from when the client speaks until the others are told: it may not run ahead
        self.reason = ""  # why the parent has parted with it


class ChatServer:
    """The room: what one client says, all the others hear."""

    def __init__(self, listener, idle):
        self.listener = listener
        self.idle = idle or math.inf
        self.clients = {}  # pid: client
        self.spoke = {}  # pid: when its client spoke last, for which it moves to the end: so they are sorted by time
        self.said = collections.deque()  # (pid, words) that are not on the record yet
        self.record = bytearray()  # all that was said in this turn
        self.spans = {}  # pid: where in the record its client's own words start and end
        self.awaited = set()  # pids of those that have not taken the last turn yet, or are to end
        self.patience, self.tick = PATIENCE, 0  # seconds that they have left, and when the next of these is over
        # Where in memory the next clients may write, each in its own place behind that of the turn.
        self.slots = [MAX_TURN + number * MAX_WORDS for number in reversed(range(MAX_CLIENTS))]
        self.running = True
        # A file without a name, so that nothing stays behind; of its size only what is written to takes memory.
        if hasattr(os, "memfd_create"):
            self.memory = os.memfd_create("chat")
        else:
            self.memory, path = tempfile.mkstemp()
            os.unlink(path)
        os.truncate(self.memory, MAX_TURN + MAX_CLIENTS * MAX_WORDS)
        # What the children tell: one pipe is enough for all, as what is as short as a notice is not torn (PIPE_BUF).
        self.notices, self.teller = os.pipe()
        os.set_blocking(self.notices, False)
        # A handled signal does not end a wait (PEP 475), but the byte that Python then writes to this socket does.
        self.wakeup, self.waker = socket.socketpair()
        self.waker.setblocking(False)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        self.poller = select.poll()
        self.poller.register(self.listener, select.POLLIN)
        self.poller.register(self.wakeup, select.POLLIN)
        self.poller.register(self.notices, select.POLLIN)

    # The parent: it collects what the children tell, and tells all of them in turns.

    def run(self):
        """Serve until stop() is called."""
        logging.info("listening on %s", name_of(self.listener.getsockname()))
        while self.running:
            ready = self.wait()
            # Tell everybody what was said in this turn. Newcomers join after it: it was not said to them.
            self.broadcast()
            if self.listener.fileno() in ready:
                self.accept()
        self.poller.unregister(self.listener)
        self.listener.close()
        for client in self.clients.values():
            self.drop(client, "dropped: server stopping")
        self.patience = LAST_CHANCE
        while self.clients:
            self.wait()
        logging.info("bye")

    def stop(self, *_):
        """Have run() end. As a signal handler it gets arguments, which do not matter here."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])  # a second one changes nothing
        self.running = False

    def wait(self):
        """Wait for what children tell, signals and newcomers; see to the first two, and return what is ready."""
        due = min(next(iter(self.spoke.values()), math.inf) + self.idle, self.tick if self.awaited else math.inf)
        signal.setitimer(signal.ITIMER_REAL, max(due - time.monotonic(), 0.001) if due < math.inf else 0)
        ready = dict(self.poller.poll())
        if self.notices in ready:
            self.collect()
        if self.wakeup.fileno() in ready:
            self.wakeup.recv(1 << 16)  # the numbers of the signals; some may be lost, so they do not matter
            self.reap()
            self.ring()
        return ready

    def accept(self):
        """Give every newcomer a process of its own, or tell it that the room is full."""
        try:
            sock, address = self.listener.accept()
        except OSError as error:  # it is gone, or no descriptor is left in spite of the spare ones
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(0.01)  # the loop must not spin
            return
        client = Client(sock, address)
        # A new descriptor is the lowest free number: a high one says that all below it are in use.
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            if sock.fileno() >= limit - SPARE_DESCRIPTORS or not self.slots:
                raise BlockingIOError("no descriptor or slot left")
            client.pipe, client.inbox = socket.socketpair()
            client.pid = os.fork()
        except OSError:  # fork() raises it when the system has no process left
            logging.info("%s refused: the room is full, %d online", client.name, len(self.clients))
            with contextlib.suppress(OSError):
                sock.send(b"error: the room is full\n", socket.MSG_DONTWAIT)
            sock.close()
            return
        client.slot = self.slots.pop()
        if client.pid == 0:
            try:
                self.serve(client)
            finally:
                os._exit(FAILED)
        sock.close()
        client.inbox.close()
        self.clients[client.pid] = client
        self.spoke[client.pid] = time.monotonic()
        logging.info("%s joined, %d online", client.name, len(self.clients))

    def collect(self):
        """Read what the children tell: that they have taken the turn, or where in memory their client's words are."""
        with contextlib.suppress(BlockingIOError):
            for pid, start, length in NOTICE.iter_unpack(os.read(self.notices, 1 << 16)):
                if length:
                    self.said.append((pid, os.pread(self.memory, length, start)))
                    if self.spoke.pop(pid, None):
                        self.spoke[pid] = time.monotonic()
                elif not self.clients[pid].reason:  # who was dropped is awaited until its child has ended
                    self.awaited.discard(pid)

    def broadcast(self):
        """Tell every child what was said in this turn, and start a new one; but all must have taken the last."""
        if self.awaited:
            return
        while self.said and len(self.record) <= MAX_RECORD:
            pid, words = self.said.popleft()
            self.spans[pid] = len(self.record), len(self.record) + len(words)
            self.record += words
        if self.record:
            size = len(self.record)
            # Twice in a row: what comes after a client's own words, and then what came before them, is one slice of it.
            os.pwrite(self.memory, self.record * 2, 0)
            self.record = bytearray()
            everything = NOTICE.pack(0, 0, size)
            for pid, client in self.clients.items():
                notice = everything
                if pid in self.spans:
                    start, end = self.spans[pid]
                    notice = NOTICE.pack(pid, end, start + size - end)
                with contextlib.suppress(OSError):  # it has just ended, and SIGCHLD will tell
                    client.pipe.send(notice)
                    self.awaited.add(pid)
            self.patience, self.tick = PATIENCE, time.monotonic() + 1
        self.spans.clear()

    def drop(self, client, reason):
        """Part with a client: its child finds the pipe closed, tries once more to send what is unsent, and ends."""
        client.reason = reason
        client.pipe.close()
        self.awaited.add(client.pid)
        self.patience, self.tick = PATIENCE, time.monotonic() + 1

    def ring(self):
        """Drop those who said nothing for too long, and kill the children that were awaited for too long."""
        now = time.monotonic()
        while self.spoke and self.spoke[pid := next(iter(self.spoke))] + self.idle <= now:
            del self.spoke[pid]
            with contextlib.suppress(OSError):
                self.clients[pid].pipe.send(IDLE)
            self.drop(self.clients[pid], "dropped: idle")
        # Counted in alarms: if everything was stopped for an hour (Ctrl-Z), that was one.
        if self.awaited and self.tick <= now:
            self.patience, self.tick = self.patience - 1, now + 1
            if self.patience <= 0:
                for pid in self.awaited:
                    os.kill(pid, signal.SIGKILL)

    def reap(self):
        """Say why a client has gone: its child's exit status tells."""
        with contextlib.suppress(ChildProcessError):  # there are no children
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                pid, status = ended
                self.collect()  # its last words
                client = self.clients.pop(pid, None)
                if not client:  # a child of whoever became this program with exec, or an orphan, if this is process 1
                    continue
                status = os.waitstatus_to_exitcode(status)
                why = signal.strsignal(-status) if status < 0 else os.strerror(status)
                reason = client.reason or REASONS.get(status) or f"dropped: {why.lower()}"
                logging.info("%s %s, %d online", client.name, reason, len(self.clients))
                client.pipe.close()
                self.slots.append(client.slot)
                self.awaited.discard(pid)
                self.spoke.pop(pid, None)

    # A child: it serves one client, and finds in shared memory what the others said.

    def serve(self, client):
        """Wait for the client and for the parent, until one of them leaves."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C goes to all processes; the parent is to stop us
            signal.signal(number, signal.SIG_IGN)
        # Who waits for the end of a connection or a pipe waits until everybody has closed it.
        for other in [self.listener, self.wakeup, self.waker, client.pipe, *(c.pipe for c in self.clients.values())]:
            other.close()
        os.close(self.notices)
        client.sock.setblocking(False)
        self.pid = os.getpid()
        self.told = memoryview(mmap.mmap(self.memory, MAX_TURN, prot=mmap.PROT_READ))
        self.slot = mmap.mmap(self.memory, MAX_WORDS, offset=client.slot)
        while True:
            poller = select.poll()
            poller.register(client.inbox, select.POLLIN)
            events = (not client.speaking and select.POLLIN) | (bool(client.unsent) and select.POLLOUT)
            if events:  # else poll() would report that the connection has ended, even unasked
                poller.register(client.sock, events)
            ready = dict(poller.poll())
            event = ready.get(client.sock.fileno(), 0)
            if event & select.POLLOUT:
                self.send(client)
            if client.inbox.fileno() in ready:
                self.take(client)
            if event & ~select.POLLOUT and not client.speaking:
                self.receive(client)

    def receive(self, client):
        """Read from a client once, and put the messages that are complete now into shared memory."""
        try:
            data = client.sock.recv(MAX_MESSAGE)
        except BlockingIOError:  # select(2), BUGS: a socket may be reported as readable and have nothing to read
            return
        except OSError as error:
            self.leave(client, error.errno)
        stream = client.received + data
        # Only the first line can be too long: the others came in this one recv.
        if len(stream) > MAX_MESSAGE and b"\n" not in stream[:MAX_MESSAGE]:
            self.leave(client, errno.EMSGSIZE, b"error: a message may be at most %d bytes\n" % MAX_MESSAGE)
        if not data:
            stream += b"\n"  # the end of the stream ends the last line as a newline does
        elif IAC in stream and INTERRUPT in stream:  # for a single byte the search is much quicker
            stream, data = stream.partition(INTERRUPT)[0], b""  # the end, too; an unfinished line is discarded
        lines, _, client.received = stream.rpartition(b"\n")
        texts = [text for text in clean(lines).split("\n") if text.strip()]
        if texts:
            words = (client.says + f"\n{client.says}".join(texts) + "\n").encode()
            self.slot[: len(words)] = words
            os.write(self.teller, NOTICE.pack(self.pid, client.slot, len(words)))
            client.speaking = True
        if not data:
            self.leave(client, LEFT)

    def take(self, client):
        """Send a client what the others said, and tell the parent that it was taken."""
        notice = client.inbox.recv(NOTICE.size)
        if not notice:
            self.leave(client, LEFT)
        if notice == IDLE:
            self.leave(client, LEFT, b"error: idle for %d seconds\n" % self.idle)
        spoken, start, length = NOTICE.unpack(notice)
        if spoken:  # by this client, among others
            client.speaking = False
        self.send(client, self.told[start : start + length])
        os.write(self.teller, NOTICE.pack(self.pid, 0, 0))

    def send(self, client, data=b""):
        """Send what is unsent and then the data, as much as the socket takes now, and keep the rest."""
        waiting = bool(client.unsent)
        if waiting:
            client.unsent += data
            data = client.unsent
        try:
            sent = client.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self.leave(client, error.errno)
        if waiting:
            del client.unsent[:sent]
        elif sent < len(data):
            client.unsent += data[sent:]
        else:
            return  # as it is almost always
        if len(client.unsent) > MAX_UNSENT:
            self.leave(client, TOO_SLOW)

    def leave(self, client, status, last=b""):
        """End this process, after one last attempt to send what is unsent and the bytes given."""
        with contextlib.suppress(OSError):
            client.sock.send(client.unsent + last)
        os._exit(status)


def clean(lines):
    """Return lines of bytes as text that is safe to show on a terminal."""
    if not lines.isascii():
        lines = UNSAFE.sub("", TELNET.sub(rb"\1", lines).decode(errors="replace")).encode()
    return lines.translate(None, CONTROLS).decode()


def name_of(address):
    """Return a socket's address as HOST:PORT, with an IPv6 host in brackets."""
    host, number = (address or ("?", 0))[:2]  # of a connection that is reset already, some systems tell no address
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def port(text):
    """Return text as a port number, or raise ValueError, which argparse reports."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError
    return int(text)


def seconds(text):
    """Return text as a number of seconds, or raise ValueError, which argparse reports."""
    if not (text.isascii() and text.isdigit() and int(text) <= 10**9):
        raise ValueError
    return int(text)


def main():
    """Read the arguments, listen, and serve until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("port", metavar="PORT", nargs="?", type=port, default=9669)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--idle", metavar="SECONDS", type=seconds, default=300)
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    try:
        family, _, _, _, address = socket.getaddrinfo(args.host, args.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections in TIME_WAIT hold the port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted sockets inherit this
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # and this
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        server = ChatServer(listener, args.idle)
    except (OSError, UnicodeError) as error:
        sys.exit(f"{parser.prog}: cannot listen on {name_of((args.host, args.port))}: {error}")
    signal.signal(signal.SIGINT, server.stop)
    signal.signal(signal.SIGTERM, server.stop)
    signal.signal(signal.SIGALRM, lambda *_: None)  # without handlers they would not wake the parent
    signal.signal(signal.SIGCHLD, lambda *_: None)
    server.run()
    sys.stderr = None  # or Python ends with status 120, if it cannot flush a log that was closed


if __name__ == "__main__":
    main()
