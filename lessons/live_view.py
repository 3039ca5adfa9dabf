"""What watch.py shows in the terminal: a line for each lane, and the last lines of the log."""

import collections
import contextlib
import os
import termios
import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

SECONDS = 10  # of the past that a lane's strip shows
LINES = 5  # of the log
SECOND = 1_000_000_000  # in the nanoseconds in which a story counts

# How a state is shown in a strip: a sign that is read without colour, a colour, and what the legend says.
RUNS = "#", "bold green", "runs"
STATES = {
    "accept": ("a", "cyan", "accept"),
    "receive": ("r", "cyan", "receive"),
    "send": ("s", "bold red", "send"),
    "readiness": ("p", "blue", "select, poll, epoll"),
    "completion": ("c", "blue", "completion"),
    "lock": ("l", "red", "lock"),
    "queue": ("q", "magenta", "queue"),
    "sleep": ("z", "yellow", "sleep"),
    "child": ("w", "magenta", "child or thread"),
    "input": ("i", "cyan", "input"),
    "await": (".", "bright_black", "await"),
    "ready": ("!", "bold yellow", "ready"),
    "other": ("o", "bright_black", "other"),
}
CAME, SENT = ("<", "bold", "came"), (">", "bold", "sent")


class View:
    """The screen, while the block runs: `with View(story, title) as view`."""

    def __init__(self, story, title, console=None):
        self.story, self.title = story, title
        self.console = console or Console()
        self.live = Live(console=self.console, screen=True, auto_refresh=False, vertical_overflow="crop")
        self.begun = time.monotonic_ns()

    def __enter__(self):
        # What is typed is not to be seen, and is no input of the program's.
        self.modes = termios.tcgetattr(0) if os.isatty(0) else None
        self.show()
        return self

    def __exit__(self, *_):
        self.hide()

    def show(self):
        """Take the terminal."""
        if self.modes:
            modes = [*self.modes]
            modes[3] &= ~(termios.ECHO | termios.ICANON)
            termios.tcsetattr(0, termios.TCSANOW, modes)
        self.live.start()

    def hide(self):
        """Give the terminal back as it was."""
        with contextlib.suppress(OSError):  # it may be gone
            self.live.stop()
        if self.modes:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSAFLUSH, self.modes)

    def draw(self, log):
        """Show how things are now. `log`: the last lines of the log."""
        now = time.monotonic_ns()
        forget(self.story, now - (SECONDS + 1) * SECOND)
        self.live.update(Group(*self.parts(now, log)), refresh=True)

    def parts(self, now, log):
        """Return what is on the screen, from top to bottom: never more lines than it has."""
        width, height = self.console.size
        first, *others = self.story.shown() or [None]
        lines = max(0, min(LINES, height - 8))
        room = max(1, height - lines - 7)
        hidden = max(0, len(others) - room)
        if hidden:
            latest = sorted(others, key=lambda lane: lane.open[-1][0] if lane.open else now)[hidden:]
            others = [lane for lane in others if lane in latest]
        lanes = [first, *others] if first else []
        ago = (now - self.begun) // SECOND
        yield Text(f"{self.title}   {ago // 60}:{ago % 60:02}   Ctrl-C ends it", style="bold", no_wrap=True)
        cells = max(10, min(40, (width - 64) // 2 * 2))
        table = Table(box=None, padding=(0, 1, 0, 0), expand=False, header_style="underline", show_edge=False)
        rest = width - cells - 9
        table.add_column("lane", width=rest // 2 + rest % 2, no_wrap=True, overflow="ellipsis")
        table.add_column("waits in", width=rest // 2, no_wrap=True, overflow="ellipsis")
        table.add_column("since", width=5, no_wrap=True, justify="right")
        table.add_column(f"{SECONDS} seconds"[:cells], width=cells, no_wrap=True)
        seen = set()
        for lane in lanes:
            name, *others = row(lane, now, cells, seen)
            if len(name) > rest // 2 and lane.kind in ("thread", "task"):  # "task" goes before the peer does
                name = name.removeprefix(f"{lane.kind} ")
            table.add_row(Text(name), *others)
        yield table
        if hidden:
            yield Text(f"... and {hidden} more, which wait for longer", style="italic", no_wrap=True)
        legend = [RUNS, *(STATES[state] for state in STATES if state in seen), CAME, SENT]
        yield Text("  ".join(f"{sign} {what}" for sign, _, what in legend), style="bright_black", no_wrap=True)
        yield Text("-" * width, style="bright_black", no_wrap=True)
        for line in log[-lines:] if lines else ():
            yield Text(line, no_wrap=True, overflow="ellipsis")
        lost = f"; {self.story.lost} records were lost" if self.story.lost else ""
        yield Text(f"Times of a watched program are no measurement{lost}.", style="italic", no_wrap=True)


def row(lane, now, cells, seen):
    """Return the columns of a lane. The states that its strip shows are added to `seen`."""
    if lane.died is not None:
        what, since = Text("has ended", style="bright_black"), lane.died
    elif lane.open:
        since, state, _, what = lane.open[-1]
        what = Text(what, style=STATES[state][1])
    else:
        since = max([lane.born, *(end for _, end, *_ in lane.spans)])
        what = Text("runs", style=RUNS[1])
    strip = Text()
    for sign, style in strip_of(lane, now, cells, seen):
        strip.append(sign, style)
    return lane.name, what, Text(duration(now - since)), strip


def strip_of(lane, now, cells, seen):
    """Yield sign and style of each part of the last seconds, oldest first: what the lane did for most of it.

    What came and was sent is shown in any case, since it takes no time.
    """
    length = SECONDS * SECOND // cells
    # The parts have fixed places in time, so that nothing flickers.
    last = now // length
    parts = range(last - cells + 1, last + 1)
    times, ways = collections.defaultdict(collections.Counter), collections.defaultdict(set)
    for begun, ended, state, *_ in (*lane.spans, *((start, now, *wait) for start, *wait in lane.open[-1:])):
        for part in range(max(begun // length, parts[0]), min(ended // length, last) + 1):
            times[part][state] += min(ended, (part + 1) * length) - max(begun, part * length)
    for when, way, *_ in lane.messages:
        ways[when // length].add(way)
    born = lane.born
    if len(lane.spans) == lane.spans.maxlen:  # what was before is forgotten
        born = lane.spans[0][0]
    for part in parts:
        start, end = max(part * length, born), min((part + 1) * length, now, lane.died or now)
        if start >= end:
            yield " ", ""
            continue
        times[part][None] = end - start - times[part].total()
        ((most, _),) = times[part].most_common(1)
        if most:
            seen.add(most)
        state = STATES[most] if most else RUNS
        if ways[part] and most != "send":  # who is stuck in a send is to be seen
            state = SENT if "out" in ways[part] else CAME
        yield state[:2]


def duration(nanoseconds):
    """Return a duration in at most five characters: 7 ms, 3.4 s, 12 s, 5 min."""
    seconds = nanoseconds / SECOND
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds < 0.1 else f"{seconds:.1f} s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{min(seconds // 60, 999):.0f} m"


def forget(story, before):
    """Forget what was over before a time: so much is never kept that it could matter."""
    for number, lane in list(story.lanes.items()):
        while lane.spans and lane.spans[0][1] < before:
            lane.spans.popleft()
        while lane.messages and lane.messages[0][0] < before:
            lane.messages.popleft()
        if lane.died is not None and lane.died < before:
            del story.lanes[number]
    story.log.clear()
