"""What the tests are written with: `Server`, a server in a process of its own, and `Peer`, a raw TCP client.

Nothing here sleeps and hopes: whatever must happen is awaited, and has DEADLINE seconds to happen, which is
generous, as the machine may be busy. Whatever fails says what was sent and what came, in bytes, and shows
the server's log.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import ipaddress
import itertools
import os
import random
import re
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections import deque
from pathlib import Path

import pexpect
import psutil
import ptyprocess
import pytest
from connections import other_end
from promises import ROOT
from tls import LINGER_RESET, TlsSocket

DEADLINE = 60.0  # seconds for anything that must happen; conftest.py gives a student's server less
AFTERWARDS = 1.0  # seconds that what should have come first may still come in, before a test fails
NET_TCP = Path("/proc/net/tcp")
NET_TCP6 = Path("/proc/net/tcp6")  # where connections over IPv4 are, too, of a socket that is for both (Java's are)
LISTENING = re.compile(r"listening on (?:\[(.+)\]|(\S+)):(\d+)$")
QUESTION = b"your name?\n"  # what a server with a door asks who comes
SAYS = b" says: "
SHOWN = 300  # bytes of a transcript that a failure shows
MOST_UNREAD = 256 << 20  # bytes that are kept of what comes; no test has so much said
LOG_KEPT = 64 << 10  # bytes of the log of a student's server; it may write as much as it likes
LOG_BOUND = 8 << 20  # bytes that its file may have


class BrokenPromise(AssertionError):
    """The server did not do what it should have done."""


def wait_until(condition, within=None, every=0.01):
    """Call `condition` until it is true or the time is over, and return what it gave last."""
    end = time.monotonic() + (within or DEADLINE)
    while not (result := condition()) and time.monotonic() < end:
        time.sleep(every)
    return result


def shorten(data, most=SHOWN):
    """The bytes as a literal; of many, the beginning and the end."""
    if len(data) <= most:
        return repr(bytes(data))
    half = most // 2
    return f"{bytes(data[:half])!r} ... {len(data) - 2 * half} bytes ... {bytes(data[-half:])!r}"


_reserved = deque()
_started = set()  # the pids of what was started here, and has not been ended
_students, _bystanders = set(), set()  # students' servers that run, and the pids of what was our child before they did
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans():
    """From now on a descendant whose parent has ended is our child, also one with a session of its own (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def free_port():
    """A port that nobody listens on, outside of the range that the kernel hands out by itself.

    Until a server listens there, nothing would keep another pytest process, or another worker, from choosing the same:
    so we hold the same number for UDP, which every other one asks for first.
    """
    while True:
        port = random.randrange(10000, 32000)
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _reserved.append(claim)
        if len(_reserved) > 100:  # that server is long gone
            _reserved.popleft().close()
        return port


# What a student's server gets of our environment: what it takes to be found and to run, and nothing that is secret.
KEPT = re.compile(
    "PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_.*|TZ|TERM|(DY)?LD_LIBRARY_PATH|JAVA_HOME|CARGO_HOME|DOTNET_ROOT"
    "|GO(PATH|ROOT|CACHE|MODCACHE)|NODE_PATH|NVM_DIR|PYENV_(ROOT|VERSION)|RUSTUP_(HOME|TOOLCHAIN)|VIRTUAL_ENV"
)


def bare_environment(folder, more=None):
    """The environment of a student's server, to which the folder is given for what it writes."""
    kept = {name: value for name, value in os.environ.items() if KEPT.fullmatch(name)}
    return {**kept, "TMPDIR": str(folder), **(more or {})}


def from_here(word):
    """The word, for a program that is started elsewhere: what names a file or folder here is its full path.

    So is a part of it, after `=` or between `:`, as in `--class-path=build:lib/chat.jar`.
    """
    if os.path.exists(word):
        return os.path.abspath(word)
    option, equals, paths = word.rpartition("=")
    parts = [os.path.abspath(part) if part and os.path.exists(part) else part for part in paths.split(":")]
    return option + equals + ":".join(parts)


def environment(more=None):
    """The environment of a program under test: ours and `more`, and output as a student's shell would see it.

    That is buffered; and pytest, which some tests start, tells more where the variables of a build server are set.
    """
    env = {**os.environ, **(more or {})}
    for name in ("PYTHONUNBUFFERED", "CI", "BUILD_NUMBER"):
        env.pop(name, None)
    return env


def descendants(pid):
    """The pids of a process' children and of theirs, by what Linux lists for each thread (proc(5)); elsewhere none."""
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            for child in map(int, tasks.read_text().split()):
                yield child
                yield from descendants(child)


class Stopwatch:
    """The seconds that pass, less those for which the program, or this process, was ready to run and got no processor.

    With those the machine is to blame, as it is busy with others. What is left is what the contract means by seconds:
    those for which the program worked, or waited for something. Linux counts the former for each thread; elsewhere
    all seconds count.
    """

    def __init__(self, process, ours=True):
        self.then, self.seconds = time.monotonic(), 0.0
        pids = [process.pid, *descendants(process.pid)] + ([os.getpid()] if ours else [])
        self.tasks = [Path(f"/proc/{pid}/task") for pid in pids]
        self.waited = self._waited()

    def _waited(self):
        """How long each thread has waited for a processor in its life so far, in seconds."""
        waited = {}
        for tasks in self.tasks:
            with contextlib.suppress(OSError):  # it may end meanwhile
                for task in os.listdir(tasks):
                    waited[task] = int((tasks / task / "schedstat").read_bytes().split()[1]) / 1e9
        return waited

    def lap(self):
        """The seconds since the lap before."""
        now, waited = time.monotonic(), self._waited()
        lost = sum(seconds - self.waited.get(task, 0.0) for task, seconds in waited.items())
        lap = max(0.0, now - self.then - lost)
        self.then, self.waited, self.seconds = now, waited, self.seconds + lap
        return lap

    def ready(self):
        """Whether a thread runs, or is ready to: for how long, Linux counts only when it gets its turn."""
        for tasks in self.tasks:
            with contextlib.suppress(OSError):
                for task in os.listdir(tasks):
                    state = (tasks / task / "stat").read_bytes().rpartition(b") ")[2][:1]
                    if state == b"R":
                        return True
        return False

    def until(self, condition):
        """Wait until the condition is true, and return the seconds so far.

        It looks often, since what a thread has waited for is forgotten when it ends.
        """
        wait_until(lambda: (self.lap(), condition())[1], every=0.02)
        return self.seconds


class Transcript:
    """The beginning and the end of what went over a connection, for the failure message."""

    def __init__(self):
        self.head, self.tail, self.count = b"", b"", 0

    def add(self, data):
        self.count += len(data)
        room = SHOWN - len(self.head)
        self.head += data[:room]
        self.tail = (self.tail + data[room:])[-SHOWN // 2 :] if room < len(data) else self.tail

    def __str__(self):
        if self.count == len(self.head) + len(self.tail):
            return repr(self.head + self.tail)
        return f"{self.head[: SHOWN // 2]!r} ... of {self.count} bytes ... {self.tail!r}"


class Terminal(pexpect.spawn):
    """A program on a terminal and in a session of its own, typed into and read by the test.

    Made by the fixture `terminal`, which ends it. pexpect would fork for it, and each worker of pytest-xdist has
    threads: of such a fork Python warns (3.15 raises it here), since a lock that another thread held stays locked
    in the child. `posix_spawn` runs no Python in the child.
    """

    def __init__(self, command, env=None, **options):
        """Start `command`; `options` are those of pexpect.spawn."""
        program, *arguments = map(str, command)
        super().__init__(program, arguments, env=environment(env), timeout=DEADLINE, **options)

    def _spawnpty(self, args, env=None, cwd=None, echo=True, preexec_fn=None, dimensions=(24, 80)):
        """What pexpect calls to start the program."""
        assert preexec_fn is None, "there is no fork, after which it could be called"
        if cwd is not None:
            args = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', cwd, *args]
        ours, its = os.openpty()
        termios.tcsetwinsize(its, dimensions)
        if not echo:
            *modes, characters = termios.tcgetattr(its)
            modes[3] &= ~termios.ECHO
            termios.tcsetattr(its, termios.TCSANOW, [*modes, characters])
        # The first terminal that the leader of a session opens becomes that session's.
        opened = [(os.POSIX_SPAWN_OPEN, 0, os.ttyname(its), os.O_RDWR, 0)]
        copied = [(os.POSIX_SPAWN_DUP2, 0, number) for number in (1, 2)]
        pid = os.posix_spawn(
            args[0], args, env, file_actions=opened + copied, setsid=True, setsigdef=[signal.SIGPIPE, signal.SIGXFSZ]
        )
        os.close(its)
        _started.add(pid)
        return ptyprocess.PtyProcess(pid, ours)

    def end(self):
        """End the program and what it started, and close the terminal; close() alone gives it too little time."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(pexpect.ExceptionPexpect):  # it had ended before
            self.wait()
        self.close(force=True)


def why_not(program, error):
    """Why the system could not start a program. (ENOENT may be said of a script whose interpreter is not there.)"""
    path = program if os.sep in program else shutil.which(program)
    if path is None:
        here = f"; the one in this directory is ./{program}" if os.path.isfile(program) else ""
        return f"no program in PATH is called {program!r}{here}"
    if not os.path.exists(path):
        return f"no file is called {program!r}"
    if os.path.isdir(path):
        return f"{program} is a directory"
    if not os.access(path, os.X_OK):
        return f"{program} is not executable: chmod +x {shlex.quote(program)}"
    with contextlib.suppress(OSError), open(path, "rb") as file:
        first = file.readline(200).decode(errors="backslashreplace").removesuffix("\n")
        if first.startswith("#!"):
            ends = ", which ends as lines do on Windows" if first.endswith("\r") else ""
            return f"{program} cannot start: {error.strerror}; its first line is {first!r}{ends}"
        if error.errno == errno.ENOEXEC:
            return (
                f"{program} is no program of this machine, and no script that begins with #!/usr/bin/env python3 or so"
            )
    return f"{program} cannot start: {error.strerror or error}"


def is_alive(process):
    """Whether a process is there, and no zombie."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def memory_of(process):
    """Bytes of memory that a process has for itself, with its share of what it has in common with parent and children.

    That is Linux' PSS without files (proc_pid_smaps(5)): what only one process has (USS) is everything for a parent
    without children, and little for one with a child, for they share it until one of them writes. A file is in memory
    once for all programs of this machine, ours or not. Where that is not told, it is USS.
    """
    with contextlib.suppress(OSError), open(f"/proc/{process.pid}/smaps_rollup") as file:
        own = [int(line.split()[1]) for line in file if line.startswith(("Pss_Anon:", "Pss_Shmem:"))]
        if own:
            return sum(own) * 1024
    return process.memory_full_info().uss


def ending(status):
    """How a program ended, in words."""
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has no name
        return f"by signal {-status}"


def search_connections(pattern):
    """Search the system's tables of connections, those over IPv4 first; None elsewhere than on Linux."""
    found = None
    for table in NET_TCP, NET_TCP6:
        with contextlib.suppress(FileNotFoundError):  # a system without IPv6
            found = found or pattern.search(table.read_text())
    return found


def moving(process):
    """How many threads of a process run on after a SIGSTOP: each stops by itself. Without /proc the first one tells."""
    if not NET_TCP.exists():
        return process.status() != psutil.STATUS_STOPPED
    states = [psutil.Process(thread.id).status() for thread in process.threads()]
    return len(states) - states.count(psutil.STATUS_STOPPED)


class Process:
    """A program in a session and process group of its own, its output (both kinds) in a file.

    Made by the fixture `run`, which ends it and all its children when the test ends.
    """

    def __init__(self, reaper, command, log_path, bare=False, **options):
        """Start `command`; `options` are those of subprocess.Popen. `bare`: `env` is all of its environment."""
        self.command, self.log_path = list(command), log_path
        self._reaper, self._last_log = reaper, None
        env = options.pop("env", None)
        env = env if bare else environment(env)
        with open(log_path, "ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **options}
            self.popen = subprocess.Popen(self.command, start_new_session=True, env=env, **options)
        self.pid = self.popen.pid
        _started.add(self.pid)
        reaper.begin_group(self.pid)

    @property
    def log(self):
        """What the program has written so far."""
        if self._last_log is None:
            return self.log_path.read_text(errors="backslashreplace")
        return self._last_log

    @property
    def log_end(self):
        """As much of it as a failure shows."""
        return self.log[-1500:]

    @property
    def running(self):
        return self.popen.poll() is None

    def await_log(self, pattern, within=None):
        """Wait until the regular expression is found in the log, and return the match."""
        __tracebackhide__ = True
        found = wait_until(lambda: re.search(pattern, self.log, re.MULTILINE), within)
        if not found:
            raise BrokenPromise(f"the log never had {pattern!r}:\n{self.log_end}")
        return found

    def signal(self, number):
        """Send a signal to the program, and to it alone."""
        os.kill(self.pid, number)

    def signal_group(self, number):
        """Send a signal to the program and all its children, as a terminal does at Ctrl-C."""
        os.killpg(self.pid, number)

    def moving(self):
        """How many threads of its processes run on after a SIGSTOP."""
        return self._sum(moving)

    @contextlib.contextmanager
    def frozen(self):
        """Meanwhile the program is stopped, so that what is done to it has all happened when it goes on."""
        self.signal_group(signal.SIGSTOP)
        try:
            wait_until(lambda: not self.moving())
            yield
        finally:
            self.signal_group(signal.SIGCONT)

    def wait(self, within=None):
        """Wait until the program ends, and return its exit status."""
        __tracebackhide__ = True
        try:
            return self.popen.wait(within or DEADLINE)
        except subprocess.TimeoutExpired:
            raise BrokenPromise(f"still running after {within or DEADLINE} seconds") from None

    def processes(self):
        """The living processes of its group: itself, its children and theirs."""
        found = []
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, 0)  # to find out that all have gone is quick; to find those that are there is not
            for pid in psutil.pids():
                with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
                    if os.getpgid(pid) == self.pid:
                        found.append(psutil.Process(pid))
        return [process for process in found if is_alive(process)]

    def _sum(self, measure):
        total = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                total += measure(process)
        return total

    def memory(self):
        """Bytes of memory that are its own, of all its processes together: what a child shares with it counts once."""
        return self._sum(memory_of)

    def cpu(self):
        """Seconds of CPU used so far by all its processes together, ended children included."""
        return self._sum(lambda process: sum(process.cpu_times()[:4]))

    def descriptors(self):
        """How many descriptors all its processes together hold."""
        return self._sum(lambda process: process.num_fds())

    def check_idle(self, seconds=0.6, share=0.15):
        """Fail if it uses more than that share of the CPU that it could have, while nothing happens."""
        __tracebackhide__ = True
        shares, spun, watch, end = [], 0.0, Stopwatch(self, ours=False), time.monotonic() + DEADLINE
        # What it still had to do may have been on its way: only who never rests spins.
        while spun < 3 * seconds and time.monotonic() < end:
            before = self.cpu()
            time.sleep(seconds)
            lap, used = watch.lap(), self.cpu() - before
            shares.append(used / max(used, lap) if lap > seconds / 10 else 1.0)
            if shares[-1] > share:
                spun += lap
            elif not watch.ready():
                return
        shares = ", ".join(f"{share:.0%}" for share in shares)
        raise BrokenPromise(f"it has nothing to do, and uses {shares} of the CPU that it could have")

    def check_descriptors(self, at_most):
        """Fail unless it comes down to as many descriptors."""
        __tracebackhide__ = True
        if not wait_until(lambda: self.descriptors() <= at_most, every=0.1):
            raise BrokenPromise(f"it holds {self.descriptors()} descriptors, and should hold {at_most}")

    def kill(self):
        """End the whole group, at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            self.signal_group(signal.SIGKILL)
        self.popen.wait()
        _started.discard(self.pid)
        self._reaper.end_group(self.pid)
        for pipe in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            with contextlib.suppress(BrokenPipeError):
                if pipe:
                    pipe.close()
        self._last_log = self.log  # the file may be removed now


class LogKeeper(threading.Thread):
    """What keeps the files of students' logs short, while they are written."""

    def __init__(self):
        super().__init__(daemon=True)
        self.ends = {}  # path: the end of what was there and is cut off
        self.start()

    def run(self):
        while True:
            for path in list(self.ends):
                with contextlib.suppress(OSError):  # it may be gone
                    if path.stat().st_size > LOG_BOUND:
                        self.ends[path] = self.end_of(path)
                        os.truncate(path, 0)  # whoever writes writes at the end, wherever that is
            time.sleep(0.1)

    def end_of(self, path):
        """The end of what was written, in bytes."""
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_KEPT))
            return (self.ends.get(path, b"") + file.read(LOG_KEPT))[-LOG_KEPT:]


_log_keeper = functools.cache(LogKeeper)


class Server(Process):
    """A server under test: its process, its clients, and what the system tells of them.

    A Room's `join` gives clients that are known to be in the room, `connect` one of which that is not known. Where
    there is a door at which a name is asked for, both have given one, and of what the server says by itself they hear
    nothing. For tests of the door there are `visit`, a client at it, and `enter`, one that went through: they hear all.
    """

    def __init__(
        self,
        reaper,
        model,
        log_path,
        *args,
        port=0,
        host=None,
        nofile=None,
        shell='exec "$@"',
        announce=True,
        polled=False,
        **options,
    ):
        """Start the model's server, and wait until it listens.

        `args`: further arguments, `nofile`: a limit of descriptors (RLIMIT_NOFILE), `shell`: what a shell
        is to do with the command in "$@" (`exec "$@" 2>&-` closes the log), `announce=False`: do not
        wait; `polled`: find it ready by its port, not by its log.
        """
        __tracebackhide__ = True
        self.model, self.host = model, host or "127.0.0.1"
        self._begin()
        if model.foreign:
            adopt_orphans()
            if not _students:
                _bystanders.clear()
                _bystanders.update(child.pid for child in psutil.Process().children())
            self.port = port or free_port()
            program, *words = model.command
            words = [from_here(program) if os.sep in program else program, *map(from_here, words)]
            command = [word.replace("{port}", str(self.port)) for word in words]
            folder = log_path.with_name(f"{log_path.name}-files")
            folder.mkdir()
            options = {"bare": True, "cwd": folder, **options, "env": bare_environment(folder, options.get("env"))}
        else:
            self.port = port
            options.setdefault("cwd", ROOT)
            words = model.words(log_path.with_name(f"{log_path.name}-files"))
            command = [*words, str(port), *(("--host", host) if host else ()), *map(str, args)]
        if nofile:
            shell = f"ulimit -n {nofile}; {shell}"
        if shell != 'exec "$@"':
            command = ["sh", "-c", shell, "sh", *command]
        super().__init__(reaper, command, log_path, **options)
        if model.foreign:
            _students.add(self.pid)
            _log_keeper().ends[log_path] = b""
        if announce:
            try:
                (self.await_port if model.foreign or polled else self._await_announcement)()
            except BaseException:  # whoever wanted it never gets it, and so cannot end it
                self.kill()
                raise

    @property
    def log(self):
        """What it has written so far; of a student's server the end of that."""
        if not self.model.foreign or self._last_log is not None:
            return super().log
        return _log_keeper().end_of(self.log_path).decode(errors="backslashreplace").replace("\r\n", "\n")

    def processes(self):
        """As of any program; and of a student's those, too, that have made themselves a session of their own.

        If it is not known of a process whose it was, as its parent has ended, it belongs to all that run here.
        """
        found = super().processes()
        if self.model.foreign:
            others = (_started | _bystanders) - {self.pid}
            trees = [child for child in psutil.Process().children() if child.pid not in others]
            for tree in trees:
                with contextlib.suppress(psutil.Error):
                    found += [tree, *tree.children(recursive=True)]
            found = [process for process in set(found) if is_alive(process)]
        return found

    def kill(self):
        """End the whole group, at once; and of a student's server what else it has started."""
        super().kill()
        if self.model.foreign:
            wait_until(self._kill_the_rest)
            _students.discard(self.pid)
            _log_keeper().ends.pop(self.log_path, None)

    def _kill_the_rest(self):
        """Whether there is nothing more to end: what is ended may have started something meanwhile."""
        rest = self.processes()
        for process in rest:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(rest, timeout=1)
        return not rest

    def _begin(self):
        self.peers, self.gone = [], deque(maxlen=8)
        self._calls, self._names = itertools.count(), (f"p{number}" for number in itertools.count(1))

    def _await_announcement(self):
        """Take the port from the first line of the log."""
        __tracebackhide__ = True
        line = wait_until(lambda: self.log.partition("\n")[0] if "\n" in self.log else not self.running)
        found = LISTENING.search(line) if isinstance(line, str) else None
        if not found:
            state = "waits" if self.running else f"ended {ending(self.popen.poll())}"
            raise BrokenPromise(f"{shlex.join(self.command)}\n{state}, and did not listen:\n{self.log_end}")
        self.port = int(found[3])

    def await_port(self, once=False):
        """Poll the port of a server whose log is not known. `once`: it may end after the connection."""
        __tracebackhide__ = True
        answered = False

        def answers():
            nonlocal answered
            with contextlib.suppress(OSError):
                socket.create_connection((self.host, self.port), timeout=1).close()
                answered = True
            return answered or not (self.running or self.processes())

        wait_until(answers, every=0.05)
        if answered and (self.running or (once and not self.processes())):
            return
        if self.running:
            state = f"does not listen on {self.host}:{self.port}, {DEADLINE:g} seconds after its start"
            if elsewhere := self.listens_on():
                state += f", but on {' and '.join(elsewhere)}"
        elif self.processes():
            state = f"ended {ending(self.popen.returncode)}, and goes on in the background; it must not leave"
        else:
            state = f"ended {ending(self.popen.returncode)}, and did not listen"
        wrote = f"; it wrote:\n{self.log_end.rstrip()}" if self.log.strip() else ", without a word"
        raise BrokenPromise(f"{shlex.join(self.command)} {state}{wrote}")

    def listens_on(self):
        """Where its processes listen: addresses with their ports."""
        found = set()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                connections = (getattr(process, "net_connections", None) or process.connections)("tcp")
                found |= {connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN}
        return sorted(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in found)

    def connect(self, receive_buffer=None, patience=None):
        """A new client. The system has accepted it; whether the server has, is not known.

        `receive_buffer`: the size of the client's receive buffer, small for a slow reader; `patience`:
        how many seconds it tries to connect. At a door it has given a name that nobody else has.
        """
        peer = self.visit(receive_buffer, patience)
        if self.model.door:
            peer.name, peer.notices = next(self._names), Notices()
            peer.offer(f"{peer.name}\n".encode())  # it may be refused already
        return peer

    def visit(self, receive_buffer=None, patience=None, tls=None):
        """A new client that has not said anything so far, and hears all that the server says.

        `tls`: whether it speaks TLS; as a rule it does where the model does.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(patience or DEADLINE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect((self.host, self.port))
        except OSError as error:
            sock.close()
            error.add_note(f"connecting to {self.host}:{self.port}{self.obituary()}")
            raise
        if self.model.tls if tls is None else tls:
            sock = TlsSocket(sock)
        peer = Peer(self, sock)
        self.peers.append(peer)
        return peer

    def enter(self, name, password=None):
        """A new client that is in the room, and hears all that the server says after the line `peer.welcome`."""
        __tracebackhide__ = True
        peer = self.visit()
        peer.expect(QUESTION)
        peer.send(f"{name}\n".encode())
        if password is not None:
            peer.expect(b"\xff\xfb\x01password?\n")  # IAC WILL ECHO: a telnet is not to show what is typed
            peer.send(f"{password}\n".encode())
            peer.expect(b"\xff\xfc\x01")
        peer.welcome = peer.read_line().decode()
        peer.name = name
        if not peer.welcome.startswith(f"* you are {name}; "):
            peer.fail(f"{name} was not let in: {peer.welcome}")
        return peer

    def check_memory(self, work, allowed):
        """Do the work, and fail if that takes so many bytes more of memory. work() may return how many it took at most.

        A heap, of Java or JavaScript, grows for a while until it is as big as it may become. So a student's server may
        do the work several times: it is wrong if each time takes more memory than the time before.
        """
        __tracebackhide__ = True
        before, grown = self.memory(), []
        for _ in range(12 if self.model.foreign else 1):
            after = work() or self.memory()
            grown.append(after - before)
            if grown[-1] < allowed:
                return
            before = after
        grown = ", then ".join(f"{more / (1 << 20):.1f} MiB" for more in grown)
        raise BrokenPromise(f"it takes {grown} more memory, and may take {allowed / (1 << 20):.0f} MiB more")

    def obituary(self):
        """A line that says how it ended, if it has. (Its connections end a moment before it does.)"""
        if not wait_until(lambda: not self.running, within=0.2):
            return ""
        return f"\nthe server has ended, {ending(self.popen.returncode)}"

    def describe(self):
        """What was sent to it and what came back, for a failure message."""
        shown = [peer for peer in [*self.gone, *self.peers] if peer.sent.count or peer.came.count]
        lines = [peer.describe() for peer in shown[-8:]]
        if len(shown) > len(lines):
            lines.insert(0, f"(and {len(shown) - len(lines)} other clients)")
        return "\n".join(lines)

    def close(self):
        """Close all clients, and end the server and its children at once."""
        for peer in list(self.peers):
            peer.reset()
        self.kill()


class Room(Server):
    """A server whose clients hear each other. Made by the fixtures `server` and `start`.

    All that is here lets somebody speak, and takes for granted that others hear it. A test that wants to know nothing
    of that does with a Server's part: `connect` and `visit`, and the measures.
    """

    def join(self, count=1, receive_buffer=None):
        """A list of `count` new clients that are in the room for certain, and have nothing to read.

        A log line would tell, but only of a server whose log is known. So the last one to come speaks
        until everybody has heard it. From those in the room that read (all that are not marked `deaf`)
        that is taken off again.
        """
        __tracebackhide__ = True
        if self.model.door:
            newcomers = [self.connect(receive_buffer) for _ in range(count)]
            self.settle(newcomers)
            return newcomers
        listeners = [peer for peer in self.peers if not peer.deaf and not peer.ended]
        alone = not self.model.echoes and not listeners and count == 1
        helper = [self.connect()] if alone else []  # to be heard takes somebody who hears
        newcomers = [self.connect(receive_buffer) for _ in range(count)]
        if self.model.echoes:
            for peer in newcomers:
                peer.send(b"echo?\n")
                peer.expect_line(peer, "echo?")
        else:
            self._speak_to(newcomers[-1], helper + listeners + newcomers[:-1])
        for peer in helper:
            peer.close()
        return newcomers

    def _speak_to(self, speaker, listeners):
        """Let `speaker` speak until each of `listeners` has heard it, and take away what it said."""
        __tracebackhide__ = True
        heard, said, pause = set(), [], 0.1
        end = time.monotonic() + DEADLINE + len(listeners) / 50
        while len(heard) < len(listeners):
            said.append(speaker.line(f"is everybody here? {next(self._calls)}"))
            speaker.send(said[-1].partition(SAYS)[2])
            silence = time.monotonic() + pause
            for peer in listeners:
                if peer not in heard and peer.hears(said[-1], silence):
                    heard.add(peer)
                elif peer not in heard:
                    peer.check_not_mistaken(said)
            missing = [peer for peer in listeners if peer not in heard]
            if missing and (missing[0].ended or time.monotonic() > end):
                missing[0].fail(f"{missing[0].name} never heard {speaker.name}", said[-1])
            pause *= 2
        for peer in listeners:
            if not peer.hears(said[-1], end):
                peer.fail(f"{peer.name} no longer hears {speaker.name}", said[-1])
            for line in said:  # what was said before it joined it did not hear
                peer.unread = peer.unread.replace(line, b"", 1)

    def settle(self, here=()):
        """With a door: wait until all who read have heard who is `here`, themselves included, and who has gone.

        Then nothing more of that comes: who closes the connection with something unread in it resets it.
        """
        __tracebackhide__ = True
        here = {peer.name for peer in here}
        gone = {peer.name for peer in self.gone if peer.notices}
        end = time.monotonic() + DEADLINE + len(self.peers) / 50
        for peer in self.peers:
            if peer.notices and not peer.deaf and not peer.ended:
                while (here - peer.notices.names or gone & peer.notices.names) and peer._receive(end, notices=True):
                    pass
                if missing := here - peer.notices.names:
                    peer.fail(f"{peer.name} never heard of {', '.join(sorted(missing))}")
                if left := gone & peer.notices.names:
                    peer.fail(f"{peer.name} never heard that {', '.join(sorted(left))} left")

    def pair(self):
        """A client that speaks and one that hears it; the very same where a server only echoes."""
        if self.model.echoes:
            return self.join(1) * 2
        listener, speaker = self.join(2)
        return speaker, listener

    def hold_up(self, stuck, speaker, listener, unsent=400_000):
        """Say so much that about `unsent` bytes for a client that does not read wait in the server.

        Returns what was said. The system's buffers take megabytes before that, and only Linux tells how
        much they hold.
        """
        __tracebackhide__ = True
        if not NET_TCP.exists():
            pytest.skip("only Linux tells how much the system's buffers hold")
        stuck.deaf, said = True, b""
        text, before = "x" * 4000, stuck.queued()
        while len(said) - (stuck.queued() - before) < unsent:
            texts = [f"{len(said) + number} {text}" for number in range(40)]
            speaker.send("".join(f"{text}\n" for text in texts).encode())
            listener.expect_lines(speaker, texts)
            said += b"".join(map(speaker.line, texts))
            if len(said) > 20 << 20:
                raise BrokenPromise("20 MiB wait for a client that does not read, and nobody knows where")
        return said

    def check_room(self):
        """Fail unless the room is open: a newcomer's words are heard by another one (among others')."""
        __tracebackhide__ = True
        speaker, listener = self.pair()
        speaker.send(b"still there?\n")
        listener.read_until(speaker.line("still there?"))
        for peer in {speaker, listener}:
            peer.close()


class Notices:
    """What a server with a door says by itself, taken out of what comes, so that what people say is left.

    That is its question, before anything else, and each line that begins with `*` or `[`. (A name does not.)
    """

    LINES = re.compile(rb"^[*\[].*\n", re.MULTILINE)
    NAMES = re.compile(r"\* (?:you are (.+); (?:also here: (.+)|nobody else is here)|(.+) (joined|left))\n")

    def __init__(self):
        self.names = set()  # who is in the room, as far as it was told
        self.question = QUESTION  # if it is still to come
        self.before = b""  # what is known of the line that is not at its end; of one that is passed on, any byte

    def take(self, data):
        """What people said, of the data that comes next."""
        data, passed = self.before + data, len(self.before) if self.before == b"x" else 0
        if self.question:
            if self.question.startswith(data):
                self.before = data
                return b""
            data, self.question = data.removeprefix(self.question), b""
        start = data.rfind(b"\n") + 1
        last = data[start:]
        whole = data[:start]
        if last[:1] in (b"*", b"["):
            self.before = last
        else:
            self.before = b"x" if last else b""
            whole += last
        if b"*" in whole or b"[" in whole:
            whole = self.LINES.sub(self._note, whole)
        return whole[passed:]

    def _note(self, line):
        """Note who came or went."""
        if found := self.NAMES.fullmatch(line[0].decode()):
            me, others, other, what = found.groups()
            if me:
                self.names |= {me, *(others or "").split(", ")} - {""}
            elif what == "joined":
                self.names.add(other)
            else:
                self.names.discard(other)
        return b""


class Peer:
    """A raw TCP client: what it sends and expects are bytes. Made by `Server.connect` and `Server.join`.

    Set `deaf` for one that stops reading while others join.
    """

    def __init__(self, server, sock):
        self.server, self.sock, self.deaf = server, sock, False
        host, port = sock.getsockname()[:2]
        self.address = f"[{host}]:{port}" if ipaddress.ip_address(host).version == 6 else f"{host}:{port}"
        self.name = self.address  # what the others call it
        self.notices = None  # what takes out what the server says by itself
        self.sent, self.came = Transcript(), Transcript()
        self.unread = bytearray()
        self.ended = ""  # how the connection ended: "end of stream" or "reset"

    def _at_server(self):
        """What waits at the server's end of the connection: bytes that are not acknowledged, and that are not read.

        Only Linux tells. Its table is read in pieces, while sockets come and go: a line may be there twice, or missing.
        """
        __tracebackhide__ = True
        if end := other_end(self.sock):
            return end.unacknowledged, end.unread
        ours, theirs = (f"{int(name.rpartition(':')[2]):04X}" for name in (self.address, f":{self.server.port}"))
        line = re.compile(rf"^ *\d+: \w+:{theirs} \w+:{ours} \w+ (\w+):(\w+) ", re.MULTILINE)
        found = wait_until(lambda: search_connections(line))
        if not found:
            self.fail(f"the system knows nothing of the server's end of {self.address}")
        return int(found[1], 16), int(found[2], 16)

    def _here(self, request):
        """What an ioctl says of the socket at this end: bytes."""
        return int.from_bytes(fcntl.ioctl(self.sock, request, bytes(4)), sys.byteorder)

    def queued(self):
        """How many bytes that the server has sent to this client wait in the system, on either side."""
        sent, _ = self._at_server()  # first: what moves on meanwhile is counted twice then, and not overlooked
        return sent + self._here(termios.FIONREAD)

    def arrived(self):
        """How many bytes that this client has sent wait for the server to read them."""
        return self._at_server()[1]

    def taken(self):
        """Whether the server has read all that this client has sent: nothing is on its way, and nothing waits there."""
        return self._here(termios.TIOCOUTQ) == 0 and self.arrived() == 0

    @property
    def logged(self):
        """What the log calls it, once it is in the room."""
        return self.name if self.name == self.address else f"{self.name}@{self.address}"

    @property
    def in_log(self):
        """A regular expression for what the log calls it, wherever it is. At a door it is called by its address."""
        return re.escape(self.address) if self.name == self.address else rf"(?:\S+@)?{re.escape(self.address)}"

    # Speaking

    def send(self, data):
        """Send all of the bytes. Returns how many that is on the wire."""
        __tracebackhide__ = True
        self.sent.add(data)
        self.sock.settimeout(DEADLINE)
        try:
            return self.sock.sendall(data) or len(data)
        except OSError as error:
            self.fail(f"{self.name} could not send {shorten(data, 80)}: {error!r}")

    def send_parts(self, parts, pause=0.01):
        """Send the parts one by one, so that each is likely to be received on its own."""
        __tracebackhide__ = True
        for part in parts:
            self.send(part)
            time.sleep(pause)

    def await_taken(self):
        """Wait until the server has read all that was sent to it; where the system does not tell, a little while."""
        if NET_TCP.exists():
            wait_until(self.taken)
        else:
            time.sleep(0.1)

    def offer(self, data):
        """Send what the connection takes, and return whether it still stands."""
        self.sock.settimeout(DEADLINE)
        try:
            self.sock.sendall(data)
        except OSError as error:
            self.ended = self.ended or repr(error)
            return False
        self.sent.add(data)
        return True

    def line(self, text):
        """The bytes in which the others should hear this client say `text`."""
        return self.name.encode() + SAYS + text.encode() + b"\n"

    # Hearing

    def _receive(self, end, notices=False):
        """Wait for more bytes until the time `end`; False if none came. `notices`: those that are taken out count."""
        while not self.ended:
            self.sock.settimeout(max(0.001, end - time.monotonic()))
            try:
                data = self.sock.recv(1 << 16)
            except TimeoutError:
                return False
            except OSError:
                self.ended = "reset"
                return False
            if not data:
                self.ended = "end of stream"
            self.came.add(data)
            heard = self.notices.take(data) if self.notices else data
            self.unread += heard
            if len(self.unread) > MOST_UNREAD:
                self.fail(f"{self.name} is sent more than anybody has said")
            if heard or (data and notices):
                return True
        return False

    def _cut(self, count):
        data = bytes(self.unread[:count])
        del self.unread[:count]
        return data

    def expect(self, data, within=None):
        """The very next bytes must be `data`."""
        __tracebackhide__ = True
        end = time.monotonic() + (within or DEADLINE)
        while len(self.unread) < len(data) and data.startswith(self.unread) and self._receive(end):
            pass
        if not self.unread.startswith(data):
            self.hears(data, time.monotonic() + AFTERWARDS)  # it may come later, and that is worth telling
            self.fail(f"{self.name} got something else", data)
        self._cut(len(data))

    def expect_line(self, sender, text, within=None):
        """The very next bytes must be that `sender` says `text`."""
        __tracebackhide__ = True
        self.expect(sender.line(text), within)

    def expect_lines(self, sender, texts, within=None):
        """The very next bytes must be that `sender` says these texts, one after the other."""
        __tracebackhide__ = True
        self.expect(b"".join(map(sender.line, texts)), within)

    def expect_nothing(self, seconds=0.3):
        """Nothing may come for a while, and the connection must stand."""
        __tracebackhide__ = True
        if self.unread or self._receive(time.monotonic() + seconds) or self.ended:
            self.fail(f"{self.name} should have heard nothing, and be connected")

    def expect_closed(self, maybe_after=b"", within=None):
        """The connection must end. Nothing may come before that, but `maybe_after` or its beginning."""
        __tracebackhide__ = True
        end = time.monotonic() + (within or DEADLINE)
        while self._receive(end) and maybe_after.startswith(self.unread):
            pass
        if not maybe_after.startswith(self.unread) or not self.ended:
            self.fail(f"{self.name} should have been disconnected", maybe_after)
        self._cut(len(self.unread))

    def read_line(self, within=None):
        """The next line, its newline included."""
        __tracebackhide__ = True
        return self.read_until(b"\n", within)

    def read_until(self, mark, within=None):
        """All bytes up to the end of `mark`."""
        __tracebackhide__ = True
        end, searched, late = time.monotonic() + (within or DEADLINE), 0, False
        while (found := self._find(mark, searched)) < 0:
            searched = max(0, len(self.unread) - len(mark))
            if late or not self._receive(end):
                self.fail(f"{self.name} waited in vain", mark)
            late = time.monotonic() > end  # more may come for ever
        return self._cut(found + len(mark))

    def read_to_end(self, within=None):
        """All bytes up to the end of the connection."""
        __tracebackhide__ = True
        end = time.monotonic() + (within or DEADLINE)
        while self._receive(end) and time.monotonic() < end:
            pass
        if not self.ended:
            self.fail(f"{self.name} should have been disconnected")
        return self._cut(len(self.unread))

    def read_some(self, count=1 << 16, within=None):
        """Up to `count` bytes, as soon as there are any; nothing at the end of the connection."""
        if not self.unread:
            self._receive(time.monotonic() + (within or DEADLINE))
        return self._cut(count)

    def drain(self):
        """All that the system still holds for the client of a server that is frozen."""
        data = b""
        while some := self.read_some(within=0.5):
            data += some
        return data

    def hears(self, line, end):
        """Whether the line is among what is unread before the time `end`."""
        late = False
        while (missing := self._find(line) < 0) and not late and self._receive(end):
            late = time.monotonic() > end  # more may come for ever
        return not missing

    def _find(self, mark, start=0):
        """Where the bytes are among what is unread, or -1. What somebody says is a line, and not a part of one."""
        if SAYS not in mark:
            return self.unread.find(mark, start)
        if self.unread.startswith(mark):
            return 0
        found = self.unread.find(b"\n" + mark, max(0, start - 1))
        return found + 1 if found >= 0 else -1

    def check_not_mistaken(self, wanted):
        """Fail if what somebody said has come, in another line than one of those wanted."""
        __tracebackhide__ = True
        for line in wanted:
            text = line.rstrip(b"\n").partition(SAYS)[2]
            for came in self.unread.splitlines(keepends=True):
                if came.endswith(b"\n") and came not in wanted and re.search(re.escape(text) + rb"(?!\d)", came):
                    self.fail(f"{self.name} heard what was said, but the line is not right", line)

    # Leaving

    def finish(self):
        """Close the sending side alone: the server sees the end of the stream, and can still answer."""
        self.deaf = True
        self.sock.shutdown(socket.SHUT_WR)

    def _leave(self):
        self.sock.close()
        if self in self.server.peers:
            self.server.peers.remove(self)
            self.server.gone.append(self)

    def close(self):
        """Leave in the ordinary way."""
        self._leave()

    def die(self):
        """Leave as a program does that is killed: the system closes the connection, and TLS cannot say that it ends."""
        if self.server.model.tls:
            self.sock.abrupt = True
        self._leave()

    def reset(self):
        """Leave with a reset, which also uses up no port."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self._leave()

    # Failing

    def describe(self):
        """What went over this connection."""
        end = f", then {self.ended}" if self.ended else ""
        return f"{self.logged}\n    sent: {self.sent}\n    came: {self.came}{end}"

    def fail(self, what, expected=None):
        """Fail, with what was expected and what came instead."""
        __tracebackhide__ = True
        came = (shorten(self.unread) if self.unread else "nothing") + (f", then {self.ended}" if self.ended else "")
        wanted = "" if expected is None else f"\nexpected: {shorten(expected) if expected else 'nothing'}"
        differs = self._difference(expected) if expected and self.unread else ""
        obituary = self.server.obituary() if isinstance(self.server, Server) else ""  # it may be a test that plays one
        raise BrokenPromise(f"{what}{wanted}\n    came: {came}{differs}{obituary}")

    def _difference(self, expected):
        """In words, the first line that is not as it should be. (Of what is still to come, nothing is said.)"""
        lines = zip(expected.splitlines(keepends=True), bytes(self.unread).splitlines(keepends=True), strict=False)
        for number, (due, came) in enumerate(lines, 1):
            if due != came and not due.startswith(came):
                return f"\nline {number} should be {shorten(due)}\n       and is {shorten(came)}"
        return ""


def converse(peers, says, done, within=None):
    """Let many clients speak and read at once, until `done()` or the time is over.

    `says` maps a peer to the bytes it is to send. What comes is in each peer's `unread`. Returns whether
    it got done. Everybody reads all the time, so nobody is a slow reader here.
    """
    end = time.monotonic() + (within or DEADLINE)
    rest = {peer: memoryview(data) for peer, data in says.items()}
    for peer, data in says.items():
        peer.sent.add(data)
    with selectors.DefaultSelector() as selector:
        for peer in peers:
            peer.sock.setblocking(False)
            writes = selectors.EVENT_WRITE if rest.get(peer) else 0
            selector.register(peer.sock, selectors.EVENT_READ | writes, peer)
        while not (finished := done()) and time.monotonic() < end and selector.get_map():
            for key, events in selector.select(0.1):
                peer = key.data
                try:
                    if events & selectors.EVENT_READ and not peer._receive(0) and peer.ended:
                        selector.unregister(peer.sock)
                        continue
                    if events & selectors.EVENT_WRITE:
                        peer.sock.setblocking(False)
                        rest[peer] = rest[peer][peer.sock.send(rest[peer]) :]
                        if not rest[peer]:
                            selector.modify(peer.sock, selectors.EVENT_READ, peer)
                except OSError as error:
                    peer.ended = repr(error)
                    selector.unregister(peer.sock)
    return finished
