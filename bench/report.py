"""From measurements to figures: medians, their spread, shares of the limit in the same round, tables."""

import statistics
from dataclasses import dataclass, field

from scenarios import BY_NAME, FAULTS, TEXTS

LIMIT = "limit"
QUIET = 0.1  # cores: a machine that is left alone uses less
ENOUGH_FOR_MEMORY = 100  # clients: with fewer, what each takes is lost in the rest


@dataclass
class Figure:
    """The median of the rounds, and the lowest and the highest of them."""

    median: float
    low: float
    high: float


@dataclass
class Summary:
    """One server in one scenario, over all rounds."""

    figures: dict = field(default_factory=dict)  # metric: Figure
    shares: dict = field(default_factory=dict)  # metric: Figure, 1 is the limit, less is worse
    faults: list = field(default_factory=list)  # what was wrong, in words
    notes: list = field(default_factory=list)  # that, and what else must be said
    measured: bool = False
    load_bound: bool = False  # was it the load that could do no more, in most rounds?


def figure_of(values):
    values = [value for value in values if value is not None]
    return Figure(statistics.median(values), min(values), max(values)) if values else None


def value_of(measurement, metric):
    if metric.startswith("latency_"):
        return (measurement.get("latency_us") or {}).get(metric.removeprefix("latency_"))
    return measurement.get(metric)


def share_of(metric, own, limits):
    """Speeds against the limit's speed, costs and delays the other way round."""
    if not own or not limits:
        return None
    return own / limits if metric.endswith("_per_second") else limits / own


def rounds_of(result):
    """How many count: fewer than were planned in a run that was interrupted."""
    return max(1, result.get("whole_rounds", result["rounds"]))


def counted(result):
    """The measurements of whole rounds, in which each server has had the same; of the first one, if that is all."""
    if "whole_rounds" not in result:
        return result["measurements"]
    return [m for m in result["measurements"] if m["round"] < rounds_of(result)]


def used_by_others(result):
    """A warning, if other programs kept the machine busy meanwhile."""
    figure = figure_of([m.get("others_cpu_share") for m in counted(result)])
    if not figure or figure.median < QUIET:
        return ""
    return f"Other programs used {figure.median:.1f} cores meanwhile: these are the figures of a busy machine."


def summarise(result):
    """{scenario: {server: Summary}}, in the order of the result."""
    grouped = {}
    for measurement in counted(result):
        grouped.setdefault(measurement["scenario"], {}).setdefault(measurement["server"], []).append(measurement)
    summaries = {}
    for scenario in result["scenarios"]:
        servers = grouped.get(scenario, {})
        limits = {m["round"]: m for m in servers.get(LIMIT, []) if m.get("measured")}
        summaries[scenario] = {
            server: summary_of(scenario, servers[server], limits) for server in result["servers"] if server in servers
        }
    return summaries


def summary_of(scenario, measurements, limits):
    summary = Summary()
    good = [m for m in measurements if m.get("measured")]
    summary.measured = bool(good)
    for metric in TEXTS:
        figure = figure_of([value_of(m, metric) for m in good])
        if figure:
            summary.figures[metric] = figure
            pairs = [(value_of(m, metric), value_of(limits[m["round"]], metric)) for m in good if m["round"] in limits]
            share = figure_of([share_of(metric, own, limit) for own, limit in pairs])
            if share:
                summary.shares[metric] = share
    summary.load_bound = sum(bool(m.get("load_is_bottleneck")) for m in good) * 2 > len(good)
    summary.faults = list(faults_in(measurements, good))
    summary.notes = [*summary.faults, *notes_on(scenario, measurements, good)]
    if summary.load_bound:
        summary.notes.append("the load was the bottleneck")
    return summary


def faults_in(measurements, good):
    """What the server did wrong."""
    for fault in FAULTS:
        count = sum(m.get(fault) or 0 for m in good)
        if count:
            yield f"{fault}: {count:,}"
    died = sum(bool(m.get("died")) for m in measurements)
    if died:
        yield f"died in {died} of {len(measurements)} rounds"


def notes_on(scenario, measurements, good):
    """What else must be said beside the figures."""
    yield from sorted({m["error"] for m in measurements if m.get("error")})
    refused = [m["refused"] for m in measurements if m.get("refused")]
    if refused:
        yield f"room full: {max(refused):,} of {BY_NAME[scenario].clients:,} refused"
    stalls = sum(m.get("stalls") or 0 for m in good)
    if stalls:
        yield f"stood still {stalls} times"
    failed = sum(m.get("visits_failed") or 0 for m in good)
    if failed:
        yield f"{failed:,} visits failed"
    if any("deaf_dropped" in m for m in good):
        dropped = sum(m["deaf_dropped"] for m in good)
        yield f"dropped the deaf one: {dropped} of {len(good)}"


def number(value, digits=3):
    """Three digits that count, thousands apart: 12,300,000; 1.23; 0.0123."""
    if not digits or value == 0:
        return f"{value:,.0f}"
    if abs(value) >= 1:
        places = max(0, digits - len(str(int(abs(value)))))
        rounded = round(value, digits - len(str(int(abs(value)))))
        return f"{rounded:,.{places}f}"
    return f"{value:.{digits}g}"


def cell(summary, metric, spread=True):
    _, _, factor, digits = TEXTS[metric]
    figure = summary.figures.get(metric)
    if not figure:
        return ""
    text = number(figure.median * factor, digits)
    if spread and digits and figure.low != figure.high:
        text += f" ({number(figure.low * factor, 2)}–{number(figure.high * factor, 2)})"
    return f"≥ {text}" if summary.load_bound and metric.endswith("_per_second") else text


def columns_of(scenario):
    """The metrics of a scenario's table, and those whose share of the limit is shown beside them."""
    if scenario.mode == "steady":
        return ["latency_p50", "latency_p99", "latency_max", "cpu_us_per_line"], {"latency_p50"}
    shown = [scenario.speed, scenario.cost] if scenario.speed else [scenario.cost]
    shared = set(shown)
    if scenario.deaf:
        shown.append("longest_pause")
    shown.append("memory_peak")
    if scenario.clients >= ENOUGH_FOR_MEMORY:
        shown.append("memory_per_client")
    return [*shown, "threads", "processes"], shared


def table_of(scenario, summaries):
    """Header and rows for one scenario, as text."""
    metrics, shared = columns_of(scenario)
    header = ["server"]
    for metric in metrics:
        name, unit, _, _ = TEXTS[metric]
        header.append(f"{name}, {unit}" if unit else name)
        if metric in shared:
            header.append("share of limit")
    rows = []
    for server, summary in summaries.items():
        row = [server]
        for metric in metrics:
            row.append(cell(summary, metric))
            if metric in shared:
                share = summary.shares.get(metric)
                row.append(f"{share.median:.2f}" if share else "")
        rows.append([*row, "; ".join(summary.notes)])
    return [*header, "notes"], rows
