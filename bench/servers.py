"""What can be measured: this repository's models, the C limit, and what a user would otherwise run."""

import os
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

ROOT = BENCH.parent
START_TIMEOUT = 10.0  # seconds
STOP_TIMEOUT = 5.0  # seconds, then it is killed


@dataclass
class Server:
    """How to start one, and what it cannot do."""

    name: str
    command: list  # {port} and {directory} are filled in
    dialect: str = "chat"
    room: bool = True  # does it serve several people at once?
    most: int = 1 << 20  # clients it is asked to hold
    kind: str = "model"  # model, other or limit
    modes: tuple = ("talk", "steady", "bits", "churn")
    files: dict = field(default_factory=dict)  # configuration written for the run: name: text


def model(name, *extra, room=True, most=1 << 20, label=None):
    return Server(label or name, [sys.executable, str(ROOT / name / "server.py"), "{port}", *extra], room=room, most=most)


SELECT_MOST = 1000  # FD_SETSIZE, less what the server itself needs


def known_servers():
    servers = [
        Server("limit", ["{directory}/limit", "{port}"], kind="limit"),
        model("thread_per_client"),
        model("process_per_client"),
        model("select_based", most=SELECT_MOST),
        model("poll_based"),
        model("epoll_based"),
        model("proactor_based"),
        model("asyncio_based"),
    ]
    return {server.name: server for server in servers}


def why_not(server):
    """What is missing to run it here, or None."""
    if server.name == "limit" and not shutil.which("cc"):
        return "no C compiler (cc)"
    program = server.command[0]
    if server.kind == "model" and not Path(server.command[1]).exists():
        return f"no {Path(server.command[1]).relative_to(ROOT)}"
    if "{" not in program and not shutil.which(program):
        return f"no {program}"
    return None


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
    """A server process on the given cores, for a with statement: started, waited for until it listens, and ended."""

    def __init__(self, server, cores=None):
        self.server, self.cores = server, cores

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="bench-")
        where = self.directory.name
        for name, text in self.server.files.items():
            Path(where, name).write_text(text)
        self.port = free_port()
        if self.server.name == "limit":
            shutil.copy(compiled("limit.c"), f"{where}/limit")
        command = [part.replace("{port}", str(self.port)).replace("{directory}", where) for part in self.server.command]
        self.log = open(f"{where}/log", "w+b")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True, cwd=where
        )
        if self.cores:
            os.sched_setaffinity(self.process.pid, self.cores)
        try:
            self.wait_until_it_listens()
        except BaseException:
            self.__exit__()
            raise
        return self

    def wait_until_it_listens(self):
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.server.name} does not listen: {self.tail()}")
            if is_listening(self.port):
                return
            time.sleep(0.02)

    def tail(self):
        self.log.seek(0)
        return self.log.read()[-300:].decode(errors="replace").strip() or "it said nothing"

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: what it left behind goes too
        except ProcessLookupError:
            pass
        self.process.wait()
        self.log.close()
        self.directory.cleanup()


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
    """--server-cmd "name=./mine {port}" """
    name, _, command = text.partition("=")
    if not command or "{port}" not in command:
        sys.exit(f'--server-cmd: wanted "name=./mine {{port}}", got {text!r}')
    parts = shlex.split(command)
    if os.path.exists(parts[0]):
        parts[0] = os.path.abspath(parts[0])
    parts[1:] = [os.path.abspath(part) if os.path.exists(part) else part for part in parts[1:]]
    return Server(name, parts, kind="other")
