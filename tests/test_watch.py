"""watch.py: what it records of programs whose waits are known, and of each server and sketch; and what it shows."""

import contextlib
import dataclasses
import json
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import termios
import textwrap
import types

import pexpect
import psutil
import pytest
from harness import wait_until
from promises import MODELS, ROOT, Model
from sketches import BREAKS

WATCH = [sys.executable, str(ROOT / "lessons" / "watch.py")]


@pytest.fixture
def adopt(reaper):
    """Have the program that a watch.py watches ended with the test: it has a process group of its own."""
    groups = []

    def note(process):
        with contextlib.suppress(psutil.Error):
            watcher = psutil.Process(process.pid)
            wait_until(lambda: watcher.children() or watcher.status() == psutil.STATUS_ZOMBIE)
            for child in watcher.children():
                groups.append(child.pid)
                reaper.begin_group(child.pid)
        return process

    yield note
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        reaper.end_group(group)


@pytest.fixture
def record(run, scratch, adopt):
    """Record a program, given as its source, to its end: `record("import time; time.sleep(1)")` gives a Recording."""

    def start(source, *arguments, status=0, **options):
        program, file = scratch / "program.py", scratch / "recording.json"
        program.write_text(textwrap.dedent(source))
        process = adopt(run([*WATCH, "--record", str(file), str(program), *arguments], **options))
        assert process.wait() == status, process.log
        return Recording(file, process.log)

    return start


class Recording:
    """What is in a file of watch.py's."""

    def __init__(self, path, log=""):
        self.path, self.printed = path, log
        self.data = json.loads(path.read_text())
        self.lanes = [lane["name"] for lane in self.data["lanes"]]

    def spans(self, name):
        """The spans of the lane of that name, in their order."""
        number = self.lanes.index(name)
        return [types.SimpleNamespace(**span) for span in self.data["spans"] if span["lane"] == number]

    def waits(self, name):
        """State, call and what of each wait of a lane, in their order."""
        return [(span.state, span.call, span.what) for span in self.spans(name)]

    def messages(self, text):
        """Lane and way of each message with these words, in their order."""
        return [
            (self.lanes[message["lane"]], message["way"])
            for message in self.data["messages"]
            if text in message["text"]
        ]

    def check(self):
        """Fail unless it is sound: sorted, no overlap in a lane, everything in a lane's life."""
        data = self.data
        assert data["spans"] == sorted(data["spans"], key=lambda span: (span["start"], span["end"]))
        assert data["messages"] == sorted(data["messages"], key=lambda message: message["at"])
        for number, lane in enumerate(data["lanes"]):
            assert 0 <= lane["born"] <= lane["died"] <= data["took"]
            last = lane["born"]
            for span in data["spans"]:
                if span["lane"] == number:
                    assert last <= span["start"] <= span["end"] <= lane["died"], (lane, span)
                    last = span["end"]
        assert all(0 <= line["at"] <= data["took"] for line in data["log"])


# Known programs with known waits. Each of these is certain, however busy the machine is: its own time-out ends it, or
# it is told of even if it is short.


def test_threads(record):
    recording = record(
        """
        import concurrent.futures, contextlib, queue, threading, time

        lock, again, jobs, room = threading.Lock(), threading.RLock(), queue.Queue(), queue.Queue(1)
        simple, never, free = queue.SimpleQueue(), threading.Event(), threading.Condition()
        held, release = threading.Event(), threading.Event()

        def hold():
            with lock, again:
                held.set()
                release.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        held.wait()
        lock.acquire(timeout=0.05)
        again.acquire(timeout=0.05)
        thread.join(0.05)
        release.set()
        with lock, again:
            pass
        with contextlib.suppress(queue.Empty):
            jobs.get(timeout=0.05)
        room.put(1)
        with contextlib.suppress(queue.Full):
            room.put(2, timeout=0.05)
        with contextlib.suppress(queue.Empty):
            simple.get(timeout=0.05)
        never.wait(0.05)
        threading.Semaphore(0).acquire(timeout=0.05)
        gate = threading.Barrier(2)
        with contextlib.suppress(threading.BrokenBarrierError):
            gate.wait(0.05)
        with contextlib.suppress(TimeoutError):
            concurrent.futures.Future().result(0.05)
        with free:
            free.wait(0.05)
        time.sleep(0.05)
        """
    )
    recording.check()
    assert recording.lanes == ["MainThread", "thread hold"]
    uncertain = "wait for the event held", "the lock lock", "the lock again"
    waits = recording.waits("MainThread")
    assert [wait for wait in waits if wait[2] not in uncertain] == [
        ("child", "join", "join of Thread-1 (hold)"),
        ("queue", "get", "get from the queue jobs"),
        ("queue", "put", "put into the queue room"),
        ("queue", "get", "get from the queue simple"),
        ("lock", "wait", "wait for the event never"),
        ("lock", "acquire", "wait for the semaphore"),
        ("lock", "wait", "wait for the barrier gate"),
        ("lock", "wait", "wait for a future"),
        ("lock", "wait", "wait on the condition free"),
        ("sleep", "sleep", "sleep of 0.05 s"),
    ]
    locks = [wait for wait in waits if wait[1] == "acquire"]
    assert locks[:2] == [("lock", "acquire", "the lock lock"), ("lock", "acquire", "the lock again")]
    assert set(recording.waits("thread hold")) <= {("lock", "wait", "wait for the event release")}
    for span in recording.spans("MainThread"):
        if span.what not in uncertain:
            assert span.end - span.start >= 40_000, span


def test_sockets(record):
    recording = record(
        """
        import select, socket

        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listener.getsockname())
        sock, _ = listener.accept()
        select.select([sock, listener], [], [], 0.05)
        client.send(b"one\\n")
        select.select([sock, listener], [], [])
        sock.recv(10)
        sock.sendall("gr\u00fc\u00dfe\\x1b[1m\\n".encode())
        client.makefile("rb").readline()
        sock.setblocking(False)
        try:
            sock.recv(10)
        except BlockingIOError:
            pass
        client.sendmsg([b"two", b" and three\\n"])
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        poller.poll()
        buffer = bytearray(100)
        sock.recv_into(buffer)
        poller.poll(0)
        client.sendall(b"x" * 1000)
        client.close()
        while sock.recv(4096):
            poller.poll()
        print(listener.getsockname()[1], sock.getsockname()[1], client, file=__import__("sys").stderr)
        """
    )
    recording.check()
    assert recording.lanes == ["MainThread"]
    port = recording.data["log"][0]["line"].split()[0]
    (client,) = {message["peer"] for message in recording.data["messages"]} - {f"127.0.0.1:{port}"}
    waits = [(state, what.replace(client, "CLIENT")) for state, _, what in recording.waits("MainThread")]
    polls = waits[10:]
    assert waits[:10] == [
        ("other", f"connect to 127.0.0.1:{port}"),
        ("accept", "accept of a client"),
        ("readiness", "select of 2 sockets"),
        ("send", f"send to 127.0.0.1:{port}"),
        ("readiness", "select of 2 sockets"),
        ("receive", "recv from CLIENT"),
        ("send", "sendall to CLIENT"),
        ("receive", f"recv from 127.0.0.1:{port}"),
        ("send", f"sendmsg to 127.0.0.1:{port}"),
        ("readiness", "poll of 1 socket"),
    ]
    assert polls[0] == ("send", f"sendall to 127.0.0.1:{port}") and set(polls[1:]) == {
        ("readiness", "poll of 1 socket")
    }
    messages = [(message["way"], message["bytes"], message["text"]) for message in recording.data["messages"]]
    assert messages[:6] == [
        ("out", 4, "one"),
        ("in", 4, "one"),
        ("out", 12, "grüße / [1m"),
        ("in", 12, "grüße / [1m"),
        ("out", 14, "two and three"),
        ("in", 14, "two and three"),
    ]
    assert messages[6] == ("out", 1000, "x" * 79 + "…")
    assert {message["bytes"] for message in recording.data["messages"][7:]} and sum(
        size for way, size, _ in messages[7:] if way == "in"
    ) == 1000


def test_a_task_that_never_awaits(record):
    recording = record(
        """
        import asyncio, time

        async def hog():
            await asyncio.sleep(0)
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                pass

        async def other():
            await asyncio.sleep(0)
            await asyncio.sleep(0.05)

        async def sleeper():
            time.sleep(0.1)

        async def main():
            await asyncio.gather(hog(), other())
            await sleeper()

        asyncio.run(main())
        """
    )
    recording.check()
    assert recording.lanes == ["event loop", "task main", "task hog", "task other"]
    steps = [span for span in recording.spans("event loop") if span.what == "task hog runs"]
    assert len(steps) == 2 and steps[1].end - steps[1].start >= 300_000
    assert not [span for span in recording.spans("task hog") if span.start >= steps[1].start]
    (turn,) = [span for span in recording.spans("task other") if span.start < steps[1].start < span.end]
    assert turn.state == "ready" and turn.end >= steps[1].end
    assert recording.waits("task main")[-1] == ("sleep", "sleep", "sleep of 0.1 s")
    assert ("await", "await", "await asyncio.gather") in recording.waits("task main")
    assert recording.waits("task other")[-2:] == [
        ("await", "await", "await asyncio.sleep"),
        ("ready", "", "its turn in the loop"),
    ]
    assert recording.spans("event loop")[-1].what == "task main runs"


def test_processes_also_those_that_are_killed(record):
    recording = record(
        """
        import os, signal, socket, time

        ours, theirs = socket.socketpair()
        pids = []
        for number in range(2):
            pids.append(os.fork())
            if pids[number] == 0:
                theirs.send(b"here")
                while number == 0:
                    time.sleep(1000)
                os._exit(3)
            ours.recv(10)
        os.kill(pids[0], signal.SIGKILL)
        os.waitpid(pids[0], 0)
        _, status = os.wait()
        os._exit(os.waitstatus_to_exitcode(status))
        """,
        status=3,
    )
    recording.check()
    assert recording.lanes == ["process 1 (parent)", "process 2 (child)", "process 3 (child)"]
    assert {lane["kind"] for lane in recording.data["lanes"]} == {"process"}
    parent, first, second = recording.data["lanes"]
    assert first["died"] <= parent["died"] and second["died"] <= parent["died"]
    assert [state for state, *_ in recording.waits(parent["name"])] == ["receive", "receive", "child", "child"]
    assert set(recording.waits(first["name"])[1:]) <= {("sleep", "sleep", "sleep of 1000 s")}
    assert recording.waits(second["name"]) == [("send", "send", "send to a socket pair")]


# Each server and sketch


def waits(text):
    """The waits of a lane that a table below has: `accept: accept of a client; receive: recv from SPEAKER`."""
    return {tuple(wait.split(": ")) for wait in text.split("; ")}


LOOP = {
    "event loop": waits("readiness: selector of N; other: task run runs; other: task accept runs; "
    "other: task tell runs; other: task attend(SPEAKER) runs; other: task attend(LISTENER) runs"),
    "task run": waits("await: await self.stopping.wait"),
    "task accept": waits("await: await self.loop.sock_accept"),
    "task tell": waits("await: await self.spoken.wait; ready: its turn in the loop"),
    "task attend(LISTENER)": waits("await: await client.reader.read (LISTENER)"),
    "task attend(SPEAKER)": waits("await: await client.reader.read (SPEAKER); ready: its turn in the loop"),
}  # fmt: skip
WORKER = {"thread work": waits("queue: get from the queue jobs"), **LOOP}
LOOPS = "event loop", "task tell"  # who hears the line, and who sends it
MAIN = "MainThread", "MainThread"
POLLING = "accept: accept of a client; receive: recv from SPEAKER; send: sendall to LISTENER"

# Of each server and sketch: what must be seen of its lanes, which lane receives the line, and which one sends it.
SEEN = {
    "blocking": (
        {"MainThread": waits("accept: accept of a client; receive: recv from SPEAKER; send: sendall to SPEAKER")},
        MAIN,
    ),
    "thread_per_client": (
        {
            "MainThread": waits("receive: recv from a socket pair"),
            "thread accept": waits("accept: accept of a client"),
            "thread moderate": waits("queue: get from the queue requests; send: send to LISTENER"),
            "thread attend(LISTENER)": waits("receive: recv from LISTENER"),
            "thread attend(SPEAKER)": waits("receive: recv from SPEAKER"),
        },
        ("thread attend(SPEAKER)", "thread moderate"),
    ),
    "select_based": ({"MainThread": waits("readiness: select of N")}, MAIN),
    "poll_based": ({"MainThread": waits("readiness: poll of N")}, MAIN),
    "epoll_based": ({"MainThread": waits("readiness: selector of N")}, MAIN),
    "proactor_based": ({"MainThread": waits("completion: selector of N")}, MAIN),
    "io_uring": ({"MainThread": waits("completion: io_uring for 1 operation")}, None),  # what it does no call tells
    "process_per_client": (
        {
            "process 1 (parent)": waits("readiness: poll of N; send: send to a socket pair"),
            "process 2 (LISTENER)": waits("readiness: poll of N; receive: recv from a socket pair"),
            "process 3 (SPEAKER)": waits("readiness: poll of N; send: write into a pipe"),
        },
        ("process 3 (SPEAKER)", "process 2 (LISTENER)"),
    ),
    "asyncio_based": (LOOP, LOOPS),
    **dict.fromkeys(("names", "commands", "limits"), (LOOP, LOOPS)),
    **dict.fromkeys(("history", "accounts", "web"), (WORKER, LOOPS)),
    "tls": (WORKER, None),  # what goes over the wire cannot be read
    "blocking/sketch": (
        {"MainThread": waits("accept: accept of a client; receive: recv from SPEAKER; send: sendall to SPEAKER")},
        MAIN,
    ),
    "thread_per_client/sketch": (
        {
            "MainThread": waits("accept: accept of a client"),
            "thread receive(LISTENER)": waits("receive: recv from LISTENER"),
            "thread receive(SPEAKER)": waits("receive: recv from SPEAKER; send: sendall to LISTENER"),
        },
        ("thread receive(SPEAKER)",) * 2,
    ),
    "select_based/sketch": ({"MainThread": waits(f"readiness: select of N; {POLLING}")}, MAIN),
    "poll_based/sketch": ({"MainThread": waits(f"readiness: poll of N; {POLLING}")}, MAIN),
    "epoll_based/sketch": ({"MainThread": waits(f"readiness: selector of N; {POLLING}")}, MAIN),
    "proactor_based/sketch": ({"MainThread": waits("completion: selector of N")}, MAIN),
    "process_per_client/sketch": (
        {
            "process 1 (parent)": waits("readiness: select of N; accept: accept of a client; "
            "send: sendall to LISTENER; child: wait for a child"),
            "process 2 (LISTENER)": waits("receive: recv from LISTENER"),
            "process 3 (SPEAKER)": waits("receive: recv from SPEAKER; send: write into a pipe"),
        },
        ("process 3 (SPEAKER)", "process 1 (parent)"),
    ),
    "asyncio_based/sketch": (
        {
            "event loop": waits("readiness: selector of N; other: task run runs; other: task accept(LISTENER) runs; "
            "other: task accept(SPEAKER) runs"),
            "task run": waits("await: await server.serve_forever"),
            "task accept(LISTENER)": waits("await: async for line in client.reader (LISTENER)"),
            "task accept(SPEAKER)": waits("await: async for line in client.reader (SPEAKER)"),
        },
        ("event loop", "task accept(SPEAKER)"),
    ),
}  # fmt: skip

# What is seen, or not, as it happens: how it begins and ends, and two that want a lock at the same time.
CHANCE = re.compile(
    "lock: .*|child: join of .*|sleep: .*|ready: .*|await: await .*|(?:receive: recv|send: send|send: write) .*|"
    "readiness: selector of N|other: task .* runs"
)
TRIAL = {("input", "read from a pipe"), ("readiness", "poll of N")}  # a process tries whether there is io_uring
OURS = [model for model in MODELS if model.name not in ("uvloop", "two_way")]
SKETCHES = [
    Model(
        f"{folder}/sketch",
        (sys.executable, f"{folder}/sketch.py"),
        {"broadcast": "echo"} if folder == "blocking" else {},
    )
    for folder in BREAKS
]


def watched(model, file):
    """The model, its server watched."""
    return dataclasses.replace(model, command=(*WATCH, "--record", str(file), *model.command[1:]))


@pytest.fixture
def play(serve, scratch, adopt):
    """Record a server or a sketch with two clients and a line. In the Recording they are SPEAKER and LISTENER."""

    def start(model):
        file = scratch / "recording.json"
        server = adopt(serve(watched(model, file)))
        (program,) = psutil.Process(server.pid).children()
        speaker, listener = server.pair()
        for text in "hello", "good-bye":  # when the second is heard, all is told of the first
            speaker.send(f"{text}\n".encode())
            listener.expect_line(speaker, text)
        for peer in {speaker, listener}:
            peer.close()
        wait_until(lambda: not program.children())
        server.signal(signal.SIGTERM)
        assert server.wait() == (128 + signal.SIGTERM if "sketch" in model.name else 0), server.log
        text = file.read_text().replace(speaker.address, "SPEAKER").replace(listener.address, "LISTENER")
        file.write_text(text)
        return Recording(file, server.log)

    return start


def test_all_of_them_are_in_the_table():
    assert {str(model) for model in OURS + SKETCHES} == set(SEEN)


@pytest.mark.parametrize("program", OURS + SKETCHES, ids=str)
def test_each_server_and_sketch(program, play):
    if program.missing:
        pytest.skip(program.missing)
    recording = play(program)
    recording.check()
    expected, way = SEEN[str(program)]
    assert set(recording.lanes) == set(expected)
    for name, certain in expected.items():
        seen = set()
        for state, _, what in recording.waits(name):
            what = re.sub(r"(?:epoll|kqueue) of", "selector of", what)
            seen.add((state, re.sub(r"of \d+ sockets?", "of N", what)))
        assert certain <= seen, name
        others = seen - certain - (TRIAL if str(program) == "io_uring" else set())
        assert all(CHANCE.fullmatch(": ".join(wait)) for wait in others), (name, others)
    if way:
        messages = dict.fromkeys(recording.messages("hello"))
        assert list(messages) == [(way[0], "in"), (way[1], "out")]
    assert recording.data["lanes"][0]["kind"] in ("process", "loop", "thread")
    if "sketch" not in str(program):
        assert re.search("listening on", recording.data["log"][0]["line"])
        assert recording.data["log"][-1]["line"].endswith(" bye")


def test_an_operator_at_the_keyboard(run, scratch, adopt):
    """blocking/two_way: the operator's turn is a wait, too."""
    file = scratch / "recording.json"
    words = [*WATCH, "--record", str(file), "blocking/two_way/server.py", "0"]
    server = adopt(run(words, cwd=ROOT, stdin=subprocess.PIPE, bufsize=0))
    port = int(server.await_log(r"listening on 127\.0\.0\.1:(\d+)$")[1])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client, client.makefile("rb") as lines:
        client.sendall(b"hello\n")
        server.await_log("^hello$")
        server.popen.stdin.write(b"and you\n")
        assert lines.readline() == b"and you\n"
    server.await_log("left")
    server.signal(signal.SIGINT)
    assert server.wait() == 0, server.log
    recording = Recording(file)
    recording.check()
    states = [state for state, *_ in recording.waits("MainThread")]
    assert states[:5] == ["accept", "receive", "input", "send", "receive"]
    assert ("input", "readv", "read from a pipe") in recording.waits("MainThread")


def test_a_students_server(run, scratch, adopt):
    """One in a file of its own, with another library, elsewhere."""
    recording = scratch / "recording.json"
    program = scratch / "chat.py"
    program.write_text(
        textwrap.dedent("""
        import socketserver

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                for line in self.rfile:
                    self.wfile.write(line.upper())

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        print("port", server.server_address[1], flush=True)
        server.serve_forever()
        """)
    )
    server = adopt(run([*WATCH, "--record", str(recording), "chat.py"], cwd=scratch))
    port = int(server.await_log(r"^port (\d+)$")[1])
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client, client.makefile("rb") as lines:
        for word in b"hello\n", b"good-bye\n":  # when the second has come, all is told of the first
            client.sendall(word)
            assert lines.readline() == word.upper()
        name = f"127.0.0.1:{client.getsockname()[1]}"
    server.signal(signal.SIGTERM)
    assert server.wait() == 128 + signal.SIGTERM
    recording = Recording(recording)
    recording.check()
    assert recording.lanes == ["MainThread", f"thread process_request_thread({name})"]
    assert set(recording.waits("MainThread")) >= {
        ("readiness", "poll", "poll of 1 socket"),
        ("accept", "accept", "accept of a client"),
    }
    assert ("receive", "recv_into", f"recv from {name}") in recording.waits(recording.lanes[1])
    assert recording.messages("HELLO") == [(recording.lanes[1], "out")]


# What the program must not notice

LOOK = """
import json, os, signal, sys, threading
descriptors = [number for number in range(1024) if os.path.exists(f"/dev/fd/{number}")]
print(json.dumps({
    "argv": sys.argv, "name": __name__, "file": __file__, "path": sys.path, "frame": sys._getframe().f_back is None,
    "environment": dict(os.environ), "descriptors": descriptors, "threads": len(threading.enumerate()),
    "flags": repr(sys.flags), "signals": [str(signal.getsignal(number)) for number in range(1, 32)],
    "mask": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "input": sys.stdin.read(), "log": sys.stderr.encoding,
    "hooks": len(sys.meta_path), "leader": os.getpgid(0) == os.getpid(),
}))
sys.exit(7)
"""


@pytest.mark.parametrize("more", [{}, {"PYTHONPATH": "/nowhere"}], ids=["plain", "PYTHONPATH"])
def test_the_program_sees_no_difference(more, scratch):
    (scratch / "look.py").write_text(LOOK)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more
    seen = []
    for words in ([sys.executable], [*WATCH, "--record", str(scratch / "recording.json")]):
        done = subprocess.run(
            [*words, "look.py", "one", "--two"], cwd=scratch, env=env, input="typed", capture_output=True, text=True,
            timeout=60, start_new_session=True,
        )  # fmt: skip
        assert done.returncode == 7, done.stderr
        seen.append(json.loads(done.stdout))
    assert seen[0] == seen[1]


def test_descriptors_that_the_program_closes_are_its_own(record, scratch):
    """A daemon closes all descriptors, and then gets the same numbers for its files."""
    record(
        """
        import os, sys, time
        os.closerange(3, 5000)
        kept = [os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT) for _ in range(3)]
        for number in range(3, 5000):
            if number not in kept:
                try:
                    os.dup2(kept[0], number)
                except OSError:
                    break
        time.sleep(0.001)
        """,
        str(scratch / "file"),
    )
    assert (scratch / "file").read_bytes() == b""


def test_it_is_not_held_up_by_who_does_not_read(run, scratch, adopt):
    program, file = scratch / "program.py", scratch / "recording.json"
    program.write_text(
        textwrap.dedent("""
        import sys, threading, time
        def late():
            time.sleep(1e-9)
        sys.stdin.readline()
        for _ in range(20_000):
            time.sleep(1e-9)
        thread = threading.Thread(target=late)
        thread.start()
        thread.join()
        print("done", flush=True)
        sys.stdin.readline()
        """)
    )
    process = adopt(run([*WATCH, "--record", str(file), str(program)], stdin=subprocess.PIPE, bufsize=0))
    wait_until(lambda: psutil.Process(process.pid).children())
    with process.frozen():
        process.popen.stdin.write(b"go\n")
        process.await_log("^done$")
    process.popen.stdin.write(b"go\n")
    assert process.wait() == 0, process.log
    lost = int(re.search(r"(\d+) records were lost", process.log)[1])
    recording = Recording(file)
    recording.check()
    assert recording.lanes == ["MainThread", "thread late"]  # it is known although its waits are not
    assert recording.data["lost"] == lost
    assert lost + 2 * len(recording.spans("MainThread")) >= 40_000


# Signals, and how it ends

COUNT = """
import signal, sys, time
count = 0
def note(*_):
    global count
    count += 1
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, note)
print("ready", flush=True)
while not count:
    time.sleep(0.05)
end = time.monotonic() + 0.5
while time.monotonic() < end:
    time.sleep(0.05)
print("count", count, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whole", [False, True], ids=["alone", "group"])
def test_a_signal_comes_once(number, whole, run, scratch, adopt):
    (scratch / "program.py").write_text(COUNT)
    words = [*WATCH, "--record", str(scratch / "recording.json"), str(scratch / "program.py")]
    process = adopt(run(words))
    process.await_log("^ready$")
    (process.signal_group if whole else process.signal)(number)
    assert process.wait() == 0, process.log
    assert "count 1\n" in process.log
    assert set(Recording(scratch / "recording.json").waits("MainThread")) == {("sleep", "sleep", "sleep of 0.05 s")}


def test_ctrl_c_in_a_terminal_comes_once(terminal, scratch, adopt):
    (scratch / "program.py").write_text(COUNT)
    file = scratch / "recording.json"
    child = adopt(terminal([*WATCH, "--record", str(file), str(scratch / "program.py")]))
    child.expect("ready\r\n")
    child.sendintr()
    child.expect("count 1\r\n")
    child.expect("no measurement\r\n")
    child.expect(pexpect.EOF)
    assert child.wait() == 0
    assert file.exists()


def test_the_keyboard_is_the_programs(terminal, scratch):
    (scratch / "program.py").write_text("print('hello', input('your name? '))")
    file = scratch / "recording.json"
    child = terminal([*WATCH, "--record", str(file), str(scratch / "program.py")])
    child.expect_exact("your name? ")
    child.sendline("ana")
    child.expect("hello ana\r\n")
    child.expect(pexpect.EOF)
    assert child.wait() == 0
    assert Recording(file).waits("MainThread") == [("input", "input", "input from the keyboard")]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_nobody_is_left_behind(run, scratch, adopt):
    words = [*WATCH, "--record", str(scratch / "recording.json"), str(ROOT / "poll_based" / "server.py"), "0"]
    process = adopt(run(words))
    process.await_log("listening on")
    (program,) = psutil.Process(process.pid).children()
    process.signal(signal.SIGKILL)
    process.wait()
    assert wait_until(lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.parametrize(
    "source, status, says",
    [
        ("import sys; sys.exit('no way')", 1, r"no way\n"),
        ("1 +", 1, r'  File ".*program\.py", line 1\n(.*\n)*SyntaxError: invalid syntax\n'),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", 143, ""),
        (
            "import socket\nsocket.socketpair()[0].recv(-1)",
            1,
            r"Traceback \(most recent call last\):\n"
            r'  File ".*program\.py", line 2, in <module>\n    socket.*\n(    [~^]*\n)?'
            r"ValueError: negative buffersize in recv\n",
        ),
        ("import os; os._exit(9)", 9, ""),
    ],
    ids=["exit", "syntax", "signal", "traceback", "_exit"],
)
def test_a_program_that_fails(source, status, says, record):
    recording = record(source, status=status)
    assert re.fullmatch(rf"{says}watch\.py: \d+ waits are in \S+; .* no measurement\n", recording.printed)
    assert [entry["line"] for entry in recording.data["log"]] == recording.printed.splitlines()[:-1]


def test_quiet(record, scratch, run):
    source = (
        "import sys, os; print('through Python', file=sys.stderr); os.write(2, b'past it\\n'); os.write(2, b'no end')"
    )
    (scratch / "program.py").write_text(source)
    file = scratch / "recording.json"
    process = run([*WATCH, "--record", str(file), "--quiet", str(scratch / "program.py")])
    assert process.wait() == 0
    assert process.log == ""
    assert {entry["line"] for entry in Recording(file).data["log"]} == {"through Python", "past it", "no end"}


@pytest.mark.parametrize(
    "words, status, says",
    [
        ([], 2, r"usage: (.*\n)+watch\.py: error: .*PROGRAM.*\n"),
        (["--quiet", "x.py"], 2, r"usage: (.*\n)+watch\.py: error: --quiet goes with --record\n"),
        (["--record", "out", "nothing.py"], 1, r"watch\.py: no program is called nothing\.py\n"),
        (["--record", "nowhere/out", __file__], 1, r"watch\.py: cannot write nowhere/out: No such file or directory\n"),
        (["--record", ".", __file__], 1, r"watch\.py: cannot write \.: it is a directory\n"),
        ([__file__], 1, r"watch\.py: no terminal to show it in; --record FILE writes it into a file\n"),
    ],
    ids=["nothing", "quiet", "program", "folder", "directory", "terminal"],
)
def test_what_it_refuses(words, status, says, run, scratch):
    process = run([*WATCH, *words], cwd=scratch)
    assert process.wait() == status
    assert re.fullmatch(says, process.log), process.log
    assert os.listdir(scratch) == [process.log_path.name]


def test_a_file_is_replaced_as_a_whole(record, scratch):
    """What was there before stays until the new one is whole."""
    file = scratch / "recording.json"
    file.write_text("before")
    record("import sys; sys.exit(open(sys.argv[1]).read() != 'before')", str(file))
    assert json.loads(file.read_text())["version"] == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


# The live view

SECOND_SCREEN_ON, SECOND_SCREEN_OFF = b"\x1b[?1049h", b"\x1b[?1049l"


class Screen:
    """The screen of a program on a terminal of 80 x 24."""

    def __init__(self, child):
        pyte = pytest.importorskip("pyte")
        self.child, self.screen = child, pyte.Screen(80, 24)
        self.stream, self.unfinished = pyte.ByteStream(self.screen), b""

    def _feed(self, data):
        """Show the data. pyte knows nothing of the second screen, after which there is the first one again."""
        *parts, last = (self.unfinished + data).split(SECOND_SCREEN_OFF)
        for part in parts:
            self.stream.feed(part)
            self.screen.reset()
        start = last.rfind(b"\x1b")
        cut = start if start >= 0 and SECOND_SCREEN_OFF.startswith(last[start:]) else len(last)
        self.stream.feed(last[:cut])
        self.unfinished = last[cut:]

    def text(self):
        return "\n".join(self.screen.display)

    def await_text(self, pattern):
        """Wait until the screen shows what the regular expression says, and return the match."""
        __tracebackhide__ = True

        def shows():
            with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
                self._feed(self.child.read_nonblocking(1 << 16, 0.1))
            return re.search(pattern, self.text(), re.MULTILINE)

        found = wait_until(shows)
        assert found, f"the screen never showed {pattern!r}:\n{self.text()}"
        return found


@pytest.fixture
def live(terminal, adopt):
    """Start watch.py with its live view: `live("poll_based/server.py", "0")` gives the terminal and a Screen."""
    pytest.importorskip("rich")

    def start(*words, **options):
        env = {"TERM": "xterm-256color"} | options.pop("env", {})
        child = terminal([*WATCH, *map(str, words)], cwd=options.pop("cwd", str(ROOT)), env=env, **options)
        return adopt(child), Screen(child)

    return start


def settings_at_first():
    """How a terminal is set at its beginning."""
    ends = os.openpty()
    try:
        return termios.tcgetattr(ends[0])
    finally:
        for end in ends:
            os.close(end)


def test_the_live_view(live):
    child, screen = live("thread_per_client/server.py", "0")
    port = int(screen.await_text(r"listening on 127\.0\.0\.1:(\d+)")[1])
    with contextlib.ExitStack() as stack:
        ana, bob = (stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(2))
        screen.await_text(r"2 online")
        ana.sendall(b"hello\n")
        assert bob.recv(100).endswith(b"says: hello\n")
        name = f"127.0.0.1:{ana.getsockname()[1]}"
        screen.await_text(r"^thread moderate .* get from the queue")
        screen.await_text(r"^MainThread +recv from a socket pair +\d.* r+ *$")
        screen.await_text(rf"^attend\({name}\) +recv from {name} ")
        screen.await_text(r"no measurement")
        screen.await_text(r"^# runs .* r receive .* q queue")
        assert len(screen.screen.display) == 24
        child.sendintr()
        screen.await_text(r"ended with status 0 after \d+ seconds")
    text = screen.text()
    assert text.count("server stopping") == 2 and text.count("bye") == 1
    child.expect(pexpect.EOF)
    assert child.wait() == 0
    assert "Traceback" not in text


def test_the_terminal_is_left_in_order(live, scratch):
    """Its settings, its cursor, and the screen that was there before, also if the program fails."""
    (scratch / "program.py").write_text(f"import time; time.sleep(0.5); {'x' * 300}")
    child, _ = live(scratch / "program.py")
    seen = b""
    with contextlib.suppress(pexpect.EOF):
        while True:
            seen += child.read_nonblocking(1 << 16, 60)
    assert child.wait() == 1
    for on, off in ((SECOND_SCREEN_ON, SECOND_SCREEN_OFF), (b"\x1b[?25l", b"\x1b[?25h")):
        assert seen.count(on) == seen.count(off) >= 1
        assert seen.rindex(on) < seen.rindex(off)
    rest = seen.rpartition(SECOND_SCREEN_OFF)[2]
    assert b"NameError" in rest and b"ended with status 1" in rest
    assert termios.tcgetattr(child.child_fd) == settings_at_first()


def test_more_lanes_than_lines(live):
    child, screen = live("process_per_client/server.py", "0")
    port = int(screen.await_text(r"listening on 127\.0\.0\.1:(\d+)")[1])
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        screen.await_text(r"20 online")
        screen.await_text(r"^\.\.\. and \d+ more")
        screen.await_text(r"^process 1 \(parent\) +poll of 3 sockets")
        screen.await_text(r"no measurement")
        child.sendintr()
        screen.await_text(r"ended with status 0")


@pytest.mark.parametrize("how, says", [("dumb", "this terminal can only print"), ("pipe", "no terminal to show it in")])
def test_where_it_cannot_be_shown(how, says, terminal):
    words = [*WATCH, "poll_based/server.py", "0"]
    if how == "pipe":
        words = ["/bin/sh", "-c", 'exec "$@" | cat', "sh", *words]
    child = terminal(words, cwd=str(ROOT), env={"TERM": "dumb" if how == "dumb" else "xterm"})
    child.expect(rf"\Awatch\.py: .*{says}.*\r\n")
    child.expect(pexpect.EOF)


def test_the_strip():
    """What a lane did for most of each part of the last ten seconds, the oldest first."""
    pytest.importorskip("rich")
    lessons = str(ROOT / "lessons")
    code = textwrap.dedent("""
        import sys
        sys.path.insert(0, sys.argv[1])
        from live_view import duration, strip_of
        from watch import Lane

        second, seen = 10**9, set()
        lane = Lane("thread", "thread", 1, 102 * second)
        lane.begin(103 * second, "receive", "recv", "recv")
        lane.end(int(105.6 * second))
        lane.messages.append((int(105.1 * second), "in", "peer", 6, "hello"))
        lane.messages.append((int(106.2 * second), "out", "peer", 6, "hello"))
        lane.begin(int(105.7 * second), "send", "send", "send")
        lane.begin(int(106.6 * second), "sleep", "sleep", "a signal's handler")
        lane.end(int(107.8 * second))
        lane.end(int(107.9 * second))
        lane.begin(int(108.2 * second), "lock", "acquire", "lock")
        print(*(sign for sign, _ in strip_of(lane, int(109.9 * second), 10, seen)), sep="")
        lane.die(int(108.5 * second))
        print(*(sign for sign, _ in strip_of(lane, int(109.9 * second), 10, seen)), sep="")
        print(*sorted(seen))
        print(duration(7_000_000), duration(3.44 * second), duration(11.6 * second), duration(700 * second), sep="|")
    """)
    done = subprocess.run([sys.executable, "-c", code, lessons], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "  #rr<szll",
        "  #rr<szl ",
        "lock receive send sleep",
        "7 ms|3.4 s|12 s|11 m",
    ], done.stderr


def test_ctrl_z(terminal, scratch):
    """Both stop, the shell has its terminal meanwhile, and both go on."""
    if not shutil.which("bash"):
        pytest.skip("bash is not installed")
    pytest.importorskip("rich")
    (scratch / "program.py").write_text(
        textwrap.dedent("""
        import signal, time
        signal.signal(signal.SIGCONT, lambda *_: print("goes on", flush=True))
        print("begun", flush=True)
        while True:
            time.sleep(0.05)
        """)
    )
    shell = terminal(
        [shutil.which("bash"), "--norc", "--noediting", "-i"],
        env={"PS1": "prompt> ", "TERM": "xterm"},
        cwd=str(scratch),
    )
    for options in ([], ["--record", "recording.json"]):
        shell.expect_exact("prompt> ")
        shell.sendline(shlex.join([*WATCH, *options, "program.py"]))
        shell.expect_exact("begun")
        shell.send("\x1a")
        shell.expect("Stopped")
        shell.expect_exact("prompt> ")
        shell.sendline("ps -ww -o stat=,args= | grep '[p]rogram.py' | cut -c1; stty -a | grep -o '[-]*echo '")
        shell.expect_exact("T\r\nT\r\necho \r\n")
        shell.expect_exact("prompt> ")
        shell.sendline("fg")
        shell.expect_exact("goes on")  # the terminal is theirs again
        shell.sendintr()
        shell.expect("no measurement")
