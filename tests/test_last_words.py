"""Promises: leaving, stopping. What somebody has said is heard, however it left, and also when the server stops."""

import itertools
import json
import re
import signal
import socket
import struct
import sys
import threading
import time

import pytest
from harness import NET_TCP, BrokenPromise, wait_until
from promises import ROOT
from test_stopping import check_stopped

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="what can be read after a reset is the system's affair")
INJECTED = str(ROOT / "tests/injected")


# How a client leaves


def close(peer):
    peer.close()


def close_and_linger(peer):
    """With SO_LINGER: close() waits until everything has been taken."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 2))
    peer.close()


def shut_down_and_close(peer):
    peer.sock.shutdown(socket.SHUT_WR)
    peer.close()


def shut_down_and_reset(peer):
    """The end of the stream comes first, and then the reset."""
    peer.sock.shutdown(socket.SHUT_WR)
    peer.reset()


def reset(peer):
    peer.reset()


def close_unread(peer):
    """The system resets a connection that is closed before everything has been read."""
    peer.die()


def tell_in_vain(talker, listener, leaver):
    """Let the leaver be told something that it does not read."""
    talker.send(b"unread\n")
    listener.expect_line(talker, "unread")
    leaver.sock.settimeout(10)
    leaver.sock.recv(1, socket.MSG_PEEK)


ENDS = [close, close_and_linger, shut_down_and_close, shut_down_and_reset]  # the stream has an end
RESETS = [pytest.param(how, marks=LINUX) for how in (reset, close_unread)]


# What it says, and what is heard


def say(peer, texts, tail=b""):
    """Say it to a server that is frozen; all of it has arrived afterwards, where only Linux tells that."""
    __tracebackhide__ = True
    words = "".join(f"{text}\n" for text in texts).encode() + tail
    count = peer.send(words)
    if NET_TCP.exists():
        assert wait_until(lambda: peer.arrived() == count), f"{peer.arrived()} of {count} bytes arrived"


def texts_of(server, count, size=1000):
    """So many texts, all different; or as many as the system keeps for a server that is frozen."""
    count = min(count, server.model.ahead // (size + 1))
    return [f"{number} ".ljust(size, "x") for number in range(count)]


def heard_of(listener, talker, leavers, done):
    """What each leaver is heard saying while the talker goes on talking, until `done()`, and what is told with it."""
    __tracebackhide__ = True
    end, numbers = time.monotonic() + 3, itertools.count()
    while not done() and time.monotonic() < end:
        text = f"talk {next(numbers)}"
        talker.send(f"{text}\n".encode())
        listener.hears(talker.line(text), end)
    talker.send(b"the end\n")
    heard = listener.read_until(talker.line("the end")).splitlines(keepends=True)
    return {leaver: [line for line in heard if line.startswith(leaver.says)] for leaver in leavers}


def check_last_words(listener, talker, sayings, done=None):
    """`sayings` maps each leaver to its texts: all of them must be heard, once, in order, and no others."""
    __tracebackhide__ = True
    for leaver in sayings:
        leaver.says = leaver.line("").removesuffix(b"\n")
    last = [leaver.line(texts[-1]) for leaver, texts in sayings.items() if texts]
    heard = heard_of(listener, talker, sayings, done or (lambda: all(line in listener.unread for line in last)))
    for leaver, texts in sayings.items():
        if heard[leaver] != [leaver.line(text) for text in texts]:
            texts_heard = [line.partition(b" says: ")[2][:20] for line in heard[leaver]]
            raise BrokenPromise(f"{leaver.name} said {len(texts)} lines; heard were {len(texts_heard)}: {texts_heard}")


def departure(server, peer):
    """How the log says that the client has left, or ""; it must not say it twice."""
    found = re.findall(rf"{re.escape(peer.logged)} (left|dropped: .*), \d+ online$", server.log, re.MULTILINE)
    assert len(found) < 2, found
    return "".join(found)


@pytest.mark.parametrize("leave", [*ENDS, *RESETS])
@pytest.mark.promise("leaving", needs="broadcast")
def test_last_words(server, leave):
    """Who speaks and leaves at once is heard, though a send to it fails before all it said has been read."""
    listener, talker = server.join(2)
    for count, size in (40, 1000), (60, 1000), (2000, 10), (1, 10):
        (leaver,) = server.join(1)
        if leave is close_unread:
            tell_in_vain(talker, listener, leaver)
        texts = texts_of(server, count, size)
        with server.frozen():
            talker.send(b"first\n")
            say(leaver, texts)
            leave(leaver)
        check_last_words(listener, talker, {leaver: texts})
        talker.unread.clear()


@pytest.mark.parametrize("leave", [*ENDS, *RESETS])
@pytest.mark.promise("leaving", needs="broadcast")
@pytest.mark.ours("the log")
def test_a_last_line_without_newline(server, leave):
    """It is delivered at the end of the stream, and not after a reset: also if not recv, but send was told of that."""
    listener, talker = server.join(2)
    for count in 0, 3, 40:
        (leaver,) = server.join(1)
        if leave is close_unread:
            tell_in_vain(talker, listener, leaver)
        texts = texts_of(server, count)
        with server.frozen():
            talker.send(b"first\n")
            say(leaver, texts, b"half")
            leave(leaver)
        expected = [*texts, "half"] if leave in ENDS else texts
        check_last_words(listener, talker, {leaver: expected}, done=lambda leaver=leaver: departure(server, leaver))
        if leave not in ENDS:
            assert departure(server, leaver) == "dropped: connection reset by peer"
        talker.unread.clear()


@pytest.mark.promise("leaving", needs="broadcast")
@pytest.mark.ours("made to lose the processor right after a send has failed")
@LINUX
def test_half_a_line_when_one_thread_knows_of_the_reset(start):
    """The kernel tells a reset once: to who sends or to who reads. Both must know of it."""
    server = start(env={"PYTHONPATH": INJECTED, "CHAT_INJECT": json.dumps({"tell late": 0.2})})
    listener, talker = server.join(2)
    texts = texts_of(server, 40)  # so many that the sender may be told of the reset before all has been read
    for _ in range(10):
        (leaver,) = server.join(1)
        tell_in_vain(talker, listener, leaver)
        with server.frozen():
            talker.send(b"first\n")
            say(leaver, texts, b"half")
            leaver.close()
        check_last_words(listener, talker, {leaver: texts}, done=lambda leaver=leaver: departure(server, leaver))
        assert departure(server, leaver) == "dropped: connection reset by peer"
        talker.unread.clear()


@pytest.mark.promise("leaving", needs="broadcast")
def test_last_words_of_many(server):
    """Twenty leave at once, in every way."""
    listener, talker, *leavers = server.join(22)
    sayings = {leaver: texts_of(server, 20, size=500) for leaver in leavers}
    with server.frozen():
        talker.send(b"first\n")
        for (leaver, texts), leave in zip(sayings.items(), itertools.cycle(ENDS)):
            say(leaver, texts)
            leave(leaver)
    check_last_words(listener, talker, sayings)


@pytest.mark.promise("leaving", needs="broadcast")
@pytest.mark.plain("nobody can say anything before the server has answered")
def test_last_words_of_who_has_just_come(server):
    """It connects, speaks and leaves while the server looks elsewhere."""
    listener, talker = server.join(2)
    for texts in ["bye"], texts_of(server, 5), texts_of(server, 40):
        with server.frozen():
            visitors = [server.connect() for _ in range(10)]
            for visitor in visitors:
                talker.send(b"first\n")
                visitor.send("".join(f"{text}\n" for text in texts).encode())
                visitor.close()
        check_last_words(listener, talker, dict.fromkeys(visitors, texts))
        talker.unread.clear()


class Chatter(threading.Thread):
    """Somebody who speaks as fast as it can, and reads all the time."""

    def __init__(self, peer):
        super().__init__(daemon=True)
        self.peer, self.running = peer, True
        self.start()

    def run(self):
        while self.running and self.peer.offer(b"chat\n"):
            self.peer._receive(time.monotonic() + 0.001)

    def stop(self):
        self.running = False
        self.join()


@pytest.mark.promise("leaving", needs="broadcast")
def test_a_visitor_says_bye_while_all_chat(server):
    """Four hundred times, one after the other: each is heard."""
    # Node's streams give up a socket as soon as a write to it fails, and nothing can be done about it: a few are lost.
    allowed = 100 if server.model.foreign else 0
    listener, *others = server.join(4)
    chatters = [Chatter(peer) for peer in others]
    try:
        missing = set()
        for number in range(400):
            visitor = server.connect()
            # It has heard something, and leaves it unread; through TLS nobody can speak before that.
            if number % 2 or server.model.tls:
                visitor.sock.recv(1, socket.MSG_PEEK)
            visitor.send(b"bye\n")
            visitor.close()
            missing.add(visitor.line("bye"))
            listener._receive(0)
        last, end = time.monotonic(), time.monotonic() + 20
        # What may be missing is not awaited for long: two seconds after the last bye that was heard.
        while missing and time.monotonic() < (end if len(missing) > allowed else min(end, last + 2)):
            listener._receive(time.monotonic() + 0.1)
            *lines, _ = listener.unread.split(b"\n")
            heard = missing & {bytes(line) + b"\n" for line in lines if line.endswith(b" says: bye")}
            missing -= heard
            last = time.monotonic() if heard else last
    finally:
        for chatter in chatters:
            chatter.stop()
    assert len(missing) <= allowed, f"of 400 byes {len(missing)} were not heard"


# When the server stops


def check_prefixes(listener, sayings):
    """Of what each speaker said the listener heard the beginning, in whole lines. Returns how many lines of each."""
    __tracebackhide__ = True
    heard = listener.read_to_end()
    assert heard.endswith(b"\n") or not heard, f"the end is cut off: {heard[-80:]!r}"
    counts = {}
    for speaker, texts in sayings.items():
        mine = [line for line in heard.splitlines(keepends=True) if line.startswith(speaker.line("")[:-1])]
        counts[speaker] = len(mine)
        assert mine == [speaker.line(text) for text in texts[: len(mine)]], "something is missing in between"
    return counts


@pytest.mark.parametrize("count, size", [(1, 10), (3, 1000), (12, 1000)], ids=["10 B", "3 kB", "12 kB"])
@pytest.mark.promise("stopping", needs="broadcast")
@LINUX
def test_what_was_read_before_the_stop_is_told(start, count, size):
    """Who closes a connection with something unread in it resets it: so the speakers know whether all was read."""
    server = start()
    listeners, speakers = server.join(2), server.join(6)
    sayings = {speaker: texts_of(server, count, size) for speaker in speakers}
    with server.frozen():
        for speaker, texts in sayings.items():
            say(speaker, texts)
        server.signal(signal.SIGTERM)
    check_stopped(server, time.monotonic())
    all_read = [peer for peer in speakers if not peer.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)]
    heard, also_heard = (check_prefixes(listener, sayings) for listener in listeners)
    assert heard == also_heard
    for speaker in all_read:
        assert heard[speaker] == count, f"of {count} lines that had been read {heard[speaker]} were told"


@pytest.mark.parametrize("stop_at", [1, 2, 4, 9])
@pytest.mark.promise("stopping", needs="broadcast")
@pytest.mark.ours("made to receive a signal right after it has read something")
@pytest.mark.plain("what it has read cannot be read by others")
def test_what_was_read_when_the_signal_came_is_told(model, start, scratch, stop_at):
    """All of it, to everybody else."""
    path = scratch / "received"
    names = 5 if model.door else 0  # these it has read before
    plan = {"record": str(path), "stop at": names + stop_at}
    server = start(env={"PYTHONPATH": INJECTED, "CHAT_INJECT": json.dumps(plan)})
    if server.model.name in ("uvloop", "io_uring"):
        pytest.skip("it does not read with recv()")
    listener, *speakers = [server.connect() for _ in range(5)]
    server.await_log("joined, 5 online$")
    sayings = {speaker: texts_of(server, 40) for speaker in speakers}
    with server.frozen():
        for speaker, texts in sayings.items():
            say(speaker, texts)
    check_stopped(server, time.monotonic())
    received = dict.fromkeys((peer.address for peer in (listener, *speakers)), "")
    for line in path.read_text().splitlines():
        address, data = json.loads(line)
        received[address] += data
    heard = check_prefixes(listener, sayings)
    for speaker in speakers:
        count = received[speaker.address].count("\n") - model.door
        assert heard[speaker] == count, f"of {count} lines that had been read {heard[speaker]} were told"
