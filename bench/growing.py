"""Measure the growing road: what a name, limits, history, TLS and a WebSocket cost, each beside the step before.

    python bench/growing.py                    all steps, in rounds (about 8 minutes); writes bench/results/growing.json
    python bench/growing.py --publish          the figures of bench/results/growing.json into the pages
    python bench/growing.py --check            changes nothing; status 1 if a page has not those figures

In each round a step is measured beside the step that it is compared with. TLS and WebSocket need a load in Python (see
load.py), which is slower than these servers: there the servers are compared by the CPU that they need for a line.
In the pages the figures stand between comments that a reader does not see: <!-- road:STEP --> and <!-- /road -->.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from compiled import BENCH
from output import Arguments, Screen, between, save
from scenarios import BY_NAME
from servers import ROOT, Server, machine, raise_descriptor_limit

RESULT = BENCH / "results" / "growing.json"
SCENARIOS = ["few", "all-talk", "steady"]
NO_LIMITS = ["--lines", "0", "--bytes", "0", "--connections", "0", "--idle", "0"]
MARK = re.compile(r"(<!-- road:(\w+) -->\n).*?(<!-- /road -->)", re.DOTALL)
COLUMNS = [
    "CPU a line: 10 talk, 16 lines in flight",
    "CPU a line: 100 talk",
    "of the loop's thread alone",
    "median latency at 500 lines/s",
]
COMPARED = {  # what is measured, and beside what
    "names": "asyncio_based",
    "commands": "names",
    "limits": "commands",
    "history": "limits",
    "accounts": "history",
    "tls": "plain",
    "web": "plain",
}


def step(name, folder, *options, dialect="named", port="{port}"):
    command = [sys.executable, str(ROOT / folder / "server.py"), port, *options]
    return Server(name, command, dialect=dialect)


def servers(certificate):
    """What is measured. `plain` is accounts/ once more, under the load in Python."""
    tls = ["--cert", f"{certificate}/cert.pem", "--key", f"{certificate}/key.pem"]
    known = [
        step("asyncio_based", "asyncio_based", dialect="chat"),
        step("names", "features/names"),
        step("commands", "features/commands"),
        step("limits", "features/limits", *NO_LIMITS),
        step("history", "features/history", *NO_LIMITS),
        step("accounts", "features/accounts", *NO_LIMITS),
        step("plain", "features/accounts", *NO_LIMITS, dialect="slowly"),
        step("tls", "features/tls", *NO_LIMITS, *tls, dialect="tls"),
        step("web", "features/web", *NO_LIMITS, "--web", "{port}", dialect="websocket", port="0"),
    ]
    return {server.name: server for server in known}


def make_certificate(folder):
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"bench/growing.py: no certificate: {error}")


def measure_all(options):
    """Measure every step in every scenario, round after round; returns the result."""
    from run import measure, pick_cores  # needs the extra, which --check does not

    cores = pick_cores(options)
    raise_descriptor_limit()
    os.sched_setaffinity(0, cores[1])
    measurements = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        make_certificate(folder)
        known = servers(folder)
        for number in range(options.rounds):
            for scenario in SCENARIOS:
                for name, server in known.items():
                    print(f"round {number + 1} {scenario} {name}", flush=True)
                    measured = measure(server, BY_NAME[scenario], options.seconds, cores)
                    if not measured.get("faultless"):
                        sys.exit(f"bench/growing.py: {name} in {scenario}: {measured}")
                    kept = {key: measured.get(key) for key in ("lines_per_second", "cpu_us_per_line", "latency_us")}
                    kept["loop_us_per_line"] = measured["first_thread_seconds"] / measured["delivered"] * 1e6
                    measurements.append({"round": number, "scenario": scenario, "server": name, **kept})
    about = {"machine": machine(), "rounds": options.rounds, "seconds": options.seconds}
    return {**about, "measurements": measurements}


def median_share(result, scenario, name, other, value):
    """The median over the rounds of what one needs, against what another one needed in the same round."""
    rounds = {}
    for measured in result["measurements"]:
        if measured["scenario"] == scenario:
            rounds.setdefault(measured["round"], {})[measured["server"]] = value(measured)
    return statistics.median(values[name] / values[other] for values in rounds.values())


def cpu(measured):
    return measured["cpu_us_per_line"]


def loop(measured):
    return measured["loop_us_per_line"]


def latency(measured):
    return measured["latency_us"]["p50"]


def row(result, name, other):
    """What a step costs, against another one, in the order of COLUMNS."""
    costs = [("few", cpu), ("all-talk", cpu), ("all-talk", loop), ("steady", latency)]
    return [median_share(result, scenario, name, other, value) for scenario, value in costs]


def text_of(result, name):
    """The table of a step's page; of `all`, that of all steps."""
    header = ["compared with", *COLUMNS]
    if name == "all":
        header.insert(0, "step")
        rows = [[f"`{step}`", f"`{COMPARED[step]}`", *row(result, step, COMPARED[step])] for step in COMPARED]
        rows.append(["`accounts`", "`asyncio_based`", *row(result, "accounts", "asyncio_based")])
    else:
        rows = [[f"`{COMPARED[name]}`", *row(result, name, COMPARED[name])]]
        if COMPARED[name] not in ("asyncio_based", "plain"):
            rows.append(["`asyncio_based`", *row(result, name, "asyncio_based")])
    for cells in rows:
        cells[:] = [cell if isinstance(cell, str) else f"{cell:.2f} times" for cell in cells]
        cells[:] = [cell.replace("`plain`", "`accounts`, in plain text") for cell in cells]
    lines = [header, ["---"] * (len(header) - len(COLUMNS)) + ["--:"] * len(COLUMNS), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def fill(result, write, root=ROOT):
    """Returns which pages are not as the result has it, after writing them anew if that is wanted."""
    stale = []
    for path in sorted([*root.glob("features/*/README.md"), *root.glob("features/README.md")]):
        text = path.read_text()
        new = MARK.sub(lambda found: found[1] + text_of(result, found[2]) + found[3], text)
        if new != text:
            stale.append(str(path.relative_to(root)))
            if write:
                save(path, new.encode())
    return stale


def main():
    Screen("growing.py")
    parser = Arguments(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=between(1, 1000), default=5)
    parser.add_argument("--seconds", type=between(0.01, 600, float), default=0.5, help="length of each measurement")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--publish", action="store_true", help="the figures into the pages")
    parser.add_argument("--check", action="store_true", help="whether the pages have the figures")
    options = parser.parse_args()
    if options.publish or options.check:
        stale = fill(json.loads(RESULT.read_text()), write=options.publish)
        print("\n".join(f"{'written' if options.publish else 'not as the result has it'}: {path}" for path in stale))
        return bool(stale and options.check)
    options.server_cores = options.load_core = None
    result = measure_all(options)
    save(options.output, (json.dumps(result, indent=0) + "\n").encode())
    print(text_of(result, "all"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
