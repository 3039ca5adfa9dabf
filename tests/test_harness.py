"""The harness is tested: what it says when something fails, and that it leaves nothing behind."""

import shlex
import signal
import sys
from pathlib import Path

import psutil
import pytest
from harness import wait_until
from promises import ROOT

BASE = Path(__file__).parent / "wrong_servers" / "base.py"
MARK = "CHAT_TESTS_MARK"


@pytest.fixture
def sub_pytest(run, scratch):
    """Run pytest on a student's server: `sub_pytest("command {port}")` gives a harness.Process.

    All that it starts carries a mark in its environment, and it puts its files into the directory `files`.
    """
    (scratch / "files").mkdir()

    def start(command, *options):
        env = {MARK: scratch.name, "TMPDIR": str(scratch / "files")}
        arguments = ["-pno:cacheprovider", "--server-cmd", command, *options]
        return run([sys.executable, "-m", "pytest", *arguments], cwd=ROOT, env=env)

    return start


def marked(mark):
    """The processes that carry the mark, by their command lines."""
    found = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = shlex.join(process.cmdline())
        except (psutil.Error, OSError):
            continue
    return found


def check_nothing_is_left(scratch):
    assert wait_until(lambda: not marked(scratch.name)), marked(scratch.name)
    assert wait_until(lambda: not any((scratch / "files").iterdir())), list((scratch / "files").rglob("*"))


def test_nothing_is_left_behind(sub_pytest, scratch):
    process = sub_pytest(shlex.join([sys.executable, str(BASE)]) + " {port}", "-n2", "--promises=message,latency")
    assert process.wait(within=60) == 0, process.log
    check_nothing_is_left(scratch)


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
    assert process.wait(within=60) == 1
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
    process = sub_pytest(command, "-n0", "--promises=broadcast,fairness", "--like=blocking")
    assert process.wait(within=60) == 0, process.log
    assert "broadcast  kept" in process.log


def test_a_server_that_ends_at_once(sub_pytest):
    """It fails without waiting for a port that nobody will ever listen on, and shows why it ended."""
    dying = shlex.join([sys.executable, "-c", "raise SystemExit('no such luck')", "{port}"])
    process = sub_pytest(dying, "-n0", "--promises=latency", "--deadline=100")
    assert process.wait(within=30) == 1
    assert "ended with status 1" in process.log
    assert "no such luck" in process.log


def test_a_server_that_never_listens(sub_pytest):
    waiting = shlex.join([sys.executable, "-c", "import time; time.sleep(100)", "{port}"])
    process = sub_pytest(waiting, "-n0", "--promises=latency", "--deadline=1")
    assert process.wait(within=30) == 1
    assert "does not listen" in process.log


def test_a_command_that_does_not_exist(sub_pytest):
    process = sub_pytest("./no_such_server {port}", "-n0", "--promises=latency")
    assert process.wait(within=30) == 1
    assert "No such file or directory: './no_such_server'" in process.log


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--promises=politeness"], "politeness is none of start, message"),
        (["--server-cmd=./my_server"], "say with {port} where the port goes"),
        (["--server-cmd=./my_server {port}", "--like=something"], "something is none of blocking"),
    ],
)
def test_wrong_options(run, options, says):
    process = run([sys.executable, "-m", "pytest", "-n0", "-pno:cacheprovider", *options], cwd=ROOT)
    assert process.wait(within=30) == pytest.ExitCode.USAGE_ERROR
    assert says in process.log
