"""check.py: a right server is found right, and of a wrong one its mistake is named, once, and nothing else.

The right ones are in tests/programs and among our own. The wrong ones are those of tests/wrong_servers, those of
course/testbed/wrong, and right ones of which a line was changed (tests/other_languages.py).
"""

import contextlib
import importlib
import json
import os
import re
import signal
import socket
import sys

import psutil
import pytest
from harness import wait_until
from other_languages import RIGHT, built, built_wrong
from promises import ROOT

BED = ROOT / "course" / "testbed"
SUITES = ROOT / "tests" / "wrong_servers"
PYTHON = f"{sys.executable} -S -E"  # with nothing that it does not need, as it is started a thousand times
WRONG = f"{PYTHON} {BED / 'run_wrong.py'}"
BASE = f"{PYTHON} {SUITES / 'base.py'}"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where a program listens, and so on")
MOST_LINES, MOST_WIDE = 60, 420

pytestmark = LINUX


@pytest.fixture
def examine(run, scratch):
    """Run check.py: `examine("./my_server", "--all")` gives its report and what it wrote."""

    def test(command, *options, status=None):
        file = scratch / "report.json"
        process = run([sys.executable, "check.py", *options, "--json", str(file), command], cwd=ROOT)
        came = process.wait(within=400)
        assert status is None or came == status, process.log
        assert file.exists(), process.log
        return json.loads(file.read_text()), process.log

    return test


def broken(report):
    return [stage["name"] for stage in report["stages"] if stage["verdict"] == "BROKEN"]


# Right servers

OURS = ["poll_based", "thread_per_client", "asyncio_based", "select_based", "process_per_client", "blocking"]


@pytest.mark.long
@pytest.mark.parametrize("name", OURS)
def test_ours_are_right(examine, name):
    like = ["--like", name] if name in ("thread_per_client", "blocking") else []
    report, log = examine(f"{name}/server.py", *like, "--time", "900")
    assert {stage["verdict"] for stage in report["stages"]} == {"passed"}, log
    assert len(report["stages"]) == (8 if name == "blocking" else 11)


@pytest.mark.long
@pytest.mark.parametrize("name", RIGHT)
def test_those_in_other_languages_are_right(examine, scratch, name):
    report, log = examine(built(name, scratch), "--time", "900")
    assert {stage["verdict"] for stage in report["stages"]} == {"passed"}, log


@pytest.mark.long
def test_the_base_of_the_wrong_ones_is_right(examine):
    report, log = examine(BASE, "--time", "900")
    assert {stage["verdict"] for stage in report["stages"]} == {"passed"}, log


# Wrong servers: the stage that must be called broken, and words of its hint or of what it says is wrong.

OF_THE_SUITE = {
    "always_asks_to_write": ("log", "only while bytes are unsent"),
    "announces_who_leaves": ("leaving", "not announced"),
    "breaks_on_telnet": ("message", "U+FFFD"),
    "cannot_have_its_port_again": ("stopping", "SO_REUSEADDR"),
    "ctrl_c_waits_for_the_line": ("leaving", "FF F4"),
    "delivers_blank_lines": ("framing", "nothing to see"),
    "delivers_the_tail": ("limits", "close the connection"),
    "dies_of_a_broken_pipe": ("leaving", "SIGPIPE"),
    "dies_of_a_reset": ("leaving", "reset"),
    "drops_what_does_not_fit": ("slow", "how many bytes it took"),
    "drops_who_cannot_be_sent_to": ("leaving", "A send that fails says nothing"),
    "echoes_to_the_sender": ("broadcast", "does not get its own line"),
    "ends_with_an_error": ("stopping", "status"),
    "forgets_a_leaver": ("leaving", "empty recv is the end of the stream"),
    "forgets_keepalive": ("leaving", "SO_KEEPALIVE"),
    "forgets_nodelay": ("latency", "TCP_NODELAY"),
    "greets": ("broadcast", "no greeting"),
    "has_no_limit": ("limits", "Past 4096 bytes"),
    "ignores_signals": ("stopping", "stop accepting"),
    "keeps_all_that_is_unsent": ("slow", "past 1 MiB"),
    "leaks_descriptors": ("leaving", ""),
    "leaves_a_child": ("stopping", "processes that you started"),
    "limit_is_one_less": ("limits", "4095 without"),
    "listens_on_all": ("start", "Bind to 127.0.0.1"),
    "logs_what_is_said": ("log", "private"),
    "loses_the_last_line": ("framing", "last message"),
    "names_are_mapped": ("broadcast", "mapped"),
    "needs_its_log": ("log", "no reason to end"),
    "never_drops_its_memory": ("leaving", "forget it when it has left"),
    "never_full": ("limits", "keep some descriptors back"),
    "passes_escapes_on": ("message", "Drop the CR"),
    "passes_overrides_on": ("message", "Remove the characters"),
    "reorders": ("framing", "in the order in which"),
    "repeats": ("broadcast", "exactly once"),
    "sends_again_what_does_not_fit": ("slow", "how many bytes it took"),
    "sends_in_two_pieces": ("latency", "two writes"),
    "stalls_on_a_slow_reader": ("slow", "Do not wait for one client", "leaving"),  # it drops who cannot be sent to
    "starves_the_others": ("fairness", "never comes to the end of a flood"),
    "takes_a_recv_for_a_message": ("framing", "a recv is not a message"),
    "waits_for_its_clients": ("stopping", "Do not wait for clients"),
}

OF_THE_COURSE = {
    "announces_who_comes": ("broadcast", "announce"),
    "bytes_for_text": ("broadcast", "Decode the bytes"),
    "crlf": ("broadcast", "CR LF"),
    "decodes_pieces": ("framing", "may be cut in two"),
    "eats_memory": ("broadcast", "MiB of memory"),
    "dies_when_full": ("limits", "no descriptor is left"),
    "echoes_to_the_sender_alone": ("broadcast", "Send a line to all the others"),
    "ends_its_guard": ("broadcast", "ends nobody but itself"),
    "history": ("broadcast", "no history"),
    "its_own_port": ("broadcast", "the server's own port"),
    "never_accepts": ("broadcast", "accepts nobody"),
    "never_flushes": ("log", "Flush"),
    "no_newline": ("broadcast", "the newline is missing"),
    "no_prefix": ("broadcast", "the prefix is missing"),
    "one_at_a_time": ("broadcast", "one client at a time"),
    "one_buffer_for_all": ("framing", "a buffer of its own"),
    "one_line_alone": ("broadcast", "not for one line alone"),
    "says_nothing": ("log", "says nothing at all"),
    "shares_its_port": ("start", "SO_REUSEPORT"),
    "starts_late": ("start", "Listen first"),
    "the_listeners_port": ("broadcast", "the port of who listens"),
    "two_newlines": ("broadcast", "still has its newline"),
    "wrong_word": ("broadcast", "HOST:PORT says: TEXT"),
}

# Those which cannot be tested, and what is said in the one line.
CANNOT_BE_TESTED = {
    "a_daemon": "it leaves",
    "another_family": "listens on ::1",
    "another_port": "was to listen on port",
    "ends_at_once": "ended with status 1",
    "listens_nowhere": "listens nowhere",
    "many_processes": "more than 50 processes, which is what it may take",
    "many_by_forking": "more than 50 processes",
}
RIGHT_AFTER_ALL = {"writes_files": "chat.db", "logs_endlessly": ""}

# Those in other languages (see there).
OF_OTHER_LANGUAGES = {
    "c_cannot_have_its_port_again": ("stopping", "SO_REUSEADDR"),
    "c_dies_of_a_broken_pipe": ("leaving", "SIGPIPE"),
    "c_ends_with_an_error": ("stopping", "the status is 0"),
    "c_forgets_nodelay": ("latency", "TCP_NODELAY"),
    "c_has_a_fault_in_memory": ("message", "memory fault"),
    "c_leaves_a_child": ("stopping", "processes that you started"),
    "c_listens_on_all": ("start", "Bind to 127.0.0.1"),
    "c_never_flushes": ("log", "Flush"),
    "c_sends_in_two_pieces": ("latency", "two writes"),
    "c_sends_the_nul": ("broadcast", "NUL"),
    "java_ends_lines_as_on_windows": ("broadcast", "CR LF"),
    "java_ends_of_sigterm": ("stopping", "status is 0"),
    "java_never_closes": ("leaving", "close"),
    "java_shows_an_address_in_its_own_way": ("broadcast", "HOST:PORT"),
    "js_decodes_pieces": ("framing", "may be cut in two"),
    "js_dies_of_a_reset": ("leaving", "reset"),
    "js_goes_on_after_sigterm": ("stopping", "SIGTERM"),
    "js_keeps_all_that_is_unsent": ("slow", "past 1 MiB"),
    "js_names_are_mapped": ("broadcast", "mapped"),
}


def check_named(report, log, stage, words, *also):
    """The one stage is broken, its hint or its sentence has the words, and none else failed (but those in `also`)."""
    assert [name for name in broken(report) if name not in also] == [stage], log
    (found,) = [entry for entry in report["stages"] if entry["name"] == stage]
    assert words.lower() in re.sub(r"\s+", " ", f"{found['what']} {found['hint']}").lower(), log
    for entry in report["stages"]:
        if entry["verdict"] == "not tested":
            assert entry["because"], log
    check_bounded(log)


def check_bounded(log):
    """At most 60 lines a stage, and none of them endless."""
    for part in re.split(r"^(?==+ Stage )", log, flags=re.MULTILINE)[1:]:
        stage = part.partition("\n\n")[0]
        assert stage.count("\n") <= MOST_LINES, stage
    assert max(map(len, log.splitlines())) <= MOST_WIDE


def test_each_wrong_server_is_listed():
    assert set(OF_THE_SUITE) <= {path.stem for path in SUITES.glob("*.py")}
    known = {*OF_THE_COURSE, *CANNOT_BE_TESTED, *RIGHT_AFTER_ALL}
    assert {path.stem for path in (BED / "wrong").glob("*.py")} == known


def how_far(names):
    """For each wrong server the options that say where check.py ends.

    The last two stages take as much of the processor as all the others. Servers with a mistake there go through them,
    and every fourth of the rest does: nothing more may be broken.
    """
    all_of_it = {*list(names)[::4], *(name for name, (stage, *_) in names.items() if stage in ("slow", "fairness"))}
    return {name: [] if name in all_of_it else ["--to", "log"] for name in names}


@pytest.mark.parametrize("name, to", how_far(OF_THE_SUITE).items(), ids=OF_THE_SUITE)
def test_the_mistake_of_a_wrong_server_of_the_suite_is_named(examine, name, to):
    check_named(*examine(f"{PYTHON} {SUITES / name}.py", *to, "--time", "300"), *OF_THE_SUITE[name])


@pytest.mark.parametrize("name", OF_THE_COURSE)
def test_the_mistake_of_a_wrong_server_is_named(examine, name):
    options = {"wrong_word": [], "starts_late": ["--stage", "start"]}.get(name, ["--time", "300"])
    report, log = examine(f"{WRONG} {BED / 'wrong' / name}.py", *options)
    check_named(report, log, *OF_THE_COURSE[name])
    assert options or report["seconds"] < 180  # with this one the suite failed for ten minutes


@pytest.mark.parametrize("name, to", how_far(OF_OTHER_LANGUAGES).items(), ids=OF_OTHER_LANGUAGES)
def test_the_mistake_in_another_language_is_named(examine, scratch, name, to):
    check_named(*examine(built_wrong(name, scratch), *to, "--time", "300"), *OF_OTHER_LANGUAGES[name])


@pytest.mark.parametrize("name", CANNOT_BE_TESTED)
def test_what_cannot_be_tested_is_told_in_one_line(examine, name):
    options = ["--processes", "50"] if name.startswith("many_") else []
    report, log = examine(f"{WRONG} {BED / 'wrong' / name}.py", *options, status=1)
    assert CANNOT_BE_TESTED[name] in report["fatal"], log
    assert log.count("Your program cannot be tested") == 1 and "== Stage" not in log
    assert {stage["verdict"] for stage in report["stages"]} == {"not tested"}
    if name == "ends_at_once":
        assert "no configuration" in log


@pytest.mark.parametrize("name", RIGHT_AFTER_ALL)
def test_files_and_an_endless_log_are_no_broken_promise_elsewhere(examine, name):
    report, log = examine(f"{WRONG} {BED / 'wrong' / name}.py", "--time", "300")
    check_bounded(log)
    assert len(log) < 40_000
    assert set(broken(report)) <= {"log"}, log  # it never rests, and its own lines are lost among the others
    if word := RIGHT_AFTER_ALL[name]:
        assert word in log and not broken(report)
    assert not (ROOT / "chat.db").exists()


# Programs that are none

NONE = {
    "missing": (None, 0o755, "no file is called"),
    "not executable": (b"#!/bin/sh\nexit 0\n", 0o644, "is not executable"),
    "no interpreter": (b"import socket\n", 0o755, "does not say which interpreter"),
    "an interpreter that is not there": (b"#!/usr/bin/pyhton3\n", 0o755, "does not exist"),
    "one that env does not find": (b"#!/usr/bin/env pyhton3\n", 0o755, "is not in PATH"),
    "made on Windows": (b"#!/usr/bin/env python3\r\nimport socket\r\n", 0o755, "ends in CR LF"),
    "a syntax error": (b"#!PYTHON\ndef run(:\n", 0o755, "a syntax error"),
    "a module that is not there": (b"#!PYTHON\nimport no_such_module\n", 0o755, "is not there"),
    "ends without a word": (b"#!/bin/sh\nexit 3\n", 0o755, "status 3 at once, without a word"),
    "killed": (b"#!/bin/sh\nkill -SEGV $$\n", 0o755, "ended by SIGSEGV"),
    "empty": (b"", 0o755, "is empty"),
    "no program of this machine": (b"\x7fELF\x99", 0o755, "cannot start it"),
}


# Commands, and what is said of them; {folder} has a file server.c.
COMMANDS = {
    "{folder}": "is a directory",
    "/dev/null": "is no file",
    "{folder}/server.c": "has to be built first",
    "make && ./server": "which only a shell understands",
    "'./server": "No closing quotation",
    "no_such_program_at_all --port {port}": "no program in PATH is called",
    f"{sys.executable} -c input()": "waits for input, and there is none",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_command_is_told_in_one_line(examine, scratch, command):
    (scratch / "server.c").touch()
    report, log = examine(command.replace("{folder}", str(scratch)), status=1)
    assert COMMANDS[command] in report["fatal"], log


@pytest.mark.parametrize("what", NONE)
def test_what_is_no_program_is_told_in_one_line(examine, scratch, what):
    data, mode, words = NONE[what]
    file = scratch / "my server"  # with a blank in it
    if data is not None:
        file.write_bytes(data.replace(b"PYTHON", sys.executable.encode()))
        file.chmod(mode)
    report, log = examine(str(file), status=1)
    assert words in report["fatal"], log
    assert len(log.splitlines()) <= 14, log


# What a program gets, and what stays behind

TELLS = """import os, sys
print(os.getcwd(), os.readlink("/proc/self/fd/0"), os.environ.get("TMPDIR"), sep="\\n")
print("odd ones:", [name for name in os.environ if "SECRET" in name or "PYTEST" in name])
sys.exit(9)
"""


def test_a_program_gets_a_scrubbed_environment(examine, scratch, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    (scratch / "server.py").write_text(TELLS)
    report, log = examine(str(scratch / "server.py"))
    assert report["fatal"], log
    assert "odd ones: []" in log and "| /dev/null" in log and log.count("chat-check-") == 2, log


def alive(mark):
    """Processes with this in their environment or command."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(mark in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            pass
    return found


def test_nothing_is_left_when_check_py_is_killed(run, scratch, monkeypatch):
    """Neither the server, nor a child of it in a session of its own, nor a directory."""
    (scratch / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch / "tmp"))
    mark = f"mark{os.getpid()}"
    server = scratch / f"{mark}.py"
    server.write_text(
        f"import subprocess\nsubprocess.Popen(['sh', '-c', 'sleep 1000; : {mark}'], start_new_session=True)\n"
        f"__file__ = {str(BED / 'run_wrong.py')!r}\n" + (BED / "run_wrong.py").read_text()
    )
    process = run([sys.executable, "check.py", f"{sys.executable} {server} {SUITES}/base.py {{port}}"], cwd=ROOT)
    process.await_log(r"== Stage 2")
    assert wait_until(lambda: len(alive(mark)) >= 4), process.log  # its guard, it, its child, and this one
    process.signal(signal.SIGKILL)
    process.wait()
    assert wait_until(lambda: not alive(mark)), alive(mark)
    assert wait_until(lambda: list((scratch / "tmp").iterdir()) == [])


def test_nothing_is_left_after_a_run(examine, scratch, monkeypatch):
    (scratch / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch / "tmp"))
    report, log = examine(f"{PYTHON} {SUITES / 'leaves_a_child.py'}", "--stage", "stopping")
    assert broken(report) == ["stopping"], log
    assert list((scratch / "tmp").iterdir()) == []


def test_the_time_for_all_is_bounded(examine):
    report, log = examine(BASE, "--time", "2")
    assert "because the time was over" in log
    assert not broken(report)


# Options


def test_one_stage_is_tested_alone(examine):
    report, log = examine(BASE, "--stage", "3", status=0)
    assert [stage["name"] for stage in report["stages"]] == ["framing"], log
    report, log = examine(f"{WRONG} {BED / 'wrong' / 'no_newline.py'}", "--stage", "framing", status=1)
    assert not broken(report) and "because of broadcast.words" in log


def test_from_a_stage_on(examine):
    report, log = examine(BASE, "--from", "slow", "--time", "300")
    assert [stage["name"] for stage in report["stages"]] == ["slow", "fairness"], log


def test_up_to_a_stage(examine):
    report, log = examine(BASE, "--to", "2", status=0)
    assert [stage["name"] for stage in report["stages"]] == ["start", "broadcast"], log
    report, log = examine(BASE, "--from", "broadcast", "--to", "framing", status=0)
    assert [stage["name"] for stage in report["stages"]] == ["broadcast", "framing"], log


def test_all_goes_on_in_a_stage(examine):
    command = f"{PYTHON} {SUITES / 'delivers_blank_lines.py'}"
    report, log = examine(command, "--stage", "framing", "--all")
    (stage,) = report["stages"]
    verdicts = [check["verdict"] for check in stage["checks"].values()]
    assert verdicts.count("BROKEN") == 1 and verdicts.count("passed") == 4, log
    report, _ = examine(command, "--stage", "framing")
    assert [check["verdict"] for check in report["stages"][0]["checks"].values()][-1] == "not tested"


def test_the_list_has_all_stages(run):
    process = run([sys.executable, "check.py", "--list"], cwd=ROOT)
    assert process.wait() == 0
    assert len(re.findall(r"^ +\d+ \w", process.log, re.MULTILINE)) == 11


USAGE = ["", "--stage 12 x", "--like x x", "--memory 0 x", "--to 12 x", "--from 3 --to 2 x", "--stage 3 --to 2 x"]


@pytest.mark.parametrize("options", [words.split() for words in USAGE], ids=USAGE)
def test_usage(run, options):
    process = run([sys.executable, "check.py", *options], cwd=ROOT)
    assert process.wait() == 2
    assert process.log.startswith("usage: ") and "Traceback" not in process.log


def test_nobody_has_to_read_all_of_it(run):
    """`python check.py ... | head -1`"""
    pipe = f"{sys.executable} check.py '{WRONG} {BED / 'wrong' / 'one_line_alone.py'}' | head -1"
    process = run(["sh", "-c", pipe], cwd=ROOT)
    assert process.wait() == 0
    assert process.log == "== Stage 1: it runs, stays, and listens where it should\n"


def test_it_needs_no_package(run, scratch):
    process = run([sys.executable, "-S", "-E", str(ROOT / "check.py"), "--list"], cwd=scratch)
    assert process.wait() == 0
    assert "broadcast.words" in process.log, process.log


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who listens")
def test_who_listens(monkeypatch, needs_ipv6):
    """Not every system answers when it is asked for those who listen. What its tables say is the same."""
    monkeypatch.syspath_prepend(ROOT)
    program = importlib.import_module("course.program")
    with contextlib.ExitStack() as stack:
        wanted = set()
        for host, family, told in (
            ("127.0.0.1", socket.AF_INET, "127.0.0.1"),
            ("", socket.AF_INET, "0.0.0.0"),
            ("::1", socket.AF_INET6, "::1"),
            ("::", socket.AF_INET6, "::"),
            ("::ffff:127.0.0.1", socket.AF_INET6, "127.0.0.1"),
        ):
            listener = stack.enter_context(socket.socket(family))
            if "ffff" in host:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind((host, 0))
            listener.listen()
            wanted.add((told, listener.getsockname()[1], str(os.fstat(listener.fileno()).st_ino)))
        asked = program.listeners()
        assert wanted <= {*program.listening_sockets()}
        monkeypatch.setattr(program, "listeners", lambda: None)
        assert wanted <= {*program.listening_sockets()}
        if asked is None:
            pytest.skip("this system does not answer")
