"""nodes/ when something is at fault. What people say is numbered: nothing is lost or doubled."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from cluster import NODES, Nats, Trio, compare, number, skip_without_nats, spoken
from harness import Stopwatch, converse, wait_until
from promises import ROOT

skip_without_nats()
MIB = 1 << 20
WAITS, AGAIN = "* what you say waits: NATS does not answer\n", "* what you say is heard again\n"


@pytest.fixture
def nats(run, scratch):
    """A NATS server of the test's own."""
    return Nats(run, scratch / "nats")


@pytest.fixture(autouse=True)
def bounded(serve, run):
    """After each test: no node has collected what it could not get rid of, and NATS has not, either."""
    started.clear()
    yield
    for what in started:
        for process in [server.process for server in what.servers] if isinstance(what, Trio) else [what]:
            memory = process.memory() if process.running else 0
            assert memory < 100 * MIB, f"{process.command[1]}: {memory / MIB:.0f} MiB"


started = []


def start(serve, nats, count, *args):
    servers = [serve(NODES, "--nats", nats.url, *args) for _ in range(count)]
    started.extend([*servers, nats if isinstance(nats, Trio) else nats.process])
    return servers


def troubles(rest):
    """What was said about NATS, for each."""
    return {name: [line for line in lines if line in (WAITS, AGAIN)] for name, lines in rest.items()}


def calm(lines):
    """The lines without what is said about NATS: on a machine that is very busy it may seem to be away."""
    return [line for line in lines if line not in (WAITS, AGAIN)]


def freeze(nats):
    nats.process.signal(signal.SIGSTOP)
    time.sleep(10)
    nats.process.signal(signal.SIGCONT)


def restart(number):
    def do(nats):
        nats.stop(number)
        time.sleep(10)
        nats.start()

    return do


@pytest.mark.long
@pytest.mark.parametrize(
    "happens", [freeze, restart(signal.SIGTERM), restart(signal.SIGKILL)], ids=["frozen", "stopped", "killed"]
)
def test_nats_is_away_for_ten_seconds(serve, nats, happens):
    """Who speaks meanwhile waits; all are told so in one line; then all goes on, and nothing is lost or doubled."""
    first, second = start(serve, nats, 2)
    listener, ana, bob = first.enter("listener"), first.enter("ana"), second.enter("bob")
    number(ana, 0, 50)
    number(bob, 0, 50)
    speaking = threading.Thread(target=speak_slowly, args=([ana, bob], 50, 150))
    speaking.start()
    happens(nats)
    speaking.join()
    number(ana, 150, 200)
    number(bob, 150, 200)
    rest = compare(listener, [ana, bob], 200, until=AGAIN)
    assert troubles(rest) == {name: [WAITS, AGAIN] for name in rest}
    assert "left" not in str(rest)
    ana.send(b"/list\n")
    ana.expect(b"* here: ana, bob, listener\n")


def speak_slowly(peers, first, last, pause=0.05):
    """Say numbered lines, some a second."""
    for count in range(first, last):
        for peer in peers:
            number(peer, count, count + 1)
        time.sleep(pause)


@pytest.mark.long
def test_a_node_is_killed(serve, nats):
    """The others hear once that its people left, and within ten seconds their names are free."""
    first, second, third = start(serve, nats, 3)
    listener, ana, bob = first.enter("listener"), second.enter("ana"), third.enter("bob")
    number(ana, 0, 100)
    number(bob, 0, 100)
    said, _ = spoken(listener, 200)
    third.signal(signal.SIGKILL)
    watch = Stopwatch(nats.process)
    number(ana, 100, 200)
    more, rest = spoken(listener, 100)
    assert not calm(rest) and [text.split()[0] for _, text in more] == list(map(str, range(100, 200)))
    again = second.visit()
    answer = None

    def let_in():
        nonlocal answer
        again.expect(b"your name?\n")
        again.send(b"BOB\n")
        answer = again.read_line()
        return answer != b"error: BOB is taken\n"

    assert watch.until(let_in) < 10
    assert answer == b"* you are BOB; also here: ana, listener\n"
    listener.expect(b"* bob left\n")
    listener.expect(b"* BOB joined\n")
    number(again, 0, 10)
    said, rest = spoken(listener, 10)
    assert said == [("BOB", f"{count} x") for count in range(10)] and not calm(rest)
    listener.expect_nothing(0.1)


@pytest.mark.long
def test_a_node_was_frozen_for_longer_than_its_lease(serve, nats):
    """It finds out when it wakes up. Who lost a name meanwhile is told so; whose name is still free has it again."""
    first, second = start(serve, nats, 2)
    ana, dora = first.enter("ana"), first.enter("dora")
    listener = second.enter("listener")
    number(dora, 0, 100)
    said, _ = spoken(listener, 100)
    first.signal(signal.SIGSTOP)
    ana.send(b"from the past\n")
    number(dora, 100, 200)
    assert {listener.read_line(), listener.read_line()} == {b"* ana left\n", b"* dora left\n"}
    thief = second.enter("ana")
    listener.expect(b"* ana joined\n")
    number(thief, 0, 100)
    spoken(listener, 100)
    first.signal(signal.SIGCONT)
    told = ana.read_to_end()
    assert told.endswith(b"error: this server was away, and ana is taken now\n")
    said, rest = spoken(dora, 100)
    assert said == [("ana", f"{count} x") for count in range(100)]
    assert sorted(calm(rest)) == ["* ana joined\n", "* ana left\n", "* dora left\n", "* listener joined\n"]
    dora.send(b"are you there?\n")
    said, rest = spoken(listener, 101)
    # ana's words of then are lost with her name: nobody may speak as somebody else.
    assert said == [*(("dora", f"{count} x") for count in range(100, 200)), ("dora", "are you there?")]
    assert calm(rest) == ["* dora joined\n"]
    dora.read_until(b"* this server was away, and the others heard that you left; you are back\n")
    again = first.enter("anna")
    assert again.welcome == "* you are anna; also here: ana, dora, listener\n"


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_cluster_loses_its_leader(serve, run, scratch, how):
    """Three servers keep each line. The others choose a new leader, which takes some seconds."""
    trio = Trio(run, scratch)
    first, second = start(serve, trio, 2, "--replicas", "3")
    listener, ana, bob = first.enter("listener"), first.enter("ana"), second.enter("bob")
    number(ana, 0, 50)
    number(bob, 0, 50)
    speaking = threading.Thread(target=speak_slowly, args=([ana, bob], 50, 150))
    speaking.start()
    leader = trio.leader()
    leader.process.signal(how)
    speaking.join()
    number(ana, 150, 200)
    number(bob, 150, 200)
    rest = compare(listener, [ana, bob], 200)
    # A node that was connected to the frozen one finds that out after seconds, and then looks for another one. If that
    # takes longer than a lease, it is taken for dead, and its people come back.
    assert how == signal.SIGSTOP or "left" not in str(rest)
    assert trio.leader(besides=leader)


@pytest.mark.long
def test_the_stream_is_full(serve, nats):
    """Nothing that is kept is thrown away for it: who speaks waits until the oldest lines are too old."""
    (server,) = start(serve, nats, 1, "--keep", "0.15", "--size", "0.1")
    listener, ana, bob = (server.enter(name) for name in ("listener", "ana", "bob"))
    before = server.memory(), nats.process.memory()
    number(ana, 0, 300, "x" * 500)
    number(bob, 0, 300, "x" * 500)
    rest = compare(listener, [ana, bob], 300, until=AGAIN)
    for name in rest:
        told = [line for line in rest[name] if "what you say" in line]
        assert told and told == ["* what you say waits: the stream is full\n", AGAIN] * (len(told) // 2), told
    assert server.memory() - before[0] < 10 * MIB
    assert nats.process.memory() - before[1] < 50 * MIB


@pytest.mark.long
def test_the_disk_of_nats_is_full(serve, run, scratch):
    """It takes nothing more, until there is room and it was started anew. Nothing is lost, and nothing comes twice."""
    disk = scratch / "disk"
    disk.mkdir()
    mount = 'mount --make-rprivate / && mount -t tmpfs -o size=110m disk "$0" && '
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "--mount", "sh", "-c", f"{mount} true", disk], capture_output=True).returncode
    ):
        pytest.skip("to mount a small disk it takes root on Linux")
    # The disk is there for NATS alone, and until this shell ends.
    nats = Nats(run, disk / "nats", before=["unshare", "--mount", "sh", "-c", f'{mount} "$@"; "$@"', disk])
    first, second = start(serve, nats, 2, "--size", "8")
    listener, ana, bob = first.enter("listener"), first.enter("ana"), second.enter("bob")
    number(ana, 0, 50)
    number(bob, 0, 50)
    with open(f"/proc/{nats.process.pid}/root{disk}/rest", "wb", buffering=0) as rest, pytest.raises(OSError):
        while True:
            rest.write(bytes(1 << 12))
    number(ana, 50, 100, "x" * 500)
    number(bob, 50, 100, "x" * 500)
    nats.process.await_log("no space left on device")
    waits = re.compile(r"^.* what you say waits: ", re.MULTILINE)
    assert wait_until(lambda: all(waits.search(node.log) for node in (first, second)))
    os.unlink(f"/proc/{nats.process.pid}/root{disk}/rest")
    (server,) = psutil.Process(nats.process.pid).children()
    server.terminate()
    compare(listener, [ana, bob], 100, until=AGAIN)


def test_a_slow_node_holds_nobody_up(serve, nats):
    """It was frozen for less than its lease. Then it hears what was said meanwhile, and nobody else waited for it."""
    first, second = start(serve, nats, 2)
    listener, ana, bob = first.enter("listener"), first.enter("ana"), second.enter("bob")
    with second.frozen():
        number(ana, 0, 2000)
        order, rest = spoken(listener, 2000)
    assert [text for _, text in order] == [f"{count} x" for count in range(2000)]
    heard, _ = spoken(bob, 2000)
    assert heard == order
    assert calm(rest) == ["* ana joined\n", "* bob joined\n"]


@pytest.mark.long
def test_who_floods_is_held_back_at_the_socket(serve, nats):
    """While NATS is frozen, nothing that is said is collected in memory: TCP holds back who says it."""
    (server,) = start(serve, nats, 1)
    listener, *flooders = (server.enter(name) for name in ("listener", "ana", "bob", "carla"))
    server.settle()
    before = server.memory()
    nats.process.signal(signal.SIGSTOP)
    line = b"x" * 4000 + b"\n"
    counts = {}
    for peer in flooders:
        peer.sock.settimeout(1)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 64 * MIB:
                sent += peer.sock.send(line[sent % len(line) :])
        counts[peer.name], rest = divmod(sent, len(line))
        assert sent < 16 * MIB
        peer.rest = rest and line[rest:]
    assert server.memory() - before < 10 * MIB
    nats.process.signal(signal.SIGCONT)
    total = sum(counts.values())
    # All read: who does not is dropped as too slow, as anywhere.
    assert converse([listener, *flooders], {}, lambda: listener.unread.count(b" says: ") >= total)
    said, rest = spoken(listener, total)
    for name, count in counts.items():
        assert sum(who == name for who, _ in said) == count
    while AGAIN not in rest:
        rest.append(listener.read_line().decode())
    assert [line for line in rest if "what you say" in line] == [WAITS, AGAIN]
    assert server.memory() - before < 10 * MIB


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_client_goes_on_at_another_node(serve, nats, run, how):
    """Its own is gone. It is at another one within three seconds, in its room and soon by its name, with no gap."""
    first, second = start(serve, nats, 2)
    bob = second.enter("bob")
    bob.send(b"/join kitchen\n")
    bob.read_until(b"* you are bob in kitchen; nobody else is here\n")
    words = [sys.executable, "features/nodes/client.py", f"127.0.0.1:{first.port}", f"127.0.0.1:{second.port}"]
    client = run(words, cwd=ROOT, stdin=subprocess.PIPE)
    client.popen.stdin.write(b"ana\n/join kitchen\n")
    client.popen.stdin.flush()
    client.await_log("you are ana in kitchen; also here: bob")
    bob.expect(b"* ana joined\n")
    speaking = threading.Thread(target=speak_slowly, args=([bob], 0, 300))
    speaking.start()
    client.await_log("^bob says: 50 x")
    with client.frozen():  # Ctrl-Z, for longer than a node may be silent
        time.sleep(3)
    client.await_log("^bob says: 100 x")
    assert "going on" not in client.log
    first.signal(how)
    watch = Stopwatch(client)
    client.await_log(rf"client.py: 127.0.0.1:{first.port} is gone; going on at 127.0.0.1:{second.port}$")
    watch.lap()
    assert watch.seconds < 3
    speaking.join()
    client.popen.stdin.write(b"back again\n")
    client.popen.stdin.flush()
    bob.expect(b"* ana left\n* ana joined\nana says: back again\n")
    client.await_log("^bob says: 299 x")
    if how == signal.SIGSTOP:
        first.signal(signal.SIGCONT)
        first.await_log(r"(left|dropped: name lost), 0 online$")
    heard = re.findall(r"^bob says: (\d+) x$", client.log, re.MULTILINE)
    assert heard == list(map(str, range(300)))
    lines = client.log.splitlines()
    assert lines.count("* ana left") == 1 and lines.count("* ana joined") == 0
    assert "error" not in client.log and "your name" not in client.log.partition("you are")[2]
    client.popen.stdin.write(b"/nick anna\n/quit\n")
    client.popen.stdin.flush()
    assert client.wait() == 1
    assert client.log.endswith("* ana is now anna\nclient.py: the server closed the connection\n")
    bob.expect(b"* ana is now anna\n* anna left\n")


def test_no_node_is_left(serve, nats, run):
    (server,) = start(serve, nats, 1)
    words = [sys.executable, "features/nodes/client.py", str(server.port)]
    client = run(words, cwd=ROOT, stdin=subprocess.PIPE)
    client.popen.stdin.write(b"ana\n")
    client.popen.stdin.flush()
    client.await_log("you are ana")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert client.wait() == 1
    assert client.log.endswith("client.py: the server closed the connection\n")
