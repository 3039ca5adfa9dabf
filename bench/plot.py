"""Plots from a result, and the figures in the pages.

    python bench/plot.py RESULT.json    draws the plots beside it
    python bench/plot.py --publish      for bench/results/published.json, with its figures into the pages
    python bench/plot.py --check        changes nothing; status 1 if a page has not the published figures

Same input, same bytes (with the same matplotlib). No background, and tones that stand out from white as well
as from black; servers are told apart by marker, dashes and label, not by colour alone.
"""

import io
import json
import math
import os
import sys
from pathlib import Path

import readmes
from compiled import BENCH
from output import Arguments, Screen, save, tell
from report import summarise
from scenarios import GROWTH, TEXTS

PUBLISHED = BENCH / "results" / "published.json"
INK, FAINT = "#7a7a7a", "#8888884d"
STYLES = {  # colour, marker, dashes
    "limit": ("#7a7a7a", "*", (0, (1, 1.5))),
    "thread_per_client": ("#d55e00", "s", (0, (4, 1.5))),
    "process_per_client": ("#b8860b", "D", (0, (6, 1.5, 1, 1.5))),
    "select_based": ("#c0569b", "v", "solid"),
    "poll_based": ("#0a7cc4", "^", "solid"),
    "epoll_based": ("#009e73", "o", "solid"),
    "proactor_based": ("#8c6bd1", "P", (0, (4, 1.5))),
    "asyncio_based": ("#cc4444", "X", (0, (2, 1))),
    "uvloop": ("#3a9ea5", "h", (0, (2, 1))),
}
OTHER = ("#7a7a7a", "d", (0, (1, 1)))
AXES = {
    "latency_p50": "latency",
    "memory_per_client": "memory for each client",
    "lines_per_second": "delivered",
}
SETTINGS = {
    "svg.hashsalt": "waiting",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a server may have any name
    "font.family": ["sans-serif"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.markersize": 6,
    "legend.frameon": False,
}


def plain(value, _=None):
    """10, 1 000, 30 k, 2 M: the text of a tick."""
    for size, letter in ((1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def log_ticks(axis, low, high):
    """1, 10, 100 where there are enough of those, 1, 2, 5, 10 otherwise."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1,) if high / low > 300 else (1, 2, 5), numticks=20))
    axis.set_major_formatter(plain)
    axis.set_minor_formatter(NullFormatter())


def spread_labels(axes, ends):
    """The names of curves at their right ends, pushed apart where they would overlap. ends: [(name, x, y)]"""
    low, high = axes.get_ylim()
    height = math.log(high / low)
    wanted = sorted((math.log(y / low) / height, name, x, y) for name, x, y in ends)
    gap = 0.058
    places = []
    for place, *_ in wanted:
        places.append(max(place, places[-1] + gap) if places else place)
    if places and places[-1] > 1:
        places[-1] = 1.0
        for index in range(len(places) - 2, -1, -1):
            places[index] = min(places[index], places[index + 1] - gap)
    for place, (_, name, x, y) in zip(places, wanted, strict=True):
        axes.annotate(
            name, (x, y), xytext=(1.03, place), textcoords="axes fraction", va="center", fontsize=9,
            color=STYLES.get(name, OTHER)[0],
            arrowprops={"arrowstyle": "-", "lw": 0.5, "color": FAINT, "shrinkB": 5},
        )  # fmt: skip


def style_axes(axes, title, x_label, y_label):
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.grid(True, which="major", color=FAINT, linewidth=0.6)
    axes.minorticks_off()
    axes.set_axisbelow(True)


def drawable(summary, metric):
    """Is there a figure, and one that has a place on a logarithmic scale?"""
    return metric in summary.figures and summary.figures[metric].low > 0


def dot(axes, x, y, name, marker=None, hollow=False):
    """Hollow where the load was the bottleneck: the server could do more."""
    colour, own_marker, _ = STYLES.get(name, OTHER)
    axes.plot([x], [y], color=colour, marker=marker or own_marker, linestyle="none", mfc="none" if hollow else colour)


def curve(axes, summaries, prefix, metric):
    ends = []
    names = [name for name in STYLES if any(name in summaries.get(f"{prefix}-{count}", {}) for count in GROWTH)]
    others = {name for count in GROWTH for name in summaries.get(f"{prefix}-{count}", {})} - set(names)
    for name in [*names, *sorted(others)]:
        found = [(count, summaries.get(f"{prefix}-{count}", {}).get(name)) for count in GROWTH]
        points = [
            (x, summary.figures[metric], summary) for x, summary in found if summary and drawable(summary, metric)
        ]
        if not points:
            continue
        colour, _, dashes = STYLES.get(name, OTHER)
        xs, ys = [x for x, *_ in points], [figure.median for _, figure, _ in points]
        axes.plot(xs, ys, color=colour, linestyle=dashes, linewidth=1.6)
        for x, figure, summary in points:
            axes.vlines(x, figure.low, figure.high, color=colour, linewidth=1, alpha=0.6)
            dot(axes, x, figure.median, name, hollow=summary.load_bound and metric.endswith("_per_second"))
        ends.append((name, xs[-1], ys[-1]))
    return ends


def draw_growth(pyplot, summaries):
    """Where each model bends: the room grows, and then the crowd that has nothing to hear."""
    if not any(summaries.get(f"room-{count}") for count in GROWTH):
        return None
    figure, both = pyplot.subplots(1, 2, figsize=(10.5, 4.4))
    for axes, prefix, metric, title, label in (
        (both[0], "room", "lines_per_second", "10 talk, all others listen", "lines delivered a second"),
        (
            both[1],
            "quiet",
            "cpu_us_per_bit",
            "One sends half a line, nobody has to be told",
            "CPU for each byte received, µs",
        ),
    ):
        axes.set_xscale("log")
        axes.set_yscale("log")
        style_axes(axes, title, "clients connected", label)
        ends = curve(axes, summaries, prefix, metric)
        axes.set_xticks(GROWTH, [plain(count) for count in GROWTH])
        log_ticks(axes.yaxis, *axes.get_ylim())
        if ends:
            spread_labels(axes, ends)
    figure.subplots_adjust(left=0.07, right=0.87, bottom=0.13, top=0.9, wspace=0.68)
    return figure


def draw_dots(pyplot, summaries, scenario, metrics, title, shares=False):
    """One row for each server; a dot is the median of the rounds, the line through it the spread."""
    rows = [
        (name, summary) for name, summary in summaries.get(scenario, {}).items() if drawable(summary, metrics[0][0])
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: row[1].figures[metrics[0][0]].median, reverse=metrics[0][0].endswith("_per_second"))
    figure, axes = pyplot.subplots(figsize=(8, 1.1 + 0.3 * len(rows)))
    axes.set_xscale("log")
    for place, (name, summary) in enumerate(rows):
        for metric, marker, _ in metrics:
            if drawable(summary, metric):
                found, factor = summary.figures[metric], TEXTS[metric][2]
                colour = STYLES.get(name, OTHER)[0]
                axes.hlines(place, found.low * factor, found.high * factor, color=colour, linewidth=1.2)
                hollow = summary.load_bound and metric.endswith("_per_second")
                dot(axes, found.median * factor, place, name, marker, hollow)
        share = summary.shares.get(metrics[0][0])
        if share and shares:
            axes.annotate(
                f"{share.median:.2f}", (1.02, place), xycoords=("axes fraction", "data"), va="center",
                fontsize=9, annotation_clip=False,
            )  # fmt: skip
    if shares:
        axes.annotate(
            "share of limit",
            (1.02, -0.9),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            annotation_clip=False,
        )
    if len(metrics) > 1:
        for _, marker, label in metrics:
            axes.plot([], [], color=INK, marker=marker, linestyle="none", label=label)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9, handletextpad=0.2)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    column, unit, _, _ = TEXTS[metrics[0][0]]
    style_axes(axes, title, f"{AXES.get(metrics[0][0], column)}, {unit}", "")
    log_ticks(axes.xaxis, *axes.get_xlim())
    figure.subplots_adjust(
        left=0.2, right=0.83, bottom=0.55 / (1.1 + 0.3 * len(rows)), top=1 - 0.35 / (1.1 + 0.3 * len(rows))
    )
    return figure


def draw_all(result, path):
    """All plots that the result has the figures for, as PATH-NAME.svg; returns their paths."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    summaries, made = summarise(result), []
    with matplotlib.rc_context(SETTINGS):
        latencies = [
            ("latency_p50", "o", "median"),
            ("latency_p99", "|", "99 of 100"),
            ("latency_max", ">", "longest"),
        ]
        dots = {
            "growth": lambda: draw_growth(pyplot, summaries),
            "all-talk": lambda: draw_dots(
                pyplot,
                summaries,
                "all-talk",
                [("lines_per_second", "o", "")],
                "100 clients, all talking",
                shares=True,
            ),
            "latency": lambda: draw_dots(pyplot, summaries, "steady", latencies, "500 lines a second to 9 listeners"),
            "memory": lambda: draw_dots(
                pyplot, summaries, "room-1000", [("memory_per_client", "o", "")], "1000 clients"
            ),
        }
        for name, draw in dots.items():
            figure = draw()
            if figure:
                target = path.with_name(f"{path.stem}-{name}.svg")
                drawn = io.BytesIO()
                figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
                pyplot.close(figure)
                save(target, drawn.getvalue())
                made.append(target)
    return made


def result_in(path):
    """What run.py has saved there."""
    name = os.path.relpath(path)
    try:
        result = json.loads(path.read_bytes())
    except OSError as error:
        sys.exit(f"bench/plot.py: {name} cannot be read: {error.strerror}")
    except ValueError:
        result = None
    if not isinstance(result, dict) or not {"measurements", "rounds", "scenarios", "servers"} <= result.keys():
        sys.exit(f"bench/plot.py: {name} is not a result of bench/run.py")
    return result


def main():
    Screen("plot.py")
    parser = Arguments(description=__doc__.partition("\n")[0])
    parser.add_argument("result", type=Path, nargs="?", help="what run.py has measured")
    parser.add_argument("--publish", action="store_true", help="plots and figures for the pages")
    parser.add_argument("--check", action="store_true", help="are the figures in the pages those that were published?")
    options = parser.parse_args()
    if not options.result and not options.publish and not options.check:
        parser.error("a result, --publish or --check")
    path = options.result or PUBLISHED
    result = result_in(path)
    stale = readmes.fill(result, write=False) if options.publish or options.check else []
    drawn = [] if options.check else draw_all(result, path)
    if options.publish and not options.check:
        readmes.fill(result, write=True)
    for made in drawn:
        print(os.path.relpath(made))
    for name in stale:
        print(f"{name}: {'not as published' if options.check else 'figures written'}")
    if options.check and stale:
        sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except ImportError as error:
        sys.exit(f"bench/plot.py needs {error.name}, which is part of the extra: pip install '.[bench]'")
    except OSError as error:
        sys.exit(f"bench/plot.py: {error.filename or 'some file'}: {error.strerror}")
    except KeyboardInterrupt:
        tell("plot.py", "interrupted; each file is either the old one or the new one")
        sys.exit(130)
