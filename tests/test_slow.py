"""Promise: slow. A client that does not read harms itself alone."""

import contextlib
import threading
import time

import pytest
from harness import BrokenPromise, Stopwatch, shorten

MIB = 1 << 20
CHUNK = [f"{number:04} " + "x" * 1000 for number in range(32)]  # 32 KiB when said


def say_and_hear(speaker, listeners, chunks):
    """Say so many chunks, one after the other, each heard by all the listeners before the next."""
    data = "".join(f"{text}\n" for text in CHUNK).encode()
    for _ in range(chunks):
        speaker.send(data)
        for listener in listeners:
            listener.expect_lines(speaker, CHUNK)


def slowest_of_16_mib(server, speaker, listener):
    """Say 512 chunks, and return the seconds that the slowest took."""
    watch, slowest = Stopwatch(server), 0.0
    for _ in range(512):
        say_and_hear(speaker, [listener], 1)
        slowest = max(slowest, watch.lap())
    return slowest


def stuck_reader(server):
    """A client in the room that does not read from now on, and has hardly any buffer."""
    (peer,) = server.join(1, receive_buffer=4096)
    peer.deaf = True
    return peer


def check_prefix(peer, said):
    """What a client got must be the beginning of all that was said: there may be an end, but no gap."""
    heard = peer.read_to_end()
    if not said.startswith(heard):
        pairs = enumerate(zip(heard, said, strict=False))
        position = next((place for place, (came, due) in pairs if came != due), len(said))
        raise BrokenPromise(
            f"after {position} bytes, {said[position : position + 50]!r} is missing for {peer.name}, "
            f"which got {heard[position : position + 50]!r}"
        )
    return heard


@pytest.mark.promise("slow.stall")
def test_a_client_that_never_reads_is_dropped_and_nobody_waits(server):
    alice, bob = server.join(2)
    stuck = stuck_reader(server)
    # In far less time than the room would be held up for, were it held up.
    slowest = slowest_of_16_mib(server, alice, bob)
    assert slowest < 3.0, f"somebody waited for {slowest:.1f} seconds"
    heard = check_prefix(stuck, b"".join(map(alice.line, CHUNK)) * 512)
    assert len(heard) < 16 * MIB


@pytest.mark.promise("slow.stall", instead="stalls")
def test_a_client_that_never_reads_stalls_the_room_for_5_seconds_at_most(server):
    alice, bob = server.join(2)
    stuck = stuck_reader(server)
    slowest = slowest_of_16_mib(server, alice, bob)
    assert 1.0 < slowest < 8.0, f"somebody waited for {slowest:.1f} seconds"
    heard = check_prefix(stuck, b"".join(map(alice.line, CHUNK)) * 512)
    assert len(heard) < 16 * MIB


@pytest.mark.promise("slow")
def test_many_who_never_read_cost_bounded_memory(server):
    alice, bob = server.join(2)
    say_and_hear(alice, [bob], 4)
    newcomers = [stuck_reader(server) for _ in range(server.model.stuck)]  # what it costs to serve them is paid

    def most_with_stuck_readers():
        stuck, most = newcomers.copy() or [stuck_reader(server) for _ in range(server.model.stuck)], 0
        newcomers.clear()
        for _ in range(32):
            say_and_hear(alice, [bob], 8)  # 8 MiB in all
            most = max(most, server.memory())
        for peer in stuck:
            peer.read_to_end()
        return most

    server.check_memory(most_with_stuck_readers, 3 * MIB * server.model.stuck + 16 * MIB)
    server.check_room()


@pytest.mark.promise("slow")
def test_a_slow_reader_gets_every_byte(server):
    """It never has a mebibyte to read, and takes its time: a little at once, with pauses."""
    alice, bob = server.join(2)
    (slow,) = server.join(1, receive_buffer=4096)
    slow.deaf = True
    said = b"".join(map(alice.line, CHUNK)) * 24
    heard = bytearray()

    def read_slowly():
        while len(heard) < len(said) and (some := slow.read_some(4096)):
            heard.extend(some)
            time.sleep(0.003)

    reader = threading.Thread(target=read_slowly)
    reader.start()
    say_and_hear(alice, [bob], 24)
    reader.join()
    if heard != said:
        slow.fail(f"{slow.name} got {len(heard)} bytes of {len(said)}")


@pytest.mark.promise("slow.stall")
def test_a_slow_reader_gets_every_byte_that_waited(server):
    """Also what the system did not take, and the server had to keep."""
    alice, bob = server.join(2)
    (slow,) = server.join(1, receive_buffer=4096)
    said = server.hold_up(slow, alice, bob, unsent=700_000)
    heard = 0
    while heard < len(said):
        some = slow.read_some(50_000)
        if not some or some != said[heard : heard + len(some)]:
            slow.fail(f"after {heard} of {len(said)} bytes {slow.name} got {shorten(some, 80)}")
        heard += len(some)


@pytest.mark.promise("slow")
def test_a_reader_that_pauses_gets_all_or_is_cut_off(server):
    """While much is said it does not read, for a second; what it lacks then is the end."""
    alice, bob = server.join(2)
    (slow,) = server.join(1, receive_buffer=4096)
    slow.deaf = True
    end, chunks = time.monotonic() + 1.0, 0
    while time.monotonic() < end and chunks < 512:
        say_and_hear(alice, [bob], 1)
        chunks += 1
    said = b"".join(map(alice.line, CHUNK)) * chunks
    heard = b""
    while len(heard) < len(said) and (some := slow.read_some()):
        heard += some
    assert said.startswith(heard)
    if heard != said:
        assert slow.ended


@pytest.mark.promise("slow.stall")
def test_a_slow_reader_that_speaks(server):
    """Not to read is no reason not to be heard."""
    alice, bob = server.join(2)
    stuck = stuck_reader(server)
    server.hold_up(stuck, alice, bob)
    stuck.send(b"I speak and do not listen\n")
    for listener in (alice, bob):
        listener.expect_line(stuck, "I speak and do not listen")


@pytest.mark.promise("slow", instead="alone")
def test_while_one_does_not_read_nobody_else_is_served(server):
    stuck = server.connect(receive_buffer=4096)
    stuck.sock.setblocking(False)
    data, sent, refused_at = (b"x" * 4000 + b"\n") * 100, 0, -1
    while sent != refused_at:  # until its answers have filled all buffers, and the server waits
        refused_at = sent
        time.sleep(0.5)
        with contextlib.suppress(BlockingIOError):
            while sent < 64 * MIB:
                sent += stuck.sock.send(data[sent % len(data) :])
    bob = server.connect()
    bob.send(b"hello\n")
    bob.expect_nothing(1.0)
    server.check_idle()
    stuck.reset()
    bob.expect_line(bob, "hello")
