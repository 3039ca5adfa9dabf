"""Measure the servers: python bench/run.py [--quick] [--servers a,b] [--scenarios x,y] [--rounds N]."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from servers import BENCH, Running, from_command, known_servers, raise_descriptor_limit, why_not

SCENARIOS = {
    "few": ["--clients", "10", "--in-flight", "16"],
    "all-talk": ["--clients", "100"],
    "all-talk-16": ["--clients", "100", "--in-flight", "16"],
    "few-of-many": ["--clients", "500", "--talkers", "10"],
    "steady": ["--mode", "steady", "--clients", "10"],
    "bits": ["--mode", "bits", "--clients", "5000", "--rate", "1000", "--size", "1000"],
    "bits-alone": ["--mode", "bits", "--clients", "2", "--rate", "1000", "--size", "1000"],
    "churn": ["--mode", "churn", "--clients", "5000"],
    "churn-alone": ["--mode", "churn", "--clients", "0"],
    "deaf": ["--clients", "20", "--deaf", "1"],
}


def measure(server, arguments, seconds, cores):
    with Running(server, cores[0]) as running:
        command = [sys.executable, str(BENCH / "load.py"), str(running.port), "--pid", str(running.process.pid)]
        command += ["--dialect", server.dialect, "--seconds", str(seconds), *arguments]
        load = subprocess.Popen(command, stdout=subprocess.PIPE)
        os.sched_setaffinity(load.pid, cores[1])
        try:
            out, _ = load.communicate(timeout=seconds + 90)
        finally:
            load.kill()
        return json.loads(out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--servers", default="limit,select_based,poll_based,epoll_based")
    parser.add_argument("--scenarios", default="all-talk,few,few-of-many,all-talk-16")
    parser.add_argument("--server-cmd", action="append", default=[])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1)
    options = parser.parse_args()
    raise_descriptor_limit()
    known = known_servers()
    servers = [known[name] for name in options.servers.split(",")] + [from_command(text) for text in options.server_cmd]
    servers = [server for server in servers if not why_not(server)]
    all_cores = sorted(os.sched_getaffinity(0))
    cores = ({all_cores[0]}, {all_cores[-1]})
    os.sched_setaffinity(0, cores[1])
    for scenario in options.scenarios.split(","):
        results = {server.name: [] for server in servers}
        for turn in range(options.rounds):
            for server in servers[turn % len(servers):] + servers[: turn % len(servers)]:
                results[server.name].append(measure(server, SCENARIOS[scenario], options.seconds, cores))
        print(f"\n{scenario}: {' '.join(SCENARIOS[scenario])}")
        print(f"{'':20}{'value':>12} {'share':>6} {'us CPU':>8} {'share':>6} {'srv%':>5} {'load%':>5}  p50/p99 us, faults")
        for server in servers:
            show(results[server.name], results.get("limit"), server.name)


def show(runs, limits, name):
    def median(values):
        values = [value for value in values if value is not None]
        return statistics.median(values) if values else float("nan")

    def rate(run):
        return run.get("visits_per_second") or run.get("bits_per_second") or run.get("lines_per_second")

    def cpu(run):
        return next((run[key] for key in ("cpu_us_per_visit", "cpu_us_per_bit", "cpu_us_per_line") if run.get(key)), None)

    good = [run for run in runs if run.get("measured")]
    if not good:
        print(f"{name:20} not measured: {runs[0]}")
        return
    share = cpu_share = float("nan")
    if limits:
        pairs = [(run, limit) for run, limit in zip(runs, limits) if rate(run) and rate(limit)]
        share = median([rate(run) / rate(limit) for run, limit in pairs])
        cpu_share = median([cpu(limit) / cpu(run) for run, limit in pairs if cpu(run)])
    latency = [run["latency_us"] for run in good if run.get("latency_us")]
    notes = f"{median([x['p50'] for x in latency]):.0f}/{median([x['p99'] for x in latency]):.0f}" if latency else ""
    faults = {key: sum(run[key] for run in good) for key in ("lost", "duplicated", "reordered", "torn", "own", "disconnected")}
    notes += " load is the bottleneck" * any(run.get("load_is_bottleneck") for run in good)
    notes += " ".join(f" {key} {value}" for key, value in faults.items() if value)
    print(
        f"{name:20}{median([rate(r) for r in good]):12,.0f} {share:6.2f} {median([cpu(r) for r in good]):8.4f} {cpu_share:6.2f} "
        f"{median([r['server_cpu_share'] for r in good]):5.0%} {median([r['load_cpu_share'] for r in good]):5.0%}  {notes}"
    )


if __name__ == "__main__":
    started = time.monotonic()
    main()
    print(f"\n{time.monotonic() - started:.0f} s")
