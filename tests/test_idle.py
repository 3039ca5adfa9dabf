"""Promise: idle. With nothing to do the server uses no CPU."""

import pytest


@pytest.mark.promise("idle")
def test_with_nobody_there(server):
    server.check_idle()


@pytest.mark.promise("idle")
def test_with_silent_clients(server):
    for number in range(30):
        peer = server.connect()
        if number % 2:
            peer.offer(b"half a line")
    server.check_idle()


@pytest.mark.promise("idle")
def test_after_a_conversation(server):
    speaker, listener = server.pair()
    speaker.send(b"hello\n")
    listener.expect_line(speaker, "hello")
    server.check_idle()


@pytest.mark.parametrize("how", ["finish", "close", "reset"])
@pytest.mark.promise("idle")
def test_after_clients_left(server, how):
    server.check_room()
    for number in range(10):
        peer = server.connect()
        peer.offer(b"half a line" if number % 2 else b"hello\n")
        getattr(peer, how)()
    server.check_idle()


@pytest.mark.promise("idle", needs="slow.stall")
def test_with_a_client_that_does_not_read(server):
    """Bytes wait for it, and the socket does not take them: that is no reason to try and try."""
    alice, bob = server.join(2)
    (stuck,) = server.join(1, receive_buffer=4096)
    server.hold_up(stuck, alice, bob)
    server.check_idle()
    for _ in range(10):
        assert stuck.read_some(10_000)  # it takes some, and stops again
    server.check_idle()


@pytest.mark.promise("idle")
def test_after_a_line_that_was_too_long(server):
    for _ in range(5):
        peer = server.connect()
        peer.offer(b"x" * 5000)
        peer.read_to_end()
    server.check_idle()
