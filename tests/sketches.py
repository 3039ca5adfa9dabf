"""The sketches, and the promises that each of them breaks: the one table, for the tests and for the pages.

    python tests/sketches.py            which pages do not show the table as it is here
    python tests/sketches.py --write    write it into them, between <!-- sketch:breaks --> and <!-- /sketch -->

It is also the plugin with which test_sketches.py has pytest test a sketch (`pytest -p sketches --sketch FOLDER`): all
tests of the promises that it is to keep, and for each one that it is to break a witness, which must fail.
"""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import harness
import pytest
from promises import EXCEPTIONS, PROMISES, ROOT, Model

WITNESS_DEADLINE = 2.0  # seconds for which a witness waits for what never comes
KEPT_DEADLINE = harness.DEADLINE
BLOCK = re.compile(r"(<!-- sketch:(code|breaks) -->\n)(.*?)(<!-- /sketch -->)", re.DOTALL)


@dataclass(frozen=True)
class Breach:
    """How a sketch breaks a promise."""

    what: str  # the sketch does instead
    command: str  # for bash, with which one sees it; {folder} is where the sketch is
    seen: str  # what it shows, in words
    shows: tuple  # and for a test: where, and what (see test_sketches.py)
    witness: str  # the test of the suite that fails on it


def like(breach, **changes):
    """Another breach, with some of it changed."""
    return Breach(**{**vars(breach), **changes})


CONNECT = "create_connection(('127.0.0.1', 9669))"
RESET = "setsockopt(SOL_SOCKET, SO_LINGER, pack('ii', 1, 0))"  # a close() is a reset from then on
CLIENT = "python3 {folder}/client.py"

START = Breach(
    "What cannot be had is a traceback: a port in use, one that is no number.",
    "python3 {folder}/sketch.py",
    "run a second time, a traceback: `address already in use`",
    ("here", r"Traceback[\s\S]*[Aa]ddress already in use"),
    "test_a_port_in_use",
)
MESSAGE = Breach(
    "What somebody says goes to the terminals of the others as it is, control characters and all.",
    CLIENT + r" <<< $'\e[31mred'",
    "the other client's terminal turns red",
    ("there", r" says: \x1b\[31mred\n"),
    "test_cleaning[controls]",
)
BLANK = Breach(
    "An empty line is relayed, too.",
    CLIENT + " <<< ''",
    "the other client prints a name that says nothing",
    ("there", r"^\S+ says: \n"),
    "test_blank_lines_are_no_messages",
)
LAST = Breach(
    "A last line without a newline is lost, and an empty line is relayed.",
    CLIENT + " < <(printf hello)",
    "the other client prints nothing",
    ("nothing there", ""),
    "test_last_line_without_newline",
)
LIMITS = Breach(
    "A line may have any length, and so may what is kept of one; there is no answer to a full room.",
    CLIENT + " <<< $(printf %05000d 0)",
    "the other client prints 5,000 zeros",
    ("there", r" says: 0{5000}\n"),
    "test_a_message_of_4097_bytes[newline]",
)
SLOW = Breach(
    "It sends with a call that waits: while one client does not read, nobody is served.",
    f"python3 -c \"from socket import *; a, b = [{CONNECT} for _ in 'ab']; "
    "[a.sendall(b'x' * 999 + b'\\n') for _ in range(99999)]\"",
    "the other client prints much, and then nothing any more, whoever speaks, until you end this with Ctrl-C",
    ("standstill there", ""),
    "test_a_client_that_never_reads_is_dropped_and_nobody_waits",
)
LEAVING = Breach(
    "A client that leaves with a reset ends the server.",
    f'python3 -c "from socket import *; from struct import pack; s = {CONNECT}; s.{RESET}; s.close()"',
    "the sketch ends with `ConnectionResetError`",
    ("end of the sketch", r"Traceback[\s\S]*ConnectionResetError"),
    "test_the_rest_of_a_line_is_discarded_at_a_reset",
)
STOPPING = Breach(
    "A signal just kills it, and Ctrl-C shows a traceback.",
    "python3 {folder}/sketch.py 0 & sleep 1; kill $!; wait $!; echo status $?",
    "`status 143` instead of 0, and no `bye`",
    ("here", r"status 143"),
    "test_with_nobody_there[15]",
)
LOG = Breach(
    "It does not say who came and who left.",
    CLIENT + " <<< hello",
    "the sketch's terminal shows `listening on`, and nothing else",
    ("sketch only", r"listening on \S+\n"),
    "test_joined_and_left",
)
LATENCY = Breach(
    "A second short message waits until the first has been acknowledged: TCP_NODELAY is not set.",
    f"python3 -c \"from socket import *; from time import *; a, b = [{CONNECT} for _ in 'ab']; "
    "a.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1); sleep(1); start = time(); "
    "[b.setsockopt(IPPROTO_TCP, TCP_QUICKACK, 0) or a.send(b'1\\n') and b.recv(99) and a.send(b'2\\n') and b.recv(99) "
    'for _ in range(50)]; print(time() - start)"',
    "about 2 seconds for 100 lines; a server takes a hundredth of that (on Linux)",
    ("here", r"^[12]\.\d+\n"),
    "test_a_second_short_message_does_not_wait",
)
FALLS_SILENT = like(
    LEAVING,
    command=f'python3 -c "from socket import *; from struct import pack; from time import *; '
    f"a, b = [{CONNECT} for _ in 'ab']; sleep(1); b.{RESET}; b.close(); sleep(1); "
    "[a.send(b'hello\\n') and sleep(1) for _ in range(3)]\"",
    seen="tracebacks in the sketch's terminal, and of three times hello the other client prints one at most",
    shows=("one hello there", r"Traceback[\s\S]*ConnectionResetError[\s\S]*(BrokenPipe|ConnectionReset)Error"),
)
ALL = {"start": START, "message": MESSAGE, "limits": LIMITS, "stopping": STOPPING, "log": LOG}


READY = ALL | {"framing": LAST, "slow": SLOW, "leaving": LEAVING, "latency": LATENCY}

BREAKS = {
    "blocking": ALL
    | {
        "message": like(MESSAGE, seen="the terminal turns red", shows=("here", MESSAGE.shows[1])),
        "framing": like(
            BLANK,
            what="An empty line is answered, too.",
            command=f"python3 -c \"from socket import *; s = {CONNECT}; s.send(b'\\n'); print(s.recv(99))\"",
            seen="a name that says nothing (the client there does not send an empty line: it would wait for ever)",
            shows=("here", r"^b'\S+ says: \\n'\n"),
        ),
        "limits": like(
            LIMITS,
            what="A line may have any length, and so may what is kept of one.",
            seen="5,000 zeros come back",
            shows=("here", LIMITS.shows[1]),
        ),
        "leaving": LEAVING,
        "latency": like(
            LATENCY,
            command=f'python3 -c "from socket import *; from time import *; a = {CONNECT}; f = a.makefile(); '
            "a.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1); sleep(1); start = time(); "
            "[a.setsockopt(IPPROTO_TCP, TCP_QUICKACK, 0) or a.send(b'1\\n2\\n') and f.readline() and "
            'f.readline() for _ in range(50)]; print(time() - start)"',
        ),
    },
    "thread_per_client": ALL
    | {
        "framing": BLANK,
        "slow": like(
            SLOW,
            what="It sends with a call that waits, and holds the lock meanwhile: while one client does not read, "
            "nobody is served.",
            witness="test_a_client_that_never_reads_stalls_the_room_for_5_seconds_at_most",
        ),
        "leaving": like(
            FALLS_SILENT,
            what="A reset ends the client's thread, and the client stays in the room. Whoever speaks next cannot send "
            "to it, so that the speaker's thread ends as well.",
        ),
        "latency": LATENCY,
    },
    "select_based": READY,
    "poll_based": READY,
    "asyncio_based": ALL
    | {
        "framing": BLANK,
        "limits": like(
            LIMITS,
            what="A line may have 64 KiB; a longer one ends its client's coroutine with a traceback. There is no "
            "answer to a full room.",
        ),
        "slow": like(
            SLOW,
            what="`drain` waits: whoever speaks while one client does not read is not served any more.",
        ),
        "fairness": Breach(
            "All lines that the library has read come before anybody else's, and it reads up to 256 KiB at once.",
            f"python3 -c \"from socket import *; from time import *; a, b, c = [{CONNECT} for _ in 'abc']; sleep(1); "
            "a.sendall(b'much\\n' * 15000); b.sendall(b'word\\n'); "
            "print(next(i for i, line in enumerate(c.makefile()) if 'word' in line))\"",
            "more than 2,000 lines come before the word; with poll's sketch fewer than 1,000",
            ("here", r"^(1\d|[2-9])\d\d\d\n"),
            "test_a_turn_is_4096_bytes",
        ),
        "leaving": like(
            FALLS_SILENT,
            what="A reset ends the client's coroutine, and the client stays in the room. Whoever speaks next cannot "
            "send to it, so that the speaker's coroutine ends as well.",
        ),
    },
    "epoll_based": READY,
    "proactor_based": READY
    | {
        "slow": like(
            SLOW,
            what="It sends without asking for it to be done, on sockets that do not wait (the library made them so): a "
            "client that does not read ends the server.",
            seen="the sketch ends with `BlockingIOError`",
            shows=("end of the sketch", r"Traceback[\s\S]*BlockingIOError"),
        ),
        "leaving": like(
            LEAVING,
            seen="the sketch ends with `TypeError`: the result was an error, and no bytes",
            shows=("end of the sketch", r"Traceback[\s\S]*TypeError.*ConnectionResetError"),
        ),
    },
    "process_per_client": ALL
    | {
        "framing": BLANK,
        "slow": SLOW,
        "leaving": like(
            LEAVING,
            what="A reset ends the client's child alone; but a line said before the parent knows of that "
            "ends the parent.",
            command=f'python3 -c "from socket import *; from struct import pack; from time import *; '
            f"a, b = [{CONNECT} for _ in 'ab']; sleep(1); b.{RESET}; b.close(); a.send(b'hello\\n'); sleep(1)\"",
            seen="two tracebacks, the parent's with `broadcast` in it: the sketch has ended",
            shows=("end of the sketch", r"Traceback[\s\S]*in broadcast[\s\S]*(BrokenPipe|ConnectionReset)Error"),
            witness="test_leaving_during_a_broadcast[reset]",
        ),
        "latency": LATENCY,
    },
}

# What these need as well, though their marks do not say so: of a sketch that breaks it they tell nothing.
NEEDS = {
    "test_programs.py": "leaving",  # who joins alone is heard by somebody, who then leaves
    "test_clients.py": "leaving",
    "test_after_clients_left": "leaving",
    "test_a_flood_of_messages_is_survived": "leaving",
    "test_while_one_does_not_read_nobody_else_is_served": "leaving",
    "test_after_a_line_that_was_too_long": "limits",
    "test_others_are_heard_during_a_flood": "framing",  # the flood is of blank lines
    "test_newcomers_join_during_a_flood": "framing",
    "test_a_turn_has_an_end": "framing",
}


def exempt(folder):
    """The promises that the server in the folder does not make either."""
    exceptions = EXCEPTIONS.get(folder, {})
    return [name for name in PROMISES if exceptions.get(name, "echo") != "echo" and name not in BREAKS[folder]]


def table(folder):
    """What a page shows: how to see it, what the sketch breaks, and what it keeps."""
    lines = [
        f"Run `python3 {folder}/sketch.py` in one terminal,",
        f"`python3 {folder}/client.py` in a second, and one of these in a third (bash or zsh).",
        "Start the first two anew for each.",
        "",
        "| promise | what this sketch does instead | to see it, run | and see |",
        "|---|---|---|---|",
    ]
    for name in PROMISES:
        if breach := BREAKS[folder].get(name):
            command = breach.command.replace("{folder}", folder)
            lines.append(f"| {name} | {breach.what} | `{command}` | {breach.seen} |")
    kept = [name for name in PROMISES if name not in BREAKS[folder] and name not in exempt(folder)]
    *first, last = kept
    lines += ["", f"It keeps {', '.join(first)}{' and ' if first else ''}{last}."]
    if others := exempt(folder):
        lines.append(f"Its server does not promise {' and '.join(others)} either.")
    return "\n".join(lines) + "\n"


def filled(folder):
    """The page of the folder, as it is and as it should be; None where it has no place for the sketch and the table."""
    text = (ROOT / folder / "README.md").read_text()
    parts = {"code": f"```python\n{(ROOT / folder / 'sketch.py').read_text()}```\n", "breaks": table(folder)}
    new = BLOCK.sub(lambda found: found[1] + parts[found[2]] + found[4], text)
    return text, new if [found[2] for found in BLOCK.finditer(text)] == ["code", "breaks"] else None


def sketch(folder, **attributes):
    """The sketch as a model."""
    return Model(folder, (sys.executable, f"{folder}/sketch.py"), EXCEPTIONS.get(folder, {}), **attributes)


# The plugin


def pytest_addoption(parser):
    parser.addoption("--sketch", choices=BREAKS, help="test this folder's sketch")
    parser.addoption("--sketch-result", type=Path, help="and write here which tests passed and failed, as JSON")


@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    config.models = [sketch(config.getoption("--sketch"))]
    config.sketch_result = {"kept": {}, "broken": {}}


def title(item):
    """The name of a test, with its parameters but the model."""
    model = item.callspec.params["model"]
    return f"{item.originalname}[{item.callspec.id.replace(model.name, '', 1).strip('-')}]".removesuffix("[]")


def needs(item, mark):
    """The promises without which a test tells nothing about its own."""
    named = [mark.kwargs.get("needs", "").partition(".")[0], NEEDS.get(item.path.name), NEEDS.get(item.originalname)]
    return {name for name in named if name}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Leave the witnesses, and the tests of the promises that are to be kept, as far as they can tell."""
    broken = BREAKS[config.getoption("--sketch")]
    chosen = []
    for item in items:
        mark, ours = item.get_closest_marker("promise"), item.get_closest_marker("ours")
        if mark and hasattr(item, "callspec") and item.callspec.params.get("model"):
            promise = mark.args[0].partition(".")[0]
            if promise in broken:
                item.sketch = "broken" if title(item) == broken[promise].witness else ""
            else:  # a sketch takes no --host
                item.sketch = "" if needs(item, mark) & set(broken) or (ours and ours.args[0] == "--host") else "kept"
            if item.sketch:
                chosen.append(item)
    items[:] = chosen


def pytest_runtest_setup(item):
    harness.DEADLINE = WITNESS_DEADLINE if item.sketch == "broken" else KEPT_DEADLINE


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Note how a test ended. A traceback in the log is no failure by itself: a sketch may end with one."""
    report = yield
    if report.failed and "the log has a traceback" not in str(call.excinfo.value):
        verdict = "failed"
    else:
        verdict = "skipped" if report.skipped else "passed"
    promise = item.get_closest_marker("promise").args[0].partition(".")[0]
    verdicts = item.config.sketch_result[item.sketch].setdefault(promise, {})
    if (verdict != "passed" or report.when == "call") and verdicts.get(title(item)) != "failed":
        verdicts[title(item)] = verdict
    return report


def pytest_sessionfinish(session):
    if path := session.config.getoption("--sketch-result"):
        path.write_text(json.dumps(session.config.sketch_result))


def main(write):
    """Say which pages do not show the table as it is, or write it into them."""
    status = 0
    for folder in BREAKS:
        text, new = filled(folder)
        if new is None:
            print(f"{folder}/README.md has no line <!-- sketch:breaks --> with <!-- /sketch --> after it")
            status = 1
        elif new != text and write:
            (ROOT / folder / "README.md").write_text(new)
            print(f"{folder}/README.md written")
        elif new != text:
            print(f"{folder}/README.md does not show what its sketch breaks as tests/sketches.py has it")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main("--write" in sys.argv[1:]))
