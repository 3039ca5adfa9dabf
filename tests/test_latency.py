"""Promise: latency. A short message never waits for an acknowledgement."""

import socket
import statistics
import time

import pytest
from harness import Stopwatch

ROUNDS = 20
LIMIT = 0.025  # seconds; who waits for an acknowledgement waits for about 0.04


@pytest.mark.promise("latency")
def test_a_second_short_message_does_not_wait(server):
    """The listener's system acknowledges as late as it may. It is to hear a second message before that."""
    speaker, listener = server.pair()
    delays, watch = [], Stopwatch(server)
    for number in range(ROUNDS):
        if hasattr(socket, "TCP_QUICKACK"):
            listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        if listener is speaker:  # both at once: a second segment of its would acknowledge the first answer
            watch.lap()
            speaker.send(b"first\nsecond\n")
            listener.expect_line(speaker, "first")
        else:
            speaker.send(b"first\n")
            listener.expect_line(speaker, "first")
            watch.lap()
            speaker.send(b"second\n")
        listener.expect_line(speaker, "second")
        delays.append(watch.lap())
        if number % 5 == 0:
            time.sleep(0.05)
    typical = statistics.median(delays)
    assert typical < LIMIT, f"typically {typical * 1000:.0f} ms pass until a second message is heard"


@pytest.mark.promise("latency", needs="broadcast")
def test_a_first_short_message_does_not_wait(server):
    """Not for the acknowledgement of its own beginning, where that was sent on its own."""
    speaker, listener = server.pair()
    delays, watch = [], Stopwatch(server)
    for _ in range(ROUNDS):
        if hasattr(socket, "TCP_QUICKACK"):
            listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
        watch.lap()
        speaker.send(b"first\n")
        listener.expect_line(speaker, "first")
        delays.append(watch.lap())
        time.sleep(0.05)  # until all is acknowledged
    typical = statistics.median(delays)
    assert typical < LIMIT, f"typically {typical * 1000:.0f} ms pass until a first message is heard"
