"""A chat server that waits in coroutines: one for each client, on asyncio's event loop and its streams.

    python server.py [PORT] [--host HOST]       9669 and 127.0.0.1 by default; then, in other terminals,
    python client.py                            or telnet 127.0.0.1 9669, or nc 127.0.0.1 9669

Still hurts: a coroutine that does not await holds up everybody; and a turn goes through a library, which takes
up to twice the CPU of poll. Start each of the two with `time python`, run this, and end it with Ctrl-C:

    python -c "from socket import *; a, b = [create_connection(('localhost', 9669)) for _ in range(2)]; \
    [b.send(b'hi\\n') and a.recv(99) for _ in range(100000)]"
"""

import argparse
import asyncio
import contextlib
import logging
import re
import resource
import signal
import socket
import sys

MAX_MESSAGE = 4096  # bytes of a message as received, with its newline; and the most read from a client at once
MAX_RECORD = 1 << 18  # bytes that are said before everybody is told: short lines make twelve times what was received
MAX_UNSENT = 1 << 20  # bytes kept for a client that reads too slowly, before it is dropped
LAST_CHANCE = 1  # seconds that what is unsent has to go out when a client is dropped
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

    def __init__(self, sock, address, reader, writer):
        self.sock = sock
        self.name = name_of(address)
        self.says = f"{self.name} says: "  # what stands before each of its messages
        self.received = b""  # the start of a line whose end is still to come
        self.unsent = bytearray()  # bytes that the socket would not take yet, and that the writer has not got yet
        self.reader, self.writer = reader, writer
        self.reading = self.flushing = None  # the tasks that wait for this client: always, and while bytes are unsent


class ChatServer:
    """The room: what one client says, all the others hear."""

    def __init__(self, listener):
        self.listener = listener
        self.clients = {}  # used as a set, but one in the order in which they joined
        self.record = bytearray()  # all that was said in this turn
        self.spans = {}  # client: where in the record its own words start and end
        self.running = True
        # A handled signal does not end a wait (PEP 475), but the byte that Python then writes to this socket does.
        self.wakeup, self.waker = socket.socketpair()
        self.wakeup.setblocking(False)
        self.waker.setblocking(False)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)

    async def run(self):
        """Serve until stop() is called."""
        loop = asyncio.get_running_loop()
        logging.info("listening on %s", name_of(self.listener.getsockname()))
        accepting = asyncio.create_task(self.accept())
        while self.running:
            await loop.sock_recv(self.wakeup, 1)
        accepting.cancel()
        self.broadcast()
        for client in list(self.clients):
            self.drop(client, "dropped: server stopping")
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})
        self.listener.close()
        logging.info("bye")

    def stop(self, *_):
        """Have run() end. As a signal handler it gets arguments, which do not matter here."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])  # a second one changes nothing
        self.running = False
        self.waker.send(b"\0")  # uvloop takes the signal's own byte for itself

    async def accept(self):
        """Let newcomers in, one after the other, or tell them that the room is full."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(self.listener)
                reader, writer = await asyncio.open_connection(sock=sock, limit=MAX_MESSAGE)
            except OSError:  # it is gone, or no descriptor is left in spite of the spare ones
                await asyncio.sleep(0.01)  # the loop must not spin
                continue
            with contextlib.suppress(AttributeError):  # uvloop has no such attribute
                writer.transport.max_size = MAX_MESSAGE  # bytes that the loop reads at once, 256 KiB otherwise
            writer.transport.set_write_buffer_limits(0)  # so that drain() waits until the transport has sent everything
            self.broadcast()  # what was said before it came is not for it
            client = Client(sock, address, reader, writer)
            self.clients[client] = None
            # A new descriptor is the lowest free number: a high one says that all below it are in use.
            limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            if sock.fileno() >= limit - SPARE_DESCRIPTORS:
                self.drop(client, "refused: the room is full", b"error: the room is full\n")
                continue
            logging.info("%s joined, %d online", client.name, len(self.clients))
            client.reading = asyncio.create_task(self.attend(client))

    async def attend(self, client):
        """Read from a client until it leaves."""
        while client in self.clients and self.running:
            await self.receive(client)

    async def receive(self, client):
        """Read from a client once, and put the messages that are complete now on the record."""
        try:
            data = await client.reader.read(MAX_MESSAGE)
        except OSError as error:
            if client in self.clients:
                self.drop(client, f"dropped: {error.strerror or error}".lower())
            return
        # A client's own words must be one slice of the record.
        if client in self.spans or len(self.record) > MAX_RECORD:
            self.broadcast()
        if client not in self.clients or not self.running:  # in the meantime
            return
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
            if not self.record:
                # What arrives now is read in the loop's next round, and then wakes a task: it still is of this turn.
                loop = asyncio.get_running_loop()
                loop.call_soon(loop.call_soon, loop.call_soon, self.broadcast)
            self.spans[client] = len(self.record), len(self.record) + len(words)
            self.record += words
        if not data:
            self.drop(client, "left")
        # There may be more, and then read() would not wait: this gives the others their turn.
        if len(data) == MAX_MESSAGE:
            await asyncio.sleep(0)

    def broadcast(self):
        """Send everybody the record of this turn but for their own words, and start a new one."""
        if self.record:
            size = len(self.record)
            # Twice in a row: what comes after a client's own words, and then what came before them, is one slice of it.
            record, self.record = memoryview(self.record * 2), bytearray()
            everything = record[:size]
            for client in list(self.clients):
                if client in self.spans:
                    start, end = self.spans[client]
                    self.send(client, record[end : start + size])
                else:
                    self.send(client, everything)
        self.spans.clear()

    def send(self, client, data):
        """Send the data, as much as the socket takes now, and keep the rest."""
        if client.flushing:
            client.unsent += data
        else:
            # The writer would do the same, only with more calls, for each client in each turn.
            try:
                sent = client.sock.send(data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                if not client.writer.is_closing():  # as it is when the loop was told first: receive() is told next
                    self.drop(client, f"dropped: {error.strerror.lower()}")
                return
            if sent == len(data):
                return  # as it is almost always
            client.unsent += data[sent:]
            client.flushing = asyncio.create_task(self.flush(client))
        if len(client.unsent) + client.writer.transport.get_write_buffer_size() > MAX_UNSENT:
            self.drop(client, "dropped: too slow")

    async def flush(self, client):
        """Send what is unsent as fast as the client reads: for drain() this task waits, and nobody else."""
        with contextlib.suppress(OSError):
            while client.unsent and client in self.clients:
                client.writer.write(client.unsent)
                client.unsent = bytearray()
                await client.writer.drain()
        client.flushing = None

    def drop(self, client, reason, last=b""):
        """Part with a client, after one last attempt to send what is unsent and the bytes given."""
        del self.clients[client]
        logging.info("%s %s, %d online", client.name, reason, len(self.clients))
        if not client.writer.is_closing():
            client.writer.write(client.unsent + last)
        # close() sends what is unsent first, which would never end if the client does not read.
        client.writer.close()
        asyncio.get_running_loop().call_later(LAST_CHANCE, self.abort, client.writer.transport)

    def abort(self, transport):
        """Discard what a transport could not send until now. One that could is closed, and must not be aborted."""
        if transport.get_write_buffer_size():
            transport.abort()


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
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
        server = ChatServer(listener)
    except (OSError, UnicodeError) as error:
        sys.exit(f"{parser.prog}: cannot listen on {name_of((args.host, args.port))}: {error}")
    signal.signal(signal.SIGINT, server.stop)
    signal.signal(signal.SIGTERM, server.stop)
    asyncio.run(server.run())
    sys.stderr = None  # or Python ends with status 120, if it cannot flush a log that was closed


if __name__ == "__main__":
    main()
