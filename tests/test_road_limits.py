"""The growing road from limits/ on: who says too much is read later, and everybody else does not notice.

A server may always be slower than the limits say, on a busy machine; it may never be faster, for anybody.
"""

import contextlib
import re
import signal
import socket
import termios
import time

import pytest
from harness import NET_TCP, QUESTION, BrokenPromise, Peer, Stopwatch, converse, wait_until
from road import each_since, ends, fill, since, with_limits
from tls import TlsSocket

ODD = b"error: a name has 1 to 20 letters, digits, - and _, and begins with a letter\n"
REFUSAL = b"error: too many connections from your address\n"
LINES, BYTES, BURST = 5, 4096, 4  # by default: a second, and for how many seconds at once
MAX_MESSAGE = 4096
KB = 1000
MIB = 1 << 20


def by_now(rate, begun):
    """How much the limit has allowed by now to who began to speak at that time."""
    return rate * (BURST + time.monotonic() - begun)


def await_arrival(peer):
    """Wait until all that was sent has reached the server's system, read or not; where it does not tell, a while."""
    if NET_TCP.exists():
        assert wait_until(lambda: peer._here(termios.TIOCOUTQ) == 0)
    else:
        time.sleep(0.1)


def visit_from(server, host):
    """A client at the door that comes from another address."""
    sock = socket.socket()
    try:
        sock.bind((host, 0))
    except OSError as error:  # on Linux all of 127.0.0.0/8 is this machine
        sock.close()
        pytest.skip(f"no address {host}: {error}")
    sock.connect((server.host, server.port))
    server.peers.append(Peer(server, TlsSocket(sock) if server.model.tls else sock))
    return server.peers[-1]


@since("limits")
def test_nobody_is_faster_than_the_limits(serve, step):
    """20 lines at once and then 5 a second, whatever they are, also at the door; and 16 KiB and then 4 KiB a second."""
    server = serve(with_limits(step))
    visitor = server.visit()
    visitor.expect(QUESTION)
    ana, bob, carla, dora, eva = fill(server, "ana", "bob", "carla", "dora", "eva")
    time.sleep(1)  # silent, they save up no more than the four seconds' worth
    begun, watch = time.monotonic(), Stopwatch(server)
    says = {
        ana: b"".join(b"%d\n" % number for number in range(45)),
        carla: b"/list\n" * 45,
        dora: b"\n" * 45 + b"word\n",
        eva: b"x" * 3999 + b"\n" + b"".join(b"%d " % number + b"y" * 3998 + b"\n" for number in range(9)),
        visitor: b"7\n" * 45,
    }
    counted = [  # who sees it, what it sees, and how often
        (bob, b"ana says: ", 45),
        (carla, b"* here: ", 45),
        (visitor, ODD, 45),
    ]
    burst = []

    def done():
        """Look at how much has come so far: what we see was told a little before we see it, and never after that."""
        for peer, mark, _ in counted:
            count = peer.unread.count(mark)
            assert count <= by_now(LINES, begun), f"{count} lines of {mark} after {time.monotonic() - begun:.2f} s"
            if mark == b"ana says: " and count >= 19 and not burst:  # her name was a line, too
                burst.append(watch.lap())
        read = sum(len(line) - len(b"eva says: ") for line in bob.unread.splitlines(True) if line.startswith(b"eva"))
        assert read <= by_now(BYTES, begun) + MAX_MESSAGE, f"{read} bytes after {time.monotonic() - begun:.2f} s"
        if b"dora says: word\n" in bob.unread:
            assert by_now(LINES, begun) >= 46, "blank lines cost nothing"
        seen = [peer.unread.count(mark) == count for peer, mark, count in counted]
        return all(seen) and b"dora says: word\n" in bob.unread and bob.unread.count(b"eva says: ") == 10

    assert converse(says.keys() | {bob}, says, done), "not all was told"
    assert burst[0] < 2, f"the first lines took {burst[0]:.1f} seconds"
    heard = bob.unread.splitlines()
    assert [line for line in heard if line.startswith(b"ana")] == [b"ana says: %d" % number for number in range(45)]
    bob.unread.clear()


@each_since("limits")
def test_a_place_is_free_again_as_soon_as_one_has_left(serve, step):
    """Who is at the door counts, too. Others from elsewhere come in."""
    server = serve(step, "--connections", 3)
    ana, bob = fill(server, "ana", "bob")
    visitor = server.visit()
    visitor.expect(QUESTION)
    refused = server.visit()
    refused.expect_closed(maybe_after=REFUSAL)
    server.await_log(rf" {re.escape(refused.address)} refused: too many connections from your address, 2 online$")
    stranger = visit_from(server, "127.0.0.2")
    stranger.expect(QUESTION)
    stranger.send(b"carla\n")
    stranger.expect(b"* you are carla; also here: ana, bob\n")
    ana.send(b"still here\n")
    ana.expect(b"* carla joined\n")
    bob.expect(b"* carla joined\nana says: still here\n")
    for leaver in (visitor, ana):
        leaver.close()
        server.await_log(rf"{re.escape(leaver.address)} left, ")
        newcomer = server.visit()
        newcomer.expect(QUESTION)
        server.visit().expect_closed(maybe_after=REFUSAL)
    newcomer.send(b"ana\n")
    newcomer.expect(b"* you are ana; also here: bob, carla\n")


@since("limits")
def test_what_a_refused_one_is_told(serve, step):
    """It is told so, and not merely disconnected: it has sent nothing, so that no reset overtakes it."""
    server = serve(step, "--connections", 1)
    server.visit()
    refused = server.visit(tls=False)
    if not server.model.tls:  # without a handshake nobody could read it
        refused.expect(REFUSAL)
    refused.expect_closed()


@since("limits")
def test_20_connections_from_one_address(serve, step):
    server = serve(with_limits(step))
    for _ in range(20):
        server.visit().expect(QUESTION)
    server.visit().expect_closed(maybe_after=REFUSAL)
    visit_from(server, "127.0.0.2").expect(QUESTION)


@pytest.mark.parametrize(
    "limits, text, count",
    [
        (("--lines", 0), "x", 400),
        (("--lines", 400, "--bytes", 0), "x" * 3000, 400),
        (("--lines", 0, "--bytes", 0), "x" * 3000, 400),
    ],
    ids=["lines", "bytes", "both"],
)
@since("limits")
def test_0_is_for_no_limit(serve, step, limits, text, count):
    """With the limit they would take longer than anybody waits here."""
    ana, bob = fill(serve(with_limits(step), *limits), "ana", "bob")
    texts = [f"{number} {text}" for number in range(count)]
    assert converse(
        [ana, bob], {ana: "".join(f"{text}\n" for text in texts).encode()}, lambda: bob.unread.count(b"\n") == count
    )
    bob.expect_lines(ana, texts)


@since("limits")
def test_0_is_for_any_number_of_connections_and_any_silence(serve, step):
    server = serve(with_limits(step), "--connections", 0, "--idle", 0)
    (ana,) = fill(server, "ana")
    for _ in range(30):
        server.visit().expect(QUESTION)
    ana.expect_nothing()


@pytest.mark.parametrize("leave", ["close", "finish", "reset", "interrupt"])
@since("limits")
def test_what_arrived_before_one_left_is_told_at_its_pace(serve, step, leave):
    """All of it, however she left. Until then she is in the room."""
    server = serve(step, "--lines", 10)
    ana, bob, carla = fill(server, "ana", "bob", "carla")
    texts = [f"{number} {'x' * 200}" for number in range(70)]
    begun = time.monotonic()
    ana.send("".join(f"{text}\n" for text in texts).encode() + b"half a line")
    if leave == "interrupt":
        ana.send(b"\xff\xf4and more\n")
    await_arrival(ana)
    if leave != "interrupt":
        getattr(ana, leave)()
    carla.send(b"/list\n")
    before, here = carla.read_until(b"* here: "), carla.read_line()
    assert (b"* ana left\n" in before) == (here == b"bob, carla\n"), here
    if leave in ("close", "finish"):
        texts.append("half a line")  # the end of the stream ends it
    for number, text in enumerate(texts):
        bob.expect_line(ana, text)
        assert number < by_now(10, begun)
    bob.expect(b"* ana left\n")
    why = "dropped: connection reset by peer" if leave == "reset" else "left"
    server.await_log(rf" {re.escape(ana.logged)} {why}, 2 online$")


@since("limits")
def test_what_was_read_is_told_at_once_when_the_server_stops(serve, step):
    """Also of who has left. Of what was not read nothing is told, and of half a line neither."""
    server = serve(step, "--lines", 1)
    ana, bob, carla = fill(server, "ana", "bob", "carla")
    texts = [f"line {number}" for number in range(300)]
    for peer, rest in (ana, b"half a line"), (carla, b""):  # all of it at once: what came later would not be read
        peer.send("".join(f"{text}\n" for text in texts).encode() + rest)
    carla.finish()
    for peer in (ana, carla):
        peer.await_taken()
    begun = time.monotonic()
    watch = Stopwatch(server)
    server.signal(signal.SIGTERM)
    heard = bob.read_to_end().decode().splitlines()
    assert server.wait() == 0
    assert watch.until(lambda: True) < 2, f"it took {time.monotonic() - begun:.1f} seconds to stop"
    for name in ("ana", "carla"):
        assert [line for line in heard if line.startswith(f"{name} says: ")] == [
            f"{name} says: {text}" for text in texts
        ]
    assert {line for line in heard if " says: " not in line} <= {"* carla left"}


@since("limits")
def test_who_floods_is_not_read(serve, step):
    """So TCP holds it back: its own sends block in the end, and neither memory nor anybody else is harmed."""
    server = serve(with_limits(step))
    ana, bob, carla = fill(server, "ana", "bob", "carla")
    before = server.memory()
    ana.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * KB)  # what our own system holds for her
    ana.sock.settimeout(2)
    with contextlib.suppress(TimeoutError):
        for _ in range(400):
            ana.sock.sendall(b"y\n" * 5000)
        raise BrokenPromise("4 MB were read of who may say 5 lines a second")
    assert server.memory() - before < 4 * MIB
    server.check_idle()
    watch = Stopwatch(server)
    carla.send(b"hello\n")
    bob.read_until(b"carla says: hello\n")
    assert watch.lap() < 2


@since("limits")
def test_who_is_silent_is_dropped(serve, step):
    """After minutes that begin with its last word; and told so."""
    server = serve(step, "--idle", 0.1)
    came = time.monotonic()
    ana, bob = fill(server, "ana", "bob")
    visitor = server.visit()
    time.sleep(0.5)
    spoke = time.monotonic()
    bob.send(b"hello\n")
    ana.expect(b"bob says: hello\nerror: nothing heard for 0.1 minutes\n")
    assert time.monotonic() - came >= 6
    ana.expect_closed()
    server.await_log(rf" {re.escape(ana.logged)} dropped: idle, 1 online$")
    bob.expect(b"* ana left\nerror: nothing heard for 0.1 minutes\n")
    assert time.monotonic() - spoke >= 6
    bob.expect_closed()
    server.await_log(rf" {re.escape(bob.logged)} dropped: idle, 0 online$")
    visitor.expect(QUESTION)  # at the door there are other limits
    visitor.expect_nothing()


@pytest.mark.parametrize("option", ["--lines", "--bytes", "--connections", "--idle"])
@since("limits")
def test_a_limit_that_is_none(serve, step, option):
    for value in ["-1", "x", "nan"] if option == "--lines" else ["-0.5"]:
        server = serve(step, f"{option}={value}", announce=False)
        assert server.wait() == 2
        assert server.log.startswith("usage: ")
        assert f"{option}: invalid" in server.log.splitlines()[-1]


class SlowReader:
    """A terminal that shows 64 kB a second, and so reads no more of what its owner is told."""

    def __init__(self, peer):
        self.peer, self.begun, self.read = peer, None, bytearray(peer.unread)
        peer.unread.clear()

    def go_on(self):
        """Read what may be read by now."""
        self.begun = self.begun or time.monotonic()
        allowed = int(64 * KB * (time.monotonic() - self.begun)) - len(self.read)
        self.peer.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError, TimeoutError):
            while allowed > 0:
                data = self.peer.sock.recv(min(allowed, 4 * KB))
                assert data, "the slow reader was dropped"
                self.read += data
                allowed -= len(data)


class Flood:
    """A room in which eight people flood, one reads slowly, and one says something from time to time."""

    def __init__(self, server):
        self.server = server
        slow = server.visit(receive_buffer=16 * KB)
        slow.expect(QUESTION)
        slow.send(b"slow\n")
        slow.expect(b"* you are slow; nobody else is here\n")
        self.fast, self.ana, *self.flooders = fill(server, "fast", "ana", *(f"flood{number}" for number in range(8)))
        # The first hears of the second what it has heard of nobody else, and from then on both hear the same.
        slow.expect(b"* fast joined\n")
        self.fast.unread[:0] = b"".join(b"* %s joined\n" % peer.name.encode() for peer in [self.ana, *self.flooders])
        self.slow = SlowReader(slow)
        self.peers = [self.fast, self.ana, *self.flooders]
        long = b"".join(b"%d %s\n" % (number, b"x" * 3990) for number in range(2000))
        self.says = {peer: b"y\n" * (4 * MIB) if number % 2 else long for number, peer in enumerate(self.flooders)}
        self.memory = server.memory()
        self.count, self.line, self.searched, self.watch, self.pause, self.latencies = 0, None, 0, None, 0.0, []

    def go_on(self):
        """Read on, and see whether what ana said has come. Then she says something again, after a while."""
        self.slow.go_on()
        now = time.monotonic()
        if self.line and self.slow.read.find(self.line, self.searched) >= 0:
            self.latencies.append(self.watch.lap())
            self.line, self.pause = None, now + 3
        elif not self.line and now >= self.pause:
            self.count += 1
            self.line = b"ana says: short %d\n" % self.count
            self.searched, self.watch = len(self.slow.read), Stopwatch(self.server)
            self.ana.send(b"short %d\n" % self.count)

    def check(self):
        """See that nobody was dropped, nothing is missing, and nothing was late."""
        assert "dropped" not in self.server.log
        assert self.server.memory() - self.memory < 16 * MIB
        slowest = max(self.latencies)
        assert len(self.latencies) > 5
        assert slowest < 2, f"a short line came after {slowest:.1f} seconds"
        heard = bytes(self.fast.unread)
        self.slow.peer.unread[:] = self.slow.read
        self.slow.peer.expect(heard)
        for number, peer in enumerate(self.flooders):
            name = peer.name.encode()
            texts = [line for line in heard[: heard.rindex(b"\n")].splitlines() if line.startswith(name + b" says: ")]
            if number % 2:
                assert len(texts) > 20 and set(texts) == {name + b" says: y"}
            else:
                due = [b"%s says: %d %s" % (name, count, b"x" * 3990) for count in range(len(texts))]
                assert len(texts) > 4 and texts == due


@pytest.mark.long
def test_a_flood_in_the_room(serve):
    """For a minute. Who reads slowly is still there then, has lost nothing, and hears short lines of others in time."""
    floods = [Flood(serve(with_limits(step))) for step in ends("limits")]
    end = time.monotonic() + 60
    says = {peer: data for flood in floods for peer, data in flood.says.items()}

    def done():
        for flood in floods:
            flood.go_on()
        return time.monotonic() > end

    assert converse([peer for flood in floods for peer in flood.peers], says, done, within=120)
    for flood in floods:
        flood.check()


def test_in_the_step_before_a_flood_drops_who_reads_slowly(serve):
    server = serve("commands")
    slow = server.visit(receive_buffer=16 * KB)
    slow.send(b"slow\n")
    slow.expect(QUESTION)
    fast, flooder = fill(server, "fast", "flooder")
    reader = SlowReader(slow)

    def done():
        with contextlib.suppress(AssertionError):
            reader.go_on()
        fast.unread.clear()
        return " dropped: too slow" in server.log

    assert converse([fast, flooder], {flooder: b"y\n" * (8 * MIB)}, done)
