"""Promise: fairness. One who floods delays the others and starves nobody."""

import contextlib
import socket
import threading
import time

import pytest
from harness import NET_TCP, wait_until

FLOOD = b" \n" * 32768  # blank lines: work for the server, but no messages, so nobody can be outrun by them


class Flood:
    """A client that sends as fast as it can, from a thread, until it is told to stop."""

    def __init__(self, server, data=FLOOD):
        self.peer, self.data, self.running = server.connect(), data, True
        self.peer.deaf = True
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while self.running and self.peer.offer(self.data):
            pass

    def stop(self):
        self.running = False
        with contextlib.suppress(OSError):
            self.peer.sock.shutdown(socket.SHUT_RDWR)  # ends a send that waits
        self.thread.join()
        self.peer.reset()


@pytest.fixture
def flood():
    """Start floods: `flood(server)`."""
    floods = []
    yield lambda *args: floods.append(Flood(*args))
    for flood in floods:
        flood.stop()


@pytest.mark.promise("fairness")
def test_others_are_heard_during_a_flood(server, flood):
    alice, bob = server.join(2)
    for _ in range(3):
        flood(server)
    for number in range(10):
        alice.send(f"ping {number}\n".encode())
        bob.expect_line(alice, f"ping {number}")
        bob.send(f"pong {number}\n".encode())
        alice.expect_line(bob, f"pong {number}")


@pytest.mark.promise("fairness")
def test_newcomers_join_during_a_flood(server, flood):
    for _ in range(3):
        flood(server)
    for _ in range(5):
        server.check_room()


@pytest.mark.promise("fairness")
def test_a_flood_of_messages_is_survived(server):
    """Whoever does not keep up with it may be dropped; the room goes on, and is quiet afterwards."""
    (alice,) = server.join(1)
    flood = Flood(server, b"flood " * 100 + b"\n")
    end = time.monotonic() + 1.0
    while time.monotonic() < end and alice.read_some(within=1.0):
        pass
    flood.stop()
    alice.reset()
    server.check_room()
    server.check_idle()


@pytest.mark.promise("fairness.turns")
@pytest.mark.ours("a library may read more at once, and it is not the student's to choose")
def test_a_turn_is_4096_bytes(server):
    """While the server is stopped, one sends much and another one a word. The word must not come last."""
    alice, bob, carol = server.join(3)
    with server.frozen():
        alice.send(b"much of it\n" * 15000)  # 40 turns of 4096 bytes
        bob.send(b"a word\n")
    before = carol.read_until(bob.line("a word"))
    said = before.count(b"much of it") * len(b"much of it\n")
    assert said <= 4 * 4096, f"{said} bytes of a flood were handled before another one had its turn"


@pytest.mark.promise("fairness.turns")
def test_a_turn_has_an_end(server):
    """However much a library may read at once: of Node's streams that is 32 times 64 KiB, which is 2 MiB."""
    alice, bob, carol = server.join(3)
    blank = (b" " * 100 + b"\n") * 24_000  # work for the server, but no messages: nobody can be outrun by them
    with server.frozen():
        speaker = threading.Thread(target=alice.offer, args=(blank + b"all of it\n",), daemon=True)
        speaker.start()
        if NET_TCP.exists():
            wait_until(alice.arrived)
        bob.send(b"a word\n")
    carol.expect_line(bob, "a word")
    carol.expect_line(alice, "all of it")
    speaker.join()


@pytest.mark.promise("fairness", instead="alone")
def test_one_who_floods_keeps_the_others_waiting(server, flood):
    flood(server)
    bob = server.connect()
    bob.send(b"hello\n")
    bob.expect_nothing(1.0)
