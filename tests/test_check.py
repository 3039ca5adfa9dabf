"""check.py: a right server is found right, and of a wrong one its mistake is named, once, and nothing else.

The right ones are in course/testbed/right and among our own. The wrong ones are those of tests/wrong_servers,
those of course/testbed/wrong, and right ones of which one line was changed.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import psutil
import pytest
from harness import wait_until
from promises import ROOT

BED = ROOT / "course" / "testbed"
SUITES = ROOT / "tests" / "wrong_servers"
WRONG = f"{sys.executable} {BED / 'run_wrong.py'}"
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


def program(name):
    """A program that this test takes, or a skip."""
    if not shutil.which(name):
        if name == "gcc" and os.environ.get("CHAT_ALL_PROGRAMS"):
            pytest.fail(f"there is no {name}")
        pytest.skip(f"there is no {name}")
    return name


def build(source, folder):
    """The command for one of the right servers, after what was changed in it: a text with {port}."""
    kind = source.suffix
    if kind == ".c":
        subprocess.run([program("gcc"), "-O1", "-o", folder / "server", source], check=True)
        return f"{folder / 'server'} {{port}}"
    if kind == ".java":
        subprocess.run([program("javac"), "-d", folder, source], check=True)
        return f"java -Xmx64m -cp {folder} {source.stem} {{port}}"
    if kind == ".go":
        env = {**os.environ, "GOCACHE": str(folder / "cache"), "GO111MODULE": "off", "GOPATH": str(folder / "go")}
        if not shutil.which("go"):  # no machine of the project has to have it
            pytest.skip("there is no go")
        subprocess.run(["go", "build", "-o", folder / "server", source], check=True, env=env)
        return f"{folder / 'server'} {{port}}"
    return f"{program('node')} {source} {{port}}"


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
@pytest.mark.parametrize("source", sorted((BED / "right").iterdir()), ids=lambda path: path.name)
def test_those_in_other_languages_are_right(examine, scratch, source):
    report, log = examine(build(source, scratch), "--time", "900")
    assert {stage["verdict"] for stage in report["stages"]} == {"passed"}, log


@pytest.mark.long
def test_the_base_of_the_wrong_ones_is_right(examine):
    report, log = examine(f"{WRONG} {SUITES / 'base.py'}", "--time", "900")
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
    "history": ("broadcast", "no history"),
    "its_own_port": ("broadcast", "the server's own port"),
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
    "many_processes": "processes, and may take",
}
RIGHT_AFTER_ALL = {"writes_files": "chat.db", "logs_endlessly": ""}

# A right server, what is changed in it, the stage, and words of the hint.
CHANGED = {
    "C: dies of SIGPIPE": (
        "poll.c",
        {"signal(SIGPIPE, SIG_IGN);": "", "client->waiting, MSG_NOSIGNAL);": "client->waiting, 0);"},
        "leaving",
        "SIGPIPE",
    ),
    "C: sends its buffer with the NUL": (
        "poll.c",
        {"            put(clients[i], text, out);": "            text[out] = 0, put(clients[i], text, out + 1);"},
        "broadcast",
        "NUL",
    ),
    "C: listens on all addresses": ("poll.c", {"INADDR_LOOPBACK": "INADDR_ANY"}, "start", "Bind to 127.0.0.1"),
    "C: forgets TCP_NODELAY": (
        "poll.c",
        {"setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);": ""},
        "latency",
        "TCP_NODELAY",
    ),
    "C: prints into a buffer": (
        "poll.c",
        {'dprintf(2, "%s\\n", line);': 'printf("%s\\n", line);'},
        "log",
        "Flush",
    ),
    "C: forgets SO_REUSEADDR": (
        "poll.c",
        {"setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);": ""},
        "stopping",
        "SO_REUSEADDR",
    ),
    "C: sends the prefix and the text in two writes": (
        "poll.c",
        {
            "put(clients[i], text, out);": "put(clients[i], text, 10), put(clients[i], text + 10, out - 10);",
            "setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);": "",
        },
        "latency",
        "two writes",
    ),
    "C: a fault in memory": (
        "poll.c",
        {"        if (code == 0xFFFD)": "if (code == 0xFFFD) *(volatile int *)16 = 1; else if (code == 0xFFFD)"},
        "message",
        "memory fault",
    ),
    "C: status 1 at the end": ("poll.c", {'say("bye");\n    return 0;': 'say("bye");\n    return 1;'}, "stopping", "0"),
    "JavaScript: a reset is an error that nobody handles": (
        "events.js",
        {'  sock.on("error", (error) => drop(client, `dropped: ${error.code}`));\n': ""},
        "leaving",
        "reset",
    ),
    "JavaScript: mapped addresses": (
        "events.js",
        {'host: "127.0.0.1"': 'host: "::ffff:127.0.0.1"'},
        "broadcast",
        "mapped",
    ),
    "JavaScript: bytes are decoded before lines are looked for": (
        "events.js",
        {"receive(client, data));": "receive(client, Buffer.from(String(data))));"},
        "framing",
        "may be cut in two",
    ),
    "JavaScript: what waits has no bound": (
        "events.js",
        {"const MAX_UNSENT = 1 << 20;": "const MAX_UNSENT = 1e12;"},
        "slow",
        "past 1 MiB",
    ),
    "JavaScript: goes on after SIGTERM": ("events.js", {'process.on("SIGTERM", stop);': ""}, "stopping", "SIGTERM"),
    "Java: an address as Java writes it": (
        "Nio.java",
        {'address.getAddress().getHostAddress() + ":" + address.getPort()': "address.toString()"},
        "broadcast",
        "HOST:PORT",
    ),
    "Java: lines end as on Windows": ("Nio.java", {'text + "\\n")': 'text + "\\r\\n")'}, "broadcast", "CR LF"),
    "Java: status 143": ("Nio.java", {"Runtime.getRuntime().halt(0)": ""}, "stopping", "status is 0"),
    "Java: a socket is never closed": (
        "Nio.java",
        {"            client.channel.close();": "            if (client.name == null) client.channel.close();"},
        "leaving",
        "close",
    ),
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


@pytest.mark.parametrize("name", OF_THE_SUITE)
def test_the_mistake_of_a_wrong_server_of_the_suite_is_named(examine, name):
    check_named(*examine(f"{WRONG} {SUITES / name}.py", "--time", "300"), *OF_THE_SUITE[name])


@pytest.mark.parametrize("name", OF_THE_COURSE)
def test_the_mistake_of_a_wrong_server_is_named(examine, name):
    check_named(*examine(f"{WRONG} {BED / 'wrong' / name}.py", "--time", "300"), *OF_THE_COURSE[name])


@pytest.mark.parametrize("what", CHANGED)
def test_the_mistake_in_another_language_is_named(examine, scratch, what):
    name, changes, stage, words = CHANGED[what]
    text = (BED / "right" / name).read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (scratch / name).write_text(text)
    check_named(*examine(build(scratch / name, scratch), "--time", "300"), stage, words)


@pytest.mark.parametrize("name", CANNOT_BE_TESTED)
def test_what_cannot_be_tested_is_told_in_one_line(examine, name):
    options = ["--processes", "50"] if name == "many_processes" else []
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
    "a syntax error": (b"#!/usr/bin/env python3\ndef run(:\n", 0o755, "a syntax error"),
    "a module that is not there": (b"#!/usr/bin/env python3\nimport no_such_module\n", 0o755, "is not there"),
    "ends without a word": (b"#!/bin/sh\nexit 3\n", 0o755, "status 3 at once, without a word"),
    "killed": (b"#!/bin/sh\nkill -SEGV $$\n", 0o755, "ended by SIGSEGV"),
    "empty": (b"", 0o755, "is empty"),
    "no program of this machine": (b"\x7fELF\x99", 0o755, "cannot start it"),
}


@pytest.mark.parametrize("what", NONE)
def test_what_is_no_program_is_told_in_one_line(examine, scratch, what):
    data, mode, words = NONE[what]
    file = scratch / "my server"  # with a blank in it
    if data is not None:
        file.write_bytes(data)
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
        + (BED / "run_wrong.py").read_text().replace("Path(__file__).resolve()", f"Path({str(BED / 'run_wrong.py')!r})")
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
    report, log = examine(f"{WRONG} {SUITES / 'leaves_a_child.py'}", "--stage", "stopping")
    assert broken(report) == ["stopping"], log
    assert list((scratch / "tmp").iterdir()) == []


def test_the_time_for_all_is_bounded(examine):
    report, log = examine(f"{WRONG} {SUITES / 'base.py'}", "--time", "2")
    assert "because the time was over" in log
    assert not broken(report)


def test_a_bad_server_takes_three_minutes_at_most(examine):
    """The one with which the suite ran ten minutes into 138 failures, and one of which nothing is heard."""
    report, _ = examine(f"{WRONG} {BED / 'wrong' / 'wrong_word.py'}")
    assert report["seconds"] < 180


# Options


def test_one_stage_is_tested_alone(examine):
    report, log = examine(f"{WRONG} {SUITES / 'base.py'}", "--stage", "3", status=0)
    assert [stage["name"] for stage in report["stages"]] == ["framing"], log
    report, log = examine(f"{WRONG} {BED / 'wrong' / 'no_newline.py'}", "--stage", "framing", status=1)
    assert not broken(report) and "because of broadcast.words" in log


def test_from_a_stage_on(examine):
    report, log = examine(f"{WRONG} {SUITES / 'base.py'}", "--from", "slow", "--time", "300")
    assert [stage["name"] for stage in report["stages"]] == ["slow", "fairness"], log


def test_all_goes_on_in_a_stage(examine):
    command = f"{WRONG} {SUITES / 'delivers_blank_lines.py'}"
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


@pytest.mark.parametrize("options", [[], ["--stage", "12", "x"], ["--like", "x", "x"], ["--memory", "0", "x"]])
def test_usage(run, options):
    process = run([sys.executable, "check.py", *options], cwd=ROOT)
    assert process.wait() == 2
    assert process.log.startswith("usage: ") and "Traceback" not in process.log


def test_it_needs_no_package(run, scratch):
    process = run([sys.executable, "-S", "-E", str(ROOT / "check.py"), "--list"], cwd=scratch)
    assert process.wait() == 0
    assert "broadcast.words" in process.log, process.log
