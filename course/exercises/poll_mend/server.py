"""A chat server that waits with poll(2): one thread, non-blocking sockets, unsent bytes kept for each client.

    python server.py [PORT] [--host HOST]       9669 and 127.0.0.1 by default; then, in other terminals,
    python client.py                            or telnet 127.0.0.1 9669, or nc 127.0.0.1 9669

Still hurts: at every turn the kernel walks over all descriptors. With `ulimit -n 5000` here and in another terminal see
in `top` what `while sleep 0.01; do echo; done | python client.py`, blank lines, cost without these and with:

    python -c "from socket import *; a = [create_connection(('localhost', 9669)) for _ in range(4000)]; input()"
"""

import argparse
import contextlib
import errno
import logging
import mmap
import os
import re
import resource
import select
import signal
import socket
import sys
import time

MAX_MESSAGE = 4096  # bytes of a message as received, with its newline; and the most read from a client at once
MAX_UNSENT = 1 << 20  # bytes kept for a client that reads too slowly, before it is dropped
IAC, INTERRUPT = 0xFF, b"\xff\xf4"  # telnet's commands begin with IAC (RFC 854); its Ctrl-C is IAC IP


class ChatServer:
    """The room: what one client says, all the others hear."""

    def __init__(self, listener, wakeup):
        self.listener = listener
        self.wakeup = wakeup  # readable once a signal came
        self.clients = {}  # descriptor: client
        self.turn = Turn()
        self.running = True
        self.poller = select.poll()
        self.poller.register(self.listener, select.POLLIN)
        self.poller.register(self.wakeup, select.POLLIN)

    def run(self):
        """Serve until stop() is called."""
        logging.info("listening on %s", name_of(self.listener.getsockname()))
        while self.running:
            # Wait until somebody can be read, or somebody with unsent bytes can be written to.
            try:
                ready = dict(self.poller.poll())
            except OSError:  # poll(2), EINVAL: somebody has lowered the limit of descriptors. Who came last must go
                self.drop(list(self.clients.values())[-1], "dropped: the room is full", b"error: the room is full\n")
                continue
            # Write to and read from each of them once, so that nobody keeps the others from their turn.
            for fd, event in ready.items():
                if fd in self.clients and event & select.POLLOUT:
                    self.send(self.clients[fd])
                # POLLIN, or unasked POLLHUP, POLLERR, POLLNVAL: recv() tells which of them, as data, end or error.
                if fd in self.clients and event & ~select.POLLOUT:
                    self.receive(self.clients[fd])
                if not self.running:
                    break
            # Tell everybody what was said in this turn. Newcomers join after it: it was not said to them, and in the
            # turn their sockets' numbers may have been those of others, who left.
            self.broadcast()
            if self.listener.fileno() in ready:
                self.accept()
        self.listener.close()
        for client in list(self.clients.values()):
            self.drop(client, "dropped: server stopping")
        logging.info("bye")

    def accept(self):
        """Let a newcomer in, or tell it that the room is full."""
        try:
            sock, address = self.listener.accept()
            client = Client(sock, address)
        except (OSError, MemoryError):  # it is gone again, or something is lacking, in spite of what is kept back
            time.sleep(0.01)  # the loop must not spin
            return
        sock.setblocking(False)
        try:
            check_spare(sock)
            self.poller.register(sock, select.POLLIN)
        except OSError:
            return refuse(client, len(self.clients))
        self.clients[sock.fileno()] = client
        logging.info("%s joined, %d online", client.name, len(self.clients))

    def receive(self, client):
        """Read from a client once, and put the messages that are complete now on the turn's record."""
        try:
            data = client.sock.recv(MAX_MESSAGE)
        except BlockingIOError:  # select(2), BUGS: a socket may be reported as readable and have nothing to read
            return
        except OSError as error:
            return self.drop(client, client.failure or f"dropped: {error.strerror.lower()}")
        if not data and client.failure:
            return self.drop(client, client.failure)
        stream = client.received + data
        # Only the first line can be too long: the others came in this one recv.
        if len(stream) > MAX_MESSAGE and b"\n" not in stream[:MAX_MESSAGE]:
            error = b"error: a message may be at most %d bytes\n" % MAX_MESSAGE
            return self.drop(client, "dropped: message too long", error)
        if not data:
            stream += b"\n"  # the end of the stream ends the last line as a newline does
        elif IAC in stream and INTERRUPT in stream:  # for a single byte the search is much quicker
            stream, data = stream.partition(INTERRUPT)[0], b""  # the end, too; an unfinished line is discarded
        lines, _, client.received = stream.rpartition(b"\n")
        words = "".join([f"{client.name} says: {text}\n" for text in clean(lines).split("\n") if text.strip()])
        if words:
            if not self.turn.takes(client):
                self.broadcast()
            self.turn.add(client, words.encode())
        if not data:
            self.drop(client, "left")

    def broadcast(self):
        """Tell everybody what the others said in this turn, and begin a new one."""
        turn, self.turn = self.turn, Turn()
        if turn.record:
            for client in self.clients.values():
                self.send(client, turn.heard_by(client))

    def send(self, client, data=b""):
        """Send what is unsent and then the data, as much as the socket takes now, and keep the rest."""
        waited = bool(client.unsent)
        client.unsent += data
        try:
            sent = client.sock.send(client.unsent)
        except BlockingIOError:
            sent = 0
        except BrokenPipeError:  # it has gone. Its last words may still be unread, so that recv() is to tell the end
            sent = len(client.unsent)
        except OSError as error:
            return self.fail(client, f"dropped: {error.strerror.lower()}")
        del client.unsent[:sent]
        if len(client.unsent) > MAX_UNSENT:
            self.fail(client, "dropped: too slow")
        elif bool(client.unsent) != waited:
            # Only while bytes are unsent: an idle socket is always writable, and the loop would never wait.
            self.poller.modify(client.sock, select.POLLIN | select.POLLOUT if client.unsent else select.POLLIN)

    def fail(self, client, reason):
        """Send no more to a client. It is dropped when receive() comes to the end of what it said before."""
        client.failure = reason
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_RDWR)

    def drop(self, client, reason, last=b""):
        """Part with a client, after one last attempt to send what is unsent and the bytes given."""
        del self.clients[client.sock.fileno()]
        logging.info("%s %s, %d online", client.name, reason, len(self.clients))
        with contextlib.suppress(OSError):
            client.sock.send(client.unsent + last)
        client.sock.close()

    def stop(self, *_):
        """Have run() end. As a signal handler it gets arguments, which do not matter here."""
        self.running = False


class Client:
    """One connection."""

    def __init__(self, sock, address):
        self.sock = sock
        self.name = name_of(address)
        self.received = b""  # the start of a line whose end is still to come
        self.unsent = bytearray()  # bytes that the socket would not take yet
        self.failure = None  # why it is to be dropped, once it cannot be sent to any more


# ----------------------------------------------------------------------------------------------------------------------
# The same in every version: take it as given at a first reading.
# ----------------------------------------------------------------------------------------------------------------------

MAX_TURN = 1 << 18  # bytes said before everybody is told: short lines make twelve times what was received
SPARE_DESCRIPTORS = 8  # descriptors kept back: for the newcomer who is refused, and for Python itself
SPARE_MEMORY = 8 << 20  # bytes kept back for those who are in the room
BACKLOG = 1024  # connections that the kernel holds until they are accepted
SIGNALS = signal.SIGINT, signal.SIGTERM  # Ctrl-C and kill
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
        self.twice = None  # the record twice in a row, once somebody is told

    def takes(self, client):
        """Return whether a client's words still fit in: they are one span, and a long record would take much memory."""
        return client not in self.spans and len(self.record) < MAX_TURN

    def add(self, client, words):
        """Write down a client's words."""
        start = len(self.record)
        self.record += words
        self.spans[client] = start, len(self.record)

    def heard_by(self, client):
        """Return what a client is to be sent. From now on nothing can be added."""
        if self.twice is None:
            self.twice = memoryview(self.record * 2)
        start, end = self.spans.get(client, (0, 0))  # no words of its own: nothing to leave out
        return self.twice[end : start + len(self.record)]


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
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
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
            server = ChatServer(listener, wakeup)
        except (OSError, UnicodeError) as error:
            sys.exit(f"{parser.prog}: cannot listen on {name_of((args.host, args.port))}: {error}")
        wakeup_fd = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, server.stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        server.run()
        signal.set_wakeup_fd(wakeup_fd)
        if not console:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # a second one changes nothing while Python ends
            sys.stderr = None  # or Python ends with status 120, if it cannot flush a log that was closed


if __name__ == "__main__":
    main()
