"""Promise: stopping. A signal ends the server with status 0, within two seconds, whatever the clients do."""

import contextlib
import dataclasses
import signal
import sys
import time

import pytest
from harness import BrokenPromise, Stopwatch, ending, wait_until
from promises import MODELS
from test_fairness import Flood

SIGNALS = [signal.SIGINT, signal.SIGTERM]
GRACE = 2.0 + 1.0  # seconds: two, and one for Python's own start and end


def stop(server, number=signal.SIGTERM, to_group=False):
    """Send the signal, and expect the server to end with status 0 in time."""
    __tracebackhide__ = True
    start = time.monotonic()
    (server.signal_group if to_group else server.signal)(number)
    check_stopped(server, start)


def check_stopped(server, start):
    __tracebackhide__ = True
    before = time.monotonic() - start
    took = before + Stopwatch(server).until(lambda: not server.running)
    status = server.wait()
    if status != 0 or took > GRACE:
        raise BrokenPromise(f"it ended {ending(status)} after {took:.1f} seconds\n{server.log_end}")
    if left := server.processes():
        raise BrokenPromise(f"it left processes behind: {left}")
    if not server.model.foreign and not server.log.endswith(" bye\n"):
        raise BrokenPromise(f"its last line is not bye:\n{server.log_end}")


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.promise("stopping")
def test_with_nobody_there(start, number):
    stop(start(), number)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.promise("stopping")
def test_with_clients_in_the_room(start, number):
    """Their connections are closed; what they had not finished is not delivered."""
    server = start()
    speaker, listener = server.pair()
    speaker.send(b"hello\nhalf a line")
    listener.expect_line(speaker, "hello")
    stop(server, number)
    for peer in {speaker, listener}:
        peer.expect_closed()


@pytest.mark.promise("stopping")
def test_ctrl_c_in_a_terminal(start):
    """A terminal sends SIGINT to the server's children as well."""
    server = start()
    speaker, listener = server.pair()
    speaker.send(b"hello\n")
    listener.expect_line(speaker, "hello")
    stop(server, signal.SIGINT, to_group=True)
    for peer in {speaker, listener}:
        peer.expect_closed()


@pytest.mark.promise("stopping")
def test_nobody_can_connect_afterwards(start):
    server = start()
    server.check_room()
    stop(server)
    with pytest.raises(ConnectionRefusedError):
        server.connect()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.promise("stopping")
def test_the_same_port_at_once(start, number):
    """Also with connections that the server closed, which the system keeps for a minute."""
    server = start()
    for _ in range(2):
        speaker, listener = server.pair()
        speaker.send(b"hello\n")
        listener.expect_line(speaker, "hello")
        stop(server, number)
        for peer in {speaker, listener}:
            peer.expect_closed()
            peer.close()
        server = start(port=server.port)
    server.check_room()


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
@pytest.mark.promise("stopping")
def test_a_second_signal_changes_nothing(start, first, second):
    server = start()
    server.pair()
    begun = time.monotonic()
    with server.frozen():  # so that the second finds it still running
        server.signal(first)
        server.signal(second)
    for _ in range(20):
        if server.running:
            server.signal(second)
        time.sleep(0.005)
    check_stopped(server, begun)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.promise("stopping", needs="slow.stall")
def test_with_output_pending(start, number):
    """Nobody waits for a client that does not read, and in what it got there is no gap."""
    server = start()
    alice, bob = server.join(2)
    (stuck,) = server.join(1, receive_buffer=4096)
    said = server.hold_up(stuck, alice, bob)
    stop(server, number)
    assert said.startswith(stuck.read_to_end())


@pytest.mark.promise("stopping", needs="slow.stall")
def test_what_is_unsent_has_a_last_chance_to_go_out(start):
    server = start()
    alice, bob = server.join(2)
    (stuck,) = server.join(1, receive_buffer=4096)
    said = server.hold_up(stuck, alice, bob)
    with server.frozen():
        before = stuck.drain()  # now there is place again
        server.signal(signal.SIGTERM)
    check_stopped(server, time.monotonic())
    after = stuck.read_to_end()
    assert after, "nothing more came after the signal"
    assert said.startswith(before + after)


@pytest.mark.promise("stopping", needs="broadcast")
def test_while_a_client_holds_up_the_room(start):
    """Also then it stops in two seconds."""
    server = start()
    alice, bob = server.join(2)
    stuck = server.connect(receive_buffer=4096)
    stuck.deaf = True
    alice.sock.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        for _ in range(20):
            alice.sock.sendall((b"x" * 4000 + b"\n") * 100)
            bob.read_some()
    stop(server)


@pytest.mark.promise("stopping.pending", instead="blocked")
def test_while_a_client_does_not_read_its_answers(start):
    server = start()
    stuck = server.connect(receive_buffer=4096)
    stuck.sock.settimeout(1.0)
    with pytest.raises(TimeoutError):
        while True:
            stuck.sock.sendall((b"x" * 4000 + b"\n") * 100)
    stop(server)
    stuck.read_to_end()


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.promise("stopping")
def test_during_a_flood(start, number):
    server = start()
    flood = Flood(server, b"flood\n" * 10000)
    peers = [server.connect() for _ in range(5)]
    time.sleep(0.2)
    try:
        stop(server, number)
    finally:
        flood.stop()
    for peer in peers:
        peer.read_to_end()


@pytest.mark.promise("stopping")
def test_with_silent_and_half_closed_clients(start):
    server = start()
    for number in range(30):
        peer = server.connect()
        if number % 3 == 1:
            peer.offer(b"half a line")
        if number % 3 == 2:
            peer.finish()
    stop(server)


@pytest.mark.promise("stopping")
def test_sigterm_in_the_background_of_a_shell(start):
    """There SIGINT is ignored from the start; SIGTERM works all the same."""
    server = start(shell='trap "" INT; exec "$@"')
    speaker, listener = server.pair()
    speaker.send(b"hello\n")
    listener.expect_line(speaker, "hello")
    stop(server)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.promise("stopping")
def test_right_after_it_listens(start, number):
    """As soon as the log says so, or a client could connect, a signal stops it in good order."""
    for _ in range(5):
        stop(start(), number)


# A client can connect as soon as listen(2) has returned, and whoever sees that may send a signal.
JUST_LISTENING = """
import os, runpy, socket, sys

number, listen = int(sys.argv.pop(1)), socket.socket.listen
socket.socket.listen = lambda *words: (listen(*words), os.kill(os.getpid(), number))
sys.argv[:1] = []
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
sys.stderr = None
"""


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.promise("stopping")
@pytest.mark.ours("made to signal itself")
def test_before_it_says_that_it_listens(model, serve, number):
    if not model.command[1].endswith("server.py"):
        pytest.skip("its listen() is not within reach")
    python, *rest = model.command
    command = python, "-c", JUST_LISTENING, str(int(number)), *rest
    server = serve(dataclasses.replace(model, command=command), announce=False)
    check_stopped(server, time.monotonic())


# Each wait begins with a signal that comes too late for Python, which calls handlers between two lines, and yet before
# the system waits. No line of Python is between the two: map() and call() are in C, and so is raise().
JUST_BEFORE = """
import ctypes, functools, operator, runpy, select, signal, sys, threading

come = functools.partial(ctypes.CDLL(None)["raise"], signal.SIGTERM)


def late(wait, timeout=0):
    def waits(*words):
        if words[timeout : timeout + 1] == (0,) or threading.current_thread() is not threading.main_thread():
            return wait(*words)
        return list(map(operator.call, [come, functools.partial(wait, *words)]))[1]

    return waits


class Poll:
    kind = select.poll

    def __init__(self):
        self.poller = self.kind()
        self.poll = late(self.poller.poll)

    def __getattr__(self, name):
        return getattr(self.poller, name)


class Epoll(Poll):
    kind = select.epoll


select.select, select.poll, select.epoll = late(select.select, 3), Poll, Epoll

import socket

recv, accept = socket.socket.recv, socket.socket._accept
socket.socket.recv = lambda sock, *words: (late(recv) if sock.getblocking() else recv)(sock, *words)
socket.socket._accept = lambda sock: (late(accept) if sock.getblocking() else accept)(sock)
sys.argv[:1] = []
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
sys.stderr = None
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no epoll elsewhere")
@pytest.mark.promise("stopping")
@pytest.mark.ours("the calls with which they wait")
def test_just_before_it_waits(model, serve):
    """Then Python calls no handler before the wait is over: something else must end it."""
    if model.echoes:
        pytest.skip("nothing else does")
    if model.needs or not model.command[1].endswith("server.py"):
        pytest.skip("its waits are not within reach")
    python, *rest = model.command
    server = serve(dataclasses.replace(model, command=(python, "-c", JUST_BEFORE, *rest)))
    check_stopped(server, time.monotonic())


@pytest.mark.skipif(sys.platform != "linux", reason="that is where the test above runs")
@pytest.mark.parametrize("ended_by", ["what it waited for", "another signal"])
def test_just_before_a_blocking_call(serve, ended_by):
    """Nothing ends accept() then but a client, or another signal. Either way the first one is noticed."""
    model = next(model for model in MODELS if model.name == "blocking")
    python, *rest = model.command
    server = serve(dataclasses.replace(model, command=(python, "-c", JUST_BEFORE, *rest)))
    assert not wait_until(lambda: not server.running, within=0.5)
    if ended_by == "another signal":
        server.signal(signal.SIGTERM)
    else:
        server.connect()
    check_stopped(server, time.monotonic())
