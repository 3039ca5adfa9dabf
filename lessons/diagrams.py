"""The mermaid diagrams of the pages as rows of words and arrows, in HTML that needs no library.

A flow chart becomes paths, each a row; a sequence diagram becomes its messages, one a row. Both can be read aloud and
wrap on a phone, which a picture could not.
"""

import html
import re

NODE = r"(\w+)(?:\[\(?\"(.*?)\"\)?\]|\{\"(.*?)\"\})?"
ARROW = r"(<?)(?:(--|-\.) \"(.*?)\" (?:-->|\.->)|(-->|-\.->))"
EDGE = re.compile(rf"{NODE} {ARROW} {NODE}")
LONE = re.compile(NODE)
SAYS = re.compile(r"(\w+)-{1,2}>>(\w+): (.*)")
NOTE = re.compile(r"Note over (\w+)(?:, ?\w+)*: (.*)")
WHO = re.compile(r"(?:participant|actor) (\w+) as (.*)")


class Unknown(ValueError):
    """A line of a diagram that is not understood here."""


def diagram(source):
    """A diagram as HTML. Unknown says which line of it cannot be read."""
    kind, *lines = [line.strip() for line in source.strip().splitlines()]
    if kind.startswith("flowchart"):
        return flow(lines)
    if kind == "sequenceDiagram":
        return sequence(lines)
    raise Unknown(kind)


def words(text):
    """What stands in a box: `<br>` parts its lines, of which the first is the name."""
    first, *rest = [html.escape(line) for line in text.split("<br>")]
    return f"<b>{first}</b>" + (f" <span>{' '.join(rest)}</span>" if rest else "")


def flow(lines):
    names, edges = {}, []
    for line in lines:
        if edge := EDGE.fullmatch(line):
            one, one_box, one_round, back, dashes, label, arrow, other, other_box, other_round = edge.groups()
            names[one] = one_box or one_round or names.get(one, one)
            names[other] = other_box or other_round or names.get(other, other)
            edges.append((one, other, label or "", bool(back), "." in (dashes or arrow)))
        elif line.startswith("subgraph ") or line == "end":
            continue
        elif lone := LONE.fullmatch(line):
            names[lone[1]] = lone[2] or lone[3] or lone[1]
        else:
            raise Unknown(line)
    rows = []
    while edges:
        # A path goes on with the first arrow that leaves where it is, of the same kind.
        path = [edges.pop(0)]
        while step := next((edge for edge in edges if edge[0] == path[-1][1] and edge[3:] == path[-1][3:]), None):
            edges.remove(step)
            path.append(step)
        cells = [f'<span class="box">{words(names[path[0][0]])}</span>']
        for _, other, label, back, dotted in path:
            sign = ("⇠⇢" if dotted else "⟷") if back else ("⇢" if dotted else "⟶")
            label = f"<small>{html.escape(label.replace('<br>', ' '))}</small> " if label else ""
            cells.append(f'<span class="arrow">{label}{sign}</span> <span class="box">{words(names[other])}</span>')
        rows.append(f"<li>{' '.join(cells)}</li>")
    return f'<ul class="diagram">{"".join(rows)}</ul>'


def sequence(lines):
    names, rows = {}, []
    for line in lines:
        if who := WHO.fullmatch(line):
            names[who[1]] = who[2]
        elif says := SAYS.fullmatch(line):
            one, other = names.get(says[1], says[1]), names.get(says[2], says[2])
            rows.append(
                f'<li><span class="box">{words(one)}</span> <span class="arrow">⟶</span> '
                f'<span class="box">{words(other)}</span> <q>{html.escape(says[3])}</q></li>'
            )
        elif note := NOTE.fullmatch(line):
            name = names.get(note[1], note[1])
            rows.append(f'<li class="state"><span class="box">{words(name)}</span> {html.escape(note[2])}</li>')
        else:
            raise Unknown(line)
    return f'<ol class="diagram">{"".join(rows)}</ol>'
