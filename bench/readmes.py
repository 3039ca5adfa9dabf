"""The figures in the pages (all *.md), written between comments that a reader does not see:

    <!-- bench:machine -->                           what was measured on
    <!-- bench:overview -->                          all servers, the most telling figures
    <!-- bench:model epoll_based -->                 all scenarios of one server
    <!-- bench:table all-talk -->                    all servers in one scenario
    <!-- bench:value all-talk epoll_based METRIC --> one figure in a sentence, with its unit
    <!-- bench:share all-talk epoll_based METRIC --> its share of the limit's

Each ends with <!-- /bench -->. METRIC: see TEXTS in scenarios.py. A comment that is none of these, or for which the
result has nothing, is refused.
"""

import os
import re
import textwrap
from pathlib import Path

from output import save
from report import cell, columns_of, number, rounds_of, summarise, table_of, used_by_others
from scenarios import BY_NAME, CROWD, TEXTS
from servers import ROOT

BLOCK = re.compile(r"(<!-- bench:(\w+)((?: [\w-]+)*) -->)(.*?)(<!-- /bench -->)", re.DOTALL)
STRAY = re.compile(r"<!--\s*/?bench\b.*?(?:-->|$)", re.MULTILINE)
INLINE = ("value", "share")


def markdown_table(header, rows):
    """Columns that are empty in all rows are left out."""
    if not rows:
        raise KeyError("there is nothing to show")
    used = [index for index in range(len(header)) if any(row[index] for row in rows)]
    lines = [[header[index] for index in used], ["---" if not index else "--:" for index in used]]
    lines += [[row[index] for index in used] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(result):
    machine = result["machine"]
    lines = [
        f"Measured {result['made'].partition(' ')[0]} on {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gb']} GB, {machine['system']}, TCP {machine['tcp']}, Python {machine['python']}; "
        f"server on core {', '.join(map(str, result['server_cores']))}, "
        f"load on core {', '.join(map(str, result['load_cores']))}; medians of {rounds_of(result)} rounds of "
        f"{result['seconds']:g} s, in brackets the lowest and the highest."
    ]
    others = [
        about["version"] if about["version"].startswith(name) else f"{name} ({about['version']})"
        for name, about in result["servers"].items()
        if about["kind"] != "model" and about["version"]
    ]
    if others:
        lines.append(f"Beside the models: {', '.join(others)}.")
    if warning := used_by_others(result):
        lines.append(warning)
    return "\n".join(textwrap.fill(line, 100, break_on_hyphens=False) for line in lines)


def overview(result, summaries):
    columns = [
        ("all-talk", "lines_per_second", "100 talk: lines delivered a second", True),
        ("all-talk", "cpu_us_per_line", "CPU a line, µs", False),
        ("steady", "latency_p50", "median latency, µs", False),
        ("bits", "cpu_us_per_bit", f"half a line, {CROWD} connected: CPU a byte, µs", False),
        ("room-1000", "memory_per_client", "memory a client, kB", False),
    ]
    header = ["server"]
    for _, _, title, share in columns:
        header += [title, "share of limit"] if share else [title]
    rows = []
    for server in result["servers"]:
        row = [f"`{server}`"]
        for scenario, metric, _, share in columns:
            summary = summaries.get(scenario, {}).get(server)
            row.append(cell(summary, metric, spread=False) if summary else "")
            if share:
                row.append(f"{summary.shares[metric].median:.2f}" if summary and metric in summary.shares else "")
        faults = [fault for servers in summaries.values() if server in servers for fault in servers[server].faults]
        if any(row[1:]):
            rows.append([*row, "; ".join(dict.fromkeys(faults))])
    return markdown_table([*header, "faults"], rows)


def model(summaries, server):
    rows = []
    for name, servers in summaries.items():
        scenario, summary = BY_NAME[name], servers.get(server)
        if not summary or scenario.growth:
            continue
        metrics, shared = columns_of(scenario)
        for metric in metrics:
            if metric in shared and metric in summary.figures:
                share = summary.shares.get(metric)
                title, unit, _, _ = TEXTS[metric]
                notes = "; ".join(summary.notes) if metric == metrics[0] else ""
                what = scenario.title if metric == metrics[0] else ""
                rows.append(
                    [
                        what,
                        f"{title}, {unit}",
                        cell(summary, metric),
                        f"{share.median:.2f}" if share else "",
                        notes,
                    ]
                )
    return markdown_table(["load", "figure", "measured", "share of limit", "notes"], rows)


def text_of(kind, words, result, summaries):
    if kind == "machine":
        return machine(result)
    if kind == "overview":
        return overview(result, summaries)
    if kind == "model":
        return model(summaries, *words)
    if kind == "table":
        header, rows = table_of(BY_NAME[words[0]], summaries[words[0]])
        return markdown_table(header, [[f"`{row[0]}`", *row[1:]] for row in rows])
    scenario, server, metric = words
    summary = summaries[scenario][server]
    if kind == "share":
        return f"{summary.shares[metric].median:.2f}"
    if kind == "value":
        _, unit, factor, digits = TEXTS[metric]
        return f"{number(summary.figures[metric].median * factor, digits)} {unit}".strip()
    raise KeyError(kind)


def filled(name, text, result, summaries):
    """The text of a page with the figures that the result has. A mark that gets none is refused."""

    def replacement(found):
        start, kind, words, old, end = found.groups()
        if stray := STRAY.search(old):
            raise SystemExit(f"bench: {name}: {start} is not closed before {stray[0]}")
        try:
            made = text_of(kind, words.split(), result, summaries)
        except (LookupError, TypeError, ValueError):
            raise SystemExit(f"bench: {name}: the result has nothing for {start}") from None
        return f"{start}{made}{end}" if kind in INLINE else f"{start}\n{made}\n{end}"

    if stray := STRAY.search(BLOCK.sub("", text)):
        raise SystemExit(f"bench: {name}: {stray[0]} is no mark, or is half of one")
    return BLOCK.sub(replacement, text)


def pages(root=ROOT):
    """All pages of the repository, but for those in folders with a dot, such as .venv."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if name.endswith(".md"))


def fill(result, write, root=ROOT):
    """Returns which pages are not as the result has it, after writing them anew if that is wanted: all or none."""
    summaries, stale = summarise(result), {}
    for path in pages(root):
        text = path.read_bytes().decode(errors="surrogateescape")
        new = filled(path.relative_to(root), text, result, summaries)
        if new != text:
            stale[path] = new
    for path, new in stale.items() if write else ():
        save(path, new.encode(errors="surrogateescape"))
    return [str(path.relative_to(root)) for path in stale]
