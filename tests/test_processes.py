"""The process model's own: crashes, zombies, orphans, shared memory, idle users, a limit on children."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from harness import Stopwatch, wait_until
from promises import MODELS, ROOT, Model
from test_stopping import check_stopped

MODEL = "process_per_client"
PROC = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="/proc is Linux's")
FULL = b"error: the room is full\n"


@pytest.fixture
def server(serve):
    return serve(MODEL)


def children(server):
    """The server's children, those included that are dead and not reaped."""
    return psutil.Process(server.pid).children()


def child_of(server, peer):
    """The process that serves a client."""
    port = int(peer.name.rpartition(":")[2])
    for child in children(server):
        with contextlib.suppress(psutil.Error):  # another one that has just died
            if any(c.raddr and c.raddr.port == port for c in child.net_connections()):
                return child
    raise AssertionError(f"no child serves {peer.name}")


def talk(*peers):
    """Each says a word, and all the others hear it."""
    for number, speaker in enumerate(peers):
        speaker.send(b"word %d\n" % number)
        for listener in peers:
            if listener is not speaker:
                listener.expect_line(speaker, f"word {number}")


def stop(server):
    start = time.monotonic()
    server.signal(signal.SIGTERM)
    check_stopped(server, start)


# One child for each client


def test_a_child_for_each_client_and_no_zombies(server):
    peers = server.join(5)
    assert len(children(server)) == 5
    for count in range(4, -1, -1):
        peers.pop().close()
        assert wait_until(lambda count=count: len(children(server)) == count)
    stop(server)


@PROC
def test_a_child_holds_what_is_its_own(server):
    """Its client and the two pipes; of the others it could neither hear nor keep anything alive."""
    peers = server.join(5)
    for peer in peers:
        (connection,) = child_of(server, peer).net_connections("inet")
        assert connection.raddr.port == int(peer.name.rpartition(":")[2])
    assert not [c for c in psutil.Process(server.pid).net_connections("inet") if c.raddr]


@PROC
def test_a_child_writes_to_its_own_part_of_the_memory_alone(server):
    server.join(3)
    written = set()
    for process in server.processes():
        maps = re.findall(r"^(\S+) (\S+) (\S+) .*memfd:chat", Path(f"/proc/{process.pid}/maps").read_text(), re.M)
        writable = [offset for _, rights, offset in maps if "w" in rights]
        assert not maps if process.pid == server.pid else (len(maps), len(writable)) == (2, 1)
        written.update(writable)
    assert len(written) == 3


def test_many_come_and_go(server):
    """Places in memory are used again, and the next one hears nothing of who had it before."""
    alice, bob = server.join(2)
    for number in range(30):
        carol = server.connect()
        carol.send(b"I am number %d\n" % number * 20 + b"good-bye")
        carol.finish()
        for listener in (alice, bob):
            listener.expect_lines(carol, [f"I am number {number}"] * 20 + ["good-bye"])
        carol.expect_closed()
    assert wait_until(lambda: len(children(server)) == 2)
    talk(alice, bob)


# Newcomers


def rest(*processes):
    """Whether what was said is in the parent's hands: nobody has anything to do.

    (Who they are is found out before: that takes time, and who hangs for five seconds is ended.)
    """
    return all(process.status() == psutil.STATUS_SLEEPING for process in processes)


@PROC
@pytest.mark.parametrize("count", [1, 5])
def test_a_newcomer_hears_nothing_that_was_said_before_it_came(server, count):
    """Also when that could not be told yet, since a child is slow to take what was said before it."""
    alice, bob, carol = server.join(3)
    slow, *others = child_of(server, carol), child_of(server, alice), child_of(server, bob), psutil.Process(server.pid)
    slow.suspend()
    try:
        alice.send(b"one\n")
        bob.expect_line(alice, "one")
        for speaker in (alice, bob):
            speaker.send(b"too early\n" * count)
        assert wait_until(lambda: alice.taken() and bob.taken() and rest(*others))
        dave = server.connect()
        server.await_log(rf"{re.escape(dave.name)} joined, 4 online$")
        for speaker in (alice, bob):
            speaker.send(b"welcome\n")
    finally:
        slow.resume()
    heard = dave.read_line() + dave.read_line()
    assert sorted(heard.splitlines(keepends=True)) == sorted([alice.line("welcome"), bob.line("welcome")])
    dave.expect_nothing()
    for speaker, texts in {alice: ["one"] + ["too early"] * count, bob: ["too early"] * count}.items():
        expected = [speaker.line(text) for text in [*texts, "welcome"]]
        assert carol.hears(expected[-1], time.monotonic() + 10)
        lines = bytes(carol.unread).splitlines(keepends=True)
        assert [line for line in lines if line.startswith(speaker.name.encode())] == expected
    assert "dropped" not in server.log


@PROC
def test_newcomers_one_after_the_other_while_a_child_is_slow(server):
    """Each hears what was said since it came, and nothing that was said earlier."""
    alice, bob, carol = server.join(3)
    slow, child, parent = child_of(server, carol), child_of(server, bob), psutil.Process(server.pid)
    slow.suspend()
    try:
        alice.send(b"one\n")
        bob.expect_line(alice, "one")
        newcomers, speakers = [], [bob]
        for number in range(2):  # all of it before the slow one is taken for one that hangs
            speaker = speakers[-1]  # another each time: a second line of one who is not answered yet is not read
            speaker.send(f"before {number}\n".encode())
            assert wait_until(lambda speaker=speaker, child=child: speaker.taken() and rest(child, parent))
            newcomers.append(server.connect())
            speakers.append(newcomers[-1])
            server.await_log(rf"{re.escape(newcomers[-1].name)} joined, {4 + number} online$")
            child = child_of(server, newcomers[-1])
    finally:
        slow.resume()
    carol.send(b"the end\n")
    for index, newcomer in enumerate(newcomers):
        heard = newcomer.read_until(carol.line("the end")).removesuffix(carol.line("the end"))
        later = [(number, speakers[number]) for number in range(index + 1, 2)]
        expected = [speaker.line(f"before {number}") for number, speaker in later if speaker is not newcomer]
        assert sorted(heard.splitlines(keepends=True)) == sorted(expected)


# Crashes


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_crashes_costs_its_own_client_alone(server, number):
    alice, bob, carol = server.join(3)
    child_of(server, carol).send_signal(number)
    carol.expect_closed()
    reason = {signal.SIGKILL: "killed", signal.SIGSEGV: "segmentation fault"}[number]
    server.await_log(rf"{re.escape(carol.name)} dropped: {reason}, 2 online$")
    talk(alice, bob)
    assert len(children(server)) == 2
    talk(alice, bob, *server.join(1))


def test_children_that_crash_while_all_talk(server):
    alice, bob, *others = server.join(12)
    for number, victim in enumerate(others):
        victim.deaf = True
        text = f"line {number} " + "x" * 3000
        for _ in range(5):
            victim.offer(f"{text}\n".encode())
        child_of(server, victim).kill()
        alice.send(b"mark\n")
        heard = bob.read_until(alice.line("mark")).removesuffix(alice.line("mark"))
        assert victim.line(text) * 5 == heard + victim.line(text) * (5 - heard.count(b"\n"))
        bob.unread.clear()
        alice.unread.clear()
    server.await_log(" 2 online$")
    # What had been said by then may come late.
    alice.send(b"the end\n")
    bob.read_until(alice.line("the end"))
    bob.send(b"the end\n")
    alice.read_until(bob.line("the end"))
    server.check_idle()


def test_sigterm_and_sigint_are_for_the_parent(server):
    """A child leaves when the parent tells it to: Ctrl-C goes to all of them at once."""
    alice, bob = server.join(2)
    for peer in (alice, bob):
        for number in (signal.SIGINT, signal.SIGTERM):
            child_of(server, peer).send_signal(number)
    talk(alice, bob)
    stop(server)


def test_a_child_that_hangs_is_killed(server):
    """Only while it has not taken what was said the others wait, and that is a few seconds."""
    alice, bob, carol = server.join(3)
    child_of(server, carol).suspend()
    watch = Stopwatch(server)
    talk(alice, bob)
    assert watch.lap() < 8.0
    server.await_log(rf"{re.escape(carol.name)} dropped: killed, 2 online$")
    carol.expect_closed()


def test_stopping_with_a_child_that_hangs(server):
    alice, bob, carol = server.join(3)
    child_of(server, carol).suspend()
    stop(server)
    for peer in (alice, bob, carol):
        peer.expect_closed()


def test_all_of_them_stopped_for_a_while(server):
    """After Ctrl-Z nobody is to blame for the time that it took."""
    peers = server.join(5)
    for seconds in (0, 6):
        with server.frozen():
            peers[0].send(b"meanwhile\n")
            time.sleep(seconds)
        for peer in peers[1:]:
            peer.expect_line(peers[0], "meanwhile")
    server.signal_group(signal.SIGSTOP)
    server.signal_group(signal.SIGCONT)
    talk(*peers)
    assert "dropped" not in server.log


# The parent dies


def test_children_end_when_the_parent_is_killed(server):
    peers = server.join(10)
    for peer in peers[5:]:
        peer.deaf = True
        peer.send(b"half a line")
    named = shared_memory()
    server.signal(signal.SIGKILL)
    server.popen.wait()
    assert wait_until(lambda: not server.processes())
    for peer in peers:
        peer.expect_closed()
    assert shared_memory() == named
    assert re.fullmatch(r"(\S+ (listening on \S+|\S+ joined, \d+ online|\S+ left, \d+ online)\n)*", server.log)


def test_children_end_when_the_parent_is_killed_in_a_flood(server):
    peers = server.join(6)
    for peer in peers:
        peer.deaf = True
        peer.sock.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            peer.sock.sendall(b"flood\n" * 100_000)
    server.signal(signal.SIGKILL)
    server.popen.wait()
    assert wait_until(lambda: not server.processes())
    assert "Traceback" not in server.log


def shared_memory():
    """The names of all segments of shared memory."""
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


# Idle users


def test_idle_users_are_dropped(serve):
    server = serve(MODEL, "--idle", 3)
    quiet, loud = server.join(2)
    begun, watch = time.monotonic(), Stopwatch(server)
    for _ in range(100):
        loud.send(b"I am here\n")
        if not quiet._receive(time.monotonic() + 0.5) and quiet.ended:
            break
    line = loud.line("I am here")
    heard = quiet.read_to_end()
    assert time.monotonic() - begun > 2.0
    assert watch.lap() < 5.0
    count = heard.count(line)
    assert heard == line * count + b"error: idle for 3 seconds\n"
    assert count >= 2
    server.await_log(rf"{re.escape(quiet.name)} dropped: idle, 1 online$")
    watch.lap()
    loud.expect(b"error: idle for 3 seconds\n")
    loud.expect_closed()
    assert watch.lap() < 5.0
    server.check_room()


def test_who_hears_much_and_says_nothing_is_idle_in_the_order_of_time(serve):
    """Timers are sorted by who spoke last, not by who came first."""
    server = serve(MODEL, "--idle", 3)
    alice, bob, carol = server.join(3)
    for peer, listener in ((carol, bob), (alice, bob), (bob, carol)):
        time.sleep(0.3)
        peer.send(b"last words\n")
        listener.read_until(peer.line("last words"))
    for peer in (carol, alice, bob):
        peer.read_to_end()
    assert wait_until(lambda: server.log.count("dropped: idle") == 3)
    dropped = re.findall(r"(\S+) dropped: idle", server.log)
    assert dropped == [carol.name, alice.name, bob.name]
    server.check_idle()
    assert wait_until(lambda: not children(server))


@pytest.mark.parametrize("said", [b"\n", b"   \n", b"half a line"], ids=["newline", "blank", "half"])
def test_what_is_no_message_is_nothing_said(serve, said):
    server = serve(MODEL, "--idle", 1)
    peer = server.connect()
    peer.offer(said)
    peer.expect(b"error: idle for 1 seconds\n")
    peer.expect_closed()


def test_idle_with_much_unsent(serve):
    """A client that does not read is dropped as well, and nobody waits for it."""
    server = serve(MODEL, "--idle", 10)  # long enough for hold_up(), in which one only listens
    alice, bob = server.join(2)
    (stuck,) = server.join(1, receive_buffer=4096)
    said = server.hold_up(stuck, alice, bob)
    server.await_log(rf"{re.escape(stuck.name)} dropped: idle")
    assert said.startswith(stuck.read_to_end().removesuffix(b"error: idle for 10 seconds\n"))


def test_a_child_that_hangs_when_its_client_is_dropped_as_idle(serve):
    server = serve(MODEL, "--idle", 1)
    server.connect()
    server.await_log("joined, 1 online$")
    children(server)[0].suspend()
    server.await_log("dropped: idle, 0 online$")
    assert not children(server)


def test_never(serve):
    server = serve(MODEL, "--idle", 0)
    (peer,) = server.join(1)
    peer.expect_nothing(2.0)
    server.check_room()


def test_in_five_minutes_by_default(server):
    (peer,) = server.join(1)
    peer.expect_nothing(2.0)


@pytest.mark.parametrize("seconds", ["", "x", "-1", "+5", " 5", "1.5", "1_000", "inf", "nan", "３", "9" * 5000])
def test_bad_seconds(serve, seconds):
    server = serve(MODEL, "--idle", seconds, announce=False)
    assert server.wait() == 2
    assert server.log.startswith("usage: server.py ")


@pytest.mark.parametrize("seconds", [1, 300, 10**9])
def test_good_seconds(serve, seconds):
    serve(MODEL, "--idle", seconds).check_room()


# Limits


def test_no_more_processes(serve):
    """Where the system has no process left the newcomer is told so, and the room goes on."""
    if os.getuid() == 0:
        pytest.skip("root may have as many as it likes")
    mine = sum(p.num_threads() for p in psutil.process_iter() if p.uids().real == os.getuid())
    # By Python, since not every sh has `ulimit -u`.
    limit = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_NPROC, ({mine + 10},) * 2)"
    become = f"{limit}; os.execv(sys.argv[1], sys.argv[1:])"
    server = serve(MODEL, shell=f'exec {shlex.join([sys.executable, "-c", become])} "$@"')
    peers = [server.connect() for _ in range(30)]
    server.await_log(r"refused: the room is full, \d+ online$")
    assert any(peer.read_to_end() == FULL for peer in peers[-5:])


def test_as_many_children_as_max_clients(serve, scratch, run):
    """The limit itself is too high for a test, so this is the server with a lower one."""
    text = (ROOT / MODEL / "server.py").read_text()
    assert text.count("\nMAX_CLIENTS = 2000") == 1
    program = scratch / "server.py"
    program.write_text(text.replace("\nMAX_CLIENTS = 2000", "\nMAX_CLIENTS = 5"))
    server = serve(Model("five", (MODELS[0].command[0], str(program))))
    for _ in range(3):
        peers = server.join(5)
        newcomer = server.connect()
        newcomer.expect(FULL)
        newcomer.expect_closed()
        talk(*peers)
        for peer in peers:
            peer.close()
        assert wait_until(lambda: not children(server))


def test_the_limit_is_for_descriptors_too(serve):
    server = serve(MODEL, nofile=40)
    peers = [server.connect() for _ in range(40)]
    server.await_log(r"refused: the room is full, \d+ online$")
    inside = int(re.findall(r"joined, (\d+) online", server.log)[-1])
    assert inside >= 20
    talk(*peers[:inside])


def test_children_of_somebody_else(serve):
    """Who becomes the server by exec may have had children: they are no clients."""
    server = serve(MODEL, shell='sleep 1000 & exec "$@"')
    alice, bob = server.join(2)
    (stranger,) = [child for child in children(server) if child.name() == "sleep"]
    stranger.kill()
    assert wait_until(lambda: not stranger.is_running() or stranger.status() == psutil.STATUS_ZOMBIE)
    talk(alice, bob)


# The client


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_keyboard_s_process_does_not_outlive_its_client(server, run, number):
    """However the client ends: nothing typed later must go to a process that nobody sees."""
    command = [sys.executable, str(ROOT / MODEL / "client.py"), server.host, str(server.port)]
    process = run(command, stdin=subprocess.PIPE)
    server.await_log("joined, 1 online$")
    assert wait_until(lambda: len(process.processes()) == 2)
    time.sleep(0.2)
    process.signal(number)
    assert process.wait() == -number
    assert wait_until(lambda: not process.processes())
    server.await_log("left, 0 online$")
    process.popen.stdin.close()
