"""What the tests of nodes/ share: NATS servers, nodes, and people who say numbered lines and count what they hear."""

import json
import os
import re
import shutil
import sys
import sysconfig
import time
import urllib.request

import pytest
from harness import DEADLINE, free_port, wait_until
from promises import NO_LIMITS, Model

PROGRAM = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
NODES = Model(
    "nodes",
    (sys.executable, "features/nodes/server.py", *NO_LIMITS),
    files=("server.py", "shared.py"),
    door=True,
    ahead=1 << 14,
)
SPOKEN = re.compile(rb"(?:\d+ )?(\S+) says: (.*)\n")


def skip_without_nats():
    """Skip a whole file of tests where NATS is missing."""
    if not os.environ.get("CHAT_ALL_PROGRAMS"):
        pytest.importorskip("nats", reason="no nats-py")
        if not PROGRAM:
            pytest.skip("no nats-server", allow_module_level=True)


class Nats:
    """A NATS server with JetStream, on the same port and in the same folder however often it is started."""

    def __init__(self, run, folder, *args, js=True, before=()):
        """`before`: the words of a program that is to start it."""
        self.run, self.port, self.args, self.before = run, free_port(), args, before
        self.store = ["-js", "-sd", folder] if js else []
        self.url = f"nats://127.0.0.1:{self.port}"
        self.process = None
        self.start()

    def start(self, ready=True):
        """Start it, and wait until it takes connections."""
        words = [*self.before, PROGRAM, "-a", "127.0.0.1", "-p", self.port, *self.store, *self.args]
        self.process = self.run(list(map(str, words)))
        if ready:
            self.process.await_log("Server is ready")
        return self

    def stop(self, number):
        """End it with a signal."""
        self.process.signal(number)
        self.process.wait()


class Trio:
    """Three NATS servers that are one cluster, and keep everything three times."""

    def __init__(self, run, folder):
        routes = [f"nats://127.0.0.1:{free_port()}" for _ in range(3)]
        self.servers = [
            Nats(
                run,
                folder / f"nats{number}",
                *("--cluster_name", "chat", "--cluster", route, "--routes", ",".join(routes)),
                *("--server_name", f"nats{number}", "-m", free_port()),
            )
            for number, route in enumerate(routes)
        ]
        self.url = ",".join(server.url for server in self.servers)

    def leader(self, besides=None):
        """The one that leads the stream of what is said, as the others say besides one that is not asked."""

        def ask():
            for server in self.servers:
                if server is besides:
                    continue
                with urllib.request.urlopen(f"http://127.0.0.1:{server.args[-1]}/jsz?streams=1", timeout=60) as answer:
                    for account in json.load(answer).get("account_details", []):
                        for stream in account.get("stream_detail", []):
                            name = stream.get("cluster", {}).get("leader")
                            if stream["name"] == "chat" and name:
                                leader = self.servers[int(name[-1])]
                                return leader if leader is not besides else None
            return None

        return wait_until(ask, every=0.1)


def spoken(peer, count):
    """The next lines that people say, as (name, text), and the other lines that come meanwhile."""
    __tracebackhide__ = True
    said, others = [], []
    while len(said) < count:
        line = peer.read_line()
        if found := SPOKEN.fullmatch(line):
            said.append((found[1].decode(), found[2].decode()))
        else:
            others.append(line.decode())
    return said, others


def compare(listener, speakers, count, elsewhere=(), until=None):
    """Each of the speakers has said so many numbered lines. All must have heard all but their own, in one order.

    The listener has said nothing, and so has heard all. `elsewhere`: others who have said nothing. `until`: a line that
    all hear in the end. Returns what else came, for each.
    """
    __tracebackhide__ = True
    order, others = spoken(listener, count * len(speakers))
    rest = {listener.name: others}
    for speaker in speakers:
        numbers = [int(text.split()[0]) for name, text in order if name == speaker.name]
        if numbers != list(range(count)):
            listener.fail(f"of {speaker.name} it heard {numbers}")
    for peer in [*speakers, *elsewhere]:
        expected = [line for line in order if line[0] != peer.name]
        heard, rest[peer.name] = spoken(peer, len(expected))
        if heard != expected:
            where = next(number for number in range(len(heard)) if heard[number] != expected[number])
            peer.fail(f"{peer.name} heard another order: {heard[where:][:5]}", str(expected[where:][:5]).encode())
    for peer in [listener, *speakers, *elsewhere]:
        patience = 0.2 if until is None or until in rest[peer.name] else DEADLINE
        while peer.hears(b"\n", time.monotonic() + patience):
            line = peer.read_line()
            if SPOKEN.fullmatch(line):
                peer.fail(f"{peer.name} heard a line that nobody said, or twice: {line}")
            rest[peer.name].append(line.decode())
            patience = patience if line.decode() != until else 0.2
    return rest


def number(peer, first, last, text="x"):
    """Say numbered lines."""
    peer.send(b"".join(b"%d %s\n" % (number, text.encode()) for number in range(first, last)))
