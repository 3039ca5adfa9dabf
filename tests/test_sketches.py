"""The sketches: small, like each other, on the standard library alone; and what each one breaks and keeps is proved."""

import ast
import difflib
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize

import pytest
from harness import converse, search_connections, wait_until
from promises import PROMISES, ROOT, Model
from sketches import BREAKS, exempt, filled

MOST_LINES = 40  # of code
MOST_CHANGED = 15  # lines, from one sketch to the next, where the model changes so little
ROOMS = [folder for folder in BREAKS if folder != "blocking"]
BREACHES = [(folder, promise) for folder in BREAKS for promise in BREAKS[folder]]


def source(folder):
    return (ROOT / folder / "sketch.py").read_text()


def lines_of_code(text):
    """How many lines hold more than blanks, comments and docstrings."""
    nothing = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {line for token in tokens if token.type not in nothing for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_each_folder_has_one():
    assert {path.parent.name for path in ROOT.glob("*/sketch.py")} == set(BREAKS)


@pytest.mark.parametrize("folder", BREAKS)
def test_it_is_short(folder):
    count = lines_of_code(source(folder))
    assert count <= MOST_LINES, f"{count} lines of code"


@pytest.mark.parametrize("folder", BREAKS)
def test_it_begins_with_what_it_waits_for(folder):
    docstring = ast.get_docstring(ast.parse(source(folder)))
    assert re.fullmatch(r"A chat server that waits \S.*\.", docstring), docstring


@pytest.mark.parametrize("old, new", [("select_based", "poll_based"), ("poll_based", "epoll_based")])
def test_it_differs_little_from_the_one_before(old, new):
    lines = difflib.unified_diff(source(old).splitlines(), source(new).splitlines(), lineterm="")
    changed = [line for line in lines if re.match(r"[+-](?![+-]{2})", line)]
    assert 0 < len(changed) <= MOST_CHANGED, "\n".join(changed)


@pytest.mark.parametrize("folder", BREAKS)
def test_it_runs_on_the_standard_library_alone(folder, run, scratch):
    """Without any installed package; and it says at once where it listens."""
    shutil.copy(ROOT / folder / "sketch.py", scratch)
    if folder == "proactor_based":
        shutil.copy(ROOT / folder / "proactor.py", scratch)
    process = run([sys.executable, "-S", "sketch.py", "0"], cwd=scratch)
    process.await_log(r"\Alistening on 127\.0\.0\.1:[1-9]\d*$")


# Talking


@pytest.fixture
def start_sketch(serve):
    """Start a folder's sketch: `start_sketch("poll_based")` gives a harness.Room."""

    def start(folder):
        words = (sys.executable, str(ROOT / folder / "sketch.py"), "{port}")
        server = serve(Model(folder, words, foreign=True))
        # Whoever asked whether it listens has gone again. A sketch that has not seen that yet sends to it, and dies.
        gone = re.compile(rf"^ *\d+: \w+:{server.port:04X} \w+:\w+ 08 ", re.MULTILINE)  # 08 is CLOSE_WAIT
        wait_until(lambda: not search_connections(gone), within=10)
        return server

    return start


@pytest.fixture
def begin(run):
    """Start the client of a folder: `begin("poll_based", server)`."""

    def start(folder, server):
        words = [sys.executable, str(ROOT / folder / "client.py"), str(server.port)]
        return run(words, stdin=subprocess.PIPE, bufsize=0)

    return start


def await_words(say, client):
    """Let somebody speak until the client has shown all that was said since it came in."""
    numbers = itertools.count()

    def heard():
        say(f"here {next(numbers)}\n".encode())
        return wait_until(lambda: "says: here" in client.log, within=0.1)

    wait_until(heard)
    client.await_log(f"says: here {next(numbers) - 1}$")


@pytest.mark.parametrize("folder", ROOMS)
def test_every_client_talks_through_it(folder, start_sketch, begin):
    server = start_sketch(folder)
    peer = server.connect()
    clients = {name: begin(name, server) for name in ROOMS}
    for name, client in clients.items():
        await_words(peer.send, client)
        client.popen.stdin.write(f"grüße von {name}\n".encode())
        assert re.fullmatch(rf"127\.0\.0\.1:\d+ says: grüße von {name}\n", peer.read_line().decode())
    peer.send(b"good-bye\n")
    for client in clients.values():
        client.await_log("says: good-bye$")
        client.popen.stdin.close()
        assert client.wait() == 0
    assert server.running


def test_its_client_talks_to_the_blocking_one(start_sketch, begin):
    server = start_sketch("blocking")
    for _ in range(2):
        client = begin("blocking", server)
        client.popen.stdin.write(b"hello\n")
        client.await_log(r"\A127\.0\.0\.1:\d+ says: hello\n")
        client.popen.stdin.close()
        assert client.wait() == 0


# What it breaks, and what it keeps


@pytest.mark.parametrize("folder", BREAKS)
def test_it_breaks_what_is_listed_and_keeps_the_rest(folder, run, scratch):
    """The suite's tests of each promise that it keeps pass, and a witness of each that it breaks fails."""
    path = scratch / "result"
    options = ["-n0", "-pno:cacheprovider", "-psketches", "--sketch", folder, "--sketch-result", str(path), "tests"]
    env = {"PYTHONPATH": str(ROOT / "tests")}
    process = run([sys.executable, "-m", "pytest", *options], cwd=ROOT, env=env)
    process.wait(within=150)
    assert path.exists(), process.log
    result = json.loads(path.read_text())
    seen = {promise for promise, tests in result["broken"].items() if set(tests.values()) == {"failed"}}
    assert seen == set(BREAKS[folder]), process.log
    kept = {promise for promise, tests in result["kept"].items() if "passed" in tests.values()}
    if folder == "thread_per_client":
        kept.add("fairness")  # its turns are the system's: see the next test
    assert kept >= set(PROMISES) - set(BREAKS[folder]) - set(exempt(folder)), process.log
    failed = {name for tests in result["kept"].values() for name, verdict in tests.items() if verdict == "failed"}
    assert not failed, process.log


@pytest.mark.parametrize("folder", [name for name in ROOMS if "fairness" not in BREAKS[name]])
def test_a_flood_starves_nobody(folder, start_sketch):
    """A word is heard long before the flood that was sent at the same time has come to its end."""
    server = start_sketch(folder)
    flooder, speaker, listener = peers = server.join(3)
    says = {flooder: b"flood\n" * 200_000, speaker: b"word\n"}
    assert converse(peers, says, lambda: speaker.line("word") in listener.unread)
    before = listener.unread.partition(speaker.line("word"))[0].count(b"\n")
    assert before < 100_000, f"{before} lines of the flood came first"


@pytest.mark.parametrize("folder, promise", BREACHES, ids=map("-".join, BREACHES))
def test_the_command_shows_it(folder, promise, start_sketch, begin, run):
    """What the table tells one to run shows what the table says."""
    if not shutil.which("bash"):
        pytest.skip("bash is not installed")
    breach = BREAKS[folder][promise]
    where, what = breach.shows
    if "TCP_QUICKACK" in breach.command and sys.platform != "linux":
        pytest.skip("TCP_QUICKACK is Linux's")
    server = start_sketch(folder)
    if folder in ROOMS:
        speaker, there = begin(folder, server), begin(folder, server)
        await_words(speaker.popen.stdin.write, there)
    command = breach.command.replace("{folder}", folder).replace("9669", str(server.port))
    command = re.sub(r"(client|sketch)\.py(?! 0)", rf"\g<0> {server.port}", command)
    path = f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    here = run(["bash", "-c", command], cwd=ROOT, env={"PATH": path})
    if where == "here":
        here.await_log(what)
    elif where == "there":
        there.await_log(what)
    elif where == "end of the sketch":
        server.await_log(what)
        assert server.wait() == 1
    elif where == "one hello there":
        here.wait()
        server.await_log(what)
        assert there.log.count("says: hello\n") <= 1
    elif where == "sketch only":
        here.wait()
        assert re.fullmatch(what, server.log), server.log
    elif where == "nothing there":
        before = there.log
        here.wait()
        speaker.popen.stdin.write(b"mark\n")
        there.await_log("says: mark$")
        assert re.fullmatch(r"\S+ says: mark\n", there.log.removeprefix(before)), there.log
    elif where == "standstill there":
        stands_still(speaker.popen.stdin.write, there)
    else:
        raise ValueError(where)


def stands_still(say, there):
    """Fail unless the other client hears much, and then nothing. (asyncio's speaker may be heard once more.)"""
    assert wait_until(lambda: len(there.log) > 100_000)
    numbers = itertools.count()

    def unheard():
        last = f"says: mark {next(numbers)}\n"
        for text in ("once", last.removeprefix("says: ").strip()):
            say(f"{text}\n".encode())
        return not wait_until(lambda: last in there.log, within=2.0)

    assert wait_until(unheard), "the speaker is still heard"


@pytest.mark.parametrize("folder", BREAKS)
def test_the_page_shows_the_same(folder):
    """`python tests/sketches.py --write` writes it anew."""
    text, new = filled(folder)
    assert new is not None, "the page has no lines <!-- sketch:breaks --> and <!-- /sketch -->"
    assert text == new
