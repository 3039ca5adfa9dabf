"""The harness is tested: what it says when something fails, and that it leaves nothing behind."""

import contextlib
import os
import re
import select
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import connections
import harness
import psutil
import pytest
from conftest import dealt
from examples import each_example
from harness import BrokenPromise, Notices, Peer, Process, Server, Stopwatch, wait_until
from hypothesis import strategies as st
from promises import ROOT, Model
from tls import TlsSocket, certificate

BASE = Path(__file__).parent / "wrong_servers" / "base.py"


@pytest.fixture
def sub_pytest(run, scratch):
    """Run pytest on a student's server: `sub_pytest("command {port}")` gives a harness.Process.

    It puts its files into the directory `files`, and all that it starts has the name of that in its environment.
    """
    (scratch / "files").mkdir()

    def start(command, *options, cwd=ROOT):
        env = {"TMPDIR": str(scratch / "files"), "MY_TOKEN": "a secret"}
        arguments = ["-pno:cacheprovider", "--server-cmd", command, *map(str, options)]
        return run([sys.executable, "-m", "pytest", *arguments], cwd=cwd, env=env)

    return start


def marked(mark):
    """The processes that carry the mark, by their command lines."""
    found = {}
    for process in psutil.process_iter():
        try:
            if mark in process.environ().get("TMPDIR", "") and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = shlex.join(process.cmdline())
        except (psutil.Error, OSError):
            continue
    return found


def check_nothing_is_left(scratch):
    assert wait_until(lambda: not marked(scratch.name)), marked(scratch.name)
    assert wait_until(lambda: not any((scratch / "files").iterdir())), list((scratch / "files").rglob("*"))


def test_nothing_is_left_behind(sub_pytest, scratch):
    process = sub_pytest(shlex.join([sys.executable, str(BASE)]) + " {port}", "-n2", "--promises=message,latency")
    assert process.wait(within=300) == 0, process.log
    check_nothing_is_left(scratch)


# It starts something in a session of its own; and it tells what it finds, in its folder and to us.
WANDERS = """#!{python}
import os, subprocess, sys
if sys.argv[1] != "child":
    with open("found", "w") as file:
        print(sorted(os.environ), os.listdir(), sys.stdin.read(), file=file, flush=True)
    os.system("cat found >> '{folder}/found'")
    subprocess.Popen([sys.executable, __file__, "child"], start_new_session=True{how}).poll()
    os.execv(sys.executable, [sys.executable, "{base}", sys.argv[1]])
while True:
    import time
    time.sleep(1)
"""


@pytest.fixture
def wanderer(scratch):
    """How a server is started that leaves a process in a session of its own: `wanderer()`."""

    def write(how=""):
        program = scratch / "wanders"
        program.write_text(WANDERS.format(python=sys.executable, folder=scratch, base=BASE, how=how))
        program.chmod(0o755)
        return f"./{program.name} {{port}}"

    return write


def children_of(scratch):
    return [
        line
        for line in (shlex.join(p.info["cmdline"] or []) for p in psutil.process_iter(["cmdline"]))
        if f"{scratch}/wanders child" in line
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers, and tells of an environment")
@pytest.mark.parametrize("how", ["", ', env={}, cwd="/"'], ids=["as it is", "with nothing"])
def test_what_made_itself_a_session_is_ended(sub_pytest, scratch, wanderer, how):
    """And seen: it is still there when the server has stopped."""
    options = ["-n0", f"-c{ROOT}/pyproject.toml", ROOT / "tests/test_stopping.py", "-ktest_with_nobody_there"]
    process = sub_pytest(wanderer(how), *options, cwd=scratch)
    assert process.wait(within=300) == 1
    assert process.log.count("BrokenPromise: it left processes behind") == 2, process.log
    assert not children_of(scratch)
    check_nothing_is_left(scratch)


def test_what_was_there_before_a_student_s_server_is_left_alone(serve):
    """Such as what a browser is driven with, which the harness does not know of."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as bystander:
        try:
            server = serve(Model("yours", (sys.executable, str(BASE), "{port}"), foreign=True))
            assert [process.pid for process in server.processes()] == [server.pid]
            server.kill()
            assert bystander.poll() is None
        finally:
            bystander.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of an environment")
def test_what_made_itself_a_session_is_ended_when_pytest_is_killed(sub_pytest, scratch, wanderer):
    options = ["-n0", f"-c{ROOT}/pyproject.toml", ROOT / "tests/test_idle.py"]
    process = sub_pytest(wanderer(), *options, cwd=scratch)
    assert wait_until(lambda: (scratch / "found").exists() and children_of(scratch))
    process.signal(signal.SIGKILL)
    process.wait()
    assert wait_until(lambda: not children_of(scratch))
    check_nothing_is_left(scratch)


def test_what_a_student_s_server_is_given(sub_pytest, scratch, wanderer):
    """An empty folder of its own to write into, nothing to read, and no secrets."""
    options = ["-n0", f"-c{ROOT}/pyproject.toml", ROOT / "tests/test_latency.py"]
    sub_pytest(wanderer(), *options, cwd=scratch).wait(within=300)
    lines = (scratch / "found").read_text().splitlines()
    assert len(lines) > 1
    for line in lines:
        assert "'PATH'" in line and "['found']" in line, line
        assert "PYTEST" not in line and "TOKEN" not in line, line
    assert not (scratch / "files" / "found").exists()


@pytest.mark.parametrize(
    "word, full",
    [
        ("tests", f"{ROOT}/tests"),
        ("no such file", "no such file"),
        ("-cp=tests:nothing:bench", f"-cp={ROOT}/tests:nothing:{ROOT}/bench"),
        ("127.0.0.1:{port}", "127.0.0.1:{port}"),
        ("", ""),
    ],
)
def test_what_is_here_is_found_from_elsewhere(monkeypatch, word, full):
    monkeypatch.chdir(ROOT)
    assert harness.from_here(word) == full


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_behind_when_interrupted(sub_pytest, scratch, workers, number):
    """In the midst of a test, and the server ignores all signals that can be ignored."""
    stubborn = f"sh -c 'trap : INT TERM; {shlex.join([sys.executable, str(BASE)])} {{port}}; sleep 100'"
    process = sub_pytest(stubborn, f"-n{workers}", "--promises=idle")
    assert wait_until(lambda: any(str(BASE) in line for line in marked(scratch.name).values()), within=30)
    process.signal(number)
    process.wait()
    check_nothing_is_left(scratch)


def test_a_failure_says_what_was_promised_sent_and_heard(sub_pytest):
    wrong = BASE.parent / "passes_escapes_on.py"
    process = sub_pytest(shlex.join([sys.executable, str(wrong)]) + " {port}", "-n0", "--promises=message")
    assert process.wait(within=300) == 1
    for part in [
        "message: a message is UTF-8 text",
        r"sent: b'",
        r"\x1b[31mred\x1b[0m",
        "came: b'127.0.0.1:",
        "the server's log",
        "message    BROKEN",
        "framing    not tested",
    ]:
        assert part in process.log


def test_no_more_is_expected_than_of_a_like_one(sub_pytest):
    command = shlex.join([sys.executable, "blocking/server.py"]) + " {port}"
    process = sub_pytest(command, "-n0", "--promises=broadcast,fairness", "--like", "blocking")
    assert process.wait(within=300) == 0, process.log
    assert "broadcast  kept" in process.log


def test_a_server_with_a_door(sub_pytest):
    """A name is given first, and what the server says by itself is not taken for a message."""
    command = shlex.join([sys.executable, "features/names/server.py"]) + " {port}"
    process = sub_pytest(command, "-n0", "--promises", "latency, idle", "--like", "names")
    assert process.wait(within=300) == 0, process.log
    assert "latency    kept" in process.log


def test_a_line_that_is_not_right_is_told(sub_pytest):
    """At once: it is not waited for as if nothing had come. A part of it would have been right."""
    process = sub_pytest(wrong_server("names_are_mapped"), "-n0", "tests/test_message.py", "-kquit")
    assert process.wait(within=300) == 1
    for part in [
        r"the line is not right",
        r"line 1 should be b'127\.0\.0\.1:\d+ says: is everybody here\? \d+\\n'",
        r"       and is b'::ffff:127\.0\.0\.1:\d+ says: is everybody here\? \d+\\n'",
    ]:
        assert re.search(part, process.log), (part, process.log)


def test_one_that_is_better_than_what_it_is_like(sub_pytest):
    """It is like threads, which a client that does not read holds up for some seconds; and nobody is held up."""
    command = shlex.join([sys.executable, "poll_based/server.py"]) + " {port}"
    process = sub_pytest(
        command, "-n0", "tests/test_slow.py", "-knever_reads or gets_every_byte", "--like=thread_per_client"
    )
    assert process.wait(within=300) == 0, process.log
    assert re.search("^slow +kept", process.log, re.MULTILINE)


def wrong_server(name):
    """How a wrong server is started."""
    return shlex.join([sys.executable, str(BASE.with_name(f"{name}.py"))]) + " {port}"


def test_of_each_promise_the_first_failure_alone(sub_pytest):
    """However many work at once, each of which knows of its own failures."""
    process = sub_pytest(wrong_server("greets"), "-n3", "--first", "--promises=message,idle", "--deadline=2")
    assert process.wait(within=300) == 1
    failed = re.findall(r"^(?:FAILED|ERROR) tests/test_(\w+)\.py", process.log, re.MULTILINE)
    assert len(failed) == 2, process.log
    assert re.search(r"^message +BROKEN in 1 test$", process.log, re.MULTILINE)


def test_parts_of_promises(run):
    """A part is what a mark names, or a word of a test's name; and what begins with - is left out."""

    def chosen(promises):
        words = ["-n0", "-pno:cacheprovider", "--co", "-q", f"--promises={promises}", "tests/test_slow.py"]
        process = run([sys.executable, "-m", "pytest", *words, "tests/test_message.py", "-kpoll_based"], cwd=ROOT)
        process.wait(within=300)
        return set(re.findall(r"::(\w+)", process.log)), set(re.findall(r"poll_based-(.+)\]", process.log))

    assert chosen("message.telnet") == ({"test_cleaning"}, {"telnet", "unfinished telnet"})
    slow, stall, rest = (chosen(promises)[0] for promises in ("slow", "slow.stall", "slow,-slow.stall"))
    assert stall and rest and stall < slow and rest == slow - stall
    assert not {name for name in chosen("-slow, -message.cleaning")[0] if "slow" in name or "cleaning" in name}


def test_a_failure_and_what_follows_from_it_are_one(sub_pytest):
    """The test fails, and then the server is not running any more."""
    process = sub_pytest(
        wrong_server("dies_of_a_reset"), "-n0", "tests/test_leaving.py", "-krest_of_a_line", "--deadline=5"
    )
    assert process.wait(within=300) == 1
    assert "1 failed, 1 error in" in re.sub(r", \d+ deselected", "", process.log), process.log
    assert re.search(r"^leaving +BROKEN in 1 test$", process.log, re.MULTILINE)
    assert "the server has ended, with status 1" in process.log


def test_what_was_not_tested_is_not_kept(sub_pytest):
    process = sub_pytest(
        wrong_server("base"), "-n0", "tests/test_message.py", "tests/test_start.py", "-kquit or bad_port"
    )
    assert process.wait(within=300) == 0, process.log
    assert re.search(r"^start +not tested$", process.log, re.MULTILINE)
    assert re.search(r"^message +kept in 1 test$", process.log, re.MULTILINE)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what has started a program")
def test_a_worker_that_is_killed(sub_pytest, scratch):
    """Nobody knows how its test would have ended."""
    server = scratch / "kills"
    base = shlex.join([sys.executable, str(BASE)])
    server.write_text(f'#!/bin/sh\ngrep -q server-cmd /proc/$PPID/cmdline || kill -9 $PPID\nexec {base} "$@"\n')
    server.chmod(0o755)
    process = sub_pytest(f"{server} {{port}}", "-n2", "tests/test_message.py", "-kquit or alone")
    assert process.wait(within=300) == 1, process.log
    assert re.search(r"^message +UNKNOWN: 2 tests did not end", process.log, re.MULTILINE), process.log


@pytest.mark.parametrize(
    "mark, wrong",
    [
        ('"slwo"', "no promise is called slwo"),
        ('"slow.stal"', "no promise is called slow.stal"),
        ('"slow", needs="broadcats"', "no promise is called broadcats"),
        ('"slow.stall", instead="stals"', "no model does 'stals' instead of slow.stall"),
    ],
)
def test_a_misspelt_mark(run, scratch, mark, wrong):
    """It would fit no model, and leave a test out without a word."""
    (scratch / "test_it.py").write_text(
        f"import pytest\n\n\n@pytest.mark.promise({mark})\ndef test_it(server):\n    pass\n"
    )
    words = ["-n0", "-pno:cacheprovider", "-pconftest", f"-c{ROOT}/pyproject.toml", scratch]
    process = run([sys.executable, "-m", "pytest", *map(str, words)], cwd=ROOT)
    assert process.wait(within=300) == pytest.ExitCode.INTERRUPTED
    assert wrong in process.log


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000])
def test_what_a_server_says_by_itself_is_taken_out(size):
    """However it is cut; and who is in the room is known from it."""
    parts = [
        ("your name?\n", ""),
        ("error: bob is taken\n", "error: bob is taken\n"),
        ("your name?\n", "your name?\n"),
        ("* you are p1; also here: ana, bob\n[2026-11-25 12:03] ana says: before\n", ""),
        ("ana says: * all * [of] it\n", "ana says: * all * [of] it\n"),
        ("* p2 joined\n* ana left\n", ""),
        ("bob says: \nyou\n", "bob says: \nyou\n"),
        ("* the end", ""),
    ]
    stream = "".join(came for came, _ in parts).encode()
    notices = Notices()
    heard = b"".join(notices.take(stream[start : start + size]) for start in range(0, len(stream), size))
    assert heard == "".join(heard for _, heard in parts).encode()
    assert notices.names == {"p1", "bob", "p2"}


def test_what_a_server_without_a_door_says_is_heard():
    """Also if it begins as the question does."""
    notices = Notices()
    assert [notices.take(data) for data in (b"you", b"r name: ", b"x\n")] == [b"", b"your name: ", b"x\n"]


SCRIPTS = {
    "no_execute": ("#!/bin/sh\n", 0o644),
    "no_interpreter": ("#!/no/such/python\n", 0o755),
    "windows": ("#!/usr/bin/python3\r\n", 0o755),
    "windows_env": ("#!/usr/bin/env python3\r\n", 0o755),
    "no_first_line": ("import socket\n", 0o755),
    "nothing": ("", 0o755),
    "not_for_this_machine": ("\x7fELF and so on", 0o755),
    "killed": ("#!/bin/sh\nkill -9 $$\n", 0o755),
    "dies": ("#!/bin/sh\necho no such luck\nexit 3\n", 0o755),
    "sleeps": ("#!/bin/sh\nexec sleep 100\n", 0o755),
    "elsewhere": (f"#!/bin/sh\nexec {sys.executable} {BASE} $(($1 + 1))\n", 0o755),
    "leaves": (f"#!/bin/sh\n{sys.executable} {BASE} $1 &\n", 0o755),
    "is_late": (f"#!/bin/sh\nsleep 2\nexec {sys.executable} {BASE} $1\n", 0o755),
}
CANNOT = {
    "": "it is empty",
    "./my_server": "say with {port} where the port goes",
    "/bin/sh": "say with {port} where the port goes",
    "'./my_server {port}": "No closing quotation",
    "'' {port}": "no program in PATH is called ''",
    "no_such_server {port}": "no program in PATH is called 'no_such_server'",
    "nothing {port}": "no program in PATH is called 'nothing'; the one in this directory is ./nothing",
    "./no_such_server {port}": "no file is called './no_such_server'",
    "./folder {port}": "./folder is a directory",
    "./no_execute {port}": "./no_execute is not executable: chmod +x ./no_execute",
    "./no_interpreter {port}": "its first line is '#!/no/such/python'",
    "./windows {port}": "its first line is '#!/usr/bin/python3\\r', which ends as lines do on Windows",
    "./windows_env {port}": "ended with status 127, and did not listen; it wrote:",
    "./no_first_line {port}": "no script that begins with #!/usr/bin/env python3 or so",
    "./nothing {port}": "no script that begins with #!/usr/bin/env python3 or so",
    "./not_for_this_machine {port}": "no script that begins with #!/usr/bin/env python3 or so",
    "./killed {port}": "ended by SIGKILL, and did not listen, without a word",
    "./dies {port}": "ended with status 3, and did not listen; it wrote:\nno such luck\n",
    "./sleeps {port}": "1 seconds after its start, without a word",
    "./elsewhere {port}": "after its start, but on 127.0.0.1:",
    "./leaves {port}": "ended with status 0, and goes on in the background; it must not leave",
    "./is_late {port}": "seconds after its start, and may take 1: each test starts it anew",
}


@pytest.mark.parametrize("workers, command", [*((0, command) for command in CANNOT), (2, ""), (2, "./dies {port}")])
def test_a_server_that_cannot_even_start_is_said_once(sub_pytest, scratch, command, workers):
    """At once, in one line and what the server wrote; and no test runs."""
    (scratch / "folder").mkdir()
    for name, (text, mode) in SCRIPTS.items():
        (scratch / name).write_text(text)
        (scratch / name).chmod(mode)
    deadline = 1 if "sleeps" in command else 15
    process = sub_pytest(
        command,
        f"-n{workers}",
        f"--deadline={deadline}",
        "--start-within=1",
        f"-c{ROOT}/pyproject.toml",
        ROOT / "tests",
        cwd=scratch,
    )
    assert process.wait(within=300) == pytest.ExitCode.USAGE_ERROR, process.log
    error, _, rest = process.log.lstrip().partition("\n")
    assert error.startswith("ERROR: --server-cmd: ")
    assert CANNOT[command] in process.log
    assert rest.count("\n") < 6
    check_nothing_is_left(scratch)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--promises=politeness"], "politeness is none of start, message"),
        (["--promises=start, message,politeness"], "--promises: politeness is none of start, message"),
        (["--promises=message.telnett", "tests/test_message.py"], "no test of message is about telnett"),
        (["--server-cmd=./my_server {port}", "--like=something"], "something is none of blocking"),
    ],
)
def test_wrong_options(run, options, says):
    process = run([sys.executable, "-m", "pytest", "-n0", "-pno:cacheprovider", *options], cwd=ROOT)
    assert process.wait(within=30) == pytest.ExitCode.USAGE_ERROR
    assert says in process.log


def test_windows(run):
    """One line says what to do instead, before anything is imported that is not there."""
    code = "import sys; sys.platform = 'win32'; import options"
    process = run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "tests")})
    assert process.wait() == 1
    assert re.fullmatch(r".*WSL.*\n", process.log), process.log


NOT_NEEDED = ["bench", "matplotlib", "playwright", "ruff", "trio", "twisted", "uvloop", "websockets"]


def test_little_must_be_installed_for_a_server_of_one_s_own(run):
    """The packages of the extra `own` suffice."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert set(extras["own"]) < set(extras["test"])
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({NOT_NEEDED}))\n"  # to import one of them is an error then
        "import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    )
    words = ["-n0", "-pno:cacheprovider", "--server-cmd", f"{sys.executable} {BASE} {{port}}", "--promises=latency"]
    process = run([sys.executable, "-c", code, *words], cwd=ROOT)
    assert process.wait(within=300) == 0, process.log
    assert "latency    kept in 2 tests\n" in process.log


# Examples


def test_the_first_example_that_fails_is_told():
    """What fails after it may fail for its sake, and is not tried."""
    tried = []
    with pytest.raises(BrokenPromise, match="the 3rd"):

        @each_example(st.integers())
        def check(number):
            tried.append(number)
            if len(tried) >= 3:
                raise BrokenPromise("the 3rd" if len(tried) == 3 else "and all after it")

    assert len(tried) == 3


def test_an_example_that_ends_the_server(sub_pytest, scratch):
    """Hypothesis says nothing of flaky tests, or of several failures."""
    server = scratch / "ends.py"
    text = BASE.read_text().replace("def clean(self, line):", "def clean(self, line):\n        line.decode()")
    server.write_text(text)
    process = sub_pytest(f"{sys.executable} {server} {{port}}", "-n0", "tests/test_message.py", "-kas_the_contract")
    assert process.wait(within=300) == 1
    assert "FlakyFailure" not in process.log and "ExceptionGroup" not in process.log, process.log
    assert "the server has ended, with status 1" in process.log


# However much comes


@pytest.fixture
def endless(monkeypatch):
    """A client of a server that never stops sending."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def send():
            with contextlib.suppress(OSError), listener.accept()[0] as sock:
                while True:
                    sock.sendall(b"and so on\n" * 1000)

        threading.Thread(target=send, daemon=True).start()
        peer = Peer(None, socket.create_connection(listener.getsockname()))
        yield peer
        peer.sock.close()


def test_a_deadline_is_one_also_while_much_comes(endless, monkeypatch):
    monkeypatch.setattr(harness, "MOST_UNREAD", 1 << 40)
    with pytest.raises(BrokenPromise, match="waited in vain"):
        endless.read_until(b"the end\n", within=0.5)
    with pytest.raises(BrokenPromise, match="should have been disconnected"):
        endless.read_to_end(within=0.5)
    assert not endless.hears(b"the end\n", time.monotonic() + 0.5)


def test_what_comes_has_a_bound(endless, monkeypatch):
    monkeypatch.setattr(harness, "MOST_UNREAD", 1 << 20)
    with pytest.raises(BrokenPromise, match="is sent more than anybody has said"):
        endless.read_to_end()


WRITES_MUCH = """
import sys, time
for count in range(1000):
    sys.stdout.write(f"{count} of no interest\\n" * 50_000)
    with open("count", "w") as file:
        file.write(str(count))
    time.sleep(0.01)
print("the end", flush=True)
time.sleep(1000)
"""


def test_a_log_without_an_end(serve):
    """Neither the disk nor the report gets full of it, and its end is what is kept."""
    server = serve(Model("yours", (sys.executable, "-c", WRITES_MUCH), foreign=True), announce=False)
    count, most = Path(f"{server.log_path}-files/count"), 0

    def much_is_written():
        nonlocal most
        most = max(most, server.log_path.stat().st_size)
        with contextlib.suppress(OSError, ValueError):
            return int(count.read_text()) > 300  # megabytes
        return False

    assert wait_until(much_is_written)
    assert 1 << 20 < most < 290 << 20
    assert wait_until(lambda: server.log.endswith("\n999 of no interest\nthe end\n"))
    assert len(server.log) == harness.LOG_KEPT
    assert server.log_path.stat().st_size < harness.LOG_BOUND * 2


@pytest.mark.parametrize(
    "foreign, rounds, fails",
    [
        (False, [1], ""),
        (False, [20], "it takes 20.0 MiB more memory, and may take 8 MiB more"),
        (True, [25, 12, 9, 30, 9, 9, 1], ""),
        (True, [20] * 12, "it takes 20.0 MiB, then 20.0 MiB, then"),
    ],
    ids=["flat", "growing", "a heap", "a leak"],
)
def test_a_heap_grows_and_then_no_more(foreign, rounds, fails):
    """A leak takes as much each time. Of our own servers, which have no such heap, the first time tells."""
    server = SimpleNamespace(model=SimpleNamespace(foreign=foreign), taken=0, memory=lambda: server.taken)
    todo = iter(rounds)

    def work():
        server.taken += next(todo) << 20

    with pytest.raises(BrokenPromise, match=fails) if fails else contextlib.nullcontext():
        Server.check_memory(server, work, 8 << 20)
    assert not list(todo)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what is shared")
def test_what_a_child_shares_counts_once(serve):
    """A parent has no more memory when its last child has gone, though all that they shared is its alone then."""
    server = serve("process_per_client")
    server.join(3)
    shared = server.memory()
    for peer in list(server.peers):
        peer.close()
    assert wait_until(lambda: len(server.processes()) == 1)
    assert server.memory() <= shared


@pytest.mark.parametrize("asked", [True, False], ids=["one is asked for", "the tables"])
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what waits in a connection")
def test_what_waits_at_the_server(monkeypatch, asked):
    """Not every system answers when it is asked for one connection. What its tables say is the same."""
    if not asked:
        monkeypatch.setattr(harness, "other_end", lambda sock: None)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = Peer(SimpleNamespace(port=listener.getsockname()[1]), socket.create_connection(listener.getsockname()))
        with peer.sock:
            peer.send(b"hello")
            assert wait_until(lambda: peer.arrived() == 5)
            if asked and not connections.other_end(peer.sock):
                pytest.skip("this system does not answer")
            assert not asked or not connections.other_end(peer.sock).accepted
            with listener.accept()[0] as accepted:
                assert not asked or connections.other_end(peer.sock).accepted
                accepted.send(b"to you")
                assert wait_until(lambda: peer.queued() == 6)
                accepted.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while accepted.send(b"x" * 65536):
                        pass
                assert wait_until(lambda: peer._at_server()[0] > 0)
                assert accepted.recv(3) == b"hel"
                assert wait_until(lambda: peer.arrived() == 2)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what waits in a connection")
def test_a_connection_over_ipv4_of_a_socket_for_both(needs_ipv6):
    """As Java's are: the system has it in its table for IPv6."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        peer = Peer(SimpleNamespace(port=port), socket.create_connection(("127.0.0.1", port)))
        with peer.sock, listener.accept()[0] as accepted:
            peer.send(b"hello")
            assert wait_until(lambda: peer.arrived() == 5)
            accepted.send(b"to you")
            assert wait_until(lambda: peer.queued() == 6)


# On any machine, however busy, and however the suite is started


def test_nobody_else_is_given_the_same_port(run):
    """Another pytest chooses at the same time: its server would be taken for ours."""
    code = "import random, harness; random.seed(1); print(harness.free_port(), flush=True); input()"
    begin = [sys.executable, "-c", code]
    options = {"stdin": subprocess.PIPE, "env": {"PYTHONPATH": str(Path(__file__).parent)}}
    ports = [run(begin, **options).await_log(r"^(\d+)$")[1] for _ in range(3)]
    assert len(set(ports)) == 3


@pytest.fixture
def starved(run):
    """A program that never rests and hardly gets a processor, since others want the same one."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("only Linux gives a program a processor")
    if not os.path.exists("/proc/self/schedstat"):
        pytest.skip("this system does not count for how long a program waits for a processor")
    programs = [
        run(["nice", "-n", nice, sys.executable, "-c", "while True: pass"]) for nice in ("19", "10", "10", "10")
    ]
    for program in programs:
        os.sched_setaffinity(program.pid, {min(os.sched_getaffinity(0))})
    assert wait_until(lambda: all(program.cpu() for program in programs))
    return programs[0]


def test_who_spins_is_found_on_a_busy_machine(starved, monkeypatch):
    monkeypatch.setattr(harness, "DEADLINE", 5.0)
    with pytest.raises(BrokenPromise, match="it has nothing to do"):
        Process.check_idle(starved)


def test_who_waits_for_a_processor_is_not_to_blame(starved):
    watch, begun = Stopwatch(starved), time.monotonic()
    time.sleep(2)
    assert watch.lap() < (time.monotonic() - begun) / 2


def test_signals_that_were_ignored_or_blocked(run):
    """By whoever has started pytest. What it starts must not inherit that."""
    code = (
        "import os, signal, sys\n"
        "numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD]\n"
        "for number in numbers: signal.signal(number, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, numbers)\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])\n"
    )
    tests = ["tests/test_clients.py", "-ktest_ctrl_c_leaves_quietly and (select or process or blocking)"]
    process = run([sys.executable, "-c", code, "-m", "pytest", "-n2", "-pno:cacheprovider", *tests], cwd=ROOT)
    assert process.wait(within=300) == 0, process.log


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_what_tls_has_read_ahead_is_taken():
    """No selector tells of that. Here the second of two reads has more in it than one of them has bytes."""
    data = bytes(range(256)) * 600
    data = data[: (2 << 16) - 8 * 22]  # as TLS 1.3 these are eight records, and twice 64 KiB
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    settings.num_tickets = 0

    def serve(listener):
        sock, _ = listener.accept()
        with settings.wrap_socket(sock, server_side=True) as secure:
            secure.sendall(data)
            secure.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.NamedTemporaryFile("w") as file:
        file.write(certificate())
        file.flush()
        settings.load_cert_chain(file.name)
        thread = threading.Thread(target=serve, args=[listener])
        thread.start()
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.connect(listener.getsockname())
        secure = TlsSocket(sock)
        secure.settimeout(harness.DEADLINE)
        assert secure.secure.wait(harness.DEADLINE)

        def all_is_here():
            with contextlib.suppress(BlockingIOError):
                return len(sock.recv(1 << 20, socket.MSG_PEEK)) == 2 << 16

        assert wait_until(all_is_here)
        came = b""
        while len(came) < len(data) and select.select([secure], [], [], 5)[0]:
            came += secure.recv(1 << 16)
        assert came == data
        secure.sendall(b"x")
        thread.join()
        secure.close()


class Item(NamedTuple):
    number: int
    path: Path

    def get_closest_marker(self, name):
        return None


@pytest.mark.parametrize("workers", [1, 2, 6, 9])
@pytest.mark.parametrize("slow", [0, 1, 50])
def test_what_is_dealt_out_is_all_there(workers, slow):
    """Each test once, and in each worker's stretch its share of those that take long."""
    names = ["check"] * slow + ["idle"] * 100
    items = [Item(number, Path(f"test_{name}.py")) for number, name in enumerate(names)]
    order = dealt(items, workers)
    assert sorted(item.number for item in order) == list(range(len(items)))
    each = len(order) // workers
    for worker in range(workers):
        stretch = order[worker * each : (worker + 1) * each]
        assert abs(sum(item.path.stem == "test_check" for item in stretch) - slow / workers) <= 2
