"""nodes/ where two things happen at once: a stop after a freeze, a drop while NATS is away, a death within /join."""

import contextlib
import dataclasses
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from cluster import NODES, Nats, skip_without_nats
from harness import wait_until
from promises import ROOT

skip_without_nats()


@pytest.fixture
def nats(run, scratch):
    """A NATS server of the test's own."""
    return Nats(run, scratch / "nats")


@pytest.fixture
def client(run):
    """Start client.py: `client("ana", server, server)`."""

    def start(name, *servers):
        words = [sys.executable, "features/nodes/client.py", *(f"127.0.0.1:{server.port}" for server in servers)]
        process = run(words, cwd=ROOT, stdin=subprocess.PIPE)
        types(process, name)
        process.await_log(f"you are {name}; ")
        return process

    return start


def types(client, line):
    """Have a client.py say a line."""
    client.popen.stdin.write(f"{line}\n".encode())
    client.popen.stdin.flush()


def test_who_went_to_another_room_misses_nothing_when_it_comes_back(serve, nats, client):
    """Of a message of five lines it had all, in the room that it left. In the new one it had none so far."""
    first, second = (serve(NODES, "--nats", nats.url) for _ in range(2))
    bob, carla = second.enter("bob"), second.enter("carla")
    carla.send(b"/join side\n")
    carla.read_until(b"* you are carla in side; nobody else is here\n")
    ana = client("ana", first, second)
    bob.send(b"one\ntwo\nthree\nfour\nfive\n")
    ana.await_log("^bob says: five$")
    types(ana, "/join side")
    ana.await_log("you are ana in side; also here: carla$")
    first.signal(signal.SIGKILL)
    carla.expect(b"* ana joined\n")
    carla.send(b"a\nb\n")
    carla.expect(b"* ana left\n* ana joined\n")
    carla.send(b"c\nd\ne\n")
    ana.await_log("^carla says: e$")
    lines = ana.log.partition("in side; also here: carla\n")[2].splitlines()
    assert [line for line in lines if not line.startswith(("client.py", "* what"))] == [
        *("carla says: a", "carla says: b", "* ana left", "carla says: c", "carla says: d", "carla says: e"),
    ]


def test_who_heard_nothing_yet_is_not_told_the_history_when_it_comes_back(serve, nats, client):
    first, second = (serve(NODES, "--nats", nats.url) for _ in range(2))
    bob = second.enter("bob")
    bob.send(b"".join(b"%d\n" % count for count in range(50)))
    bob.send(b"/history 1\n")
    assert bob.read_line().endswith(b"bob says: 49\n")
    ana = client("ana", first, second)
    ana.await_log("bob says: 49$")
    before = ana.log
    assert before.count("bob says: ") == 20
    first.signal(signal.SIGKILL)
    bob.read_until(b"* ana left\n* ana joined\n")
    bob.send(b"welcome\n")
    ana.await_log("^bob says: welcome$")
    lines = ana.log.removeprefix(before).splitlines()
    assert [line for line in lines if not line.startswith(("client.py", "* what"))] == [
        "* ana left",
        "bob says: welcome",
    ]


def test_what_is_asked_of_the_door_and_cannot_be(serve, nats):
    server = serve(NODES, "--nats", nats.url)
    peer = server.visit()
    peer.expect(b"your name?\n")
    for after in "x", "-1", "²":
        peer.send(f"/numbers {after} lobby\n".encode())
        peer.expect(b"error: it is /numbers [AFTER ROOM], AFTER a number\nyour name?\n")


def test_who_is_dropped_while_it_takes_another_name_has_neither(serve, nats):
    """NATS is frozen for less than a lease, so that /nick takes longer than ana may be silent."""
    first, second = serve(NODES, "--nats", nats.url, "--idle", "0.04"), serve(NODES, "--nats", nats.url)
    bob, ana = second.enter("bob"), first.enter("ana")
    bob.expect(b"* ana joined\n")
    with nats.process.frozen():
        ana.send(b"/nick anna\n")
        first.await_log("ana@.* dropped: idle, 0 online")
    bob.read_until(b"* ana is now anna\n")
    bob.read_until(b"* anna left\n")
    for name in "ana", "anna":
        assert wait_until(lambda name=name: is_free(second, name), every=0.2)
    assert "Traceback" not in first.log


def is_free(server, name):
    """Whether a name can be had."""
    peer = server.visit()
    peer.expect(b"your name?\n")
    peer.send(f"{name}\n".encode())
    answer = peer.read_line()
    peer.close()
    return answer.startswith(b"* you are ")


@pytest.mark.long
def test_a_node_that_was_frozen_and_is_to_stop_says_nothing_by_lost_names(serve, nats):
    first, second = (serve(NODES, "--nats", nats.url) for _ in range(2))
    ana, listener = first.enter("ana"), second.enter("listener")
    ana.expect(b"* listener joined\n")
    with first.frozen():
        ana.send(b"from the past\n")
        listener.read_until(b"* ana left\n")
        second.enter("ana")
        listener.read_until(b"* ana joined\n")
        first.signal(signal.SIGTERM)
    assert first.wait() == 0
    listener.expect_nothing(1)


SLEEPER = """
import os, runpy, sys, time
slept, now = sys.argv.pop(1), time.monotonic
time.monotonic = lambda: now() - (float(open(slept).read()) if os.path.exists(slept) else 0)
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.long
def test_a_machine_that_slept(serve, nats, scratch):
    """The clock that Python's loop has does not count that, on Linux and macOS. A lease ends all the same."""
    words = [sys.executable, "-c", SLEEPER, scratch / "slept", *NODES.command[1:]]
    first = serve(dataclasses.replace(NODES, command=tuple(map(str, words))), "--nats", nats.url)
    second = serve(NODES, "--nats", nats.url)
    ana, listener = first.enter("ana"), second.enter("listener")
    ana.expect(b"* listener joined\n")
    with first.frozen():
        then = time.monotonic()
        ana.send(b"from the past\n")
        listener.read_until(b"* ana left\n")
        thief = second.enter("ana")
        listener.read_until(b"* ana joined\n")
        (scratch / "new").write_text(str(time.monotonic() - then))
        (scratch / "new").rename(scratch / "slept")
    assert ana.read_to_end().endswith(b"error: this server was away, and ana is taken now\n")
    thief.send(b"now\n")
    listener.expect(b"ana says: now\n")


class Between:
    """What lies between a node and NATS. It lets through one message that begins so, and sends the node a signal."""

    def __init__(self, nats, last, number=signal.SIGKILL):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self.listener.getsockname()[1]}"
        self.nats, self.last, self.number, self.victim = nats, last.encode(), number, None
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        here, _ = self.listener.accept()
        with self.listener, here, socket.create_connection(("127.0.0.1", self.nats.port)) as there:
            back = threading.Thread(target=self.carry, args=[there, here])
            back.start()
            self.carry(here, there)
            there.shutdown(socket.SHUT_WR)  # NATS reads all before that, and closes
            back.join()

    def carry(self, source, target):
        with contextlib.suppress(ConnectionResetError):  # the node is killed
            while data := source.recv(1 << 16):
                victim = self.victim if b"HPUB " + self.last in data else None
                if victim:  # before it goes on: otherwise the answer could come first
                    victim.signal(self.number)
                    wait_until(lambda victim=victim: not victim.moving())
                    self.victim = None
                with contextlib.suppress(OSError):
                    target.sendall(data)
                if victim and self.number == signal.SIGKILL:
                    return


DEATHS = {  # after which message a node dies: what somebody wants of it then, and what the two rooms hear of that
    "chat.room.lobby": ("ana", "/join side", ["* ana left"], []),
    "$KV.chat.name.bob-": ("bob", "/join side", ["* bob left"], ["* bob joined", "* bob left"]),
    "chat.room.side": ("carla", "/join side", ["* carla left"], ["* carla joined", "* carla left"]),
    "$KV.chat.name.dodo-": ("dora", "/nick dodo", ["* dora is now dodo", "* dodo left"], []),
    "$KV.chat.name.eva-": ("eva", "/nick eve", ["* eva is now eve", "* eve left"], []),
    "$KV.chat.name.flo-": ("", "flo", ["* flo joined", "* flo left"], []),
}


@pytest.mark.long
def test_a_node_dies_in_the_middle_of_something(serve, nats):
    """What it had begun the others end. So nobody hears of a leaving who has not heard of the coming."""
    well = serve(NODES, "--nats", nats.url)
    listeners = well.enter("lobbyist"), well.enter("sidler")
    listeners[1].send(b"/join side\n")
    listeners[1].read_until(b"in side; nobody else is here\n")
    heard = ([], [])
    for last, (name, words, *_) in DEATHS.items():
        between = Between(nats, last)
        victim = serve(NODES, "--nats", between.url)
        peer = victim.enter(name) if name else victim.visit()
        between.victim = victim
        peer.send(f"{words}\n".encode())
        victim.wait()
    for peer, lines, which in zip(listeners, heard, (2, 3), strict=True):
        wanted = [line for death in DEATHS.values() for line in death[which]]
        while not set(wanted) <= set(lines):
            lines.append(peer.read_line().decode().strip())
        for name, words, *rest in DEATHS.values():
            about = rf"\* ({name or words}|{words.split()[-1]}) "
            lines_about = [line for line in lines if re.match(about, line)]
            entered = [f"* {name} joined"] if name and which == 2 else []
            assert lines_about == entered + rest[which - 2]
    names = [name or words for name, words, *_ in DEATHS.values()]
    for name in [*names, "dodo", "eve"]:
        assert wait_until(lambda name=name: is_free(well, name), every=0.2), name
    listeners[1].expect_nothing(0.1)


@pytest.mark.long
def test_a_node_is_frozen_while_somebody_comes_in(serve, nats):
    """It is taken for dead, and its name for free, before it knows that it has it."""
    between = Between(nats, "$KV.chat.name.eva-", signal.SIGSTOP)
    first, second = serve(NODES, "--nats", between.url), serve(NODES, "--nats", nats.url)
    bob, eva = second.enter("bob"), first.visit()
    between.victim = first
    eva.send(b"eva\n")
    bob.expect(b"* eva joined\n* eva left\n")
    again = second.enter("eva")
    first.signal(signal.SIGCONT)
    eva.expect(b"your name?\nerror: eva is taken\nyour name?\n")
    again.send(b"here I am\n")
    bob.expect(b"* eva joined\neva says: here I am\n")


def test_a_name_is_given_back_after_all_have_heard_of_it(serve, nats):
    """Of /nick. Or somebody else could come by a name that is still there for all who listen."""
    between = Between(nats, "$KV.chat.name.ana-", signal.SIGSTOP)
    first, second = serve(NODES, "--nats", between.url), serve(NODES, "--nats", nats.url)
    ana, bob = first.enter("ana"), second.enter("bob")
    between.victim = first
    ana.send(b"/nick anna\n")
    assert wait_until(lambda: is_free(second, "ana"), every=0.1)
    bob.expect(b"* ana is now anna\n* ana joined\n* ana left\n")


def test_who_waits_at_the_door_for_nats_is_not_idle(serve, nats):
    """It is let in after a time in which others who were silent are dropped, and what it has said is done."""
    server = serve(NODES, "--nats", nats.url, "--idle", "0.05")
    ana, bob = server.enter("ana"), server.visit()
    with nats.process.frozen():
        bob.send(b"bob\n/list\n")
        bob.await_taken()
        ana.send(b"/list\n")
        ana.expect(b"* here: ana\n")
        server.await_log("ana@.* dropped: idle")
    bob.expect(b"your name?\n* you are bob; ")
    bob.read_until(b"* here: bob\n")


def test_addresses(run):
    """An IPv6 host needs no brackets, unless a port follows after a colon."""
    shown = {
        ("::1", "1"): "[::1]:1",
        ("[::1]:1",): "[::1]:1",
        ("[::1]", "1"): "[::1]:1",
        ("localhost", "1"): "localhost:1",
        ("localhost:1",): "localhost:1",
        ("127.0.0.1:2", "1"): "127.0.0.1:1",
        ("fe80::1%nowhere",): "[fe80::1%nowhere]:9669",
    }
    clients = {words: run([sys.executable, "features/nodes/client.py", *words], cwd=ROOT) for words in shown}
    for words, client in clients.items():
        assert client.wait() == 1
        assert client.log.startswith(f"client.py: cannot connect to {shown[words]}: "), words
