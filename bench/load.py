"""The load generator: real TCP clients in a chat room, thousands in one process, every line they hear checked.

    python bench/load.py PORT --clients 100 --talkers 100 --in-flight 1 --seconds 2 --pid SERVER_PID

It prints one JSON object: what was delivered, how fast, what the server used for it (--pid), and what was wrong: lines lost,
duplicated, reordered, torn, or heard by their own sender. Every line carries its sender and its number, twice:

    127.0.0.1:40001 says: KKKKKKKK the filler KKKKKKKK      K: 8 characters of 5 bits, 14 bits sender and 26 bits number

Modes (--mode):
    talk    closed loop: a talker has --in-flight lines on their way; it sends the next when one has reached the next client of
            the ring (the sender does not hear itself). This shows what the server can do.
    steady  one talker sends --rate lines a second, whatever happens; latency counts from when each line was due.
    bits    one talker sends a long line one byte at a time, --rate bytes a second: turns in which nobody has to be told anything.
    churn   --at-once clients connect, close their sending side, wait for the server to close, and start again.

How it outruns the servers: nothing is done line by line. What the clients of one turn received lies in one buffer, and numpy
checks it as a table of lines of one length. Only what does not fit the table is looked at line by line.
"""

import argparse
import errno
import gc
import json
import os
import resource
import select
import socket
import sys
import time
from collections import Counter, defaultdict

try:
    import numpy as np
except ImportError:
    sys.exit("bench/load.py needs numpy: pip install '.[bench]'")

from meter import ServerMeter

HOST = "127.0.0.1"
READ_SIZE = 64 * 1024  # bytes, of one client at a time
BATCH_SIZE = 384 * 1024  # bytes checked in one go: fits the second-level cache
BATCH_LINES = 1 << 14  # position in the batch: 14 bits of the sort key
SEQUENCE_BITS = 26
SEQUENCE_MASK = (1 << SEQUENCE_BITS) - 1
KEY_SIZE = 8  # characters
QUIET = 0.5  # seconds without a line after which talkers that wait send all the same
JOIN_TIMEOUT = 30.0  # seconds until everybody must have heard a first line
DRAIN_TIMEOUT = 3.0  # seconds without progress after which a line counts as lost
PROBE = b"is everybody here? "


def encode_keys(values):
    """Numbers of 40 bits as 8 characters from @ to _ of 5 bits each, seen as one little-endian 64-bit word."""
    word = np.zeros_like(values)
    for position in range(KEY_SIZE):
        word |= (values >> np.uint64(5 * position) & np.uint64(31)) << np.uint64(8 * position)
    return word | np.uint64(0x4040404040404040)


def decode_keys(word):
    """The inverse of encode_keys, for a whole array, in three steps that each join neighbours."""
    word = word & np.uint64(0x1F1F1F1F1F1F1F1F)
    for shift, low, high in (
        (3, 0x001F001F001F001F, 0x03E003E003E003E0),
        (6, 0x000003FF000003FF, 0x000FFC00000FFC00),
        (12, 0x00000000000FFFFF, 0x000000FFFFF00000),
    ):
        upper = word >> np.uint64(shift)
        upper &= np.uint64(high)
        word &= np.uint64(low)
        word |= upper
    return word


class Chat:
    """The wire of this repository's servers."""

    head = b""  # what a client writes before the text of a line
    end = b"\n"
    fixed = True  # are all lines of one length, and known beforehand?

    def hello(self, index):
        """What a client says first, and what it must hear before it is welcome."""
        return b"", None

    def said(self, port):
        return b"%s:%05d says: " % (HOST.encode(), port)


class Ncat(Chat):
    """ncat --chat: `<userN> TEXT`; several lines of one read share one prefix."""

    fixed = False


class Irc(Chat):
    """Just enough of RFC 2812 to talk in one channel."""

    head = b"PRIVMSG #bench :"
    end = b"\r\n"
    fixed = False

    def hello(self, index):
        return b"NICK u%05d\r\nUSER u 0 * :u\r\nJOIN #bench\r\n" % index, b" 366 "


DIALECTS = {"chat": Chat, "ncat": Ncat, "irc": Irc}


class Ledger:
    """Who has heard how much of whom; what came twice, late, broken or not at all."""

    def __init__(self, clients, talkers):
        self.talkers = talkers
        self.shift = max(1, (talkers - 1).bit_length())
        if clients << self.shift > 1 << 24:
            sys.exit(f"bench/load.py: {clients} clients and {talkers} talkers are more than it can keep the books of")
        self.heard = np.zeros(clients << self.shift, dtype=np.int64)  # [receiver << shift | sender]: number expected next
        self.sent = np.zeros(talkers, dtype=np.int64)
        self.ring = ((np.arange(talkers) + 1) % clients << self.shift) | np.arange(talkers)
        self.positions = np.arange(BATCH_LINES, dtype=np.uint64) << np.uint64(SEQUENCE_BITS)
        self.missing = defaultdict(set)
        self.delivered = 0
        self.faults = Counter()

    def book(self, keys, receivers):
        """Lines in the order in which they came. Sorted by receiver and sender, their numbers must go up by one."""
        self.delivered += len(keys)
        table = receivers << np.uint64(self.shift)
        table |= keys >> np.uint64(SEQUENCE_BITS)
        table <<= np.uint64(40)
        table |= self.positions[: len(keys)]
        table |= keys & np.uint64(SEQUENCE_MASK)
        table.sort()
        pair = (table >> np.uint64(40)).view(np.int64)
        number = (table & np.uint64(SEQUENCE_MASK)).view(np.int64)
        first = np.empty(len(table) + 1, dtype=bool)
        first[0] = first[-1] = True
        np.not_equal(pair[1:], pair[:-1], out=first[1:-1])
        expected = np.empty_like(number)
        np.add(number[:-1], 1, out=expected[1:])
        starts = first[:-1].nonzero()[0]
        expected[starts] = self.heard[pair[starts]]
        wrong = number != expected
        if wrong.any():
            concerned = np.isin(pair, np.unique(pair[wrong]))
            self.look_closely(pair[concerned].tolist(), number[concerned].tolist())
            ends = np.logical_and(first[1:], ~concerned).nonzero()[0]
        else:
            ends = first[1:].nonzero()[0]
        self.heard[pair[ends]] = number[ends] + 1

    def look_closely(self, pairs, numbers):
        for pair, number in zip(pairs, numbers):
            expected = int(self.heard[pair])
            if number >= expected:
                if number > expected:
                    self.missing[pair].update(range(expected, number))
                self.heard[pair] = number + 1
            elif number in self.missing[pair]:
                self.missing[pair].discard(number)
                self.faults["reordered"] += 1
            else:
                self.faults["duplicated"] += 1

    def outstanding(self):
        """Lines that somebody has still to hear: a table of receivers and talkers."""
        left = self.sent - self.heard.reshape(-1, 1 << self.shift)[:, : self.talkers]
        np.fill_diagonal(left, 0)  # nobody hears what he says himself
        return left

    def close(self, receivers):
        """The faults, once nothing more is expected."""
        heard = self.heard.reshape(-1, 1 << self.shift)[:, : self.talkers]
        self.faults["lost"] = int(self.outstanding()[receivers].sum()) + sum(map(len, self.missing.values()))
        self.faults["own"] = int(np.diagonal(heard).sum())
        return {name: int(self.faults[name]) for name in ("lost", "duplicated", "reordered", "torn", "own")}


class Load:
    """The clients, and the buffer that one turn's bytes go into."""

    def __init__(self, options):
        self.options = options
        self.dialect = DIALECTS[options.dialect]()
        self.epoll = select.epoll()
        self.sockets, self.deaf, self.by_fd = [], [], {}
        self.pending = {}  # client: bytes that its socket would not take
        self.residual = []  # per client: the start of a line whose end is still to come
        self.alive = 0
        self.refused = self.disconnected = self.stalls = 0
        self.last_heard, self.longest_pause = time.perf_counter(), 0.0
        self.memory = bytearray(BATCH_SIZE + 2 * READ_SIZE + 16 * 1024)
        self.view = memoryview(self.memory)
        self.latencies, self.due, self.arrivals = [], None, []

    # --- joining ---------------------------------------------------------------------------------------------------

    def connect(self):
        wanted = self.options.clients + self.options.deaf
        for index in range(wanted):
            sock = socket.create_connection((HOST, self.options.port), timeout=10)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets.append(sock)
            if index % 50 == 49:
                time.sleep(0.005)  # stay below any server's listen backlog
        self.by_fd = {sock.fileno(): index for index, sock in enumerate(self.sockets)}
        self.residual = [b""] * wanted
        self.alive = wanted
        for sock in self.sockets:
            self.epoll.register(sock, select.EPOLLIN)

    def join(self):
        """Everybody is in the room once everybody was heard: a probe until all have heard one, then one that ends it."""
        everyone = set(range(len(self.sockets)))
        deadline = time.perf_counter() + JOIN_TIMEOUT
        welcome = self.dialect.hello(0)[1]
        if welcome:
            for index, sock in enumerate(self.sockets):
                sock.send(self.dialect.hello(index)[0])
            self.gather(everyone, lambda line: welcome in line, deadline)
        waiting = set(everyone)
        while waiting and time.perf_counter() < deadline and self.alive > 1:
            talker = next(index for index, sock in enumerate(self.sockets) if sock)
            if waiting == {talker}:
                break
            self.say(talker, b"hello")
            self.gather(waiting - {talker}, lambda line: PROBE in line, time.perf_counter() + 0.2, waiting)
        self.refused = sum(sock is None for sock in self.sockets)
        if self.refused or self.alive < 2:
            return
        for talker, word in ((0, b"go zero"), (1, b"go one")):
            self.say(talker, word)
            self.gather(everyone - {talker}, lambda line, word=word: line.endswith(word), deadline)
        if time.perf_counter() >= deadline:
            sys.exit("bench/load.py: the clients did not all hear each other within 30 seconds")
        self.residual = [b""] * len(self.sockets)
        for _ in range(self.options.deaf):
            self.deaf.append(self.sockets.pop())
            self.epoll.unregister(self.deaf[-1])
        self.alive -= self.options.deaf

    def say(self, talker, word):
        line = (PROBE + word).ljust(self.options.size - 1, b".") if word == b"hello" else PROBE + word
        self.write(talker, self.dialect.head + line + self.dialect.end)

    def gather(self, who, wanted, deadline, also=None):
        """Read until everybody in `who` heard a line that is wanted."""
        waiting = set(who)
        while waiting and time.perf_counter() < deadline:
            for fd, _ in self.epoll.poll(0.05):
                client = self.by_fd[fd]
                data = self.read(client)
                if data is None:
                    waiting.discard(client)
                    continue
                *lines, self.residual[client] = (self.residual[client] + data).split(b"\n")
                self.answer(client, lines)
                if any(wanted(line.rstrip(b"\r")) for line in lines):
                    waiting.discard(client)
                    if also:
                        also.discard(client)

    def answer(self, client, lines):
        for line in lines:
            if line.startswith(b"PING"):
                self.write(client, b"PONG" + line[4:] + b"\n")

    # --- one client ------------------------------------------------------------------------------------------------

    def read(self, client):
        try:
            data = self.sockets[client].recv(READ_SIZE)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR):
                return b""
            data = b""
        if not data:
            self.lose(client)
            return None
        return data

    def lose(self, client):
        self.epoll.unregister(self.sockets[client])
        del self.by_fd[self.sockets[client].fileno()]
        self.sockets[client].close()
        self.sockets[client] = None
        self.pending.pop(client, None)
        self.alive -= 1
        self.disconnected += 1

    def write(self, client, data):
        if client in self.pending:
            self.pending[client] += data
            return
        try:
            sent = self.sockets[client].send(data)
        except BlockingIOError:
            sent = 0
        except (OSError, AttributeError):  # it is gone; its reading side tells
            return
        if sent < len(data):
            self.pending[client] = bytes(data[sent:])

    # --- everybody -------------------------------------------------------------------------------------------------

    def prepare(self):
        """Once everybody is in: the roles, and the tables of what a line must look like."""
        options = self.options
        self.ledger = Ledger(options.clients, options.talkers)
        text = bytearray(b"." * (options.size - 1))
        middle = text[KEY_SIZE:-KEY_SIZE]
        middle[:1] = middle[-1:] = b" "
        text[KEY_SIZE:-KEY_SIZE] = middle
        self.text_size = len(text)
        self.line = np.frombuffer(self.dialect.head + bytes(text) + self.dialect.end, dtype=np.uint8)
        ports = [sock.getsockname()[1] for sock in self.sockets]
        self.fixed = self.dialect.fixed and all(port > 9999 for port in ports)
        said = self.dialect.said(0) if self.fixed else b""
        self.length = len(said) + len(text) + 1
        self.row = np.dtype(
            {
                "names": ["port", "key", "again"],
                "formats": ["<u8", "<u8", "<u8"],
                "offsets": [7, len(said), self.length - 1 - KEY_SIZE],
                "itemsize": self.length,
            }
        ) if self.fixed else None
        self.text_row = np.dtype(
            {"names": ["key", "again"], "formats": ["<u8", "<u8"], "offsets": [0, len(text) - KEY_SIZE], "itemsize": len(text)}
        )
        self.batch_size = min(BATCH_SIZE, (BATCH_LINES - READ_SIZE // self.length - 2) * self.length)
        rows = (self.batch_size + READ_SIZE) // self.length + 2
        self.pattern = np.frombuffer((said + bytes(text) + b"\n") * rows, dtype=np.uint8)
        self.text_pattern = np.frombuffer(bytes(text), dtype=np.uint8)
        if self.fixed:
            sample = np.frombuffer(said + bytes(text) + b"\n", dtype=self.row)
            self.blank = {name: sample[name][0] for name in self.row.names}
            heads = b"".join(self.dialect.said(port)[7:15] for port in ports)
            self.ports = np.frombuffer(heads, dtype="<u8")
        self.heads = defaultdict(set)  # sender: what stood before its text, for lines of no fixed length
        self.position, self.chunks = 0, []  # of the batch: (client, lines, time)

    def turn(self, timeout):
        """Read every ready client once; what came is checked when the buffer is full, and at the end."""
        view, residual, length = self.view, self.residual, self.length
        events = self.epoll.poll(timeout, 4096)
        for fd, _ in events:
            client = self.by_fd[fd]
            kept = residual[client]
            start = self.position
            fill = start + len(kept)
            if kept:
                view[start:fill] = kept
            try:
                got = self.sockets[client].recv_into(view[fill : fill + READ_SIZE])
            except BlockingIOError:
                continue
            except OSError:
                got = 0
            if not got:
                self.lose(client)
                continue
            fill += got
            lines = (fill - start) // length
            end = start + lines * length
            residual[client] = bytes(view[end:fill]) if fill > end else b""
            self.chunks.append((client, lines, time.perf_counter()))
            self.position = end
            if end > self.batch_size or len(residual[client]) > READ_SIZE // 2 or not self.fixed and lines > 200:
                self.flush()
        if self.pending:
            for client, data in list(self.pending.items()):
                del self.pending[client]
                self.write(client, data)
        return len(events)

    def flush(self):
        """Check the batch as a table of lines; what does not fit the table is taken apart line by line."""
        chunks, used = self.chunks, self.position
        if not chunks:
            return
        self.chunks, self.position = [], 0
        now = chunks[-1][2]
        self.longest_pause = max(self.longest_pause, now - self.last_heard)
        self.last_heard = now
        clients, counts, times = zip(*chunks)
        keys = None
        if self.fixed:
            keys = self.check(used)
        if keys is None:
            keys, clients, counts, times = self.take_apart(chunks)
        if not len(keys):
            return
        counts = np.array(counts)
        for start in range(0, len(keys), BATCH_LINES):
            part = slice(start, start + BATCH_LINES)
            self.ledger.book(keys[part], np.repeat(np.array(clients, dtype=np.uint64), counts)[part])
        if self.due is not None:
            numbers = (keys & np.uint64(SEQUENCE_MASK)).astype(np.int64)
            self.latencies.append(np.repeat(np.array(times), counts) - self.due[numbers])

    def check(self, used):
        """The keys of the lines in the buffer, or None if anything in it is not as it should be."""
        rows = np.frombuffer(self.memory, dtype=self.row, count=used // self.length)
        words, again, ports = rows["key"].copy(), rows["again"].copy(), rows["port"].copy()
        keys = decode_keys(words)
        senders = keys >> np.uint64(SEQUENCE_BITS)
        rows["key"], rows["again"], rows["port"] = self.blank["key"], self.blank["again"], self.blank["port"]
        right = np.array_equal(np.frombuffer(self.memory, dtype=np.uint8, count=used), self.pattern[:used])
        right = right and np.array_equal(words, again) and (not len(keys) or int(senders.max()) < self.options.talkers)
        if right and np.array_equal(self.ports[senders.astype(np.intp)], ports):
            return keys
        rows["key"], rows["again"], rows["port"] = words, again, ports
        return None

    def take_apart(self, chunks):
        """Lines of any length, by their newlines: for other servers' wires, and to tell what is wrong with ours."""
        raw, position = defaultdict(bytes), 0
        for client, lines, _ in chunks:
            size = lines * self.length
            raw[client] += bytes(self.view[position : position + size])
            position += size
        at = {client: moment for client, _, moment in chunks}
        texts, clients, counts, times = [], [], [], []
        for client, data in raw.items():
            *lines, self.residual[client] = (data + self.residual[client]).split(b"\n")
            good = 0
            for line in lines:
                line = line.rstrip(b"\r")
                text = line[-self.text_size :]
                if len(text) == self.text_size and text[:KEY_SIZE] == text[-KEY_SIZE:] and self.known(line, text):
                    texts.append(text)
                    good += 1
                elif line.startswith(b"PING"):
                    self.answer(client, [line])
                elif self.fixed or text[-KEY_SIZE:-KEY_SIZE + 1].isalpha() and b" .." in text:
                    self.faults_torn(line)
            clients.append(client)
            counts.append(good)
            times.append(at[client])
        rows = np.frombuffer(b"".join(texts), dtype=self.text_row)
        return decode_keys(rows["key"]), clients, counts, times

    def known(self, line, text):
        """Is the middle of the text as it should be, the number possible, and the head that of the sender?"""
        if text[KEY_SIZE:-KEY_SIZE] != self.text_pattern[KEY_SIZE:-KEY_SIZE].tobytes():
            return False
        value = sum((byte & 31) << 5 * place for place, byte in enumerate(text[:KEY_SIZE]))
        sender, number = value >> SEQUENCE_BITS, value & SEQUENCE_MASK
        if sender >= self.options.talkers or number >= self.ledger.sent[sender]:
            return False
        head = line[: -self.text_size]
        if self.fixed:
            return head == b"%s:" % HOST.encode() + self.ports[sender].tobytes()[3:] + b" says: "
        heads = self.heads[sender]
        heads.add(head)
        return len(heads - {b""}) <= 1

    def faults_torn(self, line):
        self.ledger.faults["torn"] += 1
        if self.ledger.faults["torn"] <= 3:
            print(f"load.py: torn line: {line[:200]!r}", file=sys.stderr)

    def speak(self, numbers_of):
        """Each talker sends its next lines, numbers_of[talker] of them, in one send."""
        talkers = numbers_of.nonzero()[0]
        if not len(talkers):
            return
        counts = numbers_of[talkers]
        ends = np.cumsum(counts)
        offsets = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
        senders = np.repeat(talkers, counts)
        keys = senders.astype(np.uint64) << np.uint64(SEQUENCE_BITS)
        keys |= (self.ledger.sent[senders] + offsets).astype(np.uint64)
        words = encode_keys(keys).view(np.uint8).reshape(-1, KEY_SIZE)
        lines = np.tile(self.line, (len(keys), 1))
        head = len(self.dialect.head)
        lines[:, head : head + KEY_SIZE] = words
        lines[:, head + self.text_size - KEY_SIZE : head + self.text_size] = words
        self.ledger.sent[talkers] += counts
        data, size, start = memoryview(lines).cast("B"), len(self.line), 0
        for talker, end in zip(talkers.tolist(), ends.tolist()):
            self.write(talker, data[start * size : end * size])
            start = end

    def keep_talking(self, allowed):
        """Closed loop: whoever was heard by its neighbour in the ring may say more."""
        ledger = self.ledger
        self.speak(np.maximum(ledger.heard[ledger.ring] + allowed - ledger.sent, 0))

    def drain(self):
        """Nothing more is sent: wait for what is on its way."""
        last, since = -1, time.perf_counter()
        while self.alive and time.perf_counter() - since < DRAIN_TIMEOUT:
            self.turn(0.02)
            self.flush()
            if self.ledger.delivered != last:
                last, since = self.ledger.delivered, time.perf_counter()
            elif not self.outstanding().any():
                break

    def outstanding(self):
        return self.ledger.outstanding()[[index for index, sock in enumerate(self.sockets) if sock]]


class Window:
    """What was used and delivered between two moments."""

    def __init__(self, load, meter):
        self.load, self.meter = load, meter
        self.start = self.now()

    def now(self):
        cpu = self.meter.cpu() if self.meter else 0.0
        return time.perf_counter(), cpu, time.process_time(), self.load.ledger.delivered, int(self.load.ledger.sent.sum())

    def close(self):
        wall, server, own, delivered, sent = (b - a for a, b in zip(self.start, self.now()))
        result = {"seconds": wall, "delivered": delivered, "sent": sent, "lines_per_second": delivered / wall}
        result["load_cpu_share"] = own / wall
        if self.meter:
            result["server_cpu_share"] = server / wall
            result["cpu_seconds"] = server
            if delivered:
                result["cpu_us_per_line"] = server / delivered * 1e6
            result["load_is_bottleneck"] = own / wall > 0.9 and server / wall < 0.9
        return result


def talk(load, meter):
    """Closed loop, with a warm-up that is not measured."""
    options, window = load.options, None
    allowed = options.in_flight
    opens = time.perf_counter() + min(0.3, options.seconds / 4)
    closes = opens + options.seconds
    load.last_heard = time.perf_counter()
    load.keep_talking(allowed)
    while load.alive:
        load.turn(0.05)
        load.flush()
        load.keep_talking(allowed)
        now = time.perf_counter()
        if now - load.last_heard > QUIET * (1 + load.stalls):
            load.stalls += 1
            allowed += 1
            load.keep_talking(allowed)
        if window is None and now >= opens:
            window = Window(load, meter)
            load.longest_pause = 0.0
        if now >= closes or (meter and not meter.alive()):
            break
    load.longest_pause = max(load.longest_pause, time.perf_counter() - load.last_heard)
    return (window or Window(load, meter)).close()


def steady(load, meter):
    """Open loop: line n is due at start + n / rate. The clock of a line that is sent late still starts when it was due."""
    options = load.options
    count = max(1, int(options.seconds * options.rate))
    begin = time.perf_counter() + 0.05
    load.due = begin + np.arange(count + 1) / options.rate
    window = Window(load, meter)
    one = np.zeros(options.talkers, dtype=np.int64)
    one[0] = 1
    said, quiet_since = 0, begin
    while load.alive and said < count and (not meter or meter.alive()):
        if load.turn(0):
            quiet_since = time.perf_counter()
            continue
        now = time.perf_counter()
        if now >= load.due[said]:
            load.speak(one)
            said += 1
        elif load.chunks and now - quiet_since > 0.0002:  # check only while nothing is on its way
            load.flush()
    load.turn(0.02)
    result = window.close()
    return result


def bits(load, meter):
    """A long line, a byte at a time. The end of the line, which everybody has to be told, is not measured."""
    options, ledger = load.options, load.ledger
    pause, spent, wall, own, sent_bits = 1 / options.rate, 0.0, 0.0, 0.0, 0
    closes = time.perf_counter() + options.seconds
    window = Window(load, meter)
    while load.alive and time.perf_counter() < closes and (not meter or meter.alive()):
        key = encode_keys(np.array([int(ledger.sent[0])], dtype=np.uint64)).tobytes()
        line = bytearray(load.line.tobytes())
        head = len(load.dialect.head)
        line[head : head + KEY_SIZE] = line[head + load.text_size - KEY_SIZE : head + load.text_size] = key
        started, cpu, mine = time.perf_counter(), meter.cpu() if meter else 0.0, time.process_time()
        for index in range(len(line) - 1):
            load.write(0, line[index : index + 1])
            due = started + (index + 1) * pause
            while (left := due - time.perf_counter()) > 0:
                time.sleep(left)
            sent_bits += 1
        time.sleep(0.02)
        spent += meter.cpu() - cpu if meter else 0.0
        wall += time.perf_counter() - started
        own += time.process_time() - mine
        ledger.sent[0] += 1
        load.write(0, line[-1:])
        load.drain()
    result = window.close()
    result.update(bits=sent_bits, bits_per_second=sent_bits / wall, cpu_us_per_bit=spent / sent_bits * 1e6 if sent_bits else None)
    result.update(server_cpu_share=spent / wall, load_cpu_share=own / wall, load_is_bottleneck=False)
    result.pop("cpu_us_per_line", None)
    return result


def churn(load, meter):
    """Others come and go: connect, say that there will be nothing, wait until the server has closed too, start again."""
    options, port = load.options, load.options.port
    epoll, visitors = select.epoll(), {}

    def visit():
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((HOST, port))
        visitors[sock.fileno()] = sock
        epoll.register(sock, select.EPOLLOUT)

    begin = time.perf_counter()
    opens, closes = begin + min(0.2, options.seconds / 4), begin + options.seconds + min(0.2, options.seconds / 4)
    visits, refused, window, at_open = 0, 0, None, 0
    for _ in range(options.at_once):
        visit()
    while (now := time.perf_counter()) < closes and (not meter or meter.alive()):
        if window is None and now >= opens:
            window, at_open = Window(load, meter), visits
        for fd, event in epoll.poll(0.05):
            sock = visitors[fd]
            try:
                if event & select.EPOLLOUT and not event & (select.EPOLLHUP | select.EPOLLERR):
                    sock.shutdown(socket.SHUT_WR)
                    epoll.modify(fd, select.EPOLLIN)
                    continue
                if sock.recv(4096):
                    continue  # a line said meanwhile, or why it was refused; the end is still to come
            except BlockingIOError:
                continue
            except OSError:
                refused += 1
            epoll.unregister(fd)
            del visitors[fd]
            sock.close()
            visits += 1
            visit()
    result = (window or Window(load, meter)).close()
    for sock in visitors.values():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
    visits -= at_open
    result.update(visits=visits, visits_per_second=visits / result["seconds"], visits_refused=refused)
    if visits and "cpu_seconds" in result:
        result["cpu_us_per_visit"] = result["cpu_seconds"] / visits * 1e6
    result.pop("cpu_us_per_line", None)
    return result


def percentiles(parts):
    if not parts:
        return None
    values = np.concatenate(parts) * 1e6
    p50, p99 = np.percentile(values, [50, 99])
    return {"lines": len(values), "p50": float(p50), "p99": float(p99), "max": float(values.max())}


def deaf_dropped(load):
    """Read what the clients that never read were sent: if it ends, the server has let them go."""
    dropped = 0
    for sock in load.deaf:
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
    result = {name: getattr(options, name.replace("-", "_")) for name in ("mode", "clients", "talkers", "size")}
    load = Load(options)
    if meter:
        result["memory_at_start"] = meter.memory()
    load.connect()
    gc.disable()
    if len(load.sockets) > 1:
        load.join()
    result.update(joined=load.alive + len(load.deaf), refused=load.refused, measured=not load.refused)
    if not load.refused:
        if meter:
            time.sleep(0.05)
            result["memory_joined"], result["threads"], result["processes"] = meter.memory(), *meter.tasks()
            result["memory_per_client"] = (result["memory_joined"] - result["memory_at_start"]) / max(1, len(load.sockets))
        load.prepare()
        result.update({"talk": talk, "steady": steady, "bits": bits, "churn": churn}[options.mode](load, meter))
        load.drain()
        result["died"] = bool(meter and not meter.alive()) or bool(load.sockets and not load.alive)
        if meter and not result["died"]:
            result["memory_peak"] = meter.peak()
        alive = [index for index, sock in enumerate(load.sockets) if sock]
        result.update(load.ledger.close(list(range(len(load.sockets)))), disconnected=load.disconnected, stalls=load.stalls)
        result["longest_pause"] = load.longest_pause
        result["latency_us"] = percentiles(load.latencies)
        if load.deaf:
            result["deaf_dropped"] = deaf_dropped(load)
        result["faultless"] = not (any(result[name] for name in ("lost", "duplicated", "reordered", "torn", "own")) or
                                   load.disconnected or result["died"]) and len(alive) == len(load.sockets)
    hang_up(load)
    return result


def hang_up(load):
    """Close with a reset: thousands of ports would otherwise wait out their minute."""
    for sock in [*load.sockets, *load.deaf]:
        if sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()


def arguments(argv=None):
    parser = argparse.ArgumentParser(description="Load for one chat server; prints JSON.")
    parser.add_argument("port", type=int)
    parser.add_argument("--mode", choices=("talk", "steady", "bits", "churn"), default="talk")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--talkers", type=int, help="how many of them talk (all; steady and bits: 1)")
    parser.add_argument("--in-flight", type=int, default=1, help="lines of each talker on their way")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of what is measured")
    parser.add_argument("--size", type=int, default=64, help="bytes of a line as sent, newline counted")
    parser.add_argument("--rate", type=float, default=500, help="lines (steady) or bytes (bits) a second")
    parser.add_argument("--deaf", type=int, default=0, help="clients that never read, beside the others")
    parser.add_argument("--at-once", type=int, default=8, help="churn: how many come and go at a time")
    parser.add_argument("--dialect", choices=DIALECTS, default="chat")
    parser.add_argument("--pid", type=int, help="the server, to measure what it and its children use")
    options = parser.parse_args(argv)
    if options.mode in ("steady", "bits"):
        options.talkers = 1
    options.talkers = options.talkers or max(options.clients, 1)
    if not 2 * KEY_SIZE + 6 <= options.size <= 4096:
        parser.error("--size: from 22 to 4096 bytes")
    if options.mode != "churn" and options.clients < 2 or options.clients == 1:
        parser.error("--clients: at least two (churn: none will do)")
    return options


def main(argv=None):
    options = arguments(argv)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        result = measure(options)
    except (ConnectionError, TimeoutError) as error:
        result = {"measured": False, "died": True, "error": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
