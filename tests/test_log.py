"""Promise: log. Who came and went, a line each; and no harm when nobody can write it."""

import dataclasses
import re
import signal
import subprocess
from pathlib import Path

import pytest
from harness import free_port
from promises import MODELS

LINE = re.compile(r"\d\d:\d\d:\d\d (listening on \S+|history in .+, \d+ lines|web page on \S+|bye|\S+ .+, \d+ online)")


def check_format(server):
    for line in server.log.splitlines():
        assert LINE.fullmatch(line), line


@pytest.mark.promise("log")
@pytest.mark.ours("the log")
def test_joined_and_left(server):
    alice = server.connect()
    server.await_log(rf"^\d\d:\d\d:\d\d {re.escape(alice.logged)} joined, 1 online$")
    server.settle([alice])
    alice.close()
    server.await_log(rf"^\d\d:\d\d:\d\d {re.escape(alice.logged)} left, 0 online$")
    bob = server.connect()
    server.await_log(rf"{re.escape(bob.logged)} joined, 1 online$")
    bob.finish()
    server.await_log(rf"{re.escape(bob.logged)} left, 0 online$")
    check_format(server)


@pytest.mark.promise("log")
def test_who_came_and_how_each_left(server):
    """A line for each, at once, whatever else is in it."""
    ways = {"left": lambda peer: peer.close(), "dropped": lambda peer: peer.offer(b"x" * 5000)}
    for word, leave in ways.items():
        peer = server.connect()
        server.await_log(rf"{peer.in_log}\b.*\bjoined\b")
        server.settle([peer])
        leave(peer)
        server.await_log(rf"{peer.in_log}\b.*\b{word}\b")


@pytest.mark.promise("log")
@pytest.mark.ours("the log")
def test_ctrl_c_in_telnet_is_a_way_to_leave(server):
    alice = server.connect()
    server.await_log("joined, 1 online$")
    alice.send(b"half a line\xff\xf4")
    server.await_log(rf"{re.escape(alice.logged)} left, 0 online$")


@pytest.mark.promise("log", needs="broadcast")
@pytest.mark.ours("the log")
def test_how_many_are_online(server):
    peers = []
    for number in range(1, 6):
        peers.append(server.connect())
        server.await_log(rf"{re.escape(peers[-1].logged)} joined, {number} online$")
    server.settle(peers)
    for number in range(4, -1, -1):
        leaver = peers.pop()
        leaver.close()
        server.await_log(rf"{re.escape(leaver.logged)} left, {number} online$")
        server.settle(peers)
    check_format(server)


DROPS = {
    "message too long": lambda peer: peer.send(b"x" * 5000),
    "connection reset by peer": lambda peer: peer.reset(),
}


@pytest.mark.parametrize("reason", DROPS)
@pytest.mark.promise("log")
@pytest.mark.ours("the log")
def test_dropped(server, reason):
    alice = server.connect()
    server.await_log("joined, 1 online$")
    DROPS[reason](alice)
    server.await_log(rf"^\d\d:\d\d:\d\d {re.escape(alice.logged)} dropped: {reason}, 0 online$")
    check_format(server)


@pytest.mark.promise("log", needs="slow")
@pytest.mark.ours("the log")
def test_dropped_as_too_slow(server):
    alice, bob = server.join(2)
    (stuck,) = server.join(1, receive_buffer=4096)
    stuck.deaf = True
    for _ in range(80):
        alice.send((b"x" * 4000 + b"\n") * 25)
        bob.expect_lines(alice, ["x" * 4000] * 25)
    server.await_log(rf"{re.escape(stuck.logged)} dropped: too slow, 2 online$")
    check_format(server)


@pytest.mark.promise("log", needs="limits.room")
@pytest.mark.ours("the log")
def test_refused(start):
    server = start(nofile=256)
    peers = [server.connect() for _ in range(260)]
    server.await_log(r"^\d\d:\d\d:\d\d \S+ refused: the room is full, \d+ online$")
    check_format(server)
    for peer in peers:
        peer.reset()


@pytest.mark.promise("log")
@pytest.mark.ours("the log")
def test_stopping(start):
    server = start()
    alice = server.connect()
    server.await_log("joined, 1 online$")
    server.signal(signal.SIGTERM)
    server.wait()
    assert re.search(rf"{re.escape(alice.logged)} dropped: server stopping, 0 online\n\S+ bye\n\Z", server.log)
    check_format(server)


@pytest.mark.promise("log")
def test_what_clients_say_is_not_logged(server):
    speaker, listener = server.pair()
    speaker.send(b"my secret\n")
    listener.expect_line(speaker, "my secret")
    speaker.send(b"another secret" * 500)
    speaker.expect_closed(maybe_after=b"error: a message may be at most 4096 bytes\n")
    server.check_room()
    assert "secret" not in server.log


@pytest.mark.promise("log")
@pytest.mark.ours("the log")
def test_nothing_of_it_is_on_standard_output(start, scratch):
    with open(scratch / "stdout", "wb") as stdout:
        server = start(stdout=stdout)
        server.check_room()
        server.signal(signal.SIGTERM)
        server.wait()
    assert (scratch / "stdout").read_bytes() == b""


CLOSED = {
    "closed from the start": 'exec "$@" 2>&-',
    "all closed from the start": 'exec "$@" 2>&- >&- <&-',
    "a full disk": 'exec "$@" 2>/dev/full >/dev/full',
}


@pytest.mark.parametrize("shell", CLOSED.values(), ids=CLOSED)
@pytest.mark.promise("log")
def test_a_log_that_cannot_be_written(start, model, shell):
    if "/dev/full" in shell and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    server = start_without_log(start, shell=shell)
    check_works(server)


@pytest.mark.promise("log")
def test_a_log_that_nobody_reads_any_more(start):
    """The log is a pipe, and whoever read it has gone: `python server.py | head -1`."""
    server = start_without_log(start, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    server.popen.stdout.close()
    check_works(server)


def start_without_log(start, **options):
    """Start a server that cannot say where it listens: it is told, and its port polled."""
    return start(port=free_port(), polled=True, **options)


def check_works(server):
    for _ in range(3):
        server.check_room()
    peer = server.connect()
    peer.offer(b"x" * 5000)
    peer.read_to_end()
    server.check_idle()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0 or server.model.foreign


# Garbage is collected between the making of a stream's protocol and of its future, which comes to be finalized first.
COLLECTED = """
import asyncio, asyncio.base_events, gc, runpy, sys

create_future = asyncio.base_events.BaseEventLoop.create_future

def collect_first(loop):
    if isinstance(sys._getframe(1).f_locals.get("self"), asyncio.StreamReaderProtocol):
        gc.collect(0)
    return create_future(loop)

asyncio.base_events.BaseEventLoop.create_future = collect_first
gc.set_threshold(10**9)
sys.argv[:1] = []
sys.path[0] = sys.argv[0].rpartition("/")[0]
runpy.run_path(sys.argv[0], run_name="__main__")
gc.collect()
"""


@pytest.mark.parametrize("when", ["before", "with the signal"])
@pytest.mark.parametrize("name", ["asyncio_based", "names", "tls"])
def test_the_library_has_nothing_to_say(serve, name, when):
    """A reset is an error that asyncio keeps for whoever waits for the end of the connection. Nobody does."""
    (model,) = [model for model in MODELS if model.name == name]
    python, *rest = model.command
    for _ in range(3):
        server = serve(dataclasses.replace(model, command=(python, "-c", COLLECTED, *rest)))
        leaver = server.join(2)[1]
        if when == "before":
            leaver.reset()
            server.await_log("dropped: connection reset by peer")
            server.signal(signal.SIGTERM)
        else:
            with server.frozen():
                leaver.reset()
                server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.log.endswith(" bye\n"), server.log
