"""A chat server that waits in many threads: blocking calls, a thread for each client, and one that sends.

    python server.py [PORT] [--host HOST]       9669 and 127.0.0.1 by default; then, in other terminals,
    python client.py                            or telnet 127.0.0.1 9669, or nc 127.0.0.1 9669

Still fails: a client that does not read stops the thread that sends, and so the whole room, for up to 5 seconds. With
`python client.py` in one terminal and `python client.py | sleep 60` in another, run `yes | python client.py >/dev/null`
in a third: the first stands still until the log says `dropped: too slow`.
"""

import argparse
import contextlib
import errno
import logging
import mmap
import os
import queue
import re
import resource
import signal
import socket
import struct
import sys
import threading
import time

MAX_MESSAGE = 4096  # bytes of a message as received, with its newline; and the most read from a client at once
MAX_REQUESTS = 100  # what may wait for the moderator
SEND_TIMEOUT = 5  # seconds in which a client must have taken what it is sent, before it is dropped
LAST_CHANCE = 1  # seconds that telling may take when the server stops
IAC, INTERRUPT = 0xFF, b"\xff\xf4"  # telnet's commands begin with IAC (RFC 854); its Ctrl-C is IAC IP


class ChatServer:
    """The room: what one client says, all the others hear."""

    def __init__(self, listener, wakeup):
        self.listener = listener
        self.wakeup = wakeup  # readable once a signal came
        self.clients = {}  # descriptor: client
        self.turn = Turn()
        self.running = True
        self.late = False  # whether the time is over that the server has to stop
        self.sending = threading.Lock()  # held while the room is told
        # What the other threads ask of the moderator, which owns the room. When the queue is full they wait. This holds
        # back whoever floods.
        self.requests = queue.Queue(MAX_REQUESTS)
        self.requests.put((logging.info, "listening on %s", name_of(listener.getsockname())))
        self.moderator = threading.Thread(target=self.moderate, daemon=True)
        self.acceptor = threading.Thread(target=self.accept, daemon=True)

    def run(self):
        """Serve until stop() is called."""
        try:
            self.acceptor.start()
            self.moderator.start()
        except RuntimeError as error:  # the system has no thread left
            sys.exit(f"{os.path.basename(sys.argv[0])}: cannot serve: {error}")
        while self.running:
            self.wakeup.recv(1)
        # From here nobody comes in. SHUT_RD wakes the threads that wait in recv: each puts what it has read into the
        # queue, and ends. The clients stay in the room until all is said, and can still be sent to.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        for client in list(self.clients.values()):
            self.fail(client, "dropped: server stopping", socket.SHUT_RD)
        with contextlib.suppress(queue.Full):
            self.requests.put_nowait((self.broadcast,))  # the moderator may be waiting for something to do
        self.moderator.join(LAST_CHANCE)
        self.late = True
        while self.moderator.is_alive():
            # It waits for a client that does not read, or for the thread of one who came just now.
            for client in list(self.clients.values()):
                self.fail(client, "dropped: server stopping")
            self.moderator.join(0.1)
        self.acceptor.join(0.1)
        logging.info("bye")

    def moderate(self):
        """Do the requests one by one. Only this thread changes the room and sends.

        So neither needs a lock, and the bytes of several senders do not mix.
        """
        while self.running or not (self.late or self.all_is_said()):
            request, *args = self.requests.get()
            request(*args)
            # Tell everybody what was said in the requests that were waiting.
            if self.requests.empty():
                self.broadcast()
        self.broadcast()
        for client in list(self.clients.values()):
            self.drop(client, "dropped: server stopping")

    def all_is_said(self):
        """Return whether nobody is read any more, and what was read has been done. Who has left asks nothing more."""
        return all(client.left for client in self.clients.values()) and self.requests.empty()

    def accept(self):
        """Give every newcomer a thread of its own, or tell it that the room is full."""
        while self.running:
            try:
                sock, address = self.listener.accept()
                client = Client(sock, address)
            except (OSError, MemoryError):  # it is gone again, or something is lacking, in spite of what is kept back
                sock = None  # or this name would keep it open while the loop waits for the next one
                time.sleep(0.01)  # the loop must not spin
                continue
            try:
                check_spare(sock)
                threading.Thread(target=self.attend, args=[client], daemon=True).start()
            except (OSError, RuntimeError, MemoryError):  # start() raises the second when the system has no thread left
                refuse(client, len(self.clients))

    def attend(self, client):
        """Read from a client until it leaves or the server stops. Each client has a thread that runs this."""
        self.requests.put((self.join, client))
        while self.running and not client.left:
            self.receive(client)
        client.left = True
        self.requests.put((self.broadcast,))  # the moderator may be waiting for the last to leave

    def join(self, client):
        """Let a newcomer in; what was said before is not for it."""
        self.broadcast()
        self.clients[client.sock.fileno()] = client
        logging.info("%s joined, %d online", client.name, len(self.clients))

    def receive(self, client):
        """Read from a client once, and have the messages that are complete now told."""
        try:
            data = client.sock.recv(MAX_MESSAGE)
        except OSError as error:
            return self.leave(client, client.failure or f"dropped: {error.strerror.lower()}")
        if not data:
            # The kernel tells of a reset once. If it has told send(), wait here until fail() has noted that.
            with self.sending:
                pass
            if client.failure:
                return self.leave(client, client.failure)
        stream = client.received + data
        # Only the first line can be too long: the others came in this one recv.
        if len(stream) > MAX_MESSAGE and b"\n" not in stream[:MAX_MESSAGE]:
            error = b"error: a message may be at most %d bytes\n" % MAX_MESSAGE
            return self.leave(client, "dropped: message too long", error)
        if not data:
            stream += b"\n"  # the end of the stream ends the last line as a newline does
        elif IAC in stream and INTERRUPT in stream:  # for a single byte the search is much quicker
            stream, data = stream.partition(INTERRUPT)[0], b""  # the end, too; an unfinished line is discarded
        lines, _, client.received = stream.rpartition(b"\n")
        words = "".join([f"{client.name} says: {text}\n" for text in clean(lines).split("\n") if text.strip()])
        if words:
            self.requests.put((self.say, client, words.encode()))
        if not data:
            self.leave(client, "left")

    def leave(self, client, reason, last=b""):
        """Have the moderator drop a client. When the server stops, it stays and hears the others' last words."""
        client.left = True
        if self.running:
            self.requests.put((self.drop, client, reason, last))

    def say(self, client, words):
        """Put a client's words on the turn's record. If they were in two places of it, the client would hear itself."""
        if not self.turn.takes(client):
            self.broadcast()
        self.turn.add(client, words)

    def broadcast(self):
        """Tell everybody what the others said in this turn, and begin a new one."""
        turn, self.turn = self.turn, Turn()
        if turn.record:
            with self.sending:
                for client in self.clients.values():
                    self.send(client, turn.heard_by(client))

    def send(self, client, data):
        """Send the data, all of it, for which SEND_TIMEOUT must do."""
        try:
            # When the time is over, send() returns how much it could send, or raises if that is nothing.
            sent = client.sock.send(data)
        except BlockingIOError:
            sent = 0
        except BrokenPipeError:  # it has gone. Its last words may still be unread, so that recv() is to tell the end
            sent = len(data)
        except OSError as error:
            return self.fail(client, f"dropped: {error.strerror.lower()}")
        if sent < len(data):
            self.fail(client, "dropped: too slow")

    def fail(self, client, reason, how=socket.SHUT_RDWR):
        """Send no more to a client. It is dropped when receive() comes to the end of what it said before."""
        client.failure = reason
        # This wakes the client's thread. To close the socket would not: and the thread might then read from the next
        # socket that gets its number.
        with contextlib.suppress(OSError):
            client.sock.shutdown(how)

    def drop(self, client, reason, last=b""):
        """Part with a client, after one last attempt to send the bytes given."""
        del self.clients[client.sock.fileno()]
        logging.info("%s %s, %d online", client.name, reason, len(self.clients))
        with contextlib.suppress(OSError):
            client.sock.send(last, socket.MSG_DONTWAIT)
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
        self.failure = None  # why it is to be dropped, once it cannot be sent to any more
        self.left = False  # whether its thread has read all that it is to read


# ----------------------------------------------------------------------------------------------------------------------
# The same in every version: take it as given at a first reading.
# ----------------------------------------------------------------------------------------------------------------------

MAX_TURN = 1 << 18  # bytes said before everybody is told: short lines make twelve times what was received
SPARE_DESCRIPTORS = 8  # descriptors kept back: for the newcomer who is refused, and for Python itself
SPARE_MEMORY = 1 << 18  # bytes kept back besides a new thread's stack: of that, start() says whether it can be had
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
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT, 0))  # and this
    listener.bind(address)
    listener.listen(BACKLOG)
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
