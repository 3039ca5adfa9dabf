"""Promise: broadcast. Every other client gets each line, exactly once, whole and in order."""

import random

import pytest
from harness import converse


@pytest.mark.promise("broadcast")
def test_everybody_else_hears_it_and_the_sender_does_not(server):
    alice, bob, carol = server.join(3)
    alice.send(b"hello\n")
    bob.expect_line(alice, "hello")
    carol.expect_line(alice, "hello")
    bob.send(b"hello, Alice\n")
    alice.expect_line(bob, "hello, Alice")  # and not her own line before it
    carol.expect_line(bob, "hello, Alice")


@pytest.mark.promise("broadcast")
def test_no_greeting_and_no_history(server):
    alice, bob = server.join(2)
    alice.send(b"before\n")
    bob.expect_line(alice, "before")
    carol = server.connect()
    carol.expect_nothing()
    alice.send(b"after\n")
    carol.expect_line(alice, "after")


@pytest.mark.promise("broadcast")
def test_own_words_among_others_in_one_turn(server):
    """Three clients said several things while the server was busy: nobody gets back any of his own."""
    peers = server.join(3)
    with server.frozen():
        for round_ in range(3):
            for peer in peers:
                peer.send(f"{round_}\n".encode())
    for listener in peers:
        others = [peer for peer in peers if peer is not listener]
        heard = [listener.read_line() for _ in range(6)]
        for sender in others:
            own = [line for line in heard if line.startswith(f"{sender.name} ".encode())]
            assert own == [sender.line(str(round_)) for round_ in range(3)]


def check_everything_was_heard(peers, texts):
    """All peers speak at once; each must hear each of the others' texts once, whole and in order."""
    says = {peer: b"".join(text.encode() + b"\n" for text in texts[peer]) for peer in peers}
    wanted = {peer: b"".join(map(peer.line, texts[peer])) for peer in peers}
    total = sum(map(len, wanted.values()))
    complete = converse(
        peers,
        says,
        lambda: all(len(peer.unread) >= total - len(wanted[peer]) or peer.ended for peer in peers),
    )
    for listener in peers:
        lines = bytes(listener.unread).splitlines(keepends=True)
        for sender in peers:
            heard = b"".join(line for line in lines if line.startswith(f"{sender.name} says".encode()))
            if heard != (b"" if sender is listener else wanted[sender]):
                listener.fail(f"{listener.name} did not hear {sender.name} right", wanted[sender])
        if len(listener.unread) != total - len(wanted[listener]):
            listener.fail(f"{listener.name} heard more than was said")
    assert complete


@pytest.mark.promise("broadcast")
def test_order_and_exactly_once_with_many_senders(server):
    peers = server.join(20)
    check_everything_was_heard(peers, {peer: [f"{number} of {peer.name}" for number in range(100)] for peer in peers})


@pytest.mark.promise("broadcast")
def test_messages_of_all_sizes(server):
    peers = server.join(5)
    dice = random.Random(1)
    sizes = {peer: [1, 4095, *(dice.randrange(1, 4095) for _ in range(18))] for peer in peers}
    check_everything_was_heard(
        peers, {peer: [chr(ord("a") + size % 26) * size for size in sizes[peer]] for peer in peers}
    )


@pytest.mark.promise("broadcast")
def test_many_listeners(server):
    peers = server.join(100)
    for sender in peers[:3]:
        sender.send(b"can you all hear me?\n")
        for listener in peers:
            if listener is not sender:
                listener.expect_line(sender, "can you all hear me?")


@pytest.mark.promise("broadcast")
@pytest.mark.ours("--host")
def test_ipv6_names_are_in_brackets(start, needs_ipv6):
    server = start(host="::1")
    alice, bob = server.join(2)
    assert alice.address.startswith("[::1]:")
    alice.send(b"hello\n")
    bob.expect_line(alice, "hello")


@pytest.mark.promise("broadcast", instead="echo")
def test_the_only_client_hears_itself(server):
    (alice,) = server.join(1)
    alice.send(b"one\ntwo\n")
    alice.expect_lines(alice, ["one", "two"])


@pytest.mark.promise("broadcast", instead="echo")
@pytest.mark.ours("--host")
def test_the_only_client_hears_itself_over_ipv6(start, needs_ipv6):
    server = start(host="::1")
    (alice,) = server.join(1)
    assert alice.address.startswith("[::1]:")
    alice.send(b"one\n")
    alice.expect_line(alice, "one")
