"""Promise: limits. Neither long lines, nor endless ones, nor many clients cost more than they may."""

import contextlib
import itertools
import re
import resource
import sys
import time

import pytest
from harness import BrokenPromise, wait_until

MAX_MESSAGE = 4096
TOO_LONG = b"error: a message may be at most 4096 bytes\n"
FULL = b"error: the room is full\n"
MIB = 1 << 20


@pytest.mark.promise("limits")
def test_a_message_of_4096_bytes(server):
    speaker, listener = server.pair()
    text = "x" * (MAX_MESSAGE - 1)
    speaker.send(f"{text}\n{text}\nshort\n".encode())
    listener.expect_lines(speaker, [text, text, "short"])


@pytest.mark.promise("limits")
def test_a_message_of_4096_bytes_in_pieces(server):
    speaker, listener = server.pair()
    text = "x" * (MAX_MESSAGE - 1)
    speaker.send_parts([b"x", text[1:4000].encode(), text[4000:].encode(), b"\n"])
    listener.expect_line(speaker, text)


@pytest.mark.promise("limits")
def test_a_last_message_of_4096_bytes_without_newline(server):
    speaker, listener = server.pair()
    speaker.send(b"x" * MAX_MESSAGE)
    listener.expect_nothing()
    speaker.finish()
    listener.expect_line(speaker, "x" * MAX_MESSAGE)


@pytest.mark.parametrize(
    "line",
    [
        b"x" * MAX_MESSAGE + b"\n",
        b"x" * (MAX_MESSAGE + 1),
        b"x" * (MAX_MESSAGE - 1) + b"\r\n",
        b"\xff\xf1" * (MAX_MESSAGE // 2) + b"\n",
        b"\xff\xfa" + b"\0" * (MAX_MESSAGE - 1),
        b" " * (MAX_MESSAGE + 1),
        "é".encode() * (MAX_MESSAGE // 2) + b"\n",
    ],
    ids=["newline", "no newline", "cr", "telnet", "subnegotiation", "blank", "characters"],
)
@pytest.mark.promise("limits")
def test_a_message_of_4097_bytes(server, line):
    """Its sender is told so and disconnected; what came before it is delivered, and nothing of it."""
    speaker, listener = server.pair()
    speaker.send(b"before\n")
    listener.expect_line(speaker, "before")
    # In two pieces, so that the server reads all of it, and no reset overtakes the error.
    speaker.send(line[:3000])
    speaker.await_taken()
    speaker.send(line[3000:])
    speaker.expect(TOO_LONG)
    speaker.expect_closed()
    if listener is not speaker:
        listener.expect_nothing()
    server.check_room()


@pytest.mark.promise("limits")
def test_what_came_before_a_too_long_message_is_delivered(server):
    """Also when it is received together with the beginning of the long one."""
    speaker, listener = server.pair()
    speaker.send(b"before\n" + b"x" * 10000)
    listener.expect_line(speaker, "before")
    if listener is not speaker:
        listener.expect_nothing()


@pytest.mark.promise("limits")
def test_nothing_of_a_too_long_message_is_delivered_later(server):
    """Neither its tail, nor what its sender says after it."""
    speaker, listener = server.pair()
    speaker.offer(b"x" * 100_000 + b" tail\n")
    for _ in range(20):
        if not speaker.offer(b"more tail\nnext line\n"):
            break
        time.sleep(0.02)
    if listener is speaker:
        speaker.expect_closed(maybe_after=TOO_LONG)
        server.check_room()
    else:
        (carol,) = server.join(1)
        carol.send(b"mark\n")
        listener.expect_line(carol, "mark")


# Some of what can be sent for ever without being a message.
ENDLESS = {
    "line": b"x" * 65536,
    "zeros": b"\0" * 65536,
    "subnegotiation": b"\xff\xfa" + b"x" * 65534,
    "telnet": b"\xff\xf1" * 32768,
}


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.promise("limits")
def test_endless_line(server, kind):
    """Hundreds of megabytes are offered, on one connection after the other: memory stays flat."""
    server.check_room()

    def offer_much():
        cpu = server.cpu()
        for _ in range(20):
            speaker = server.connect()
            if any(not speaker.offer(ENDLESS[kind]) for _ in range(320)):  # 20 MiB
                speaker.reset()
            else:
                raise BrokenPromise(f"{speaker.name} sent 20 MiB, and is not disconnected")
        used = server.cpu() - cpu
        assert used < 3.0, f"{used:.1f} seconds of CPU"

    server.check_memory(offer_much, 20 * MIB)
    server.check_room()


@pytest.mark.promise("limits")
def test_endless_blank_lines(server):
    """They are no messages and break no limit, so they may come for ever, in as much memory as ever."""
    speaker, listener = server.pair()
    chunk = (b" " * 4095 + b"\n") * 16
    speaker.send(chunk)

    def say_nothing():
        for _ in range(1000):
            speaker.send(chunk)  # 62 MiB in all
        speaker.send(b"mark\n")
        listener.expect_line(speaker, "mark")

    server.check_memory(say_nothing, 20 * MIB)


@pytest.mark.promise("limits.crowd")
def test_a_thousand_clients_each_holding_4095_bytes(start):
    server = start()
    speaker, listener = server.pair()
    peers = server.join(server.model.crowd - 2)
    for peer in peers:
        peer.send(b"\n")  # so that what it costs to serve each of them is paid
    hear_each_other(speaker, listener)
    before = server.memory()
    for peer in peers:
        peer.deaf = True
        peer.send(b"x" * 4095)
    hear_each_other(speaker, listener)
    server.check_idle()
    grown = server.memory() - before
    assert grown < 16384 * len(peers) + 16 * MIB, f"{grown / MIB:.1f} MiB more"
    for peer in peers:
        peer.reset()
    hear_each_other(speaker, listener)


def hear_each_other(*peers):
    for speaker, listener in itertools.permutations(peers, 2):
        speaker.send(b"do you hear me?\n")
        listener.expect_line(speaker, "do you hear me?")


def fill(server, count, at_least):
    """Let up to `count` clients come, until some are refused; return who is in the room.

    Who is refused must be told so. (A reset may overtake that line: then it is just disconnected.)
    """
    __tracebackhide__ = True
    peers = [server.connect() for _ in range(count)]
    end = wait_until(lambda: not open_(peers[-1]))
    if not end:
        raise BrokenPromise(f"{count} clients are connected, and none is refused")
    time.sleep(0.5)
    inside = [peer for peer in peers if open_(peer)]
    refused = [peer for peer in peers if peer not in inside]
    if len(inside) < at_least:
        raise BrokenPromise(f"with {len(inside)} clients the room is full; {at_least} should find place")
    for peer in refused:
        peer.expect_closed(maybe_after=FULL)
    if not server.model.instead("limits.refusal"):
        assert any(peer.came.head == FULL for peer in refused), "nobody was told that the room is full"
    for peer in refused:
        peer.reset()
    return inside


def open_(peer):
    """Whether the client is not disconnected so far; what came is kept for later."""
    while peer._receive(0):
        pass
    return not peer.ended


def check_full_room(server, inside):
    """The full room talks, rests, and has place again when somebody leaves."""
    speaker, *others = inside
    for peer in inside:
        peer.unread.clear()
    speaker.send(b"how full it is\n")
    for peer in others:
        peer.expect_line(speaker, "how full it is")
    server.check_idle()
    newcomer = server.connect()
    newcomer.expect_closed(maybe_after=FULL)
    for leaver in others[:3]:
        leaver.close()

    def finds_place():
        newcomer = server.connect()
        newcomer.offer(b"is there place for me?\n")
        call = newcomer.line("is there place for me?")
        wait_until(lambda: speaker.hears(call, time.monotonic() + 0.1) or not open_(newcomer))
        if call in speaker.unread:
            return newcomer
        newcomer.reset()
        return None

    newcomer = wait_until(finds_place, every=0.1)
    assert newcomer, "there is no room again although somebody left"
    speaker.unread.clear()
    speaker.send(b"welcome\n")
    newcomer.expect_line(speaker, "welcome")


@pytest.mark.promise("limits.room")
def test_more_connections_than_descriptors(start):
    server = start(nofile=256)
    check_full_room(server, fill(server, 300, at_least=64))


@pytest.mark.promise("limits.room")
def test_a_full_room_that_is_pushed_at(start):
    """Hundreds who come again and again neither stop nor starve those inside, and cost nothing."""
    server = start(nofile=256)
    inside = fill(server, 300, at_least=64)
    held = server.descriptors()
    for _ in range(5):
        for peer in [server.connect() for _ in range(100)]:
            peer.reset()
    check_full_room(server, inside)
    server.check_descriptors(at_most=held + 2)


def fate(server, peer, pattern="joined|refused"):
    """What the log says of the client, once it does: of the last one that had its port."""
    __tracebackhide__ = True
    pattern = re.compile(rf"^\S+ {peer.in_log} ({pattern})", re.MULTILINE)
    found = wait_until(lambda: pattern.search(server.log, peer.log_before))
    if not found:
        raise BrokenPromise(f"the log never had {pattern.pattern!r} of it:\n{server.log}")
    return found[1]


def connect(server):
    """A client that knows how long the log was before it came: for its port may have been another's."""
    log_before = len(server.log)
    peer = server.connect()
    peer.log_before = log_before
    return peer


def fill_small_room(server):
    """Let more come than a server with 64 descriptors takes; return who is in the room, from the log."""
    __tracebackhide__ = True
    peers = [connect(server) for _ in range(70)]
    inside = [peer for peer in peers if fate(server, peer) == "joined"]
    for peer in peers:
        if peer not in inside:
            peer.expect_closed(maybe_after=FULL)
            peer.reset()
    assert 36 <= len(inside) < 64  # uvloop has some ten descriptors of its own
    return inside


def check_comes_in(server):
    """The very next one who comes is let in."""
    __tracebackhide__ = True
    newcomer = connect(server)
    if fate(server, newcomer) == "refused":
        raise BrokenPromise(f"there was room, and {newcomer.name} was refused")
    return newcomer


def leave_and_be_gone(server, leavers, how):
    __tracebackhide__ = True
    for leaver in leavers:
        getattr(leaver, how)()
    for leaver in leavers:
        fate(server, leaver, "left|dropped")
        if how == "finish":
            leaver.reset()


@pytest.mark.promise("limits.refusal", instead="silent")
@pytest.mark.ours("the log")
def test_who_is_refused_is_told_nothing_without_a_handshake(start):
    """Which would be too much to do for everybody who pushes at a full room."""
    server = start(nofile=64)
    fill_small_room(server)
    newcomer = server.visit(tls=False)
    newcomer.expect_closed()
    server.await_log(rf"{newcomer.in_log} refused: the room is full, \d+ online$")


@pytest.mark.promise("limits.room")
@pytest.mark.ours("the log")
def test_a_full_room_that_has_emptied(start):
    """Again and again, with nobody left: the very first newcomer is let in, and about as many as before find place."""
    server = start(nofile=64)
    capacity = []
    for how in "close", "reset", "finish":
        inside = fill_small_room(server)
        capacity.append(len(inside))
        leave_and_be_gone(server, inside, how)
        assert server.log.endswith(" 0 online\n")
        newcomer = check_comes_in(server)
        leave_and_be_gone(server, [newcomer], how)
    assert max(capacity) - min(capacity) <= 8, capacity  # a descriptor that is kept back may become a client's
    server.check_idle(0.3)


@pytest.mark.promise("limits.room")
@pytest.mark.ours("the log")
def test_one_leaves_a_full_room(start):
    """Whoever it is, the very next newcomer is let in, and then the room is full again."""
    server = start(nofile=64)
    inside = fill_small_room(server)
    for how, which in itertools.product(["close", "reset", "finish"], [0, 20, -1]):
        leave_and_be_gone(server, [inside.pop(which)], how)
        inside.append(check_comes_in(server))
        # A descriptor that is kept back may become a client's, if it was the lowest: then one more finds place.
        while fate(server, newcomer := connect(server)) == "joined":
            inside.append(newcomer)
            assert len(inside) < 60, "the room is never full again"
        newcomer.expect_closed(maybe_after=FULL)
    inside[-1].send(b"I am the last\n")
    inside[0].expect_line(inside[-1], "I am the last")


@pytest.mark.promise("limits.room")
@pytest.mark.ours("the log")
def test_some_leave_a_room_that_is_pushed_at(start):
    """While others still wait to be accepted: as many as have left find place, and are the first of those who wait."""
    server = start(nofile=64)
    inside = fill_small_room(server)
    with server.frozen():
        for leaver in inside[:5]:
            leaver.close()
    for leaver in inside[:5]:
        fate(server, leaver, "left|dropped")
    with server.frozen():
        crowd = [connect(server) for _ in range(20)]
    fates = [fate(server, peer) for peer in crowd]
    assert fates[:5] == ["joined"] * 5 and fates[-5:] == ["refused"] * 5, fates


def lower_limit(server, count):
    """Take descriptors from a running server, as `prlimit --pid PID --nofile=COUNT` does."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(server.popen.pid, resource.RLIMIT_NOFILE, (count, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can lower the limit of another process")
@pytest.mark.promise("limits.lowered", needs="broadcast")
@pytest.mark.ours("more than the contract asks for")
def test_a_limit_lowered_below_what_is_in_use(server):
    """Those inside go on, and somebody who waits outside does not make the server spin."""
    peers = server.join(30)
    lower_limit(server, 12)
    with contextlib.suppress(BrokenPromise):  # refused at once, if the server has a descriptor for that
        server.connect()
    speaker, *listeners = peers
    speaker.send(b"still here\n")
    for listener in listeners:
        listener.expect_line(speaker, "still here")
    server.check_idle()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can lower the limit of another process")
@pytest.mark.promise("limits.lowered", instead="shrinks")
@pytest.mark.ours("more than the contract asks for")
def test_a_limit_lowered_below_what_is_in_use_shrinks_the_room(server):
    """Who came last must go, and the others go on."""
    peers = server.join(30)
    lower_limit(server, 12)
    speaker, *listeners = peers
    speaker.send(b"still here\n")
    for listener in listeners[9:]:
        listener.read_until(FULL)
        listener.expect_closed()
    for listener in listeners[:9]:
        listener.expect_line(speaker, "still here")
    server.check_idle()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds the addresses that stacks take")
@pytest.mark.promise("limits.room")
def test_out_of_threads(serve):
    """Where no thread can be had the newcomer is refused, and the room goes on."""
    one_arena = {"MALLOC_ARENA_MAX": "1"}  # so that what a thread takes is its stack, of 8192 KiB
    server = serve("thread_per_client", shell='ulimit -v 1000000; exec "$@"', env=one_arena)
    check_full_room(server, fill(server, 150, at_least=20))


def needs_descriptors(count):
    """Skip where a process may not have as many."""
    with contextlib.suppress(ValueError):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard == resource.RLIM_INFINITY or min(soft, hard) >= count:
            return
    pytest.skip(f"a process may not have {count} descriptors here")


@pytest.mark.promise("limits.fd_setsize")
def test_more_than_fd_setsize(start):
    needs_descriptors(1300)
    server = start(nofile=1300)
    peers = server.join(1100)
    peers[0].send(b"there are many of us\n")
    for peer in peers[1:]:
        peer.expect_line(peers[0], "there are many of us")


@pytest.mark.promise("limits.fd_setsize", instead="full")
def test_fd_setsize_fills_the_room(start):
    needs_descriptors(1300)
    server = start(nofile=1300)
    inside = fill(server, 1100, at_least=900)
    assert len(inside) < 1024
    check_full_room(server, inside)


@pytest.mark.promise("limits.room", instead="backlog")
def test_the_others_wait_until_the_one_leaves(server):
    """Nobody is refused and nobody is served; when the first leaves the next one has its turn."""
    (alice,) = server.join(1)
    waiting = [server.connect() for _ in range(3)]
    for peer in waiting:
        peer.send(b"my turn?\n")
    waiting[0].expect_nothing(0.5)
    leaver = alice
    for peer in waiting:
        leaver.close()
        peer.expect_line(peer, "my turn?")
        leaver = peer


@pytest.mark.promise("limits.room", instead="backlog")
@pytest.mark.ours("a backlog")
def test_past_the_backlog_connecting_hangs(server):
    """Sooner or later nobody can even connect."""
    server.join(1)
    with pytest.raises(TimeoutError):
        for _ in range(5000):
            server.connect(patience=1.0)
