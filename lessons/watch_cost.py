"""Measure what watching costs: the time that a line takes from one client to another, with watch.py and without.

    python watch_cost.py [SERVER...]            some of the servers, or those given: poll_based/server.py

Each pair is one run without and one with, one after the other, so that other work on the machine meets both. The median
of the pairs' quotients is what is told.
"""

import contextlib
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

PAIRS = 7
LINES = 3000  # of a run, one after the other: each is sent when the one before has come
FOLDER = os.path.dirname(os.path.abspath(__file__))
MODELS = "thread_per_client", "select_based", "poll_based", "asyncio_based", "process_per_client", "proactor_based"
LISTENING = re.compile(rb"listening on \S+:(\d+)$")


@contextlib.contextmanager
def serving(words):
    """Give the port of a server, which ends with the block."""
    process = subprocess.Popen(words, stderr=subprocess.PIPE)
    try:
        yield int(LISTENING.search(process.stderr.readline().strip())[1])
    finally:
        process.terminate()
        process.stderr.read()
        process.wait()
        process.stderr.close()


def measure(words):
    """Return the microseconds that a line takes."""
    with serving(words) as port, contextlib.ExitStack() as stack:
        one, other = (stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(2))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lines = other.makefile("rb")
        other.settimeout(0.1)
        while True:  # until both are in the room
            one.sendall(b"hello\n")
            with contextlib.suppress(TimeoutError):
                lines.readline()
                break
            lines = other.makefile("rb")
        other.settimeout(60)
        one.sendall(b"begin\n")
        while not lines.readline().endswith(b"begin\n"):
            pass
        start = time.perf_counter()
        for _ in range(LINES):
            one.sendall(b"hello\n")
            lines.readline()
        return (time.perf_counter() - start) / LINES * 1e6


def main():
    """Measure, and print a table."""
    root = os.path.dirname(FOLDER)
    servers = sys.argv[1:] or [os.path.join(root, model, "server.py") for model in MODELS]
    system = f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {system}, Python {platform.python_version()}")
    print("server without with times")
    with tempfile.TemporaryDirectory() as folder:
        watch = [os.path.join(FOLDER, "watch.py"), "--record", os.path.join(folder, "recording")]
        for server in servers:
            pairs = [
                (measure([sys.executable, server, "0"]), measure([sys.executable, *watch, server, "0"]))
                for _ in range(PAIRS)
            ]
            without, watched = (statistics.median(times) for times in zip(*pairs, strict=True))
            quotient = statistics.median(watched / without for without, watched in pairs)
            print(f"{os.path.relpath(server, root)} {without:.0f} us {watched:.0f} us {quotient:.1f}", flush=True)


if __name__ == "__main__":
    main()
