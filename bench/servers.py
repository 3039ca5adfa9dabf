"""What can be measured: this repository's models, the C limit, and what a user would otherwise run."""

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from compiled import BENCH, compiled
from meter import ServerMeter, ended, proc

ROOT = BENCH.parent
START_TIMEOUT = 10.0  # seconds
STOP_TIMEOUT = 5.0  # seconds, then it is killed


NGIRCD_CONFIGURATION = """\
[Global]
Name = irc.bench.test
Info = bench
Listen = 127.0.0.1
Ports = {port}
MotdPhrase = bench
[Limits]
MaxConnections = 0
MaxConnectionsIP = 0
MaxJoins = 0
MaxPenaltyTime = 0
PingTimeout = 600
[Options]
DNS = no
Ident = no
PAM = no
"""


@dataclass
class Server:
    """How to start one, and what it cannot do. In command and files, {port} and {directory} are filled in."""

    name: str
    command: list
    kind: str = "model"  # or limit, or other
    dialect: str = "chat"
    room: bool = True  # does it serve several people at once?
    most: int = 100_000  # clients that it is asked to hold
    growth: bool = True  # is it measured with ever more clients?
    modes: tuple = ("talk", "steady", "bits", "churn")  # of load.py: those that make sense for it
    files: dict = field(default_factory=dict)  # its configuration, written for the run: {name: text}
    needs: str = ""  # a Python module

    def can(self, scenario):
        if scenario.clients + scenario.deaf > self.most or scenario.mode not in self.modes:
            return False
        return (self.growth or not scenario.growth) and (self.room or scenario.clients == 0)


def model(name, **more):
    return Server(name, [sys.executable, str(ROOT / name / "server.py"), "{port}"], **more)


def other(name, *command, **more):
    return Server(name, list(command), kind="other", **more)


def python_chat(name, **more):
    return other(name, sys.executable, str(BENCH / "others" / f"{name}_chat.py"), "{port}", needs=name, **more)


def known_servers():
    """In the order of the tables. `most` stays below FD_SETSIZE, or what a server can bear at its start."""
    servers = [
        other("limit", "{directory}/limit", "{port}"),
        model("blocking", room=False),
        model("thread_per_client"),
        model("process_per_client", most=1000),
        model("select_based", most=1000),
        model("poll_based"),
        model("epoll_based"),
        model("proactor_based"),
        model("asyncio_based"),
        python_chat("uvloop"),
        other(
            "bare",
            sys.executable,
            str(BENCH / "others" / "bare_chat.py"),
            "{port}",
            growth=False,
            modes=("talk", "steady"),
        ),
        python_chat("twisted", growth=False),
        python_chat("trio", growth=False),
        other(
            "ncat",
            "ncat",
            "--listen",
            "--chat",
            "-m",
            "900",
            "127.0.0.1",
            "{port}",
            dialect="ncat",
            most=800,
            growth=False,
            modes=("talk", "steady", "churn"),  # each byte would be a message
        ),
        other(
            "ngircd",
            "ngircd",
            "--nodaemon",
            "--config",
            "{directory}/ngircd.conf",
            dialect="irc",
            most=500,
            growth=False,
            files={"ngircd.conf": NGIRCD_CONFIGURATION},
        ),
    ]
    servers[0].kind = "limit"
    return {server.name: server for server in servers}


def why_not(server):
    """What is missing to run it here, or None."""
    if server.kind == "limit":
        return None if shutil.which("cc") else "no C compiler, cc"
    if server.needs and not importlib.util.find_spec(server.needs):
        return f"no Python module {server.needs}"
    program = next((part for part in server.command if part.endswith("server.py")), None)
    if server.kind == "model" and not os.path.exists(program):
        return f"no {os.path.relpath(program, ROOT)}"
    if not shutil.which(server.command[0]):
        there = os.path.isfile(server.command[0])
        return f"{server.command[0]} is not executable" if there else f"no {server.command[0]}"
    return None


def version_of(server):
    """Of the program that is measured: Python, a library, a daemon, and for the limit its compiler."""
    if server.needs:
        try:
            return f"{server.needs} {importlib.metadata.version(server.needs)}"
        except importlib.metadata.PackageNotFoundError:  # a module that nobody has installed
            return server.needs
    if server.command[0] == sys.executable:
        return f"Python {platform.python_version()}"
    program = {"limit": "cc", "ncat": "ncat", "ngircd": "ngircd"}.get(server.name)
    if not program:
        return ""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return program
    found = re.search(r"\d+(\.\d+)+", (done.stdout + done.stderr).decode(errors="replace"))
    return f"{program} {found[0]}" if found else program


def machine():
    """What was measured on. Containers may be without one file or the other."""
    congestion, system = "unknown", "Linux"
    with proc("cpuinfo") as file:
        names = {line.partition(":")[2].strip() for line in file if line.startswith("model name")}
    with proc("meminfo") as file:
        memory = int(file.readline().split()[1]) * 1024
    with contextlib.suppress(OSError), proc("sys/net/ipv4/tcp_congestion_control") as file:
        congestion = file.read().strip()
    with contextlib.suppress(OSError):
        system = platform.freedesktop_os_release().get("PRETTY_NAME", system)
    return {
        "processor": ", ".join(sorted(names)) or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "system": f"{system}, Linux {platform.release()}",
        "python": platform.python_version(),
        "tcp": congestion,
        "load_average": round(os.getloadavg()[0], 2),
    }


def raise_descriptor_limit():
    """As many descriptors as this user may have, for us and for everything we start."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Running:
    """A server process on the given cores, for a with statement: started, waited for, and ended."""

    def __init__(self, server, cores=None):
        self.server, self.cores = server, cores

    def __enter__(self):
        self.process = self.log = None
        self.directory = tempfile.TemporaryDirectory(prefix="bench-")
        try:
            self.start()
            self.wait_until_it_listens()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        where = self.directory.name
        os.chmod(where, 0o755)  # a daemon started by root reads its configuration as somebody else
        self.port = free_port()

        def filled_in(text):
            return text.replace("{port}", str(self.port)).replace("{directory}", where)

        self.log = open(f"{where}/log", "w+b")  # noqa: SIM115  (__exit__ closes it)
        for name, text in self.server.files.items():
            Path(where, name).write_text(filled_in(text))
        if self.server.kind == "limit":
            shutil.copy(compiled("limit.c"), f"{where}/limit")
        command = [filled_in(part) for part in self.server.command]
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=where,
            )
        except OSError as error:
            raise RuntimeError(f"{self.server.name} cannot be started: {error.strerror}") from None
        if self.cores:
            os.sched_setaffinity(self.process.pid, self.cores)

    def wait_until_it_listens(self):
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.server.name} does not listen: {self.how_it_ended()}")
            if is_listening(self.port):
                return
            time.sleep(0.02)

    def how_it_ended(self):
        """What it said last, and what ended it: a signal leaves it no time to say so."""
        self.log.seek(0)
        said = self.log.read()[-300:].decode(errors="replace").strip() or "it said nothing"
        return "; ".join(filter(None, [said, ended(self.process.poll())]))

    def __exit__(self, *_):
        if self.process:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(STOP_TIMEOUT)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)  # its own session: what it left behind goes too
            self.process.wait()
        if self.log:
            self.log.close()
        self.directory.cleanup()


def end_what_is_left():
    """A signal may come between the start of a process and the line that remembers it: our own children, by pid."""
    for pid in ServerMeter(os.getpid()).family()[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def is_listening(port):
    """By the kernel's table, not by connecting: that would be a client."""
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(table) as file:
                if any(line.split()[1].endswith(wanted) and line.split()[3] == "0A" for line in file):
                    return True
        except OSError:
            pass
    return False


def from_command(text):
    """--server-cmd "name=./mine {port}"; ValueError says what is wrong with it."""
    name, _, command = text.partition("=")
    if not name.strip() or "{port}" not in command:
        raise ValueError(f'wanted "name=./mine {{port}}", got {text!r}')
    try:
        parts = shlex.split(command)
    except ValueError as error:
        raise ValueError(f"{str(error).lower()} in {text!r}") from None
    if os.path.exists(parts[0]):
        parts[0] = os.path.abspath(parts[0])
    parts[1:] = [os.path.abspath(part) if os.path.exists(part) else part for part in parts[1:]]
    server = Server(name, parts, kind="other")
    if why := why_not(server):
        raise ValueError(f"{name}: {why}")
    return server
