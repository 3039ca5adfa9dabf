"""Draw a recording of watch.py as a timeline: who waited, in which call, and which way the messages took.

    python draw.py FILE [-o PICTURE]      an SVG, on standard output or in a file

The same recording gives the same bytes: each number comes from it, and nothing is asked of the machine.

A recording is JSON, as watch.py writes it. Two things may have been added to it (see scenes.py):

    "clients": [{"at": 1200, "peer": "127.0.0.1:52344", "does": "says", "bytes": 6, "text": "hello"}, ...]
                        what the clients did: `comes`, `says`, `hears`, `leaves`. `at` is microseconds, as everywhere
    "times": 300        in a span whose state is "repeated": it stands for so many, which came again and again; and in a
                        message, or in what a client did: it stands for so many, and is not drawn
"""

import argparse
import itertools
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict, deque
from pathlib import Path

VERSION = 1  # of the recordings that are understood
KINDS = {  # each state of a lane, as the legend explains it
    "accept": "in accept: for somebody to come",
    "receive": "in recv: for what somebody says",
    "send": "in send: until somebody takes it",
    "readiness": "until any of many is ready",
    "completion": "until any operation is done",
    "lock": "for a lock",
    "queue": "for a queue",
    "sleep": "asleep",
    "child": "for a child or a thread to end",
    "input": "for the keyboard, a pipe, a file",
    "await": "awaits something",
    "ready": "could go on; another one runs",
    "step": "has a task run",
    "other": "for something else",
    "repeated": "the same again and again",
}
PATTERNS = {  # what is drawn over and over for each, in a square of so many pixels; no two look alike without colour
    "accept": (8, "M2 0V8M6 0V2M6 6V8"),
    "receive": (7, "M-1 8L8 -1M-1 1L1 -1M6 8L8 6"),
    "send": (4, "M-1 -1L5 5M-1 3L1 5M3 -1L5 1"),
    "readiness": (6, "M2 3a1 1 0 1 0 2 0a1 1 0 1 0 -2 0"),
    "completion": (10, "M2 5a3 3 0 1 0 6 0a3 3 0 1 0 -6 0"),
    "lock": (6, "M-1 -1L7 7M-1 7L7 -1"),
    "queue": (5, "M0 2.5H5"),
    "sleep": (12, "M0 4q3 -4 6 0t6 0M0 10q3 -4 6 0t6 0"),
    "child": (7, "M0 3.5H7M3.5 0V7"),
    "input": (4, "M2 0V4"),
    "await": (10, "M1 2.5H6M6 7.5H10M0 7.5H1"),
    "ready": (3, "M0 1.5H3M1.5 0V3"),
    "step": (6, "M0 6L3 0L6 6"),
    "other": (10, "M3 5H7M5 3V7"),
    "repeated": (9, "M0 0H3V9H0Z"),
}
FILLED = {"readiness": "dots", "repeated": "run"}  # the others are lines
STYLE = """
.timeline { --paper: #ffffff; --ink: #1c2128; --faint: #8b949e; --run: #c2410c; --wait: #f0f3f6; --line: #57606a;
  --word: #0550ae; font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
@media (prefers-color-scheme: dark) { .timeline { --paper: #0d1117; --ink: #e6edf3; --faint: #7d8590; --run: #fb8f44;
  --wait: #21262d; --line: #adbac7; --word: #79c0ff; } }
.paper { fill: var(--paper); } text { fill: var(--ink); } .title { font-size: 16px; font-weight: 600; }
.caption { font-size: 14px; } .small { font-size: 11px; } .faint { fill: var(--faint); } .right { text-anchor: end; }
.middle { text-anchor: middle; } .halo { stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round;
  paint-order: stroke; } .word { fill: var(--word); font-weight: 600; }
.run { fill: var(--run); } .wait { fill: var(--wait); } .edge { fill: none; stroke: var(--line); }
.mark { fill: none; stroke: var(--line); } .dots { fill: var(--line); stroke: none; }
.life { stroke: var(--faint); stroke-width: 1.5; } .tick, .grid { stroke: var(--faint); }
.grid { stroke-dasharray: 1 5; } .arrow { fill: none; stroke: var(--word); stroke-width: 1.5; }
.inside { stroke-dasharray: 5 3; } .head { fill: var(--word); } .dot { fill: var(--paper); stroke: var(--word);
  stroke-width: 1.5; } .break { fill: none; stroke: var(--paper); stroke-width: 5; }
.crack { fill: none; stroke: var(--faint); }
"""

WIDTH, LEFT, RIGHT = 960, 150, 24  # pixels of the picture, and of its margins beside the lanes
ROW, LANE, BAR = 26, 40, 24  # pixels from one client's line to the next, from lane to lane, and of a lane's height
LETTER = 6.6  # pixels of a letter, a little more than it takes, as fonts differ
FOLD = 46  # pixels of a stretch in which nothing happens, however long it is
MOST_FOLDS = 9
LONG = 8  # a stretch is folded if it is more than this part of all that is not folded,
SEEN = 16  # and while half of all that lies between two events takes fewer pixels than these
EQUAL = 4  # so many lanes in which the same happens are drawn as one
MOST_CLIENTS = 6  # of more clients, those who say nothing are drawn as one
STEPS = [factor * 10**power for power in range(8) for factor in (1, 2, 5)]  # microseconds between two ticks
UNPRINTABLE = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML cannot hold


class BadRecording(ValueError):
    """The file is no recording that can be drawn; the message says why, in one line."""


# ----------------------------------------------------------------------------------------------------------------------
# What is in a recording.
# ----------------------------------------------------------------------------------------------------------------------


def load(path):
    """Read a recording and check it. Raises BadRecording, or OSError if there is no such file."""
    try:
        recording = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadRecording(f"no JSON: {error}") from None
    check(recording)
    return recording


def check(recording):
    """Raise BadRecording unless the recording can be drawn: the right version, and each time where it can be."""
    if not isinstance(recording, dict) or not isinstance(recording.get("version"), int):
        raise BadRecording("no recording of watch.py")
    if recording["version"] != VERSION:
        raise BadRecording(f"its version is {recording['version']}, and this draw.py knows {VERSION} alone")
    took = number(recording, "took", "the recording")
    for key, kind in ("command", list), ("people", dict), ("title", str), ("caption", str):
        expect(isinstance(recording.setdefault(key, kind()), kind), f"its {key} is none")
    expect(all(isinstance(name, str) for name in recording["people"].values()), "its people have no names")
    texts(recording, ["machine", "system", "python"], "the recording")
    lanes = items(recording, "lanes")
    for index, lane in enumerate(lanes):
        where = f"lane {index}"
        texts(lane, ["name", "kind"], where)
        lane.setdefault("born", 0)
        if lane.get("died") is None:
            lane["died"] = took
        expect(number(lane, "born", where) <= number(lane, "died", where) <= took, f"{where} dies before it is born")
    ends = [lane["born"] for lane in lanes]
    for index, span in enumerate(items(recording, "spans")):
        where = f"span {index}"
        lane = lane_of(span, lanes, where)
        start, end = number(span, "start", where), number(span, "end", where)
        expect(span.get("state") in list(KINDS), f"{where} is in a state that nobody knows: {span.get('state')!r}")
        texts(span, ["what", "call"], where)
        if (span["state"], span["call"]) == ("other", "step"):  # the event loop waits for nothing
            span["state"] = "step"
        alive = lanes[lane]["born"] <= start <= end <= lanes[lane]["died"]
        expect(alive, f"{where} is outside of the life of its lane, {lanes[lane]['name']}")
        expect(ends[lane] <= start, f"{where} begins before the last one of its lane has ended")
        ends[lane] = end
    for key, ways in ("messages", {"way": ("in", "out")}), ("clients", {"does": ("comes", "says", "hears", "leaves")}):
        for index, event in enumerate(items(recording, key)):
            where = f"{key[:-1]} {index}"
            expect(number(event, "at", where) <= took, f"{where} comes after the end")
            texts(event, ["peer", "text"], where)
            number(event, "bytes", where)
            for word, allowed in ways.items():
                expect(event.get(word) in allowed, f"{where} has no {word}")
            if key == "messages":
                lane_of(event, lanes, where)
    for index, entry in enumerate(items(recording, "log")):
        expect(number(entry, "at", f"log {index}") <= took, f"log {index} comes after the end")
        texts(entry, ["line"], f"log {index}")


def expect(condition, otherwise):
    if not condition:
        raise BadRecording(" ".join(otherwise.split()))


def items(recording, key):
    found = recording.setdefault(key, [])
    expect(isinstance(found, list) and all(isinstance(item, dict) for item in found), f"its {key} are no list")
    return found


def number(item, key, where):
    value = item.get(key, 0 if key == "bytes" else None)
    expect(isinstance(value, int) and not isinstance(value, bool) and value >= 0, f"{where} has no {key}")
    return value


def texts(item, keys, where):
    for key in keys:
        expect(isinstance(item.setdefault(key, ""), str), f"{where} has a {key} that is no text")


def lane_of(item, lanes, where):
    index = number(item, "lane", where)
    expect(index < len(lanes), f"{where} is in a lane that is not there: {index}")
    return index


# ----------------------------------------------------------------------------------------------------------------------
# Where things go: time to pixels, lanes and clients to rows.
# ----------------------------------------------------------------------------------------------------------------------


class Axis:
    """Microseconds to pixels: the same scale everywhere, but that long stretches without an event are folded."""

    def __init__(self, events, took):
        times = sorted({0, took, *events})
        gaps = sorted(((end - start, start) for start, end in itertools.pairwise(times)), reverse=True)
        middle = gaps[len(gaps) // 2][0] if gaps else 0
        rest, chosen = max(took, 1), []
        for length, start in gaps[:MOST_FOLDS]:
            if length * LONG <= rest or middle * (WIDTH - LEFT - RIGHT) >= SEEN * rest:
                break
            chosen.append((start, start + length))
            rest -= length
        rest = max(rest, took // 10**6, 50)
        margin = max(rest // 30, 1)  # so much is left on both sides of a fold
        self.folds = sorted((a + margin, b - margin) for a, b in chosen if b - a > 6 * margin)
        room = WIDTH - LEFT - RIGHT - FOLD * len(self.folds)
        self.open = max(took - sum(b - a for a, b in self.folds), 1)
        self.scale = room / self.open
        self.took = took

    def x(self, at):
        """The pixel of a moment."""
        x = LEFT + at * self.scale
        for start, end in self.folds:
            if at >= end:
                x += FOLD - (end - start) * self.scale
            elif at > start:
                x += (at - start) * (FOLD / (end - start) - self.scale)
        return x

    def ticks(self):
        """The step between two ticks in microseconds, and all moments that have one."""
        step = next((step for step in STEPS if step * self.scale >= 72), STEPS[-1])
        starts, ends = [0, *(end for _, end in self.folds)], [*(start for start, _ in self.folds), self.took]
        stretches = zip(starts, ends, strict=True)
        return step, [at for start, end in stretches for at in range(-(-start // step) * step, end + 1, step)]


def people_in(text, people):
    """The text with the names of people in the place of their addresses."""
    for address in sorted(people, key=len, reverse=True):
        text = re.sub(rf"{re.escape(address)}(?!\d)", lambda _, name=people[address]: name, text)
    return text


def lane_rows(recording):
    """For each lane its row, and for each row its lanes: of many lanes in which the same happened there is one row."""
    people, speaks = recording["people"], {message["lane"] for message in recording["messages"]}
    stories = defaultdict(list)
    for span in recording["spans"]:
        story = stories[span["lane"]]
        if not story or story[-1] != span["state"]:
            story.append(span["state"])
    groups, counts = [], defaultdict(int)
    for index, lane in enumerate(recording["lanes"]):
        known = any(address in lane["name"] for address in people)
        groups.append(index if known or index in speaks else (lane["kind"], *stories[index]))
        counts[groups[-1]] += 1
    rows, row_of, seen = [], {}, {}
    for index, group in enumerate(groups):
        if counts[group] < EQUAL or group not in seen:
            seen[group] = len(rows)
            rows.append([])
        row_of[index] = seen[group] if counts[group] >= EQUAL else len(rows) - 1
        rows[row_of[index]].append(index)
    return row_of, rows


def client_rows(recording):
    """For each client its row, and for each row its clients, in the order in which they come."""
    order, speak = {}, set()
    for event in sorted(recording["messages"] + recording["clients"], key=lambda event: event["at"]):
        if event["peer"] and (event["peer"] in recording["people"] or ":" in event["peer"]):
            order.setdefault(event["peer"], None)
            if event.get("way") == "in" or event.get("does") == "says":
                speak.add(event["peer"])
    people = sorted(recording["people"], key=recording["people"].get)
    order = [peer for peer in people if peer in order] + [peer for peer in order if peer not in people]
    alone = set(order) if len(order) <= MOST_CLIENTS else set(recording["people"]) or speak & set(order[:MOST_CLIENTS])
    rows = [[peer] for peer in order if peer in alone]
    if others := [peer for peer in order if peer not in alone]:
        rows.append(others)
    return {peer: index for index, peers in enumerate(rows) for peer in peers}, rows


def arrows_of(recording):
    """Yield each message's way, as (kind, at, from, at, to): `kind` is in, out or inside.

    What a client says, and what the server reads, are two cuts of one stream: a message has come when the last of its
    bytes has been read. Where nobody has noted what the clients did, a message takes no time.
    """
    did = {"says": defaultdict(deque), "hears": defaultdict(deque)}  # of each client what is not yet matched
    for event in recording["clients"]:
        if event["does"] in did:
            did[event["does"]][event["peer"]].append([event["bytes"], event])
    noted = {event["peer"] for event in recording["clients"]}
    latest = deque(maxlen=100)
    for message in recording["messages"]:
        peer, at, lane, words = message["peer"], message["at"], message["lane"], message["text"].strip()
        if message["way"] == "in":
            sources = list(matched(did["says"][peer], message["bytes"])) if peer in noted else [message]
            for event in sources:
                if "times" not in event and "times" not in message:
                    yield "in", min(event["at"], at), peer, at, lane, event
            if words:
                latest.append((words, at, lane))
        elif message["bytes"]:
            targets = list(matched(did["hears"][peer], message["bytes"])) if peer in noted else [message]
            for event in targets[:1]:
                if "times" not in message:
                    then = (
                        at if "times" in event else max(event["at"], at)
                    )  # of many, nobody knows when it was this one
                    yield "out", at, lane, then, peer, message
            source = next((known for known in reversed(latest) if any(w in words for w in known[0].split("\n"))), None)
            if source and source[2] != lane:
                yield "inside", source[1], source[2], at, lane, message


def matched(events, size):
    """Take so many bytes from events, [bytes, event], and yield each of which some were taken."""
    while events and size > 0:
        taken = min(size, events[0][0])
        yield events[0][1]
        size -= taken
        events[0][0] -= taken
        if not events[0][0]:
            events.popleft()


# ----------------------------------------------------------------------------------------------------------------------
# The picture.
# ----------------------------------------------------------------------------------------------------------------------


class Picture:
    """The timeline of one recording as a tree of SVG elements."""

    def __init__(self, recording):
        self.recording, self.people = recording, recording["people"]
        self.row_of, self.rows = lane_rows(recording)
        self.client_of, self.clients = client_rows(recording)
        self.arrows = list(arrows_of(recording))
        events = [moment for span in recording["spans"] for moment in (span["start"], span["end"])]
        events += [moment for lane in recording["lanes"] for moment in (lane["born"], lane["died"])]
        events += [
            event["at"] for key in ("messages", "clients", "log") for event in recording[key] if "times" not in event
        ]
        self.axis = Axis(events, recording["took"])
        self.root = ElementTree.Element("svg", {"class": "timeline", "xmlns": "http://www.w3.org/2000/svg"})
        title = self.clean(recording["title"] or " ".join(map(str, recording["command"])))
        caption = self.clean(recording["caption"])
        self.add("title", title, id="title")
        self.add("desc", self.told(caption), id="desc")
        self.add("style", STYLE)
        self.states = [state for state in KINDS if any(span["state"] == state for span in recording["spans"])]
        self.patterns()
        paper = self.add("rect", width=WIDTH, class_="paper")
        y = self.head(title, caption, 26)
        self.client_y = [y + 14 + ROW * index for index in range(len(self.clients))]
        self.lane_y = [y + 10 + ROW * len(self.clients) + 22 + LANE * index for index in range(len(self.rows))]
        self.bottom = self.lane_y[-1] + BAR + 10 if self.rows else y + 20 + ROW * len(self.clients)
        self.draw_axis(y)
        self.draw_clients()
        self.draw_lanes()
        self.draw_folds()
        self.draw_words()
        self.draw_arrows()
        y = self.draw_log(self.bottom + 34)
        height = self.foot(self.legend(y + 10))
        paper.set("height", str(height))
        self.root.set("viewBox", f"0 0 {WIDTH} {height}")
        self.root.set("width", str(WIDTH))
        self.root.set("height", str(height))
        self.root.set("role", "img")
        self.root.set("aria-labelledby", "title desc")

    def __str__(self):
        ElementTree.indent(self.root, " ")
        return ElementTree.tostring(self.root, encoding="unicode") + "\n"

    def add(self, tag, text=None, parent=None, **attributes):
        """Add an element. Numbers get one decimal at the most."""
        element = ElementTree.SubElement(self.root if parent is None else parent, tag)
        for name, value in attributes.items():
            value = f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)
            element.set(name.rstrip("_").replace("_", "-"), value)
        if text is not None:
            element.text = UNPRINTABLE.sub("?", text)
        return element

    def clean(self, text):
        """One line of text, with people's names in it."""
        return UNPRINTABLE.sub("?", " ".join(people_in(text, self.people).split()))

    def lane_name(self, row):
        return self.clean(self.recording["lanes"][self.rows[row][0]]["name"])

    def told(self, caption):
        """What a screen reader says in the place of the picture: the caption, then what each lane mostly did."""
        took = self.recording["took"]
        parts = [caption] if caption else []
        for row, lanes in enumerate(self.rows):
            spent = defaultdict(int)
            for span in self.recording["spans"]:
                if span["lane"] == lanes[0]:
                    spent[span["state"]] += span["end"] - span["start"]
            most = sorted(spent, key=lambda state: (-spent[state], state))[:2]
            spent = ", ".join(f"{KINDS[state].split(':')[0]} {length(spent[state])}" for state in most)
            count = f" and {len(lanes) - 1} like it" if len(lanes) > 1 else ""
            parts.append(f"{self.lane_name(row)}{count}: {spent or 'runs'}.")
        return " ".join([*parts, f"All of it takes {length(took)}."])

    def patterns(self):
        definitions = self.add("defs")
        for state in self.states:
            size, path = PATTERNS[state]
            pattern = self.add("pattern", parent=definitions, id=f"wait-{state}", patternUnits="userSpaceOnUse")
            pattern.set("width", str(size))
            pattern.set("height", str(size))
            self.add("rect", parent=pattern, width=size, height=size, class_="wait")
            self.add("path", parent=pattern, d=path, class_=FILLED.get(state, "mark"))

    def head(self, title, caption, y):
        self.add("text", title, x=16, y=y, class_="title")
        for line in wrap(caption, (WIDTH - 32) / (LETTER * 14 / 12)):
            y += 20
            self.add("text", line, x=16, y=y, class_="caption")
        return y + 12

    def draw_axis(self, top):
        step, ticks = self.axis.ticks()
        base, last = self.bottom, 0.0
        self.add("line", x1=LEFT, x2=WIDTH - RIGHT, y1=base, y2=base, class_="tick")
        for at in ticks:
            x, text = self.axis.x(at), f"{milliseconds(at, step)} ms"
            self.add("line", x1=x, x2=x, y1=top, y2=base + 5, class_="grid")
            half = len(text) * LETTER * 11 / 12 / 2
            if (
                x - half > last
                and x + half < WIDTH
                and not any(self.axis.x(a) - half - 2 < x < self.axis.x(b) + half + 2 for a, b in self.axis.folds)
            ):
                self.add("text", text, x=x, y=base + 18, class_="small middle")
                last = x + half + 4
        for start, end in self.axis.folds:
            middle = (self.axis.x(start) + self.axis.x(end)) / 2
            self.add("text", length(end - start), x=middle, y=base + 18, class_="small middle faint")

    def draw_clients(self):
        took, came, left = self.recording["took"], {}, {}
        for event in self.recording["clients"]:
            if event["does"] == "comes":
                came[event["peer"]] = event["at"]
            elif event["does"] == "leaves":
                left[event["peer"]] = event["at"]
        for peers, y in zip(self.clients, self.client_y, strict=True):
            name = self.clean(self.people.get(peers[0], peers[0])) if len(peers) == 1 else f"{len(peers)} others"
            self.add("text", shorten(name, LEFT - 26), x=LEFT - 10, y=y + 4, class_="right word")
            start = self.axis.x(min(came.get(peer, 0) for peer in peers))
            end = self.axis.x(max(left.get(peer, took) for peer in peers))
            self.add("line", x1=start, x2=end, y1=y, y2=y, class_="life")
            if any(peer in came for peer in peers):
                self.add("line", x1=start, x2=start, y1=y - 6, y2=y + 6, class_="life")
            if all(peer in left for peer in peers):
                self.add("path", d=f"M{end - 4:.1f} {y - 4}l8 8m0 -8l-8 8", class_="life")

    def draw_lanes(self):
        spans = defaultdict(list)
        for span in self.recording["spans"]:
            spans[span["lane"]].append(span)
        self.spans = [merged(spans[lanes[0]], self.axis) for lanes in self.rows]
        for row, y in enumerate(self.lane_y):
            lane, count = self.recording["lanes"][self.rows[row][0]], len(self.rows[row])
            name = shorten(self.lane_name(row), LEFT - 26)
            self.add("text", name, x=LEFT - 10, y=y + (10 if count > 1 else 16), class_="right")
            if count > 1:
                self.add("text", f"and {count - 1:,} like it", x=LEFT - 10, y=y + 23, class_="right small faint")
            left = self.axis.x(lane["born"])
            right = max(self.axis.x(lane["died"]), left + 1)
            self.add("rect", x=left, y=y, width=right - left, height=BAR, class_="run")
            for start, end, state, _ in self.spans[row]:
                self.add("rect", x=start, y=y, width=end - start, height=BAR, fill=f"url(#wait-{state})")
            self.add("rect", x=left, y=y, width=right - left, height=BAR, class_="edge")

    def draw_folds(self):
        if not self.rows:
            return
        top, bottom = self.lane_y[0] - 4, self.lane_y[-1] + BAR + 4
        for start, end in self.axis.folds:
            middle = (self.axis.x(start) + self.axis.x(end)) / 2
            teeth = "".join(f"l{4 if n % 2 == 0 else -4} 6" for n in range(-(-(bottom - top) // 6)))
            self.add("path", d=f"M{middle - 2:.1f} {top}{teeth}", class_="break")
            for shift in -4, 0:
                self.add("path", d=f"M{middle + shift:.1f} {top}{teeth}", class_="crack")

    def draw_words(self):
        """Where there is room, each span says what it is."""
        for row, y in enumerate(self.lane_y):
            for start, end, _, what in self.spans[row]:
                what = self.clean(what)
                if what and len(what) * LETTER + 10 <= end - start:
                    self.add("text", what, x=start + 6, y=y + 16, class_="halo")

    def draw_arrows(self):
        drawn, labels = {}, {}
        for kind, at, source, then, target, event in self.arrows:
            x1, x2 = self.axis.x(at), self.axis.x(then)
            if kind == "in":
                y1, y2 = self.client_y[self.client_of[source]], self.lane_y[self.row_of[target]]
            elif kind == "out":
                y1, y2 = self.lane_y[self.row_of[source]], self.client_y[self.client_of[target]]
            else:
                y1, y2 = (self.lane_y[self.row_of[row]] for row in (source, target))
                y1, y2 = (y1 + BAR, y2) if y1 < y2 else (y1, y2 + BAR)
            before = drawn.get((kind, y1, y2))
            if before and x1 - before[0] < 4 and abs(x2 - before[1]) < 4:
                continue
            drawn[kind, y1, y2] = x1, x2
            self.add("line", x1=x1, x2=x2, y1=y1, y2=y2, class_="arrow inside" if kind == "inside" else "arrow")
            self.add("path", d=arrow_head(x1, y1, x2, y2), class_="head")
            if kind == "in":
                self.add("circle", cx=x1, cy=y1, r=3.0, class_="dot")
                words = self.clean(event["text"]) or ("(a newline)" if event["bytes"] == 1 else "(blank lines)")
                words = words if len(words) <= 24 else f"{words[:20]} ..."
                width = len(words) * LETTER
                x = min(x1 + 6, WIDTH - 6 - width)
                if labels.get(y1, 0) <= x:
                    labels[y1] = x + width + 6
                    self.add("text", words, x=x, y=y1 - 5, class_="halo word small")

    def draw_log(self, y):
        """The lines of the log, where they fit; returns where the next thing may be drawn."""
        ends = [0.0] * 4  # pixels up to which each line of text is taken
        found = []
        for entry in self.recording["log"]:
            text = re.sub(r"^\d\d:\d\d:\d\d ", "", self.clean(entry["line"]))
            at = self.axis.x(entry["at"])
            width = len(text) * LETTER * 11 / 12
            x = max(LEFT, min(at, WIDTH - 8 - width))
            row = next((row for row, end in enumerate(ends) if end <= x), None)
            if row is not None and text:
                ends[row] = x + width + 10
                found.append((at, x, row, text))
        for at, _, row, _ in found:
            self.add("line", x1=at, x2=at, y1=self.bottom, y2=y + 3 + 16 * row, class_="tick")
        for _, x, row, text in found:
            self.add("text", text, x=x + 3, y=y + 14 + 16 * row, class_="small halo")
        if found:
            self.add("text", "log", x=LEFT - 10, y=y + 14, class_="right faint")
        return y + 16 * (1 + max((row for _, _, row, _ in found), default=-1)) + 8

    def legend(self, y):
        x = 16.0
        for state in ["run", *self.states]:
            text = "runs" if state == "run" else KINDS[state]
            width = 40 + len(text) * LETTER + 14
            if x + width > WIDTH and x > 16:
                x, y = 16.0, y + 24
            fill = {"class_": "run"} if state == "run" else {"fill": f"url(#wait-{state})"}
            self.add("rect", x=x, y=y, width=32, height=16, **fill)
            self.add("rect", x=x, y=y, width=32, height=16, class_="edge")
            self.add("text", text, x=x + 39, y=y + 13)
            x += width
        return y + 24

    def foot(self, y):
        parts = [" ".join(map(str, self.recording["command"]))]
        parts += [self.recording[key] for key in ("python", "system", "machine")]
        y += 14
        folded = "; where nothing happens, time is folded" if self.axis.folds else ""
        text = f"{', '.join(filter(None, parts))}. Times of a watched program, no measurement{folded}."
        for line in wrap(self.clean(text), (WIDTH - 32) / (LETTER * 11 / 12)):
            self.add("text", line, x=16, y=y, class_="small faint")
            y += 15
        return y


def merged(spans, axis):
    """Spans as (left, right, state, what) in pixels: what is too narrow to be seen on its own is one with the next."""
    found = []
    for span in spans:
        left, right = axis.x(span["start"]), axis.x(span["end"])
        what = f"{span['what']}, {span['times']:,} times" if isinstance(span.get("times"), int) else span["what"]
        if found and found[-1][2:] == (span["state"], what) and left - found[-1][1] < 0.5:
            left = found.pop()[0]
        elif right - left < 0.4 and found and left - found[-1][1] < 0.8:
            continue
        found.append((left, max(right, left + 0.8), span["state"], what))
    return found


def arrow_head(x1, y1, x2, y2, size=6.0):
    """The path of an arrow's head, at its end."""
    far = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5 or 1.0
    dx, dy = (x2 - x1) / far * size, (y2 - y1) / far * size
    left, right = (x2 - dx - dy / 2, y2 - dy + dx / 2), (x2 - dx + dy / 2, y2 - dy - dx / 2)
    return f"M{x2:.1f} {y2:.1f}L{left[0]:.1f} {left[1]:.1f}L{right[0]:.1f} {right[1]:.1f}Z"


def shorten(text, width):
    """The text, cut so that it takes so many pixels at the most."""
    most = int(width / LETTER) + 2
    return text if len(text) <= most else f"{text[: most - 2]}.."


def wrap(text, most):
    """The text in lines of so many letters at the most, if its words let it."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > most:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return lines if lines[0] else []


def milliseconds(at, step=1):
    """Microseconds as milliseconds, with as many decimals as a step between two of them needs."""
    decimals = 0 if step % 1000 == 0 else 1 if step % 100 == 0 else 2 if step % 10 == 0 else 3
    return f"{at // 1000:,}" + (f".{at % 1000:03}"[: decimals + 1] if decimals else "")


def length(microseconds):
    """How long something took, in few characters."""
    if microseconds >= 10**6:
        return f"{microseconds // 10**6:,}.{microseconds // 10**5 % 10} s"
    if microseconds >= 10**4:
        return f"{microseconds // 1000} ms"
    return f"{microseconds // 1000}.{microseconds // 100 % 10} ms"


def draw(recording):
    """A recording, checked, as the text of an SVG."""
    return str(Picture(recording))


def main():
    parser = argparse.ArgumentParser(description="Draw a recording of watch.py as a timeline, an SVG.")
    parser.add_argument("recording", metavar="FILE")
    parser.add_argument("-o", "--output", metavar="PICTURE", help="standard output by default")
    args = parser.parse_args()
    try:
        picture = draw(load(args.recording))
    except OSError as error:
        sys.exit(f"draw.py: {args.recording}: {error.strerror}")
    except BadRecording as error:
        sys.exit(f"draw.py: {args.recording}: {error}")
    try:
        if args.output:
            Path(args.output).write_text(picture, encoding="utf-8")
        else:
            sys.stdout.buffer.write(picture.encode())
            sys.stdout.flush()
    except OSError as error:
        sys.exit(f"draw.py: {args.output or 'standard output'}: {error.strerror}")


if __name__ == "__main__":
    main()
