"""The load generator: real TCP clients in a chat room, thousands in one process, every line checked.

    python bench/load.py PORT --clients 100 --talkers 100 --in-flight 1 --seconds 2 --pid SERVER_PID

It prints one JSON object: what was delivered, how fast, what the server used for it (--pid), and what was
wrong: lines lost, duplicated, reordered, torn, or heard by their own sender. A line is numbered, twice:

    127.0.0.1:40001 says: KKKKKKKK ...... KKKKKKKK     K: 8 characters of 5 bits: 14 bits sender, 26 number

Modes (--mode):
    talk    closed loop: a talker has --in-flight lines on their way; it sends the next when one has reached
            the next client of the ring (the sender does not hear itself). Shows what the server can do.
    steady  one talker sends --rate lines a second, whatever happens; latency counts from when one was due.
    bits    one talker sends long lines a byte at a time, --rate bytes a second: nobody is told anything.
    churn   --at-once clients connect, close their sending side, wait until the server closes, start again.

To outrun a server that spends a tenth of a microsecond on a line, the inner loop is in C (hot.c), compiled
at the first run. It counts the lines that are right; the others are taken apart here. Without a C compiler
all of them are, at a tenth of the speed: good for slow servers and for seeing what is counted.
"""

import ctypes
import errno
import gc
import json
import resource
import select
import socket
import ssl
import sys
import time
from collections import Counter, defaultdict

from compiled import compiled
from meter import ServerMeter, machine_cpu
from output import Arguments, Screen, between, tell

HOST = "127.0.0.1"
READ_SIZE = 64 * 1024  # bytes, of one client at a time
NUMBER_BITS = 26
MOST_CLIENTS = 1 << 14  # what a key has room for
KEY_SIZE = 8  # characters
QUIET = 0.5  # seconds without a line after which talkers that wait send all the same
JOIN_TIMEOUT = 60.0  # seconds until everybody must have heard a first line
FIRST_PROBE = 0.2  # seconds until the second one
DRAIN_TIMEOUT = 2.0  # seconds without progress after which a line counts as lost
LONGEST_WARM_UP = 0.3  # seconds, at most a quarter of what is measured
PROBE = b"is everybody here? "
GONE_AT_ONCE = b"\1\0\0\0\0\0\0\0"  # SO_LINGER: close with a reset, no port has to wait out its minute
FAULTS = ("lost", "duplicated", "reordered", "torn", "own")


class Chat:
    """The wire of this repository's servers."""

    prefix, suffix = b"", b"\n"  # what a client writes around a text
    greeting, welcome = None, None  # what it says first, and what it hears before it is in the room

    bare = False  # may a line come without a head?

    def wrap(self, sock):
        """What stands for a client's socket, once it is connected."""
        return sock

    def head(self, port):
        """What stands before a text of the client with this port, if that is known beforehand."""
        return b"%s:%d says: " % (HOST.encode(), port)


class Ncat(Chat):
    """ncat --chat: `<userN> TEXT`; lines that it read at once share one head."""

    bare = True

    def head(self, port):
        return None


class Irc(Ncat):
    """Just enough of RFC 2812 to talk in one channel."""

    bare = False
    prefix, suffix = b"PRIVMSG #bench :", b"\r\n"
    greeting, welcome = b"NICK u%05d\r\nUSER u 0 * :u\r\nJOIN #bench\r\n", b" 366 "


class Named(Chat):
    """The growing road: a name at the door."""

    greeting, welcome = b"p%05d\n", b"* you are "

    def head(self, port):
        return None


class Slowly(Named):
    """The same with the load in Python, as those have it that follow."""


class Tls(Slowly):
    """In TLS."""

    def wrap(self, sock):
        return Wrapped(sock, TlsLayer(sock))


class WebSocket(Slowly):
    """In messages of a WebSocket."""

    def wrap(self, sock):
        return Wrapped(sock, WebSocketLayer(sock))


class TlsLayer:
    """TLS between two buffers in memory. Whom it speaks to does not matter here, where it is ourselves."""

    def __init__(self, sock):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(self.outgoing.read())
                self.incoming.write(sock.recv(READ_SIZE))
        sock.sendall(self.outgoing.read())

    def close(self, data):
        """The bytes that say this."""
        self.tls.write(data)
        return self.outgoing.read()

    def open(self, data):
        """What these bytes say."""
        self.incoming.write(data)
        said = []
        while True:
            try:
                said.append(self.tls.read(READ_SIZE))
            except ssl.SSLWantReadError:
                return b"".join(said)


class WebSocketLayer:
    """Just enough of RFC 6455: text messages, a line each on the way there."""

    def __init__(self, sock):
        key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
        head = f"GET /chat HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}\r\n"
        sock.sendall(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            more = sock.recv(READ_SIZE)
            if not more:
                raise OSError("no WebSocket")
            answer += more
        self.rest = answer.partition(b"\r\n\r\n")[2]

    def close(self, data):
        """The bytes that say these lines: masked with zeros, which is allowed and changes nothing."""
        frames = []
        for line in data.splitlines():
            size = bytes([0x80 | len(line)]) if len(line) < 126 else b"\xfe" + len(line).to_bytes(2, "big")
            frames.append(b"\x81" + size + bytes(4) + line)
        return b"".join(frames)

    def open(self, data):
        """What the frames say that are whole now."""
        rest, said, start = self.rest + data, [], 0
        while len(rest) >= start + 2:
            size, begin = rest[start + 1], start + 2
            if size >= 126:
                begin += 2 if size == 126 else 8
                size = int.from_bytes(rest[start + 2 : begin], "big")
            if len(rest) < max(begin + size, begin):
                break
            if rest[start] == 0x81:
                said.append(rest[begin : begin + size])
            start = begin + size
        self.rest = rest[start:]
        return b"".join(said)


class Wrapped:
    """A socket on which bytes go through a layer."""

    def __init__(self, sock, layer):
        self.sock, self.layer, self.unsent = sock, layer, b""

    def __getattr__(self, name):
        return getattr(self.sock, name)

    def recv(self, size):
        data = self.sock.recv(size)
        if data and not (data := self.layer.open(data)):
            raise BlockingIOError(errno.EAGAIN, "a part of a record or frame")
        return data

    def send(self, data):
        """Send all of it, now or later."""
        self.unsent += self.layer.close(data) if data else b""
        self.unsent = self.unsent[self.sock.send(self.unsent) if self.unsent else 0 :]
        return len(data)


DIALECTS = {
    "chat": Chat,
    "ncat": Ncat,
    "irc": Irc,
    "named": Named,
    "slowly": Slowly,
    "tls": Tls,
    "websocket": WebSocket,
}


def encode_key(sender, number):
    value = sender << NUMBER_BITS | number
    return bytes(0x40 | value >> 5 * place & 31 for place in range(KEY_SIZE))


def decode_key(key):
    value = sum((byte & 31) << 5 * place for place, byte in enumerate(key))
    return value >> NUMBER_BITS, value & ((1 << NUMBER_BITS) - 1)


class Odd(ctypes.Structure):
    """Something that hot.c leaves to us."""

    GONE, RAW, GAP, LATE = range(4)
    _fields_ = [
        ("kind", ctypes.c_int32),
        ("client", ctypes.c_int32),
        ("pair", ctypes.c_int64),
        ("expected", ctypes.c_int64),
        ("number", ctypes.c_int64),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_int64),
    ]


class Head(ctypes.Structure):
    """What stands before a sender's text."""

    _fields_ = [("size", ctypes.c_int32), ("data", ctypes.c_char * 64)]


class Load:
    """The clients of one room, and the books: who has heard how much of whom."""

    def __init__(self, options):
        self.options = options
        self.dialect = DIALECTS[options.dialect]()
        self.epoll = select.epoll()
        self.sockets, self.deaf, self.by_fd = [], [], {}
        self.residual = defaultdict(bytes)  # per client: the start of a line whose end is still to come
        self.pending = {}  # per client: bytes that its socket would not take
        self.alive = self.refused = self.disconnected = self.stalls = 0
        self.longest_pause = 0.0
        self.missing = defaultdict(set)
        self.faults = Counter()
        self.delivered, self.due, self.latencies = 0, None, []

    # --- joining ---

    def connect(self):
        for index in range(self.options.clients + self.options.deaf):
            sock = socket.create_connection((HOST, self.options.port), timeout=10)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock = self.dialect.wrap(sock)
            sock.setblocking(False)
            self.by_fd[sock.fileno()] = index
            self.sockets.append(sock)
            self.epoll.register(sock, select.EPOLLIN)
            if index % 8 == 7:
                time.sleep(0.001)  # stay below any server's listen backlog, 10 in ngircd
        self.alive = len(self.sockets)

    def join(self):
        """Everybody is in once all have heard a probe: many until they have, then one that ends it."""
        everyone = set(range(len(self.sockets)))
        deadline = time.perf_counter() + JOIN_TIMEOUT
        if self.dialect.greeting:
            for index in everyone:
                self.write(index, self.dialect.greeting % index)
            self.gather(set(everyone), lambda line: self.dialect.welcome in line, deadline)
        waiting, patience = everyone - {0}, FIRST_PROBE
        while waiting and time.perf_counter() < deadline and self.sockets[0]:
            self.probe(0, b"hello")
            self.gather(waiting, lambda line: PROBE in line, time.perf_counter() + patience)
            patience *= 1.5  # who is slow in letting people in is not made faster by probes
        self.refused = len(self.sockets) - self.alive
        if not self.refused:
            for talker, word in ((0, b"go zero"), (1, b"go one")):
                self.probe(talker, word)
                waiting = everyone - {talker}
                self.gather(waiting, lambda line, word=word: line.endswith(word), deadline)
            if waiting:
                sys.exit(f"the clients did not all hear each other within {JOIN_TIMEOUT:.0f} seconds")

    def probe(self, talker, word):
        self.write(talker, self.dialect.prefix + PROBE + word + self.dialect.suffix)

    def gather(self, waiting, wanted, deadline):
        """Read until everybody in `waiting` heard a line that is wanted, or is gone."""
        while waiting and time.perf_counter() < deadline:
            for fd, _ in self.epoll.poll(0.05):
                client = self.by_fd[fd]
                data = self.read(client)
                *lines, self.residual[client] = (self.residual[client] + data).split(b"\n")
                self.answer(client, lines)
                if self.sockets[client] is None or any(wanted(line.rstrip(b"\r")) for line in lines):
                    waiting.discard(client)

    def answer(self, client, lines):
        for line in lines:
            if line.startswith(b"PING"):
                self.write(client, b"PONG" + line[4:] + b"\n")

    # --- one client ---

    def read(self, client):
        """What has come; nothing if nothing has, or if that was the end."""
        try:
            data = self.sockets[client].recv(READ_SIZE)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return b""
            data = b""
        if not data:
            self.lose(client)
        return data

    def lose(self, client):
        sock, self.sockets[client] = self.sockets[client], None
        self.epoll.unregister(sock)
        del self.by_fd[sock.fileno()]
        sock.close()
        self.pending.pop(client, None)
        self.alive -= 1
        self.disconnected += 1

    def write(self, client, data):
        data = self.pending.pop(client, b"") + data
        if self.sockets[client] is None:
            return
        try:
            sent = self.sockets[client].send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # it is gone; its reading side tells
            return
        if sent < len(data):
            self.pending[client] = data[sent:]

    # --- what a line must be ---

    def prepare(self):
        """Once everybody is in: the roles, the books, and what every line must look like."""
        options = self.options
        for _ in range(options.deaf):
            self.deaf.append(self.sockets.pop())
            self.epoll.unregister(self.deaf[-1])
            self.alive -= 1
        self.residual.clear()
        self.filler = b" " + b"." * (options.size - 1 - 2 * KEY_SIZE - 2) + b" "
        self.text_size = options.size - 1
        self.heads = (Head * max(1, options.talkers))()
        for head, sock in zip(self.heads, self.sockets, strict=False):
            known = self.dialect.head(sock.getsockname()[1])
            head.size, head.data = (-1, b"") if known is None else (len(known), known)
        self.sent = (ctypes.c_int64 * options.talkers)()
        self.heard = (ctypes.c_int64 * max(1, options.clients * options.talkers))()  # the number expected next

    def text(self, sender, number):
        key = encode_key(sender, number)
        return key + self.filler + key

    def line(self, sender, number):
        return self.dialect.prefix + self.text(sender, number) + self.dialect.suffix

    def take_apart(self, client, data, moment):
        """Lines of any length and look, by their newlines."""
        *lines, self.residual[client] = (self.residual[client] + data).split(b"\n")
        for line in lines:
            line = line.rstrip(b"\r")
            text = line[-self.text_size :]
            key = text[:KEY_SIZE]
            sender, number = decode_key(key)
            if (
                text == key + self.filler + key
                and sender < self.options.talkers
                and number < self.sent[sender]
                and self.is_head(sender, line[: -self.text_size])
            ):
                self.book(client * self.options.talkers + sender, number)
                if self.due:
                    self.latencies.append(moment - self.due[number])
            elif line.startswith(b"PING"):
                self.answer(client, [line])
            elif self.filler[:8] in line or self.filler[-8:] in line or type(self.dialect) is Chat:
                self.faults["torn"] += 1
                if self.faults["torn"] <= 3:
                    print(f"load.py: torn line: {line[:200]!r}", file=sys.stderr)

    def is_head(self, sender, line_head):
        """A sender's first one counts where they are not known beforehand (ncat has numbers, IRC nicks)."""
        head = self.heads[sender]
        if not line_head and self.dialect.bare:
            return True
        if head.size < 0 and len(line_head) < 64:
            head.size, head.data = len(line_head), line_head
        return head.data == line_head

    def book(self, pair, number):
        self.delivered += 1
        expected = self.heard[pair]
        if number >= expected:
            self.gap(pair, expected, number)
            self.heard[pair] = number + 1
        else:
            self.late(pair, number)

    def gap(self, pair, expected, number):
        if number > expected:
            self.missing[pair].update(range(expected, number))

    def late(self, pair, number):
        if number in self.missing[pair]:
            self.missing[pair].discard(number)
            self.faults["reordered"] += 1
        else:
            self.faults["duplicated"] += 1

    def close_books(self):
        options = self.options
        self.faults["lost"] = self.outstanding(everybody=True) + sum(map(len, self.missing.values()))
        self.faults["own"] = sum(
            self.heard[who * options.talkers + who] for who in range(min(options.clients, options.talkers))
        )
        return {name: self.faults[name] for name in FAULTS}

    # --- the inner loop, without C ---

    def turn(self, timeout):
        """Read every ready client once; returns how many there were."""
        events = self.epoll.poll(timeout, 1024)
        for fd, _ in events:
            client = self.by_fd[fd]
            self.take_apart(client, self.read(client), time.perf_counter())
        for client in list(self.pending):
            self.write(client, b"")
        return len(events)

    def say(self, talker, count=1):
        first = self.sent[talker]
        self.sent[talker] += count
        self.write(talker, b"".join(self.line(talker, number) for number in range(first, first + count)))

    def keep_talking(self, allowed):
        """Closed loop: whoever was heard by the next client in the ring may say more."""
        clients, talkers = self.options.clients, self.options.talkers
        for talker in range(talkers):
            count = self.heard[(talker + 1) % clients * talkers + talker] + allowed - self.sent[talker]
            if count > 0:
                self.say(talker, count)

    def outstanding(self, everybody=False):
        """Lines that have still to be heard, by everybody or by those alone who are still there."""
        talkers = self.options.talkers
        return sum(
            self.sent[talker] - self.heard[client * talkers + talker]
            for client, sock in enumerate(self.sockets)
            if sock or everybody
            for talker in range(talkers)
            if talker != client
        )

    def clock(self, due):
        """From now on the latency of a line counts from due[number]."""
        self.due = due

    def drain(self):
        """Nothing more is sent: wait for what is on its way."""
        last, since = -1, time.perf_counter()
        while self.alive and self.outstanding() and time.perf_counter() - since < DRAIN_TIMEOUT:
            self.turn(0.02)
            if self.delivered != last:
                last, since = self.delivered, time.perf_counter()


class HotLoad(Load):
    """The same with the inner loop in C. What is no plain right line comes back as an oddity."""

    def __init__(self, options, library):
        self.hot = ctypes.CDLL(str(library))
        self.hot.outstanding.restype = self.hot.clocked.restype = ctypes.c_int64
        self.hot_delivered = ctypes.c_int64.in_dll(self.hot, "delivered")
        self.oddities = (Odd * (16 * 1024)).in_dll(self.hot, "oddities")
        self.ready = ctypes.c_int()
        self.fds = None  # until prepare()
        super().__init__(options)

    @property
    def delivered(self):
        return self.hot_delivered.value

    @delivered.setter
    def delivered(self, value):
        self.hot_delivered.value = value

    def prepare(self):
        super().prepare()
        options = self.options
        fds = [sock.fileno() for sock in self.sockets]
        by_fd = [0] * (max(fds, default=0) + 1)
        for client, fd in enumerate(fds):
            by_fd[fd] = client
        self.fds = (ctypes.c_int * max(1, len(fds)))(*fds)
        self.slow = (
            ctypes.c_char * max(1, len(fds))
        )()  # 1: its lines are taken apart here, until one begins at the beginning
        pattern, dialect = self.text(0, 0), self.dialect
        self.kept = [  # hot.c keeps pointers to all of this
            self.epoll.fileno(), options.clients, options.talkers,
            self.fds, (ctypes.c_int * len(by_fd))(*by_fd), self.slow,
            self.heads, int(dialect.bare), pattern, len(pattern),
            dialect.prefix, len(dialect.prefix), dialect.suffix, len(dialect.suffix), self.heard, self.sent,
        ]  # fmt: skip
        self.hot.setup(*self.kept)

    def turn(self, timeout):
        count = self.hot.turn(int(timeout * 1000), ctypes.byref(self.ready))
        for odd in self.oddities[:count]:
            if odd.kind == Odd.GONE:
                self.lose(odd.client)
            elif odd.kind == Odd.RAW:
                self.take_apart(odd.client, ctypes.string_at(odd.data, odd.size), time.perf_counter())
                self.slow[odd.client] = b"\1" if self.residual[odd.client] else b"\0"
            elif odd.kind == Odd.GAP:
                self.gap(odd.pair, odd.expected, odd.number)
            else:
                self.late(odd.pair, odd.number)
        return self.ready.value

    def lose(self, client):
        super().lose(client)
        if self.fds:
            self.fds[client] = -1

    def say(self, talker, count=1):
        for _ in range(count):
            self.hot.say_one(talker)

    def keep_talking(self, allowed):
        self.hot.keep_talking(ctypes.c_int64(allowed))

    def outstanding(self, everybody=False):
        return self.hot.outstanding(int(everybody))

    def clock(self, due):
        super().clock(due)
        room = len(due) * self.options.clients
        self.clocks = (ctypes.c_double * len(due))(*due), (ctypes.c_double * room)()
        self.hot.clock_lines(*self.clocks, ctypes.c_int64(room))

    def all_latencies(self):
        return [*self.latencies, *(self.clocks[1][: self.hot.clocked()] if self.due else ())]


class Window:
    """What was used and delivered between two moments."""

    def __init__(self, load, meter):
        self.load, self.meter = load, meter
        self.start = self.now()

    def now(self):
        cpu = self.meter.cpu() if self.meter else 0.0
        counts = self.load.delivered, sum(self.load.sent)
        first = self.meter.first_thread() if self.meter else 0.0
        return time.perf_counter(), cpu, first, time.process_time(), machine_cpu(), *counts

    def close(self):
        wall, server, first, own, machine, delivered, sent = (
            after - before for before, after in zip(self.start, self.now(), strict=True)
        )
        result = {"seconds": wall, "delivered": delivered, "sent": sent, "lines_per_second": delivered / wall}
        result["load_cpu_share"] = own / wall
        if self.meter:
            result.update(server_cpu_share=server / wall, server_cpu_seconds=server, first_thread_seconds=first)
            result["others_cpu_share"] = max(0.0, (machine - server - own) / wall)  # 1 is one core
        return result


def talk(load, meter):
    """Closed loop, with a warm-up that is not measured."""
    options, window = load.options, None
    allowed = options.in_flight
    opens = time.perf_counter() + min(LONGEST_WARM_UP, options.seconds / 4)
    closes = opens + options.seconds
    last_heard, delivered = time.perf_counter(), 0
    load.keep_talking(allowed)
    while load.alive:
        load.turn(0.05)
        load.keep_talking(allowed)
        now = time.perf_counter()
        load.longest_pause = max(load.longest_pause, now - last_heard)
        if load.delivered != delivered:
            last_heard, delivered = now, load.delivered
        elif now - last_heard > QUIET * (1 + load.stalls):  # a line that was lost would silence its talker for good
            load.stalls += 1
            allowed += 1
        if window is None and now >= opens:
            window = Window(load, meter)
            load.longest_pause = 0.0
        if now >= closes or (meter and load.stalls and not meter.alive()):
            break
    result = (window or Window(load, meter)).close()
    if meter and result["delivered"]:
        result["cpu_us_per_line"] = result["server_cpu_seconds"] / result["delivered"] * 1e6
        result["load_is_bottleneck"] = result["load_cpu_share"] > 0.9 and result["server_cpu_share"] < 0.9
    return result


def steady(load, meter):
    """Open loop: line n is due at start + n / rate, and its clock starts then, however late it is sent."""
    options = load.options
    count = max(1, int(options.seconds * options.rate))
    begin = time.perf_counter() + 0.05
    due = [begin + number / options.rate for number in range(count)]
    load.clock(due)
    window = Window(load, meter)
    said = 0
    while load.alive and said < count and (said % 100 or not meter or meter.alive()):
        load.turn(0)  # awake all the time: to sleep would be to measure how fast one wakes up
        if time.perf_counter() >= due[said]:
            load.say(0)
            said += 1
    result = window.close()
    if meter and result["delivered"]:
        result["cpu_us_per_line"] = result["server_cpu_seconds"] / result["delivered"] * 1e6
    return result


def bits(load, meter):
    """A long line, a byte at a time. The end of the line, which everybody has to be told, is not measured."""
    options = load.options
    used = wall = own = 0.0
    count = 0
    window = Window(load, meter)
    closes = time.perf_counter() + options.seconds
    while load.alive and time.perf_counter() < closes and (not meter or meter.alive()):
        line = load.line(0, load.sent[0])
        started, cpu, mine = time.perf_counter(), meter.cpu() if meter else 0.0, time.process_time()
        for index in range(len(line) - 1):
            load.write(0, line[index : index + 1])
            time.sleep(max(0.0, started + (index + 1) / options.rate - time.perf_counter()))
        time.sleep(0.02)
        used += meter.cpu() - cpu if meter else 0.0
        wall += time.perf_counter() - started
        own += time.process_time() - mine
        count += len(line) - 1
        load.sent[0] += 1
        load.write(0, line[-1:])
        load.drain()
    result = window.close()
    result["bits"] = count
    if count:
        result["load_cpu_share"] = own / wall
    if meter and count:
        result.update(server_cpu_share=used / wall, server_cpu_seconds=used, cpu_us_per_bit=used / count * 1e6)
    return result


def churn(load, meter):
    """Others come and go: connect, close for sending, wait until the server has closed too, start again."""
    options = load.options
    epoll, visitors = select.epoll(), {}

    def visit():
        sock = socket.create_connection((HOST, options.port))
        sock.shutdown(socket.SHUT_WR)
        visitors[sock.fileno()] = sock
        epoll.register(sock, select.EPOLLIN)

    opens = time.perf_counter() + min(LONGEST_WARM_UP, options.seconds / 4)
    closes = opens + options.seconds
    visits = visits_before = failed = 0
    window = None
    for _ in range(options.at_once):
        visit()
    while (now := time.perf_counter()) < closes:
        if window is None and now >= opens:
            window, visits_before = Window(load, meter), visits
        for fd, _ in epoll.poll(0.05):
            try:
                if visitors[fd].recv(READ_SIZE):
                    continue  # why it was refused, say; the end is still to come
            except OSError:
                failed += 1
            visitors.pop(fd).close()
            visits += 1
            try:
                visit()
            except OSError:
                failed += 1
                if not visitors:
                    closes = now  # nobody gets in any more
    result = (window or Window(load, meter)).close()
    for sock in visitors.values():
        hang_up(sock)
    visits -= visits_before
    result.update(visits=visits, visits_per_second=visits / result["seconds"], visits_failed=failed)
    if meter and visits:
        result["cpu_us_per_visit"] = result["server_cpu_seconds"] / visits * 1e6
        result["load_is_bottleneck"] = result["load_cpu_share"] > 0.9 and result["server_cpu_share"] < 0.9
    return result


MODES = {"talk": talk, "steady": steady, "bits": bits, "churn": churn}


def hang_up(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, GONE_AT_ONCE)
    sock.close()


def percentiles(seconds):
    values = sorted(seconds)
    return {
        "lines": len(values),
        "p50": values[len(values) // 2] * 1e6,
        "p99": values[len(values) * 99 // 100] * 1e6,
        "max": values[-1] * 1e6,
    }


def how_many_were_dropped(deaf):
    """Read what the clients that never read were sent: if it ends, the server has let them go."""
    dropped = 0
    for sock in deaf:
        sock.settimeout(0.3)
        try:
            while sock.recv(1 << 20):
                pass
            dropped += 1
        except TimeoutError:
            pass
        except OSError:
            dropped += 1
    return dropped


def measure(options):
    meter = ServerMeter(options.pid) if options.pid else None
    in_python = options.without_c or issubclass(DIALECTS[options.dialect], Slowly)
    library = None if in_python else compiled("hot.c", "-shared", "-fPIC")
    load = HotLoad(options, library) if library else Load(options)
    result = {
        name: getattr(options, name) for name in ("mode", "clients", "talkers", "size", "in_flight", "rate", "deaf")
    }
    result["inner_loop"] = "C" if library else "Python"
    if meter:
        result["memory_at_start"] = meter.memory()
    load.connect()
    if load.sockets:
        load.join()
    result.update(joined=load.alive, refused=load.refused, measured=not load.refused)
    if load.refused:
        return result
    if meter:
        time.sleep(0.05)
        result["memory_joined"], (result["threads"], result["processes"]) = meter.memory(), meter.tasks()
        if load.sockets:
            result["memory_per_client"] = (result["memory_joined"] - result["memory_at_start"]) / len(load.sockets)
    load.prepare()
    gc.disable()
    result.update(MODES[options.mode](load, meter))
    load.drain()
    result["died"] = bool(meter and not meter.alive()) or bool(load.sockets and not load.alive)
    if meter and not result["died"]:
        result["memory_peak"] = meter.peak()
    result.update(
        load.close_books(),
        disconnected=load.disconnected,
        stalls=load.stalls,
        longest_pause=load.longest_pause,
    )
    latencies = load.all_latencies() if library else load.latencies
    if latencies:
        result["latency_us"] = percentiles(latencies)
    if load.deaf:
        result["deaf_dropped"] = how_many_were_dropped(load.deaf)
    result["faultless"] = not (any(result[name] for name in FAULTS) or load.disconnected or result["died"])
    for sock in filter(None, [*load.sockets, *load.deaf]):
        hang_up(sock)
    return result


def arguments(argv=None):
    parser = Arguments(description="Load for one chat server; prints JSON.")
    parser.add_argument("port", type=between(1, 65535))
    parser.add_argument("--mode", choices=MODES, default="talk")
    parser.add_argument("--clients", type=between(0, MOST_CLIENTS), default=100)
    parser.add_argument(
        "--talkers", type=between(0, MOST_CLIENTS), help="how many of them talk (talk: all; otherwise one)"
    )
    parser.add_argument("--in-flight", type=between(1, 10_000), default=1, help="lines of each talker on their way")
    parser.add_argument("--seconds", type=between(0.01, 3600, float), default=1.0, help="length of what is measured")
    parser.add_argument(
        "--size",
        type=between(2 * KEY_SIZE + 8, 4096),
        default=64,
        help="bytes of a line as sent, newline counted",
    )
    parser.add_argument(
        "--rate", type=between(0.1, 1e6, float), default=500, help="lines (steady) or bytes (bits) a second"
    )
    parser.add_argument(
        "--deaf", type=between(0, MOST_CLIENTS), default=0, help="clients that never read, beside the others"
    )
    parser.add_argument("--at-once", type=between(1, 10_000), default=8, help="churn: how many come and go at a time")
    parser.add_argument("--dialect", choices=DIALECTS, default="chat")
    parser.add_argument("--pid", type=between(1, 1 << 22), help="the server, to measure what it and its children use")
    parser.add_argument("--without-c", action="store_true", help="the inner loop in Python")
    options = parser.parse_args(argv)
    if options.mode != "talk":
        options.talkers = 1
    options.talkers = min(options.talkers or options.clients, max(1, options.clients))
    if options.clients < 2 and (options.mode != "churn" or options.clients):
        parser.error("argument --clients: at least two (churn: none will do)")
    return options


def main(argv=None):
    Screen("load.py")
    if sys.platform != "linux":
        sys.exit("bench/load.py: runs on Linux only (epoll, /proc)")
    options = arguments(argv)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        result = measure(options)
    except OSError as error:
        died = not ServerMeter(options.pid).alive() if options.pid else isinstance(error, ConnectionError)
        result = {"measured": False, "died": died, "error": str(error)}
    except RuntimeError as error:
        sys.exit(f"bench/load.py: {error}")
    print(json.dumps(result))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        tell("load.py", "interrupted, nothing was measured")
        sys.exit(130)
