"""nodes/: many server processes and one room, over NATS JetStream, with nothing at fault."""

import contextlib
import re
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from cluster import NODES, Nats, compare, number, skip_without_nats, spoken
from harness import Stopwatch, free_port

skip_without_nats()


@pytest.fixture
def nats(run, scratch):
    """A NATS server of the test's own."""
    return Nats(run, scratch / "nats")


@pytest.fixture
def nodes(serve, nats):
    """Start nodes: `nodes(3)`."""
    return lambda count, *args: [serve(NODES, "--nats", nats.url, *args) for _ in range(count)]


def test_all_hear_all_in_one_order(nodes):
    first, second, third = nodes(3)
    listener = first.enter("listener")
    ana, bob, carla = first.enter("ana"), second.enter("bob"), third.enter("carla")
    for peer in ana, bob, carla:
        number(peer, 0, 200)
    rest = compare(listener, [ana, bob, carla], 200)
    assert rest == {
        "listener": ["* ana joined\n", "* bob joined\n", "* carla joined\n"],
        "ana": ["* bob joined\n", "* carla joined\n"],
        "bob": ["* carla joined\n"],
        "carla": [],
    }


def test_joins_leaves_and_lists_hold_over_all_nodes(nodes):
    first, second = nodes(2)
    ana, bob = first.enter("ana"), second.enter("bob")
    assert bob.welcome == "* you are bob; also here: ana\n"
    ana.expect(b"* bob joined\n")
    bob.send(b"/list\n/rooms\n")
    bob.expect(b"* here: ana, bob\n* rooms: lobby (2)\n")
    bob.send(b"/pm ana a secret\n/pm carla another\n/pm bob mine\n")
    ana.expect(b"bob whispers: a secret\n")
    bob.expect(b"* you whisper to ana: a secret\n")
    bob.expect(b"error: nobody here is called carla\nerror: that is you\n")
    bob.send(b"/nick ANA\n/nick Bob\n/nick bobby\n/me waves\n")
    bob.expect(b"error: ANA is taken\n* bob is now Bob\n* Bob is now bobby\n")
    ana.expect(b"* bob is now Bob\n* Bob is now bobby\n~ bobby waves\n")
    carla = first.enter("bob")
    assert carla.welcome == "* you are bob; also here: ana, bobby\n"
    for peer in ana, bob:
        peer.expect(b"* bob joined\n")
    carla.close()
    bob.expect(b"* bob left\n")
    ana.expect(b"* bob left\n")
    bob.send("one\u2028line\n".encode())
    ana.expect("bobby says: one\u2028line\n".encode())
    ana.send(b"/history 2\n")
    assert re.fullmatch(rb"\[....-..-.. ..:..\] ~ bobby waves\n", ana.read_line())
    assert ana.read_line().endswith("] bobby says: one\u2028line\n".encode())


def test_a_room_hears_nothing_of_another(nodes):
    first, second = nodes(2)
    ana, bob, carla = first.enter("ana"), second.enter("bob"), first.enter("carla")
    ana.expect(b"* bob joined\n* carla joined\n")
    bob.expect(b"* carla joined\n")
    bob.send("/join küche\nhello?\n/history 1\n".encode())
    bob.expect("* you are bob in küche; nobody else is here\n".encode())
    assert bob.read_line().endswith(b"] bob says: hello?\n")
    for peer in ana, carla:
        peer.expect(b"* bob left\n")
    ana.send("hello\n/join KÜCHE\n".encode())
    carla.expect(b"ana says: hello\n* ana left\n")
    ana.expect("* you are ana in küche; also here: bob\n".encode())
    assert ana.read_line().endswith(b"] bob says: hello?\n")
    ana.send(b"here I am\n/rooms\n/join lobby\n")
    bob.expect(b"* ana joined\nana says: here I am\n* ana left\n")
    ana.expect("* rooms: küche (2), lobby (1)\n* you are ana; also here: carla\n".encode())
    carla.expect(b"* ana joined\n")
    bob.send(b"/join no room\n/join\n/join K\xc3\xbcche\n")
    bob.expect(b"error: a name has 1 to 20 letters, digits, - and _, and begins with a letter\n")
    bob.expect(b"error: it is /join ROOM\nerror: you are there\n")


def test_one_name_at_two_doors_at_once(nodes):
    """Of those who want the same name in the same moment, at whichever node, one is let in."""
    servers = nodes(3)
    for count in range(10):
        peers = [server.visit() for server in servers]
        for peer in peers:
            peer.expect(b"your name?\n")
        for peer in peers:
            peer.send(f"name{count}\n".encode())
        answers = [peer.read_line() for peer in peers]
        assert sorted(answer.startswith(b"* you are") for answer in answers) == [False, False, True]
        assert answers.count(b"error: name%d is taken\n" % count) == 2
        for peer in peers:
            peer.close()


def test_what_was_said_outlives_the_nodes(nodes):
    """The history is the stream's. A node that starts later knows it, and reads no more of it than it needs."""
    (first,) = nodes(1)
    ana, bob = first.enter("ana"), first.enter("bob")
    number(ana, 0, 1500)
    spoken(bob, 1500)
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    assert first.log.endswith(" bye\n")
    (second,) = nodes(1)
    carla = second.enter("carla")
    assert carla.welcome == "* you are carla; nobody else is here\n"
    lines = [carla.read_line() for _ in range(20)]
    assert [line.split()[-2:] for line in lines] == [[b"%d" % count, b"x"] for count in range(1480, 1500)]
    carla.send(b"/history 200\n/history 201\n")
    lines = [carla.read_line() for _ in range(200)]
    assert [line.split()[-2:] for line in lines] == [[b"%d" % count, b"x"] for count in range(1300, 1500)]
    carla.expect(b"error: it is /history [COUNT], COUNT from 1 to 200\n")


def next_line(peer):
    """The next line that is not empty. Empty ones say that the node lives."""
    while (line := peer.read_line()) == b"\n":
        pass
    return line


def test_who_wants_the_numbers_has_them(nodes):
    """A program that comes back says the last number that it had, and hears what came after it, once."""
    (server,) = nodes(1)
    ana, bob = server.enter("ana"), server.visit()
    bob.send(b"/numbers\nbob\n")
    bob.expect(b"your name?\n")
    assert re.fullmatch(rb"\d+ \* you are bob; also here: ana\n", next_line(bob))  # the number of its "joined"
    for count in range(10):
        number(ana, count, count + 1)
        ana.await_taken()
    lines = [next_line(bob).split(b" ", 1) for _ in range(10)]
    assert [line for _, line in lines] == [b"ana says: %d x\n" % count for count in range(10)]
    numbers = [int(count) for count, _ in lines]
    assert numbers == sorted(numbers) and numbers[3] < numbers[4]
    bob.close()
    ana.expect(b"* bob joined\n* bob left\n")
    again = server.visit()
    again.send(b"/numbers %d lobby\nbob\n" % numbers[3])
    again.expect(b"your name?\n")
    for count, line in lines[4:]:
        assert next_line(again) == count + b" " + line
    assert next_line(again).endswith(b"* bob left\n")
    assert next_line(again).endswith(b"* you are bob; also here: ana\n")
    again.expect(b"\n\n")  # from now on nothing comes but that the node lives


# Starting and stopping


def test_without_nats_it_starts_one(serve):
    server = serve(NODES)
    assert re.match(r"..:..:.. listening on 127.0.0.1:\d+\n", server.log)
    folder = Path(server.await_log(r"this is node \w{8}, and NATS is started in (.*) while this node runs")[1])
    assert (folder / "jetstream").is_dir()
    ana, bob = server.enter("ana"), server.enter("bob")
    bob.send(b"hello\n")
    ana.expect(b"* bob joined\nbob says: hello\n")
    then = time.monotonic()
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    assert time.monotonic() - then < 30
    assert not folder.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_node_that_is_killed_takes_its_own_nats_along(serve):
    server = serve(NODES)
    folder = server.await_log("NATS is started in (.*) while")[1]
    (child,) = psutil.Process(server.pid).children()
    server.signal(signal.SIGKILL)
    try:
        child.wait(60)
    finally:
        shutil.rmtree(folder)


def test_nats_that_cannot_be_used(serve, run, scratch):
    """One line and status 1."""
    plain = Nats(run, scratch / "plain", js=False)
    locked = Nats(run, scratch / "locked", "--user", "ana", "--pass", "secret")
    old, silent = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=be_old, args=[old], daemon=True).start()
    of = "nats://127.0.0.1:{}".format
    reasons = {
        of(free_port()): "connection refused",
        plain.url: "it has no JetStream: start it with nats-server -js",
        locked.url: "it wants credentials: --nats nats://USER:PASSWORD@HOST:PORT",
        locked.url.replace("//", "//ana:wrong@"): "it wants credentials: --nats nats://USER:PASSWORD@HOST:PORT",
        of(old.getsockname()[1]): r"it is too old: version 2\.9, and 2\.11 is needed",
        of(silent.getsockname()[1]): "it does not answer",
        "somewhere": "somewhere is no nats://HOST:PORT",
        "nats://:4222": "nats://:4222 is no nats://HOST:PORT",
    }
    servers = {url: serve(NODES, "--nats", url, announce=False) for url in reasons}
    for url, server in servers.items():
        assert server.wait() == 1, server.log
        shown = re.escape(url.replace("ana:wrong@", ""))
        assert re.fullmatch(f"server.py: cannot use NATS at {shown}: ({reasons[url]})\n", server.log), server.log
    good = serve(NODES, "--nats", locked.url.replace("//", "//ana:secret@"))
    good.enter("ana")
    old.close()
    silent.close()


def be_old(listener):
    """Say what a NATS server of 2021 says to whoever connects."""
    with contextlib.suppress(OSError):
        while True:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(b'INFO {"server_id":"x","version":"2.9.0","headers":true,"max_payload":1048576}\r\n')
                while data := sock.recv(4096):
                    if b"PING" in data:
                        sock.sendall(b"PONG\r\n")


def test_it_stops_while_nats_is_away(serve, nats):
    server = serve(NODES, "--nats", nats.url)
    ana, bob = server.enter("ana"), server.enter("bob")
    nats.process.signal(signal.SIGSTOP)
    ana.send(b"hello\n")
    bob.await_taken()
    watch = Stopwatch(server)
    server.signal(signal.SIGTERM)
    assert watch.until(lambda: not server.running) < 3
    assert server.wait() == 0 and server.log.endswith(" bye\n")


def test_when_it_stops_what_was_read_is_told_everywhere(nodes):
    first, second = nodes(2)
    ana, bob = first.enter("ana"), second.enter("bob")
    ana.expect(b"* bob joined\n")
    number(ana, 0, 300)
    ana.await_taken()
    first.signal(signal.SIGTERM)
    assert first.wait() == 0
    said, _ = spoken(bob, 300)
    assert said == [("ana", f"{count} x") for count in range(300)]
    bob.expect(b"* ana left\n")
    again = second.enter("ana")
    assert again.welcome == "* you are ana; also here: bob\n"


def test_a_newcomer_is_told_of_nobody_who_has_left(nodes):
    """Names are freed after their `left` was told. Who comes in between would never hear that they are gone."""
    (server,) = nodes(1)
    server.join(2)
    for _ in range(3):
        for _ in range(40):
            server.connect().reset()
        server.join(1)  # all who are in the room must hear that those have left, and know of nobody else
