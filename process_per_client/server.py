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
MAX_UNSENT = 1 << 20  # bytes kept for a client that reads too slowly, before it is dropped
MAX_CLIENTS = 2000  # children, so that a flood of connections is no fork bomb
PATIENCE = 5  # seconds in which a child must have taken what was said, before it is killed
LAST_CHANCE = 1  # seconds that telling and ending may take when the server stops
NOTICE = struct.Struct("=iQI")  # goes through the pipes: who spoke (a pid, or 0), where the words start, their length
IDLE = NOTICE.pack(0, 0, 0)  # what the parent tells a child whose client has said nothing for too long
QUIET = NOTICE.pack(0, 1, 0)  # what it tells a child that is to read no more, as the server stops
LEFT, TOO_SLOW, FAILED = 0, 254, 255  # exit statuses of a child; all others are numbers of errors
REASONS = {LEFT: "left", TOO_SLOW: "dropped: too slow", FAILED: "dropped: its process failed"}
IAC, INTERRUPT = 0xFF, b"\xff\xf4"  # telnet's commands begin with IAC (RFC 854); its Ctrl-C is IAC IP


class ChatServer:
    """The room: what one client says, all the others hear."""

    def __init__(self, listener, wakeup, idle):
        self.listener = listener
        self.wakeup = wakeup  # readable once a signal came
        self.idle = idle or math.inf
        self.clients = {}  # pid: client
        self.spoke = {}  # pid: when its client spoke last. Who speaks moves to the end: so they are sorted by time
        self.said = collections.deque()  # (client, words) that nobody was told yet; without words: the client joined
        self.turn = Turn()
        self.awaited = set()  # pids of those that have not taken the last turn yet, or are to end
        self.reading = set()  # when the server stops, pids of those that may still have read something
        self.patience, self.tick = PATIENCE, 0  # seconds until those are killed, and when the next one is over
        self.running = True
        # A file without a name, so that nothing stays behind; of its size only what is written to takes memory. At its
        # start is the turn, and behind that each client has a slot of its own.
        if hasattr(os, "memfd_create"):
            self.memory = os.memfd_create("chat")
        else:
            self.memory, path = tempfile.mkstemp()
            os.unlink(path)
        self.slots = [TURN_SIZE + number * SLOT_SIZE for number in reversed(range(MAX_CLIENTS))]
        os.truncate(self.memory, TURN_SIZE + MAX_CLIENTS * SLOT_SIZE)
        # What the children tell: one pipe is enough for all, as what is as short as a notice is not torn (PIPE_BUF).
        self.notices, self.teller = os.pipe()
        os.set_blocking(self.notices, False)
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
        # What the children have read is still to be told, in half of the time: their answers to QUIET come after it.
        for client in self.clients.values():
            with contextlib.suppress(OSError):  # it has just ended, and SIGCHLD will tell
                client.pipe.send(QUIET)
                self.reading.add(client.pid)
        end = time.monotonic() + LAST_CHANCE / 2
        while (self.reading or self.said) and time.monotonic() < end:
            self.tick = min(self.tick, end) if self.awaited else end
            self.wait()
            self.broadcast()
        for client in self.clients.values():
            self.drop(client, "dropped: server stopping")
        self.patience, self.tick = 1, time.monotonic() + LAST_CHANCE / 2
        while self.clients:
            self.wait()
        signal.setitimer(signal.ITIMER_REAL, 0)
        for fd in (self.memory, self.notices, self.teller):
            os.close(fd)
        logging.info("bye")

    def wait(self):
        """Wait for what children tell, signals and newcomers; see to the first two, and return what is ready."""
        due = next(iter(self.spoke.values()), math.inf) + self.idle
        if self.awaited or self.reading:
            due = min(due, self.tick)
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
            client = Client(sock, address)
        except (OSError, MemoryError):  # it is gone again, or something is lacking, in spite of what is kept back
            time.sleep(0.01)  # the loop must not spin
            return
        try:
            check_spare(sock)
            client.slot = self.slots.pop()
            client.pipe, client.inbox = socket.socketpair()
            client.pid = os.fork()
        except (OSError, MemoryError, IndexError):  # pop() raises the last, when there are MAX_CLIENTS
            self.forget(client)
            return refuse(client, len(self.clients))
        if client.pid == 0:
            try:
                self.serve(client)
            finally:
                os._exit(FAILED)
        sock.close()
        client.inbox.close()
        self.clients[client.pid] = client
        self.said.append((client, b""))
        self.spoke[client.pid] = time.monotonic()
        logging.info("%s joined, %d online", client.name, len(self.clients))

    def collect(self):
        """Read what the children tell: that they have taken the turn, or where in memory their client's words are."""
        with contextlib.suppress(BlockingIOError):
            for pid, start, length in NOTICE.iter_unpack(os.read(self.notices, 1 << 16)):
                client = self.clients[pid]
                if length:
                    self.said.append((client, os.pread(self.memory, length, start)))
                    if self.spoke.pop(pid, None):
                        self.spoke[pid] = time.monotonic()
                elif start:
                    self.reading.discard(pid)
                elif not client.reason:  # who was dropped is awaited until its child has ended
                    self.awaited.discard(pid)

    def broadcast(self):
        """Tell every child what was said in this turn, and begin a new one; but all must have taken the last."""
        while self.said and not self.awaited:
            while self.said and self.turn.takes(self.said[0][0]):
                client, words = self.said[0]
                if not words and self.turn.record:
                    break  # a newcomer joins between two turns
                self.said.popleft()
                client.joined = True
                if words:
                    self.turn.add(client, words)
            turn, self.turn = self.turn, Turn()
            if turn.record:
                os.pwrite(self.memory, turn.record * 2, 0)
                for pid, client in self.clients.items():
                    with contextlib.suppress(OSError):  # it has just ended, and SIGCHLD will tell
                        if client.joined:
                            client.pipe.send(NOTICE.pack(pid if client in turn.spans else 0, *turn.heard_by(client)))
                            self.awaited.add(pid)
                self.patience, self.tick = PATIENCE, time.monotonic() + 1

    def drop(self, client, reason):
        """Part with a client: its child finds the pipe closed, tries once more to send what is unsent, and ends."""
        client.reason = reason
        client.pipe.close()
        if not self.awaited:  # else the patience with the others would never come to its end
            self.patience, self.tick = PATIENCE, time.monotonic() + 1
        self.awaited.add(client.pid)

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
                self.forget(client)
                self.awaited.discard(pid)
                self.reading.discard(pid)
                self.spoke.pop(pid, None)

    def forget(self, client):
        """Give back what a client had."""
        if client.slot:
            self.slots.append(client.slot)
        for end in (client.pipe, client.inbox):
            if end:
                end.close()

    # A child: it serves one client, and finds in shared memory what the others said.

    def serve(self, client):
        """Wait for the client and for the parent, until one of them leaves."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C goes to all processes; the parent is to stop us
            signal.signal(number, signal.SIG_IGN)
        # Who waits for the end of a connection or a pipe waits until everybody has closed it.
        for other in [self.listener, self.wakeup, client.pipe, *(c.pipe for c in self.clients.values())]:
            other.close()
        os.close(self.notices)
        client.sock.setblocking(False)
        self.pid = os.getpid()
        self.told = memoryview(mmap.mmap(self.memory, TURN_SIZE, prot=mmap.PROT_READ))
        self.slot = mmap.mmap(self.memory, SLOT_SIZE, offset=client.slot)
        while True:
            poller = select.poll()
            poller.register(client.inbox, select.POLLIN)
            events = 0 if client.speaking or client.quiet else select.POLLIN
            if client.unsent:
                events |= select.POLLOUT
            if events:  # else poll() would report that the connection has ended, even unasked
                poller.register(client.sock, events)
            ready = dict(poller.poll())
            event = ready.get(client.sock.fileno(), 0)
            if event & select.POLLOUT:
                self.send(client)
            if client.inbox.fileno() in ready:
                self.take(client)
            if event & ~select.POLLOUT and not client.speaking and not client.quiet:
                self.receive(client)

    def receive(self, client):
        """Read from a client once, and put the messages that are complete now into shared memory."""
        try:
            data = client.sock.recv(MAX_MESSAGE)
        except BlockingIOError:  # select(2), BUGS: a socket may be reported as readable and have nothing to read
            return
        except OSError as error:
            return self.leave(client, client.failure or error.errno)
        if not data and client.failure:
            return self.leave(client, client.failure)
        stream = client.received + data
        # Only the first line can be too long: the others came in this one recv.
        if len(stream) > MAX_MESSAGE and b"\n" not in stream[:MAX_MESSAGE]:
            error = b"error: a message may be at most %d bytes\n" % MAX_MESSAGE
            return self.leave(client, errno.EMSGSIZE, error)
        if not data:
            stream += b"\n"  # the end of the stream ends the last line as a newline does
        elif IAC in stream and INTERRUPT in stream:  # for a single byte the search is much quicker
            stream, data = stream.partition(INTERRUPT)[0], b""  # the end, too; an unfinished line is discarded
        lines, _, client.received = stream.rpartition(b"\n")
        words = "".join([f"{client.name} says: {text}\n" for text in clean(lines).split("\n") if text.strip()]).encode()
        if words:
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
        if notice == QUIET:
            client.quiet = True
            os.write(self.teller, NOTICE.pack(self.pid, 1, 0))
            return
        spoken, start, length = NOTICE.unpack(notice)
        if spoken:  # by this client, among others
            client.speaking = False
        self.send(client, self.told[start : start + length])
        os.write(self.teller, NOTICE.pack(self.pid, 0, 0))

    def send(self, client, data=b""):
        """Send what is unsent and then the data, as much as the socket takes now, and keep the rest."""
        client.unsent += data
        try:
            sent = client.sock.send(client.unsent)
        except BlockingIOError:
            sent = 0
        except BrokenPipeError:  # it has gone. Its last words may still be unread, so that recv() is to tell the end
            sent = len(client.unsent)
        except OSError as error:
            return self.fail(client, error.errno)
        del client.unsent[:sent]
        if len(client.unsent) > MAX_UNSENT:
            self.fail(client, TOO_SLOW)

    def fail(self, client, status):
        """Send no more to a client. It leaves when receive() comes to the end of what it said before."""
        client.failure = status
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_RDWR)

    def leave(self, client, status, last=b""):
        """End this process, after one last attempt to send what is unsent and the bytes given."""
        with contextlib.suppress(OSError):
            client.sock.send(client.unsent + last)
        os._exit(status)

    def stop(self, *_):
        """Have run() end. As a signal handler it gets arguments, which do not matter here."""
        self.running = False


class Client:
    """One connection, and the process that serves it."""

    def __init__(self, sock, address):
        self.sock = sock
        self.name = name_of(address)
        self.received = b""  # the start of a line whose end is still to come
        self.unsent = bytearray()  # bytes that the socket would not take yet
        self.failure = None  # with what status its child is to end, once it cannot be sent to any more
        self.pid = self.slot = None  # of its child, and where in memory that writes
        self.pipe = self.inbox = None  # the parent's and the child's end of what the parent tells
        self.joined = False  # whether it is told what is said by now
        self.quiet = False  # whether it is not read any more
        self.speaking = False  # from when the client speaks until the others are told: it may not run ahead
        self.reason = ""  # why the parent has parted with it


# ----------------------------------------------------------------------------------------------------------------------
# The same in every version: take it as given at a first reading.
# ----------------------------------------------------------------------------------------------------------------------

MAX_TURN = 1 << 18  # bytes said before everybody is told: short lines make twelve times what was received
SLOT_SIZE = 1 << 18  # bytes that become of what is read at once: 2048 messages of one letter, each with a name
TURN_SIZE = 2 * (MAX_TURN + SLOT_SIZE)  # bytes of shared memory for what everybody is told, written down twice
SPARE_DESCRIPTORS = 8  # descriptors kept back: for the newcomer who is refused, and for Python itself
SPARE_MEMORY = 8 << 20  # bytes kept back for those who are in the room
BACKLOG = 1024  # connections that the kernel holds until they are accepted
SIGNALS = signal.SIGINT, signal.SIGTERM  # Ctrl-C and kill
WAKING = signal.SIGALRM, signal.SIGCHLD  # a time is over, a child has ended
TELNET = re.compile(  # IAC SB to IAC SE or the line's end; WILL, WONT, DO, DONT and an option; others; IAC IAC: data
    rb"\xff(?:\xfa(?:[^\xff\n]|\xff[^\xf0\n])*(?:\xff\xf0?)?|[\xfb-\xfe].?|[\xec-\xf9]|(\xff)|$)", re.MULTILINE
)
CONTROLS = bytes({*range(32), 127} - {*b"\t\n"})  # control characters of ASCII, but not tab and newline
UNSAFE = re.compile("[\x80-\x9f\u202a-\u202e\u2066-\u2069]")  # those beyond ASCII, and bidirectional characters


class Turn:
    """What is said in one pass of the loop: written down once, and each client is sent all of it but its own words.

    When A, B and C have spoken, the record is [A][B][C]. Written down twice in a row it is [A][B][C][A][B][C], and what
    B is sent is one slice of that, for a single send: [C][A], from the end of B's own words to where they start again.
    """

    def __init__(self):
        self.record = bytearray()
        self.spans = {}  # client: where its own words start and end in the record

    def takes(self, client):
        """Return whether a client's words still fit in: they are one span, and a long record would take much memory."""
        return client not in self.spans and len(self.record) < MAX_TURN

    def add(self, client, words):
        """Write down a client's words."""
        start = len(self.record)
        self.record += words
        self.spans[client] = start, len(self.record)

    def heard_by(self, client):
        """Return start and length of what a client is to be sent, in the record written down twice."""
        start, end = self.spans.get(client, (0, 0))  # no words of its own: nothing to leave out
        return end, start + len(self.record) - end


def clean(lines):
    """Return lines of bytes as text that is safe to show on a terminal."""
    if not lines.isascii():
        lines = UNSAFE.sub("", TELNET.sub(rb"\1", lines).decode(errors="replace")).encode()
    return lines.translate(None, CONTROLS).decode()


def name_of(address):
    """Return a socket's address as HOST:PORT, with an IPv6 host in brackets."""
    host, number = (address or ("?", 0))[:2]  # of a connection that is reset already, some systems tell no address
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def check_spare(sock):
    """Raise OSError unless descriptors and memory are left besides this socket: those in the room may need some."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = os.dup(sock.fileno())  # the lowest that is free: a high one says that all below it are in use
    os.close(number)
    if number >= limit - SPARE_DESCRIPTORS:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    mmap.mmap(-1, SPARE_MEMORY, flags=mmap.MAP_PRIVATE).close()


def refuse(client, online):
    """Tell a newcomer that the room is full."""
    logging.info("%s refused: the room is full, %d online", client.name, online)
    with contextlib.suppress(OSError):
        client.sock.send(b"error: the room is full\n", socket.MSG_DONTWAIT)
    client.sock.close()


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


def look_up(host, number):
    """Return the address family and the address of a host and port. OSError or UnicodeError says why there is none."""
    found = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)
    # Of "localhost" there are often two, ::1 and 127.0.0.1, and client.py goes to the second.
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def listen(listener, address):
    """Have a socket listen at an address. OSError says why it cannot."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections in TIME_WAIT hold the port
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted sockets inherit this
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # and this
    listener.bind(address)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    check_spare(listener)


@contextlib.contextmanager
def signals_and_log(console):
    """Make them fit for a server. A console, which goes on afterwards, gets back what it had."""
    handlers = {number: signal.getsignal(number) for number in SIGNALS + WAKING}
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)  # whoever started this may have blocked them
    if not console:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no KeyboardInterrupt would end the look-up of a host
    log, level = logging.root.handlers, logging.root.level
    logging.root.handlers = []
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    logging.root.handlers[0].handleError = lambda _: None  # a log that cannot be written does no harm
    try:
        yield
    finally:
        if console:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            logging.root.handlers = log
            logging.root.setLevel(level)


def main():
    """Read the arguments, listen, and serve until a signal comes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])  # python -OO has no docstrings
    parser.add_argument("port", metavar="PORT", nargs="?", type=port, default=9669)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--idle", metavar="SECONDS", type=seconds, default=300)
    args = parser.parse_args()
    console = bool(sys.flags.inspect or hasattr(sys, "ps1") or sys._getframe(1).f_back)  # python -i, IPython, a program
    with signals_and_log(console), contextlib.ExitStack() as stack:
        try:
            while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
                pass  # a standard descriptor that the shell has closed (<&-) would become a socket's
            os.close(number)
            family, address = look_up(args.host, args.port)
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # one that comes before stop() is there has to wait
            listen(listener, address)
            # A signal's handler does not end a wait (PEP 475). The byte that Python writes to the waker does.
            wakeup, waker = map(stack.enter_context, socket.socketpair())
            waker.setblocking(False)
            server = ChatServer(listener, wakeup, args.idle)
        except (OSError, UnicodeError) as error:
            sys.exit(f"{parser.prog}: cannot listen on {name_of((args.host, args.port))}: {error}")
        wakeup_fd = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, server.stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        for number in WAKING:
            signal.signal(number, lambda *_: None)  # without one SIGCHLD would wake nobody, and SIGALRM would kill
        server.run()
        signal.set_wakeup_fd(wakeup_fd)
        if not console:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # a second one changes nothing while Python ends
            sys.stderr = None  # or Python ends with status 120, if it cannot flush a log that was closed


if __name__ == "__main__":
    main()
