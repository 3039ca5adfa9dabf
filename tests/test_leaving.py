"""Promise: leaving. However a client leaves, nobody else notices, and nothing of it stays behind."""

import re
import socket
import sys

import pytest
from harness import search_connections, wait_until

MIB = 1 << 20


def leave_by_reset(peer):
    peer.reset()


def leave_by_close(peer):
    peer.close()


def leave_by_interrupt(peer):
    peer.send(b"\xff\xf4")
    peer.read_to_end()


@pytest.mark.promise("leaving")
def test_the_rest_of_a_line_is_discarded_at_a_reset(server):
    speaker, listener = server.pair()
    speaker.send(b"whole\nhalf")
    listener.expect_line(speaker, "whole")
    speaker.reset()
    if listener is not speaker:
        listener.expect_nothing()
    server.check_room()


@pytest.mark.promise("leaving")
def test_lines_before_ctrl_c_are_delivered(server):
    speaker, listener = server.pair()
    speaker.send(b"one\ntwo\nhalf\xff\xf4three\n")
    listener.expect_lines(speaker, ["one", "two"])
    speaker.expect_closed()
    if listener is not speaker:
        listener.expect_nothing()


@pytest.mark.parametrize("leave", [leave_by_close, leave_by_reset, leave_by_interrupt])
@pytest.mark.promise("leaving", needs="broadcast")
def test_nobody_notices_who_leaves(server, leave):
    alice, bob, *others = server.join(8)
    for number, leaver in enumerate(others):
        alice.send(f"{number}\n".encode())
        leave(leaver)
        bob.expect_line(alice, str(number))
        bob.send(f"yes, {number}\n".encode())
        alice.expect_line(bob, f"yes, {number}")


@pytest.mark.promise("leaving")
def test_thousands_come_and_go(server):
    """No descriptor, no process and no memory stays behind."""

    def come_and_go(count):
        for number in range(count):
            peer = server.connect()
            peer.offer(b"half a line" if number % 2 else b"\n")
            peer.reset()
        server.check_room()

    come_and_go(200)
    held, processes = server.descriptors(), len(server.processes())

    def check_little_stays():
        come_and_go(server.model.churn)
        server.check_descriptors(at_most=held)
        assert wait_until(lambda: len(server.processes()) <= processes)

    server.check_memory(check_little_stays, 8 * MIB)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/net/tcp is Linux's")
@pytest.mark.promise("leaving")
def test_keepalive(server):
    """The system looks after a peer whose machine vanished: a keepalive timer runs for each connection."""
    alice = server.connect()
    port = int(alice.address.rpartition(":")[2])
    pattern = re.compile(rf"^ *\d+: \w+:{server.port:04X} \w+:{port:04X} 01 \w+:\w+ 02:", re.MULTILINE)
    if not wait_until(lambda: search_connections(pattern)):
        alice.fail("no keepalive timer runs for the server's side of the connection")


@pytest.mark.promise("leaving")
def test_a_half_close_ends_the_connection(server):
    speaker, listener = server.pair()
    speaker.send(b"goodbye\n")
    speaker.finish()
    listener.expect_line(speaker, "goodbye")
    speaker.expect_closed()
    server.check_room()


@pytest.mark.promise("leaving", needs="broadcast")
def test_who_closes_its_sending_side_still_gets_what_was_said(server):
    alice, bob = server.join(2)
    with server.frozen():
        alice.send(b"one\ntwo\n")
        bob.finish()
    # Both are ready at once, and bob was told nothing before; he may miss it, but not get half of it.
    assert bob.read_to_end() in (b"", alice.line("one") + alice.line("two"))


@pytest.mark.promise("leaving", needs="slow.stall")
def test_what_is_unsent_gets_a_last_attempt_at_a_half_close(server):
    """What waits for a client is offered once more when it closes its sending side."""
    alice, bob = server.join(2)
    (slow,) = server.join(1, receive_buffer=4096)
    said = server.hold_up(slow, alice, bob)
    with server.frozen():
        before = slow.drain()
        slow.finish()
    after = slow.read_to_end()
    assert after, f"{len(before)} bytes had been sent, and none came after the end of the stream"
    assert said.startswith(before + after)


@pytest.mark.promise("leaving", needs="slow.stall")
def test_who_left_with_much_unsent_and_took_it_after_all(server):
    """Nothing is left to be done when the time for it is over: asyncio cannot abort what has been closed."""
    alice, bob = server.join(2)
    (slow,) = server.join(1, receive_buffer=4096)
    said = server.hold_up(slow, alice, bob)
    slow.finish()
    assert said.startswith(slow.read_to_end())
    bob.expect_nothing(1.5)
    server.check_room()


@pytest.mark.parametrize("tail", [b"", b"\n", b" more\nof it\n"], ids=["", "newline", "more"])
@pytest.mark.parametrize("cut", [0, 1, 2], ids=["whole", "cut in two", "apart"])
@pytest.mark.promise("leaving")
def test_ctrl_c_in_telnet(server, tail, cut):
    """IAC IP is seen before lines are looked for: neither what stands before it nor what follows is one."""
    speaker, listener = server.pair()
    speaker.send(b"whole\n")
    parts = {0: [b"half\xff\xf4" + tail], 1: [b"half\xff", b"\xf4" + tail], 2: [b"half", b"\xff\xf4" + tail]}
    listener.expect_line(speaker, "whole")
    speaker.send_parts(parts[cut], pause=0.05)
    speaker.expect_closed()
    if listener is not speaker:
        listener.expect_nothing()
    server.check_room()


@pytest.mark.promise("leaving")
@pytest.mark.plain("nothing is urgent there")
def test_urgent_data(server):
    """What a telnet sends at Ctrl-C: IAC IP, then IAC DM whose last byte is urgent."""
    speaker, listener = server.pair()
    speaker.send(b"hello\n")
    speaker.sock.send(b"\xff\xf4\xff\xf2", socket.MSG_OOB)
    listener.expect_line(speaker, "hello")
    speaker.expect_closed()
    server.check_room()
    server.check_idle()


@pytest.mark.promise("leaving")
@pytest.mark.plain("nothing is urgent there")
def test_urgent_data_that_is_no_ctrl_c(server):
    """An urgent byte is not part of the stream; it is neither a message nor a reason to spin."""
    speaker, listener = server.pair()
    speaker.send(b"hel")
    speaker.sock.send(b"!", socket.MSG_OOB)
    server.check_idle()
    speaker.send(b"lo\n")
    assert listener.read_line() in (speaker.line("hello"), speaker.line("hel!lo"))


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.promise("leaving", needs="broadcast")
def test_leaving_during_a_broadcast(server, how):
    """Half of the room leaves just as there are lines to be sent to it. (After a close the second is a broken pipe.)"""
    alice, bob, *others = server.join(42)
    for leavers in (others[:20], others[20:]):
        with server.frozen():
            alice.send(b"one\ntwo\n")
            for leaver in leavers:
                getattr(leaver, how)()
            bob.send(b"three\n")
        bob.expect_lines(alice, ["one", "two"])
        alice.expect_line(bob, "three")


@pytest.mark.promise("leaving", needs="slow.stall")
def test_reset_while_much_is_unsent(server):
    """A client that does not read what it is sent, and then resets, leaves nothing behind."""
    alice, bob = server.join(2)
    held = server.descriptors()
    for _ in range(2):
        (leaver,) = server.join(1, receive_buffer=4096)
        server.hold_up(leaver, alice, bob)
        leaver.reset()
    server.check_descriptors(at_most=held)
    server.check_room()


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.promise("leaving")
def test_connect_and_leave_at_once(server, how):
    server.check_room()
    held = server.descriptors()
    for _ in range(100):
        peer = server.connect()
        getattr(peer, how)()
    server.check_room()
    server.check_descriptors(at_most=held)
    server.check_idle()


@pytest.mark.promise("leaving")
def test_all_reset_at_once(server):
    server.check_room()
    held = server.descriptors()
    peers = [server.connect() for _ in range(200)]
    for peer in peers:
        peer.offer(b"half a line")
    with server.frozen():
        for peer in peers:
            peer.reset()
    server.check_room()
    server.check_descriptors(at_most=held)
    server.check_idle()


@pytest.mark.promise("leaving")
def test_a_client_that_errs_ends_alone(server):
    """One after the other does all that is wrong; those in the room talk on."""
    speaker, listener = server.pair()
    if listener is speaker:
        speaker.close()
    bad = [
        b"\xff",
        b"\xff\xfa",
        b"\xff\xff\xff\xff\n",
        b"\x80" * 4000 + b"\n",
        b"\0" * 5000,
        b"GET / HTTP/1.1\r\n\r\n",
    ]
    for data in bad:
        for how in ("finish", "close", "reset"):
            peer = server.connect()
            peer.offer(data)
            getattr(peer, how)()
            if how == "finish":
                peer.read_to_end()
    server.check_room()


@pytest.mark.promise("leaving", needs="broadcast")
def test_the_room_shrinks_and_grows(server):
    """Now many, now few: everybody in the room hears everybody else, at any time."""
    peers = server.join(10)
    for _ in range(5):
        for leaver in peers[2:6]:
            leaver.close()
        peers = peers[:2] + peers[6:] + server.join(4)
        peers[0].send(b"who is here?\n")
        for listener in peers[1:]:
            listener.expect_line(peers[0], "who is here?")
