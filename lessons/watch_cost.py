"""Measure what watching costs: the time that a line takes from one client to another, with watch.py and without.

    python watch_cost.py [SERVER...]            some of the servers, or those given: poll_based/server.py

Two servers run, one of them watched, and each gets some lines in turn, so that other work on the machine meets both.
What is told are medians: of the times, and of the quotients of each pair.
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

PAIRS = 200
LINES = 50  # of a turn, one after the other: each is sent when the one before has come
FOLDER = os.path.dirname(os.path.abspath(__file__))
MODELS = "thread_per_client", "select_based", "poll_based", "asyncio_based", "process_per_client", "proactor_based"
LISTENING = re.compile(rb"listening on \S+:(\d+)$")


@contextlib.contextmanager
def talk(words):
    """Give a function that sends a line through a server to another client, and returns when it has come."""
    process = subprocess.Popen(words, stderr=subprocess.PIPE)
    try:
        port = int(LISTENING.search(process.stderr.readline().strip())[1])
        with contextlib.ExitStack() as stack:
            one, other = (stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(2))
            for _ in range(2):  # the log says when they are in the room
                process.stderr.readline()
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            lines = stack.enter_context(other.makefile("rb"))

            def send():
                one.sendall(b"hello\n")
                lines.readline()

            yield send
    finally:
        process.terminate()
        process.stderr.read()
        process.wait()
        process.stderr.close()


def measure(send):
    """Return the microseconds that a line takes."""
    start = time.perf_counter()
    for _ in range(LINES):
        send()
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
            with (
                talk([sys.executable, server, "0"]) as plain,
                talk([sys.executable, *watch, server, "0"]) as watched,
            ):
                pairs = [(measure(plain), measure(watched)) for _ in range(PAIRS)]
            without, with_it = map(statistics.median, zip(*pairs, strict=True))
            quotient = statistics.median(second / first for first, second in pairs)
            print(f"{os.path.relpath(server, root)} {without:.0f} us {with_it:.0f} us {quotient:.1f}", flush=True)


if __name__ == "__main__":
    main()
