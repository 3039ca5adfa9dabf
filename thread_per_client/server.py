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
MAX_RECORD = 1 << 18  # bytes that are said before everybody is told: short lines make twelve times what was received
SEND_TIMEOUT = 5  # seconds in which a client must have taken what it is sent, before it is dropped
LAST_CHANCE = 1  # seconds that sending may take when the server stops
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
        self.turn = threading.Lock()  # held from say() to broadcast(): its thread must not run ahead of the room
        self.failure = None  # why it is to be dropped, once the moderator has failed to send to it


class ChatServer:
    """The room: what one client says, all the others hear."""

    def __init__(self, listener):
        self.listener = listener
        self.clients = {}  # descriptor: client
        self.record = bytearray()  # all that was said in this turn
        self.spans = {}  # client: where in the record its own words start and end
        self.running = True
        self.tasks = queue.SimpleQueue()  # what the other threads ask of the one that owns the room
        # A handled signal does not end a wait (PEP 475), but the byte that Python then writes to this socket does.
        self.wakeup, self.waker = socket.socketpair()
        self.waker.setblocking(False)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)

    def run(self):
        """Serve until stop() is called."""
        # A thread that wakes up should not push aside the one that has the interpreter's lock: it could not go on.
        # With SCHED_BATCH it does not (sched(7); only Linux has it), and threads inherit that.
        with contextlib.suppress(AttributeError, OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        logging.info("listening on %s", name_of(self.listener.getsockname()))
        threading.Thread(target=self.accept, daemon=True).start()
        moderator = threading.Thread(target=self.moderate)
        moderator.start()
        while self.running:
            self.wakeup.recv(1)
        # Accept nobody any more, and let the moderator finish; a client that does not read may hold it up.
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.tasks.put(None)
        moderator.join(LAST_CHANCE)
        while moderator.is_alive():
            for client in list(self.clients.values()):
                with contextlib.suppress(OSError):
                    client.sock.shutdown(socket.SHUT_RDWR)
            moderator.join(0.1)
        # A second signal changes nothing, not even when Python, to end, puts the default handlers back. (To block it,
        # as the versions with one thread do, would leave it to the threads that still wait for their clients.)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        logging.info("bye")

    def stop(self, *_):
        """Have run() end. As a signal handler it gets arguments, which do not matter here."""
        self.running = False

    def moderate(self):
        """Do the tasks one by one. Only the thread that runs this changes the room and sends: neither needs a lock."""
        for task, *args in iter(self.tasks.get, None):
            task(*args)
            # Tell everybody what was said in the tasks that were waiting.
            if self.tasks.empty() or len(self.record) > MAX_RECORD:
                self.broadcast()
        self.broadcast()
        for client in list(self.clients.values()):
            self.drop(client, "dropped: server stopping")

    def accept(self):
        """Give every newcomer a thread of its own, or tell it that the room is full."""
        while self.running:
            try:
                sock, address = self.listener.accept()
            except OSError as error:  # it is gone, or no descriptor is left in spite of the spare ones
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    time.sleep(0.01)  # the loop must not spin
                continue
            client = Client(sock, address)
            # A new descriptor is the lowest free number: a high one says that all below it are in use.
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            try:
                if sock.fileno() >= limit - SPARE_DESCRIPTORS:
                    raise RuntimeError("no descriptor left")
                threading.Thread(target=self.receive, args=[client], daemon=True).start()
            except RuntimeError:  # start() raises it when the system has no thread left
                self.tasks.put((self.drop, client, "refused: the room is full", b"error: the room is full\n"))

    def receive(self, client):
        """Read from a client until it leaves, and ask that the messages which are complete be put on the record."""
        self.tasks.put((self.join, client))
        while True:
            try:
                data = client.sock.recv(MAX_MESSAGE)
            except OSError as error:
                return self.tasks.put((self.drop, client, f"dropped: {error.strerror.lower()}"))
            stream = client.received + data
            # Only the first line can be too long: the others came in this one recv.
            if len(stream) > MAX_MESSAGE and b"\n" not in stream[:MAX_MESSAGE]:
                error = b"error: a message may be at most %d bytes\n" % MAX_MESSAGE
                return self.tasks.put((self.drop, client, "dropped: message too long", error))
            if not data:
                stream += b"\n"  # the end of the stream ends the last line as a newline does
            elif IAC in stream and INTERRUPT in stream:  # for a single byte the search is much quicker
                stream, data = stream.partition(INTERRUPT)[0], b""  # the end, too; an unfinished line is discarded
            lines, _, client.received = stream.rpartition(b"\n")
            texts = [text for text in clean(lines).split("\n") if text.strip()]
            if texts:
                words = (client.says + f"\n{client.says}".join(texts) + "\n").encode()
                client.turn.acquire()
                self.tasks.put((self.say, client, words))
            if not data:
                return self.tasks.put((self.drop, client, "left"))

    def join(self, client):
        """Let a newcomer in; what was said before is not for it."""
        self.broadcast()
        self.clients[client.sock.fileno()] = client
        logging.info("%s joined, %d online", client.name, len(self.clients))

    def say(self, client, words):
        """Put a client's words on the record, unless it has failed: then what stands at the end is no message."""
        if client.failure:
            words = b""
        self.spans[client] = len(self.record), len(self.record) + len(words)
        self.record += words

    def broadcast(self):
        """Send everybody the record of this turn but for their own words, and start a new one."""
        for client in self.spans:
            client.turn.release()
        if self.record:
            size = len(self.record)
            # Twice in a row: what comes after a client's own words, and then what came before them, is one slice of it.
            record, self.record = memoryview(self.record * 2), bytearray()
            everything = record[:size]
            for client in self.clients.values():
                if client in self.spans:
                    start, end = self.spans[client]
                    self.send(client, record[end : start + size])
                else:
                    self.send(client, everything)
        self.spans.clear()

    def send(self, client, data):
        """Send the data, all of it, for which SEND_TIMEOUT must do."""
        if client.failure:
            return
        try:
            # When the time is over, send() returns how much it could send, or raises if that is nothing.
            if client.sock.send(data) < len(data):
                raise BlockingIOError
        except BlockingIOError:
            client.failure = "dropped: too slow"
        except OSError as error:
            client.failure = f"dropped: {error.strerror.lower()}"
        if client.failure:
            # Wake the client's thread, for it to leave. Were the socket closed here, that thread might read from
            # the next socket that gets its number.
            with contextlib.suppress(OSError):
                client.sock.shutdown(socket.SHUT_RDWR)

    def drop(self, client, reason, last=b""):
        """Part with a client, after one last attempt to send the bytes given."""
        self.clients.pop(client.sock.fileno(), None)
        logging.info("%s %s, %d online", client.name, client.failure or reason, len(self.clients))
        with contextlib.suppress(OSError):
            client.sock.send(last, socket.MSG_DONTWAIT)
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
    args = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    try:
        family, _, _, _, address = socket.getaddrinfo(args.host, args.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections in TIME_WAIT hold the port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # accepted sockets inherit this
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # and this
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_TIMEOUT, 0))  # and this
        listener.bind(address)
        listener.listen(BACKLOG)
        server = ChatServer(listener)
    except (OSError, UnicodeError) as error:
        sys.exit(f"{parser.prog}: cannot listen on {name_of((args.host, args.port))}: {error}")
    signal.signal(signal.SIGINT, server.stop)
    signal.signal(signal.SIGTERM, server.stop)
    server.run()
    sys.stderr = None  # or Python ends with status 120, if it cannot flush a log that was closed


if __name__ == "__main__":
    main()
