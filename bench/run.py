"""Measure the servers of this repository, on this machine.

    python bench/run.py             everything, in rounds: best of all on a machine that does nothing else
    python bench/run.py --quick     the most telling scenarios, once, in less than two minutes
    python bench/run.py --servers limit,epoll_based --scenarios all-talk --server-cmd "mine=./mine {port}"

It says what it is about to do and how long that takes, and ends with tables, plots, and a result. The result is saved
as it comes: whatever ends the run, or keeps it from being shown, what was measured until then is in its file.
"""

import argparse
import datetime
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from compiled import BENCH, compiled
from meter import ended
from output import Arguments, Screen, between, save, tell, why_not_saved, wrong
from report import summarise, table_of, used_by_others
from scenarios import BY_NAME, SCENARIOS
from servers import (
    Running,
    end_what_is_left,
    from_command,
    known_servers,
    machine,
    raise_descriptor_limit,
    version_of,
    why_not,
)

try:
    import matplotlib  # noqa: F401  (plot.py asks for it when all has been measured)
    import plot
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
except ImportError as error:
    sys.exit(f"bench/run.py needs {error.name}, which is part of the extra: pip install '.[bench]'")
except KeyboardInterrupt:
    sys.exit(130)

QUICK_SECONDS, FULL_SECONDS = 0.3, 1.0
QUICK_ROUNDS, FULL_ROUNDS = 1, 5
QUICK_LIMIT = 105.0  # seconds, then what is not measured is left out
LONGEST_LOAD = 90.0  # seconds beyond what is measured, then a load is ended
KEPT = 6  # digits of a measured number


class Interrupted(BaseException):
    """By a signal: Ctrl-C, or what asks a program to end."""

    def __init__(self, number):
        self.name, self.status = signal.Signals(number).name, 128 + number


def interrupt(number, _):
    raise Interrupted(number)


def cores_named(text):
    try:
        return {int(core) for core in text.split(",")}
    except ValueError:
        raise argparse.ArgumentTypeError(f"wanted numbers with commas between them, got {text!r}") from None


def arguments():
    parser = Arguments(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="the most telling scenarios, once, in less than two minutes"
    )
    parser.add_argument("--servers", help="which, by name, with commas between them (all)")
    parser.add_argument("--scenarios", help="which, by name (all): " + ", ".join(BY_NAME))
    parser.add_argument(
        "--server-cmd",
        action="append",
        default=[],
        metavar='"NAME=COMMAND {port}"',
        help="measure this one too",
    )
    parser.add_argument("--rounds", type=between(1, 1000), help=f"how often ({FULL_ROUNDS}; quick: {QUICK_ROUNDS})")
    parser.add_argument(
        "--seconds",
        type=between(0.01, 600, float),
        help=f"length of each measurement ({FULL_SECONDS:g}; quick: {QUICK_SECONDS:g})",
    )
    parser.add_argument("--server-cores", type=cores_named, help="such as 0,1 (the first one)")
    parser.add_argument("--load-core", type=int, help="(the last one)")
    parser.add_argument("--output", help="where the result goes (bench/results/DATE.json)")
    options = parser.parse_args()
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else FULL_ROUNDS)
    options.seconds = options.seconds or (QUICK_SECONDS if options.quick else FULL_SECONDS)
    name = datetime.datetime.now().strftime("%Y-%m-%d-%H%M%S") + ("-quick" if options.quick else "") + ".json"
    options.output = BENCH / "results" / name if options.output is None else Path(os.path.abspath(options.output))
    return options


def choose(names, known, what):
    unknown = [name for name in names if name not in known]
    if unknown:
        wrong("run.py", f"no {what} {', '.join(map(repr, unknown))}; there are {', '.join(known)}")
    if len(names) > len(set(names)):
        wrong("run.py", f"each {what} once, got {', '.join(names)}")
    return [known[name] for name in names]


def plan(options):
    """What is to be measured: [(round, scenario, server)], and why some servers are left out."""
    known = known_servers()
    servers = choose(known if options.servers is None else options.servers.split(","), known, "server")
    try:
        servers += [from_command(text) for text in options.server_cmd]
    except ValueError as error:
        wrong("run.py", f"argument --server-cmd: {error}")
    names = [server.name for server in servers]
    if len(names) > len(set(names)):
        wrong("run.py", "two servers have one name")
    missing = {server.name: why for server in servers if (why := why_not(server))}
    if options.servers and missing:
        sys.exit("bench/run.py: " + "; ".join(f"{name}: {why}" for name, why in missing.items()))
    servers = [server for server in servers if server.name not in missing]
    scenarios = [scenario for scenario in SCENARIOS if scenario.quick or not options.quick]
    if options.scenarios is not None:
        scenarios = choose(options.scenarios.split(","), BY_NAME, "scenario")
    if options.quick:  # the biggest rooms tell most: let it be the smaller ones that there is no time for
        scenarios.sort(key=lambda scenario: (scenario.growth, -scenario.clients * scenario.growth))
    steps = []
    for number in range(options.rounds):
        for scenario in scenarios:
            able = [server for server in servers if server.can(scenario)]
            first = number % max(1, len(able))  # who starts changes, so that no one always follows the same
            steps += [(number, scenario, server) for server in able[first:] + able[:first]]
    return servers, scenarios, steps, missing


def pick_cores(options):
    """Server and load apart, or both anywhere if there is but one core."""
    cores = sorted(os.sched_getaffinity(0))
    server = options.server_cores or {cores[0]}
    load = {cores[-1] if options.load_core is None else options.load_core}
    if unknown := (server | load) - set(cores):
        wrong("run.py", f"no core {', '.join(map(str, sorted(unknown)))} here; there are {', '.join(map(str, cores))}")
    return server, load


def measure(server, scenario, seconds, cores):
    """One server, started anew, under one load. Whatever goes wrong is a result too."""
    seconds = max(seconds, scenario.at_least)
    command = [sys.executable, str(BENCH / "load.py")]
    command += ["--dialect", server.dialect, "--seconds", str(seconds), *scenario.arguments]
    try:
        with Running(server, cores[0]) as running:
            command += [str(running.port), "--pid", str(running.process.pid)]
            load = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            try:
                os.sched_setaffinity(load.pid, cores[1])
                out, err = load.communicate(timeout=seconds + LONGEST_LOAD)
            finally:
                load.kill()
                load.wait()
            server_ended = running.how_it_ended() if running.process.poll() is not None else ""
    except subprocess.TimeoutExpired:
        return {"measured": False, "error": f"the load was not done after {seconds + LONGEST_LOAD:.0f} s"}
    except RuntimeError as error:
        return {"measured": False, "absent": True, "error": str(error)}
    except OSError as error:  # too many processes, no room for a log: it may be better next time
        return {"measured": False, "error": f"{server.name} could not be measured: {error.strerror}"}
    try:
        measured = json.loads(out, parse_float=lambda text: float(f"{float(text):.{KEPT}g}"))
    except ValueError:  # it had no time to say anything, or not all of it
        said = err.decode(errors="replace").strip().rpartition("\n")[2]
        said = said or "no result from the load: " + (ended(load.returncode) or "it said nothing")
        return {"measured": False, "error": said}
    if measured.get("died") and server_ended:
        measured["error"] = f"{server.name} ended: {server_ended}"
    return measured


def announce(console, options, servers, scenarios, steps, missing, cores):
    seconds = sum(scenario.lasts(options.seconds) for _, scenario, _ in steps)
    if not shutil.which("cc"):
        console.print("no C compiler: the load is ten times slower, and there is no limit to compare with")
    console.print(f"{len(servers)} servers: {', '.join(server.name for server in servers)}")
    for name, why in missing.items():
        console.print(f"  left out: {name} ({why})")
    times = f"{len(steps)} times {options.seconds:g} s"
    console.print(f"{len(scenarios)} scenarios, {options.rounds} rounds: {times}")
    if cores[0] & cores[1]:
        console.print("  server and load share a core: the figures say little")
    else:
        listed = ", ".join(map(str, sorted(cores[0])))
        console.print(f"  servers on core {listed}, load on core {min(cores[1])}, loopback only")
    if options.quick:
        seconds = min(seconds, QUICK_LIMIT)
    how_long = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    console.print(f"  about {how_long}; Ctrl-C ends it and keeps what was measured\n")


def measure_all(console, options, steps, cores, keep):
    """In the order of the steps. A server that did not start is not tried again."""
    absent, said = {}, None
    until = time.monotonic() + (QUICK_LIMIT if options.quick else math.inf)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(steps))
        for done, (number, scenario, server) in enumerate(steps):
            if time.monotonic() > until:
                console.print(f"this machine is busy or slow: {len(steps) - done} were left out")
                break
            progress.update(task, description=f"round {number + 1} {scenario.name:12} {server.name:18}")
            if not console.is_terminal and said != (said := (number, scenario)):
                console.print(f"round {number + 1}: {scenario.title}")
            measured = absent.get(server.name) or measure(server, scenario, options.seconds, cores)
            if measured.pop("absent", False):
                absent[server.name] = measured
            keep({"round": number, "scenario": scenario.name, "server": server.name, **measured})
            progress.advance(task)


def show(console, result):
    for name, servers in summarise(result).items():
        scenario = BY_NAME[name]
        header, rows = table_of(scenario, servers)
        table = Table(title=f"{name}: {scenario.title}", title_justify="left", title_style="bold")
        for index, column in enumerate(header):
            table.add_column(column, justify="left" if index in (0, len(header) - 1) else "right")
        for row in rows:
            table.add_row(*row)
        if rows:
            console.print(table)
    console.print("Medians (lowest–highest round). Share of limit: against the C server in the same round.")
    if warning := used_by_others(result):
        console.print(warning)


def as_text(result):
    """One measurement a line."""
    lines = ",\n".join("  " + json.dumps(measurement) for measurement in result["measurements"])
    head = json.dumps({key: value for key, value in result.items() if key != "measurements"}, indent=1)
    return head[:-2] + ',\n "measurements": [\n' + lines + "\n ]\n}\n"


def how_much(result, steps):
    """What an interrupted run has."""
    whole, more = divmod(len(result["measurements"]), len(steps) // result["rounds"])
    return f"{whole} of {result['rounds']} rounds and {more} measurements of the next"


def main():
    screen = Screen("run.py")
    if platform.system() != "Linux":
        sys.exit("bench/run.py: runs on Linux only (epoll, /proc)")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and a shell's & have it
            signal.signal(number, interrupt)
    options = arguments()
    path = options.output
    console = Console(width=None if sys.stdout.isatty() else 170, markup=False, emoji=False)
    descriptors = raise_descriptor_limit()
    servers, scenarios, steps, missing = plan(options)
    cores = pick_cores(options)
    if why := why_not_saved(path):
        sys.exit(f"bench/run.py: the result cannot be saved as {path}: {why}")
    try:
        compiled("hot.c", "-shared", "-fPIC")
        compiled("limit.c")
    except RuntimeError as error:
        sys.exit(f"bench/run.py: {error}")
    screen.otherwise_tell(f"what is measured is in {path}")
    announce(console, options, servers, scenarios, steps, missing, cores)
    os.sched_setaffinity(0, cores[1])
    result = {
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": {**machine(), "descriptors": descriptors},
        "server_cores": sorted(cores[0]),
        "load_cores": sorted(cores[1]),
        "rounds": options.rounds,
        "whole_rounds": 0,
        "seconds": options.seconds,
        "scenarios": [scenario.name for scenario in scenarios],
        "servers": {server.name: {"kind": server.kind, "version": version_of(server)} for server in servers},
        "left_out": missing,
        "measurements": [],
    }
    started = time.monotonic()

    def keep(measurement):
        result["measurements"].append(measurement)
        result["whole_rounds"] = len(result["measurements"]) * options.rounds // len(steps)
        save(path, as_text(result).encode())

    status, plots = 0, []
    try:
        try:
            measure_all(console, options, steps, cores, keep)
        except Interrupted as interrupted:
            status = interrupted.status
            if not result["measurements"]:
                tell("run.py", f"{interrupted.name}: nothing was measured yet")
                return status
            save(path, as_text(result).encode())  # the signal may have come while that was being done
            tell("run.py", f"{interrupted.name}: what was measured, {how_much(result, steps)}, is in {path}")
            if interrupted.status != 128 + signal.SIGINT:
                return status  # whoever sends another signal does not wait
        except OSError as error:
            status = 1
            tell("run.py", f"{error.filename}: {error.strerror}; the measuring ends here")
        if not result["measurements"]:
            sys.exit("bench/run.py: nothing was measured")
        try:
            plots = plot.draw_all(result, path)
        except OSError as error:
            status = 1
            tell("run.py", f"{error.filename}: {error.strerror}")
        show(console, result)
        made = [path, *plots]
        print(f"{time.monotonic() - started:.0f} s; {', '.join(os.path.relpath(name) for name in made)}")
    except Interrupted as interrupted:
        tell("run.py", f"{interrupted.name}: what was measured is in {path}")
        status = interrupted.status
    except OSError as error:
        tell("run.py", f"{error.filename}: {error.strerror}")
        status = 1
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Interrupted as interrupted:
        sys.exit(interrupted.status)
    finally:
        end_what_is_left()
