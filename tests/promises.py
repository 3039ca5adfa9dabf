"""Which model makes which promise: the one table that the suite is parametrised by.

A test says `@pytest.mark.promise("slow")` and runs for each model that keeps the promise `slow`; with
`@pytest.mark.promise("slow", instead="stalls")` it runs for the models of which EXCEPTIONS says that they
do something else, and proves that it is so. A part of a promise, such as `limits.room`, can have
exceptions of its own. With `needs="broadcast"` it runs only where that other promise is kept as well.

To add a model, add a row to MODELS, and its exceptions, if it has any.
"""

import functools
import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tls import certificate

ROOT = Path(__file__).resolve().parent.parent

PROMISES = {
    "start": "says `listening on HOST:PORT` at once; a bad port is usage and status 2; a port or host that "
    "cannot be had is one line and status 1",
    "message": "a message is UTF-8 text up to LF; CR, control characters, bidirectional overrides and "
    "telnet's commands are removed",
    "broadcast": "every other client gets `HOST:PORT says: TEXT`, exactly once, whole and in order; the "
    "sender does not",
    "framing": "any cutting of the bytes gives the same messages; blank lines are none; the last one needs no newline",
    "limits": "a message has at most 4096 bytes; a full room refuses newcomers; memory and CPU stay flat",
    "slow": "a client that does not read holds nobody up and is dropped; a slow one gets every byte or is "
    "cut off, never a gap",
    "fairness": "at most 4096 bytes are read from a client before the others have their turn",
    "leaving": "however a client leaves, nobody else notices and its descriptor is freed",
    "stopping": "SIGINT and SIGTERM end it with status 0 within two seconds, whatever the clients do",
    "log": "joined, left and dropped, a line each; what clients say is not logged; a closed log does no harm",
    "idle": "with nothing to do it uses no CPU",
    "latency": "a short message never waits for an acknowledgement",
}

# What a model does instead of keeping a promise, or a part of one.
EXCEPTIONS = {
    "blocking": {
        "broadcast": "echo",  # the one client gets its own line back
        "limits.room": "backlog",  # the others wait, unanswered
        "limits.crowd": "backlog",
        "limits.fd_setsize": "backlog",
        "stopping.pending": "blocked",
        "slow": "alone",  # only one is served, so a stuck one holds up all
        "fairness": "alone",
    },
    "thread_per_client": {
        "slow.stall": "stalls",  # each stuck reader holds up the room, for at most 5 seconds
        "fairness.turns": "scheduler",  # the turns are the operating system's
    },
    "select_based": {"limits.fd_setsize": "full"},  # about 1000 clients
    "poll_based": {"limits.lowered": "shrinks"},  # poll(2) takes no more descriptors than the limit is by now
}
EXCEPTIONS["features/tls"] = {"limits.refusal": "silent"}  # without a handshake nothing can be said
EXCEPTIONS["features/web"] = {"start.elsewhere": "usage"}  # without a certificate it listens on this machine alone
EXCEPTIONS["two_way"] = EXCEPTIONS["blocking"] | {"message.quit": "ends"}  # its operator answers as blocking does
FORMS = {"echo"}  # what is not done less well, but otherwise: a student's server that is like such a one does it, too

UVLOOP = (
    "import asyncio.events, runpy, signal, sys, uvloop; asyncio.events.new_event_loop = uvloop.new_event_loop; "
    "[signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]; "
    "runpy.run_path('asyncio_based/server.py', run_name='__main__'); sys.stderr = None"
)

IO_URING = "import sys; sys.path.insert(0, 'proactor_based'); from backends import try_io_uring; try_io_uring()"


@dataclass(frozen=True)
class Model:
    """A server under test: how it is started, and what it does not promise."""

    name: str
    command: tuple = ()
    exceptions: dict = field(default_factory=dict, hash=False)
    foreign: bool = False  # a student's server: no log format, no arguments of ours
    needs: str = ""  # Python that must succeed where it is to run
    files: tuple = ("server.py",)  # all that it consists of
    churn: int = 2000  # clients that come and go, in a few seconds
    crowd: int = 1000  # clients that it must bear at once
    ahead: int = 1 << 20  # bytes that the system keeps for it of what a client has said
    stuck: int = 10  # clients that do not read, with which the tests of its memory get done in time
    door: bool = False  # it asks for a name first, by which the others hear of the client then
    tls: bool = False  # it speaks TLS

    def __str__(self):
        return self.name

    def instead(self, promise):
        """What it does instead of keeping the promise (or the part of one), or "" if it keeps it."""
        return self.exceptions.get(promise) or self.exceptions.get(promise.partition(".")[0], "")

    def is_held_to(self, instead):
        """Whether the tests of what is done instead of a promise are for it: a student's server may be better."""
        return not self.foreign or not instead or instead in FORMS

    @property
    def echoes(self):
        """Whether the one client that is served talks to itself."""
        return self.instead("broadcast") == "echo"

    def words(self, folder):
        """How it is started, but for what a test adds. The folder is for its files; it is made if they need one."""
        if any("{folder}" in word for word in self.command):
            folder.mkdir(exist_ok=True)
        if self.tls:
            (folder / "cert.pem").write_text(certificate())
        return [word.replace("{folder}", str(folder)) for word in self.command]

    @property
    def missing(self):
        """Why it cannot run here, or ""."""
        if self.tls and not shutil.which("openssl") and not os.environ.get("CHAT_ALL_PROGRAMS"):
            return "no openssl, which makes the certificate"
        return _failure(self.needs) if self.needs else ""


def misspelt(promise, instead="", needs=""):
    """What in a mark is no promise, no part of one, or nothing that any model does instead of it; or ""."""
    known = {part for exceptions in EXCEPTIONS.values() for part in exceptions} | set(PROMISES)
    for name in promise, needs:
        if name and name not in known:
            return f"no promise is called {name}"
    done = {Model("", exceptions=exceptions).instead(promise) for exceptions in EXCEPTIONS.values()}
    return "" if instead in done | {""} else f"no model does {instead!r} instead of {promise}"


@functools.cache
def _failure(code):
    """How the code fails, or ""."""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    if not result.returncode:
        return ""
    if result.returncode < 0:  # who is killed says nothing
        return f"killed by {signal.Signals(-result.returncode).name}: {code}"
    return result.stderr.strip().rpartition("\n")[2] or f"failed without a word: {code}"


def _model(name, *, folder=None, command=None, options=(), **attributes):
    folder = folder or name
    command = command or (sys.executable, f"{folder}/server.py", *options)
    return Model(name, command, EXCEPTIONS.get(folder, {}), **attributes)


def _step(name, *options, **attributes):
    """A step of the growing road."""
    return _model(name, folder=f"features/{name}", options=options, door=True, crowd=300, **attributes)


MODELS = [
    _model("blocking"),
    _model("two_way", command=(sys.executable, "tests/echo_operator.py", "blocking/two_way/server.py")),
    _model("thread_per_client", stuck=2),
    _model("select_based"),
    _model("poll_based"),
    _model("asyncio_based"),
    _model("uvloop", folder="asyncio_based", command=(sys.executable, "-c", UVLOOP), needs="import uvloop"),
    _model("process_per_client", crowd=300, churn=500),
    _model("epoll_based"),
    _model("proactor_based", files=("server.py", "proactor.py", "backends.py")),
    _model("io_uring", folder="proactor_based", options=("--backend", "io_uring"), needs=IO_URING),
]

NO_LIMITS = ["--lines", "0", "--bytes", "0", "--connections", "0", "--idle", "0"]
HISTORY = ["--history", "{folder}/history.db"]
CERT = ["--cert", "{folder}/cert.pem", "--key", "{folder}/cert.pem"]  # both in one file
AHEAD = 1 << 14  # MAX_AHEAD of limits/, and of those after it
HISTORY_FILES = ("server.py", "history.py")
ACCOUNTS_FILES = (*HISTORY_FILES, "accounts.py")
WEB_FILES = (*ACCOUNTS_FILES, "browser.py", "page.html")

# The growing road: each is the one before, and one thing more.
ROAD = [
    _step("names"),
    _step("commands"),
    _step("limits", *NO_LIMITS, ahead=AHEAD),
    _step("history", *NO_LIMITS, *HISTORY, ahead=AHEAD, files=HISTORY_FILES),
    _step("accounts", *NO_LIMITS, *HISTORY, ahead=AHEAD, files=ACCOUNTS_FILES),
    _step("tls", *NO_LIMITS, *HISTORY, *CERT, ahead=AHEAD, files=ACCOUNTS_FILES, tls=True),
    _step("web", *NO_LIMITS, *HISTORY, "--web", "0", ahead=AHEAD, files=WEB_FILES, needs="import websockets"),
]
MODELS += ROAD

# These take long, and no step of the road changes them: of its steps the first and the last must hold them.
COSTLY = {"limits.fd_setsize"}


def is_spared(model, promise):
    """Whether a test of this promise would take long and say nothing new of the model."""
    return promise in COSTLY and model in ROAD[1:-1]


def foreign_model(command, like=None):
    """A student's server, with the exceptions, the door and so on of one of the models if it is to be like that."""
    model = next((model for model in MODELS if model.name == like), Model(""))
    return Model(
        "yours", tuple(shlex.split(command)), model.exceptions, foreign=True, door=model.door, ahead=model.ahead
    )
