"""A chat server with limits: who says too much is not read for a while, so that everybody else can follow.

    python server.py [PORT] [--host HOST]       9669 and 127.0.0.1 by default; then, in other terminals,
    telnet 127.0.0.1 9669                       or nc 127.0.0.1 9669, or asyncio_based/client.py

Still missing: who comes later cannot know what was said before. Join as ana, say something, and join as bob: he reads
`also here: ana`, and nothing of what she said.
"""

import argparse
import asyncio
import contextlib
import errno
import inspect
import logging
import mmap
import os
import re
import resource
import signal
import socket
import sys
import time
import unicodedata

MAX_MESSAGE = 4096  # bytes of a message as received, with its newline; and the most read from a client at once
MAX_UNSENT = 1 << 20  # bytes kept for a client that reads too slowly, before it is dropped
LAST_CHANCE = 1  # seconds that telling may take when the server stops
DOOR_TIME = 30  # seconds in which somebody at the door must answer
BURST = 4  # seconds for which a client may save up what --lines and --bytes allow
MAX_AHEAD = 1 << 14  # bytes that the kernel keeps for us of what a client has sent before we read it
NAME = re.compile(r"(?:[^\W\u115f\u1160]|-){1,20}")  # letters (no Hangul fillers: nobody sees them), digits, _, -
IAC, INTERRUPT = 0xFF, b"\xff\xf4"  # telnet's commands begin with IAC (RFC 854); its Ctrl-C is IAC IP


class ChatServer:
    """The room: what one client says, all the others hear."""

    def __init__(self, listener, loop, limits):
        self.listener = listener
        self.loop = loop
        self.limits = limits  # what the arguments say; 0 is for no limit
        self.clients = set()  # all of them, also those at the door
        self.room = {}  # name as names are compared: client
        self.turn = Turn()
        self.spoken = asyncio.Event()  # set while something was said in this turn
        self.stopping = asyncio.Event()

    async def run(self):
        """Serve until stop() is called."""
        logging.info("listening on %s", name_of(self.listener.getsockname()))
        accepting = asyncio.create_task(self.accept())
        telling = asyncio.create_task(self.tell())
        await self.stopping.wait()
        accepting.cancel()
        telling.cancel()
        # What the streams have read is still to be told. After feed_eof() read() returns that at once, then at_eof() is
        # true: receive() does not get to see the end of the stream, and so it delivers no unfinished line.
        end = self.loop.time() + LAST_CHANCE
        for client in list(self.clients):
            with contextlib.suppress(OSError):
                client.reader.feed_eof()
                self.work(client)
                while client in self.clients and not client.reader.at_eof() and self.loop.time() < end:
                    self.receive(client, await client.reader.read(MAX_MESSAGE))
                    self.work(client)
        self.broadcast()
        for client in list(self.clients):
            self.drop(client, "dropped: server stopping")
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
        self.listener.close()
        logging.info("bye")

    async def accept(self):
        """Let newcomers in, one after the other, or tell them that the room is full."""
        while True:
            try:
                sock, address = await self.loop.sock_accept(self.listener)
                client = Client(sock, address, self.limits)
            except (OSError, MemoryError):  # it is gone again, or something is lacking, in spite of what is kept back
                sock = None  # or this name would keep it open while the loop waits for the next one
                await asyncio.sleep(0.01)  # the loop must not spin
                continue
            same = sum(other.host == client.host for other in self.clients)
            if 0 < self.limits.connections <= same:
                refuse(client, len(self.room), "too many connections from your address")
                continue
            try:
                check_spare(sock)
                client.reader, client.writer = await asyncio.open_connection(sock=sock, limit=MAX_MESSAGE)
            except OSError:
                refuse(client, len(self.room), "the room is full")
                continue
            with contextlib.suppress(AttributeError):  # uvloop has no such attribute
                client.writer.transport.max_size = MAX_MESSAGE  # bytes that the loop reads at once, 256 KiB otherwise
            self.clients.add(client)
            self.ask(client, "your name?\n")
            client.reading = asyncio.create_task(self.attend(client))

    def ask(self, client, question):
        """Ask somebody at the door, and drop it if no answer comes."""
        if client.timer:
            client.timer.cancel()
        error = b"error: no name within %d seconds\n" % DOOR_TIME
        client.timer = self.loop.call_later(DOOR_TIME, self.drop, client, "dropped: no name", error)
        self.send(client, question.encode())

    async def attend(self, client):
        """Read from a client until it leaves. Each client has a task that runs this."""
        transport = client.writer.transport
        while client in self.clients:
            try:
                data = await client.reader.read(MAX_MESSAGE)
            except OSError as error:
                return self.drop(client, f"dropped: {error.strerror or error}".lower())
            self.receive(client, data)
            # While it waits here nobody reads from this client. So its own send will block in the end, and nothing is
            # lost: the window that TCP gives it is closed (RFC 9293, section 3.8.6).
            while pause := self.work(client):
                transport.pause_reading()  # at a reset the stream would forget what it has read ahead
                await asyncio.sleep(pause)
            transport.resume_reading()
            if len(data) == MAX_MESSAGE:  # there may be more, and then read() would not wait for the others' turn
                await asyncio.sleep(0)

    def receive(self, client, data):
        """Put the lines that are complete now with those that wait."""
        client.bytes.take(len(data))
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
        lines, newline, client.received = stream.rpartition(b"\n")
        if newline:
            client.waiting = clean(lines) + "\n"
        client.ended = not data

    def work(self, client):
        """Handle the lines that wait, and return 0; or the seconds until the limits allow the next one."""
        while client in self.clients:
            pause = max(client.lines.pause(), client.bytes.pause())
            if pause and not self.stopping.is_set():
                return pause
            if client.waiting:
                client.lines.take(1)
                client.heard = self.loop.time()
                text, _, client.waiting = client.waiting.partition("\n")
                self.handle(client, text)
            elif client.ended:
                self.drop(client, "left")
            else:
                break
        return 0

    def handle(self, client, text):
        """Do what a line asks for: at the door it is a name, in the room a command, or something to be told."""
        if client.name is None:
            self.enter(client, text)
        elif text.startswith("/") and not text.startswith("//"):
            self.command(client, text)
        elif text.strip():
            self.say(client, f"{client.name} says: {text.removeprefix('/')}\n")

    def enter(self, client, text):
        """Let in who says a name that it may have, or say why it may not, and ask again."""
        try:
            name, key = self.check_name(client, text)
        except ValueError as error:
            return self.ask(client, f"error: {error}\nyour name?\n")
        client.timer.cancel()
        others = ", ".join(sorted(other.name for other in self.room.values()))
        client.name, client.key, self.room[key] = name, key, client
        self.send(client, f"* you are {name}; {f'also here: {others}' if others else 'nobody else is here'}\n".encode())
        self.turn.leave_out(client)  # what was said before it came is not for it
        self.say(client, f"* {name} joined\n")
        logging.info("%s joined, %d online", client, len(self.room))
        if self.limits.idle:
            self.watch(client)

    def watch(self, client):
        """Drop a client that has been silent for too long, or look again as soon as that can be so."""
        left = client.heard + self.limits.idle * 60 - self.loop.time()
        if left > 0:
            client.timer = self.loop.call_later(left, self.watch, client)
        else:
            self.drop(client, "dropped: idle", b"error: nothing heard for %g minutes\n" % self.limits.idle)

    def check_name(self, client, text):
        """Return a name for the client, and the key by which names are compared. ValueError says why there is none."""
        name = unicodedata.normalize("NFKC", text.strip())
        key = key_of(name)
        if not (NAME.fullmatch(name) and name[0].isalpha()):
            raise ValueError("a name has 1 to 20 letters, digits, - and _, and begins with a letter")
        if self.room.get(key, client) is not client:
            raise ValueError(f"{name} is taken")
        return name, key

    def command(self, client, text):
        """Do a command: the method of its name, which is given as many words as it has parameters."""
        word, *rest = text.split(maxsplit=1)
        do = getattr(self, f"do_{word[1:].lower()}", None)
        try:
            if not do:
                raise ValueError(f"there is no {word[:20]}; /help lists what there is")
            _, *parameters = inspect.signature(do).parameters.values()
            words = "".join(rest).split(maxsplit=len(parameters) - 1)  # the last one gets all that is left
            if len(words) != len(parameters):
                raise ValueError(f"it is {usage(do)}")
            do(client, *words)
        except ValueError as error:
            self.answer(client, f"error: {error}\n")

    def do_help(self, client):
        """List the commands."""
        commands = [getattr(self, name) for name in dir(self) if name.startswith("do_")]
        self.answer(client, "".join([f"* {usage(do)}: {do.__doc__ or ''}\n" for do in commands]))

    def do_list(self, client):
        """Say who is here."""
        self.answer(client, f"* here: {', '.join(sorted(other.name for other in self.room.values()))}\n")

    def do_pm(self, client, name, text):
        """Say something to one person alone."""
        other = self.room.get(key_of(name))
        if not other:
            raise ValueError(f"nobody here is called {name[:20]}")
        if other is client:
            raise ValueError("that is you")
        self.answer(other, f"{client.name} whispers: {text}\n")
        self.answer(client, f"* you whisper to {other.name}: {text}\n")

    def do_me(self, client, text):
        """Say what you do: after /me waves the others read that you wave."""
        self.say(client, f"~ {client.name} {text}\n")

    def do_nick(self, client, name):
        """Take another name."""
        name, key = self.check_name(client, name)
        logging.info("%s is now %s, %d online", client, name, len(self.room))
        self.say(None, f"* {client.name} is now {name}\n")  # nobody's words: all hear it
        del self.room[client.key]
        client.name, client.key, self.room[key] = name, key, client

    def do_quit(self, client):
        """Leave."""
        self.drop(client, "left")

    def answer(self, client, text):
        """Tell one client alone, after all that was said before."""
        self.broadcast()
        self.send(client, text.encode())

    def say(self, client, words):
        """Put a client's words, or words about it, on the turn's record, for all the others."""
        if not self.turn.takes(client):
            self.broadcast()
        self.turn.add(client, words.encode())
        self.spoken.set()

    async def tell(self):
        """At the end of each turn tell everybody what was said in it."""
        while True:
            await self.spoken.wait()
            # Those who were read in the same moment are to speak in the same turn: let their coroutines go on first.
            await asyncio.sleep(0)
            self.broadcast()

    def broadcast(self):
        """Tell everybody what the others said in this turn, and begin a new one."""
        turn, self.turn = self.turn, Turn()
        self.spoken.clear()
        if turn.record:
            for client in self.room.values():
                self.send(client, turn.heard_by(client))

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
            return self.fail(client, f"dropped: {error.strerror.lower()}")
        del client.unsent[:sent]
        if len(client.unsent) > MAX_UNSENT:
            self.fail(client, "dropped: too slow")
        elif client.unsent and not client.flushing:
            client.flushing = asyncio.create_task(self.flush(client))

    async def flush(self, client):
        """Send what is unsent as fast as the client reads. This task waits for it, and nobody else does."""
        try:
            sock = client.sock.dup()  # the loop lets nobody wait for a descriptor that its streams have
        except OSError as error:
            return self.fail(client, f"dropped: {error.strerror.lower()}")
        writable = asyncio.Event()
        self.loop.add_writer(sock, writable.set)
        try:
            while client.unsent:
                await writable.wait()
                writable.clear()
                self.send(client)
        finally:
            self.loop.remove_writer(sock)
            sock.close()
            client.flushing = None

    def fail(self, client, reason):
        """Send no more to a client. It is dropped when receive() comes to the end of what it said before."""
        client.failure = reason
        with contextlib.suppress(OSError):
            client.sock.shutdown(socket.SHUT_RDWR)

    def drop(self, client, reason, last=b""):
        """Part with a client, after one last attempt to send what is unsent and the bytes given."""
        self.clients.remove(client)
        client.timer.cancel()
        if client.name is not None:
            del self.room[client.key]
            self.say(client, f"* {client.name} left\n")
        logging.info("%s %s, %d online", client, reason, len(self.room))
        with contextlib.suppress(OSError):
            client.sock.send(client.unsent + last)
        client.writer.close()
        client.writer = None  # frees it at once: if the collector found it later, asyncio would log what ended it
        client.reading.cancel()
        if client.flushing:
            client.flushing.cancel()

    def stop(self, *_):
        """Have run() end. As a signal handler it gets arguments, which do not matter here."""
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self.loop.call_soon_threadsafe(self.stopping.set)  # this also wakes the loop


class Client:
    """One connection."""

    def __init__(self, sock, address, limits):
        self.sock = sock
        self.address = name_of(address)
        self.host, _, _ = self.address.rpartition(":")
        self.name = self.key = None  # what it is called, and how that is compared, once it is in the room
        self.received = b""  # the start of a line whose end is still to come
        self.waiting = ""  # whole lines that are still to be handled
        self.ended = False  # whether they are its last
        self.lines, self.bytes = Bucket(limits.lines), Bucket(limits.bytes)
        self.heard = 0.0  # when it last said something, in the loop's time
        self.unsent = bytearray()  # bytes that the socket would not take yet
        self.failure = None  # why it is to be dropped, once it cannot be sent to any more
        self.reader = self.writer = None  # its streams
        self.reading = self.flushing = None  # the tasks that wait for it: always, and while bytes are unsent
        self.timer = None  # what drops it, if it does not answer at the door, or is silent for too long

    def __str__(self):
        """What the log calls it."""
        return self.address if self.name is None else f"{self.name}@{self.address}"


class Bucket:
    """How much a client may send: a token for each line, or byte. Tokens come back with time, up to a limit.

    This is a token bucket, as routers have it (RFC 2697 is one with two). Its owner may take more than there is, and
    then has to wait the longer. A rate of 0 is for no limit.
    """

    def __init__(self, rate):
        self.rate = rate  # tokens a second
        self.most = max(1, BURST * rate)
        self.tokens = self.most
        self.then = time.monotonic()  # when it had so many

    def take(self, count):
        """Take so many tokens."""
        self.tokens -= count

    def pause(self):
        """Return the seconds until there is a token, or 0 if there is one."""
        if not self.rate:
            return 0
        now = time.monotonic()
        self.tokens = min(self.most, self.tokens + (now - self.then) * self.rate)
        self.then = now
        return max(0, (1 - self.tokens) / self.rate)


def key_of(name):
    """Return a name in the form in which names are compared: two that differ in case alone are one.

    NFKC makes one of what looks alike: a letter with its accent, or narrow and wide letters (Unicode Annex 15).
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def usage(do):
    """Return how a command is written, from its method's name and parameters."""
    _, *words = inspect.signature(do).parameters.values()
    names = [word.name.upper() for word in words]
    return " ".join([do.__name__.replace("do_", "/"), *names])


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
        _, end = self.spans.get(client, (0, len(self.record)))
        return end == len(self.record) < MAX_TURN

    def add(self, client, words):
        """Write down a client's words."""
        start, _ = self.spans.get(client, (len(self.record), 0))
        self.record += words
        self.spans[client] = start, len(self.record)

    def leave_out(self, client):
        """Keep what has been said so far from a client, as if all of it were its own words."""
        self.spans[client] = 0, len(self.record)

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


def refuse(client, online, why):
    """Tell a newcomer why it cannot come in."""
    logging.info("%s refused: %s, %d online", client, why, online)
    with contextlib.suppress(OSError):
        client.sock.send(b"error: %s\n" % why.encode(), socket.MSG_DONTWAIT)
    client.sock.close()


def port(text):
    """Return text as a port number, or raise ValueError, which argparse reports."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError
    return int(text)


def limit(text):
    """Return text as a number of 0 or more, or raise ValueError, which argparse reports."""
    if not 0 <= float(text) < float("inf"):
        raise ValueError
    return float(text)


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
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MAX_AHEAD)  # and this
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
    parser.add_argument("--lines", type=limit, default=5, help="a second, for each client (5); 0 is for no limit")
    parser.add_argument("--bytes", type=limit, default=4096, help="a second, for each client (4096)")
    parser.add_argument("--connections", type=limit, default=20, help="from one address (20)")
    parser.add_argument("--idle", type=limit, default=60, help="minutes after which who is silent is dropped (60)")
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
            runner = stack.enter_context(asyncio.Runner(debug=False))
            # stop() wakes the loop as well, but Python calls it after the wait if the signal came just before that.
            runner.get_loop().add_reader(wakeup, wakeup.recv, 1)
            server = ChatServer(listener, runner.get_loop(), args)
        except (OSError, UnicodeError) as error:
            sys.exit(f"{parser.prog}: cannot listen on {name_of((args.host, args.port))}: {error}")
        wakeup_fd = signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, server.stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        runner.run(server.run())
        signal.set_wakeup_fd(wakeup_fd)
        if not console:
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # a second one changes nothing while Python ends
            sys.stderr = None  # or Python ends with status 120, if it cannot flush a log that was closed


if __name__ == "__main__":
    main()
