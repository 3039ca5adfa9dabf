"""A chat server that waits with a proactor: one thread, operations asked for, a call for each when it is done.

    python server.py [PORT] [--host HOST]       9669 and 127.0.0.1 by default; then, in other terminals,
    python client.py                            or telnet 127.0.0.1 9669, or nc 127.0.0.1 9669

Still hurts: what belongs together is torn apart. What happens next to a client is in no one place, but in whatever is
called next; and a call that is late makes all others late. Have receive() sleep for everybody's sake, and talk:

    sed 's/^        # Only the first line/        time.sleep(3)  &/' server.py > slow.py && python slow.py
"""

import argparse
import errno
import logging
import re
import resource
import signal
import socket
import sys
import time

from proactor import create_proactor

MAX_MESSAGE = 4096  # bytes of a message as received, with its newline; and the most read from a client at once
MAX_RECORD = 1 << 18  # bytes that are said before everybody is told: short lines make twelve times what was received
MAX_UNSENT = 1 << 20  # bytes kept for a client that reads too slowly, before it is dropped
SPARE_DESCRIPTORS = 8  # descriptors kept back: for the newcomer who is refused, and for Python itself
BACKLOG = 1024  # connections that the kernel holds until they are accepted

IAC, INTERRUPT = 0xFF, b"\xff\xf4"  # telnet's commands begin with IAC (RFC 854); its Ctrl-C is IAC IP
TELNET = re.compile(  # IAC SB to IAC SE or the line's end; WILL, WONT, DO, DONT and an option; others; IAC IAC: data
    rb"\xff(?:\xfa(?:[^\xff\n]|\xff[^\xf0\n])*(?:\xff\xf0?)?|[\xfb-\xfe].?|[\xec-\xf9]|(\xff)|$)", re.MULTILINE
)
CONTROLS = bytes({*range(32), 127} - {*b"\t\n"})  # control characters of ASCII, but not tab and newline
UNSAFE = re.compile("[\x80-\x9f\u202a-\u202e\u2066-\u2069]")  # those beyond ASCII, and bidirectional characters


class Client:
    """One connection."""

    def __init__(self, sock, address):
        self.sock = sock
        self.name = name_of(address)
        self.says = f"{self.name} says: "  # what stands before each of its messages
        self.received = b""  # the start of a line whose end is still to come
        self.sending = None  # the bytes of the send that is pending, if there is one
        self.unsent = bytearray()  # bytes to be sent after it


class ChatServer:
    """The room: what one client says, all the others hear."""

    def __init__(self, listener, proactor):
        self.listener = listener
        self.clients = {}  # descriptor: client
        self.record = bytearray()  # all that was said in this turn
        self.spans = {}  # client: where in the record its own words start and end
        self.running = True
        # A handled signal does not end a wait (PEP 475), but the byte that Python then writes to this socket does.
        self.proactor = proactor
        signal.set_wakeup_fd(self.proactor.waker.fileno(), warn_on_full_buffer=False)
        self.proactor.register(self.listener, self.accept)
        self.proactor.accept(self.listener)

    def run(self):
        """Serve until stop() is called."""
        logging.info("listening on %s", name_of(self.listener.getsockname()))
        while self.running:
            # Wait until operations are done, and be called for each: accept() or complete().
            self.proactor.turn()
            # Tell everybody what was said in this turn. Newcomers were not there for what came before them.
            self.broadcast()
        self.proactor.remove(self.listener)
        self.listener.close()
        for client in list(self.clients.values()):
            self.drop(client, "dropped: server stopping")
        logging.info("bye")

    def stop(self, *_):
        """Have run() end. As a signal handler it gets arguments, which do not matter here."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])  # a second one changes nothing
        self.running = False
        self.proactor.cancel()

    def accept(self, listener, _, result):
        """Let a newcomer in, or tell it that the room is full."""
        self.proactor.accept(listener)
        if isinstance(result, OSError):  # it is gone, or no descriptor is left in spite of the spare ones
            if result.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(0.01)  # the loop must not spin
            return
        sock, address = result
        client = self.clients[sock.fileno()] = Client(sock, address)
        self.proactor.register(sock, self.complete)
        # A new descriptor is the lowest free number: a high one says that all below it are in use.
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if sock.fileno() >= limit - SPARE_DESCRIPTORS:
            return self.drop(client, "refused: the room is full", b"error: the room is full\n")
        logging.info("%s joined, %d online", client.name, len(self.clients))
        self.proactor.recv(sock, MAX_MESSAGE)
        self.spans[client] = 0, len(self.record)

    def complete(self, sock, operation, result):
        """An operation on a client's socket is done: that is all that the proactor ever tells."""
        client = self.clients[sock.fileno()]
        if isinstance(result, OSError):
            self.drop(client, f"dropped: {result.strerror.lower()}")
        elif operation == "recv":
            self.receive(client, result)
        else:
            self.sent(client, result)

    def receive(self, client, data):
        """Put the messages that are complete now on the record, and ask for more."""
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
        texts = [text for text in clean(lines).split("\n") if text.strip()]
        if texts:
            words = (client.says + f"\n{client.says}".join(texts) + "\n").encode()
            self.spans[client] = len(self.record), len(self.record) + len(words)
            self.record += words
        if len(self.record) > MAX_RECORD:
            self.proactor.cancel()
        if not data:
            return self.drop(client, "left")
        self.proactor.recv(client.sock, MAX_MESSAGE)

    def broadcast(self):
        """Send everybody the record of this turn but for their own words, and start a new one."""
        if self.record:
            size = len(self.record)
            # Twice in a row: what comes after a client's own words, and then what came before them, is one slice of it.
            record, self.record = memoryview(self.record * 2), bytearray()
            everything = record[:size]
            for client in list(self.clients.values()):
                if client in self.spans:
                    start, end = self.spans[client]
                    self.send(client, record[end : start + size])
                else:
                    self.send(client, everything)
        self.spans.clear()

    def send(self, client, data):
        """Ask for the data to be sent, or keep it while a send is pending."""
        if client.sending is None:
            client.sending = data
            self.proactor.send(client.sock, data)
            return
        client.unsent += data
        if len(client.sending) + len(client.unsent) > MAX_UNSENT:
            self.drop(client, "dropped: too slow")

    def sent(self, client, count):
        """Go on with what is unsent: the rest of a send that is done, and what came after it."""
        if count < len(client.sending):
            client.unsent[:0] = client.sending[count:]
        client.sending = None
        if len(client.unsent) > MAX_UNSENT:
            self.drop(client, "dropped: too slow")
        elif client.unsent:
            unsent, client.unsent = client.unsent, bytearray()
            self.send(client, unsent)

    def drop(self, client, reason, last=b""):
        """Part with a client, after one last attempt to send what is unsent and the bytes given."""
        del self.clients[client.sock.fileno()]
        self.proactor.remove(client.sock, bytes(client.sending or b"") + client.unsent + last)
        logging.info("%s %s, %d online", client.name, reason, len(self.clients))
        client.sock.close()


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


def main():
    """Read the arguments, listen, and serve until a signal comes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("port", metavar="PORT", nargs="?", type=port, default=9669)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--backend", choices=["selectors", "io_uring"], default="selectors")
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    try:
        proactor = create_proactor(args.backend)
    except (ImportError, OSError) as error:
        sys.exit(f"{parser.prog}: cannot wait with {args.backend}: {error}")
    try:
        family, _, _, _, address = socket.getaddrinfo(args.host, args.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections in TIME_WAIT hold the port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted sockets inherit this
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # and this
        listener.bind(address)
        listener.listen(BACKLOG)
        server = ChatServer(listener, proactor)
    except (OSError, UnicodeError) as error:
        sys.exit(f"{parser.prog}: cannot listen on {name_of((args.host, args.port))}: {error}")
    signal.signal(signal.SIGINT, server.stop)
    signal.signal(signal.SIGTERM, server.stop)
    server.run()
    sys.stderr = None  # or Python ends with status 120, if it cannot flush a log that was closed


if __name__ == "__main__":
    main()
