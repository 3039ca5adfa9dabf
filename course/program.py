"""`Program`: a chat server under test, and what the system knows of it: where it listens, its descriptors, its CPU."""

import base64
import contextlib
import errno
import json
import os
import random
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from connections import listeners

from course.guard import LINUX, descendants

HERE = Path(__file__).resolve().parent
INTERPRETERS = {".py": [sys.executable], ".js": ["node"], ".mjs": ["node"], ".java": ["java"], ".jar": ["java", "-jar"]}
BUILT = {".c": "gcc -o", ".cc": "g++ -o", ".cpp": "g++ -o", ".go": "go build -o", ".rs": "rustc -o"}
KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "JAVA_HOME", "PYENV_ROOT", "GOROOT", "NODE_PATH", "LD_LIBRARY_PATH")
STARTS = 20.0  # seconds in which it must listen at the latest, to be tested at all
SOON = 5.0  # seconds in which it should listen
ENDED_ITS_GUARD = "it has ended the process of check.py that looks after it"


@dataclass(frozen=True)
class Limits:
    """What a program may take: bytes of memory, processes; and as whom it runs, if not as ourselves."""

    memory: int = 1 << 30
    processes: int = 1000
    user: int | None = None
    group: int | None = None
    home: str | None = None  # its HOME, if not ours
    apart: bool = False  # in namespaces of its own, where the system lets us
    files: int = 0  # bytes on the disk; 0 is no limit


class CannotStart(Exception):
    """Why the program cannot be tested at all, in one line."""

    def __init__(self, why, hint=""):
        super().__init__(why)
        self.hint = hint


def words_of(command, folder=None):
    """A command as words, with paths that do not depend on the directory; `{port}` is put at the end if it is missing.

    `folder`: where the command is to be run, if not anywhere: then its paths are those of that folder, and Python is
    the one in PATH. Raises CannotStart for one that cannot be understood.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise CannotStart(f"the command cannot be read: {error}: {command}") from None
    if not words:
        raise CannotStart("the command is empty")
    if not Path(command).exists() and (signs := {"&&", "||", "|", ";", "&", ">", "2>", ">>"}.intersection(words)):
        raise CannotStart(
            f"the command has {min(signs)}, which only a shell understands, and none is asked: {command}",
            "Build your program first. Where it takes a shell, put the command into a script that ends with exec.",
        )
    if os.path.exists(os.path.join(folder or "", command)):  # a path with blanks in it
        words = [command]
    if not any("{port}" in word for word in words):
        words.append("{port}")
    program = os.path.join(folder or "", words[0])
    if os.sep in words[0] or (os.path.isfile(program) and not shutil.which(words[0])):
        words[0] = os.path.abspath(program)
    if folder is None:
        words[1:] = [os.path.abspath(word) if os.path.exists(word) else word for word in words[1:]]
    suffix = Path(words[0]).suffix
    if suffix in INTERPRETERS and os.path.isfile(words[0]) and not os.access(words[0], os.X_OK):
        words[:0] = INTERPRETERS[suffix] if folder is None or suffix != ".py" else ["python3"]
    return words


def check_program(words):
    """Raise CannotStart if what these words name is seen to be no program, before anything is run."""
    program = words[0]
    path = program if os.sep in program else shutil.which(program)
    short = min(os.path.relpath(program), program, key=len) if os.path.isabs(program) else program
    if path is None:
        hint = "Give the path of your program: ./my_server"
        if any(program == words[0] for words in INTERPRETERS.values()):
            hint = f"Install {program}, or open a shell in which it is found."
        raise CannotStart(f"no program in PATH is called {program!r}", hint)
    if not os.path.exists(path):
        raise CannotStart(f"no file is called {short}", "Is it the right directory, and has the program been built?")
    if os.path.isdir(path):
        raise CannotStart(f"{short} is a directory", "Give the path of the program in it.")
    if not os.path.isfile(path):
        raise CannotStart(f"{short} is no file")
    if not os.access(path, os.X_OK) and (build := BUILT.get(Path(path).suffix)):
        name = Path(path).stem
        raise CannotStart(
            f"{short} has to be built first", f"{build} {shlex.quote(name)} {shlex.quote(short)}; then check ./{name}"
        )
    if not os.access(path, os.X_OK):
        raise CannotStart(f"{short} is not executable", f"Make it so: chmod +x {shlex.quote(short)}")
    try:
        with open(path, "rb") as file:
            first = file.readline(200)
    except OSError as error:
        raise CannotStart(f"{short} cannot be read: {error.strerror}") from None
    if not first:
        raise CannotStart(f"{short} is empty")
    if first.startswith(b"#!"):
        line = first.decode(errors="backslashreplace").rstrip("\n")
        named = line[2:].split()
        if line.endswith("\r"):
            raise CannotStart(
                f"the first line of {short} ends in CR LF, as on Windows: {line!r}",
                "The system looks for an interpreter whose name ends in CR. Save it with LF alone: "
                f"sed -i 's/\\r$//' {shlex.quote(short)}",
            )
        if not named or not os.path.exists(named[0]):
            raise CannotStart(f"the interpreter in the first line of {short} does not exist: {line!r}")
        if named[0].endswith("/env") and len(named) > 1 and "-" not in named[1][:1] and not shutil.which(named[1]):
            raise CannotStart(f"the interpreter in the first line of {short} is not in PATH: {line!r}")
    elif not first.startswith((b"\x7fELF", b"\xcf\xfa", b"\xca\xfe", b"\xce\xfa", b"MZ")) and first.isascii():
        raise CannotStart(
            f"the first line of {short} does not say which interpreter it is for: {first.decode()[:60].rstrip()!r}",
            "A script begins with a line such as #!/usr/bin/env python3",
        )


def addresses_of(pids):
    """Where these processes listen: a set of (host, port). Hosts are as in /proc/net: `::ffff:127.0.0.1` is told as
    127.0.0.1, which is what it is. Elsewhere than on Linux, lsof tells."""
    found = set()
    if not LINUX:
        listed = ",".join(map(str, pids))
        command = ["lsof", "-nP", "-a", "-iTCP", "-sTCP:LISTEN", "-p", listed, "-Fn"]
        with contextlib.suppress(OSError):
            for line in subprocess.run(command, capture_output=True, text=True).stdout.splitlines():
                if line.startswith("n") and ":" in line:
                    host, _, port = line[1:].rpartition(":")
                    found.add(({"*": "0.0.0.0"}.get(host, host.strip("[]")), int(port)))
        return found
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{name}")
                    if link.startswith("socket:["):
                        inodes.add(link[8:-1])
    for host, port, inode in listening_sockets():
        if inode in inodes:
            found.add((host, port))
    return found


def socket_table(listening=False):
    """The rows of /proc/net/tcp and tcp6: lists of words. Those that listen come first; `listening`: they alone."""
    for name in "tcp", "tcp6":
        with contextlib.suppress(OSError), open(f"/proc/net/{name}") as file:
            next(file, None)
            for line in file:
                row = line.split()
                if listening and row[3] != "0A":
                    break
                yield row


def host_of(digits):
    """The host that these hexadecimal digits of /proc/net stand for: words of four bytes, in the machine's order."""
    words = [int(digits[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(digits), 8)]
    data = b"".join(words)
    if len(data) == 16 and data.startswith(bytes(10) + b"\xff\xff"):
        data = data[12:]
    return socket.inet_ntop(socket.AF_INET6 if len(data) == 16 else socket.AF_INET, data)


def listening_sockets():
    """All sockets that listen: host, port, and inode in digits."""
    if (found := listeners()) is not None:
        for host, port, inode in found:
            yield host, port, str(inode)
        return
    for row in socket_table(listening=True):
        host, port = row[1].split(":")
        yield host_of(host), int(port, 16), row[9]


def free_port():
    """A port that nobody listens on, outside of the range that the kernel hands out by itself."""
    dice = random.SystemRandom()
    while True:
        port = dice.randrange(10000, 32000)
        try:
            for host, family in (("127.0.0.1", socket.AF_INET), ("", socket.AF_INET)):
                with socket.socket(family) as probe:
                    probe.bind((host, port))
            return port
        except OSError:
            continue


def scrubbed(limits, scratch):
    """The environment of the program: what it needs to be found and run, and nothing of ours."""
    env = {name: os.environ[name] for name in KEPT if name in os.environ}
    env["HOME"] = limits.home or os.environ.get("HOME", scratch)
    env["TMPDIR"] = scratch
    env.setdefault("PATH", os.defpath)
    if limits.user is not None:  # what another user cannot enter is of no use, and would hide what it can
        env["PATH"] = os.pathsep.join(filter(open_to_all, env["PATH"].split(os.pathsep))) or os.defpath
        env.pop("PYENV_ROOT", None)
    return env


def open_to_all(folder):
    """Whether every user can enter a folder."""
    path = os.path.realpath(folder)
    try:
        while os.stat(path).st_mode & 1:
            if path == os.sep:
                return True
            path = os.path.dirname(path)
    except OSError:
        pass
    return False


class Program:
    """One run of the program, below a guard (guard.py). It may end at any time."""

    def __init__(self, words, limits, port=None, nofile=None, output="kept", cwd=None):
        self.port = port or free_port()
        self.scratch = tempfile.mkdtemp(prefix="chat-check-")
        if limits.user is not None:
            os.chown(self.scratch, limits.user, limits.group)
        os.chmod(self.scratch, 0o700)
        self.command = [word.replace("{port}", str(self.port)) for word in words]
        options = {
            "command": self.command,
            "cwd": cwd or self.scratch,
            "env": scrubbed(limits, self.scratch),
            "memory": limits.memory,
            "processes": limits.processes,
            "user": limits.user,
            "group": limits.group,
            "apart": limits.apart,
            "files": limits.files,
            "nofile": nofile,
            "output": output,
            "remove": self.scratch,
        }
        self.begun = time.monotonic()
        self.last = None
        self.files = []
        self.guard = subprocess.Popen(
            [sys.executable, "-S", "-E", str(HERE / "guard.py"), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd="/",
        )

    def ask(self, word="state"):
        """What the guard knows. Once it has ended, what it knew last."""
        try:
            self.guard.stdin.write(word.encode() + b"\n")
            self.guard.stdin.flush()
            line = self.guard.stdout.readline()
        except (OSError, ValueError):
            line = b""
        if line:
            self.last = json.loads(line)
            for name in "head", "tail":
                self.last[name] = base64.b64decode(self.last[name])
        elif self.last is None:
            self.last = dict.fromkeys(("pid", "status", "first"), None) | {"error": "the guard has ended", "over": ""}
            self.last |= {"head": b"", "tail": b"", "count": 0, "most": 0}
        elif self.guard.poll() and self.last["status"] is None:  # the program has ended its guard, and itself with it
            self.last["status"] = -signal.SIGKILL
        return self.last

    @property
    def pid(self):
        return (self.last or self.ask())["pid"]

    @property
    def running(self):
        """Whether the process that was started still runs."""
        state = self.ask()
        return state["pid"] is not None and state["status"] is None

    @property
    def output(self):
        """What it has written so far, or the end of it: text."""
        return self.ask()["tail"].decode(errors="backslashreplace")

    @property
    def beginning(self):
        """The first 4 KiB of what it has written."""
        return self.ask()["head"].decode(errors="backslashreplace")

    def tree(self):
        """The pids of all that descends from it, itself included."""
        return set(self.below())

    def below(self):
        """All that descends from it, itself included, and not the guard's own: pids and bytes in memory."""
        found = descendants(self.guard.pid, None if LINUX else self.pid)
        found.pop((self.last or self.ask())["first"], None)
        return found

    def signal(self, number):
        """Send a signal to the process that was started, alone."""
        with contextlib.suppress(ProcessLookupError):
            if self.running:
                os.kill(self.pid, number)

    @contextlib.contextmanager
    def frozen(self):
        """Meanwhile all of it is stopped, so that what is done to it has all happened when it goes on."""
        for pid in (tree := self.tree()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: not moving(tree), 10)
            yield
        finally:
            for pid in tree:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def listens(self):
        return addresses_of(self.tree())

    def descriptors(self):
        """How many descriptors all its processes together hold; on Linux alone."""
        total = 0
        for pid in self.tree():
            with contextlib.suppress(OSError):
                total += len(os.listdir(f"/proc/{pid}/fd"))
        return total

    def memory(self):
        return sum(self.below().values())

    def cpu(self):
        """Seconds of CPU that its processes have used so far; None where that is not known."""
        if not LINUX:
            return None
        total = 0.0
        for pid in self.tree():
            with contextlib.suppress(OSError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
                stat = file.read().rpartition(b") ")[2].split()
                total += sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK")
        return total

    def starved(self, ours=True):
        """How long each of its threads, and we, have been ready to run and got no processor, in seconds; by thread."""
        waited = {}
        for pid in self.tree() | ({os.getpid()} if ours else set()) if LINUX else ():
            with contextlib.suppress(OSError):
                for task in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{task}/schedstat", "rb") as file:
                        waited[task] = int(file.read().split()[1]) / 1e9
        return waited

    def lost_since(self, before, ours=True):
        """Seconds, of all threads together, that were lost so since starved() gave `before`."""
        return sum(max(0.0, now - before.get(task, 0.0)) for task, now in self.starved(ours).items())

    def how_it_ended(self):
        """The end of the process in words, or "" while it runs."""
        state = self.ask()
        if self.guard.poll():
            return ENDED_ITS_GUARD
        if state["over"]:
            return f"it was ended: it took {state['over']}"
        status = state["status"]
        if status is None:
            return ""
        if status < 0:
            try:
                return f"it was ended by {signal.Signals(-status).name}"
            except ValueError:
                return f"it was ended by signal {-status}"
        return f"it ended with status {status}"

    def await_listening(self):
        """Wait until it listens where it should. Raises CannotStart; returns the seconds that it took, waits for a
        processor not counted."""
        elsewhere = 0.0
        while True:
            state, now = self.ask(), time.monotonic()
            if state["error"]:
                raise CannotStart(f"the system cannot start it: {state['error']}", hint_of_start(state["error"]))
            if state["over"]:
                raise CannotStart(f"it takes too much: {state['over']}")
            seconds = now - self.begun
            if state["status"] is not None:
                time.sleep(0.1)
                self.check_no_daemon()
                raise CannotStart(*self.why_it_ended(seconds))
            if any(port == self.port for _, port, _ in listening_sockets()) if LINUX else self.answers():
                where = self.listens()
                if not LINUX or any(port == self.port for _, port in where):
                    self.check_host(where)
                    return max(0.0, now - self.begun - sum(self.starved(ours=False).values()))
            if seconds > 2 and LINUX and (where := self.listens()):
                elsewhere = elsewhere or now
                if now - elsewhere > 1:
                    raise CannotStart(*self.why_elsewhere(where))
            late = seconds > STARTS and seconds - sum(self.starved(ours=False).values()) > STARTS
            if late or seconds > 3 * STARTS:
                raise CannotStart(
                    f"it runs, and listens nowhere {STARTS:.0f} seconds after its start",
                    "It must bind and listen at once. Does it wait for input? Its standard input is /dev/null.",
                )
            time.sleep(min(0.2, 0.01 + seconds / 20))

    def check_no_daemon(self):
        """The process that was started has ended: has it left another one in its place?"""
        if any(port == self.port for _, port in self.listens()):
            raise CannotStart(
                "it leaves: the process that was started has ended, and another one listens in its place",
                "Do not fork into the background (daemon(), nohup, &): stay where you were started.",
            )

    def answers(self):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            return True
        return False

    def check_host(self, where):
        """It listens on the right port: also where 127.0.0.1 reaches it?"""
        hosts = {host for host, port in where if port == self.port}
        if hosts and not hosts & {"127.0.0.1", "0.0.0.0", "::"}:
            raise CannotStart(
                f"it listens on {' and '.join(sorted(hosts))}, port {self.port}, and not on 127.0.0.1",
                "Bind to 127.0.0.1: an IPv6 socket, or another address of the machine, is not reached there.",
            )

    def why_elsewhere(self, where):
        listed = " and ".join(sorted(f"{host} port {port}" for host, port in where))
        return (
            f"it listens on {listed}, and was to listen on port {self.port}",
            f"The port is the last argument of the command: {shlex.join(self.command)}. Read it from there.",
        )

    def why_it_ended(self, seconds):
        how, output = self.how_it_ended(), self.output
        if re.search(r"SyntaxError|IndentationError|error: .*expected|ParseError", output):
            return f"it has a syntax error: {how}", "Its output says in which line."
        if re.search(r"(?i)address already in use", output):
            return f"the port was taken: {how}", "Something of an earlier run may still be there."
        if re.search(r"ModuleNotFoundError|Cannot find module|ClassNotFound|Could not find or load main", output):
            return f"something that it needs is not there: {how}", "Its output says what."
        if re.search(r"EOFError|NoSuchElementException", output):
            return f"it waits for input, and there is none: {how}", "Its port is its last argument; nobody types."
        if not seconds or not output.strip():
            return f"{how} at once, without a word", "It must serve until a signal comes."
        return f"{how} before it listened", "Its output may say why."

    def close(self):
        """End it and all that it started, and remove its directory."""
        with contextlib.suppress(OSError):
            self.files += [name for name in os.listdir(self.scratch) if not name.startswith(("hsperfdata", "."))]
        self.ask("kill")
        with contextlib.suppress(OSError):
            self.guard.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.guard.wait(15)
        if self.guard.returncode and self.last["pid"]:  # the program has ended its guard
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.last["pid"], signal.SIGKILL)
        self.guard.stdout.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


def hint_of_start(error):
    if error == os.strerror(errno.ENOEXEC):
        return "It is no program of this machine, and no script with a first line such as #!/usr/bin/env python3"
    return ""


def moving(pids):
    """Whether a thread of these processes runs on after a SIGSTOP: each stops by itself."""
    if not LINUX:
        time.sleep(0.1)
        return False
    for pid in pids:
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/stat", "rb") as file:
                    if file.read().rpartition(b") ")[2][:1] not in b"TtZX":
                        return True
    return False


def wait_until(condition, seconds, every=0.01):
    """Call `condition` until it is true or the time is over, and return what it gave last."""
    end = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < end:
        time.sleep(every)
    return result
