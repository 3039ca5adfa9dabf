"""What differs between two versions of a file, definition by definition.

A **part** of a file is a function, a method, the head of a class, or what stands between them. A **hunk** is all that
changed in one part between two versions, and is known by the part's key: see parts_of(). A part that has only moved,
whatever its indentation, is no hunk.
"""

import ast
import difflib
import functools
import re
import textwrap
from collections import Counter
from dataclasses import dataclass

BANNER = "# The same in every version"  # below this line the versions of a file hardly differ
WHOLE = "whole"  # the key of a file that only the newer version has
FUNCTIONS = ast.FunctionDef, ast.AsyncFunctionDef


@dataclass
class Part:
    """A part of a file: its key, the number of its first line, its lines, and whether it stands above the banner."""

    key: str
    first: int
    lines: list
    model: bool = True

    @property
    def bare(self):
        """Its text as it would stand at the left margin."""
        return textwrap.dedent("\n".join(self.lines))


@dataclass
class Hunk:
    """A part in both versions. `state` is one of `same`, `moved` (but otherwise the same), `changed`, `new`, `gone`."""

    key: str
    old: Part | None
    new: Part | None
    state: str

    @property
    def needs_note(self):
        return self.state in ("changed", "new", "gone")

    @property
    def model(self):
        return any(part is not None and part.model for part in (self.old, self.new))


@functools.cache
def parts_of(source):
    """The parts of a file in Python, in their order. Only blank lines belong to none of them. Keys:

    header         all before the first class or function: docstring, imports, constants
    Class          the head of a class, up to its first method
    Class.method   a method, with comments and decorators above it, and what else stands below it in the class
    function
    constants      statements between classes and functions, with the comments above them: those below the banner
    end            what stands after the last class or function

    What would have the key of a part further up has a number behind it: `constants 2`. SyntaxError if it is no Python.
    """
    lines = source.split("\n")
    places = []  # (number of the last line, key), in order: what is above it, up to the one before, belongs to it
    body = ast.parse(source).body
    named = [node for node in body if isinstance(node, (*FUNCTIONS, ast.ClassDef))]
    for node in body:
        if node in named:
            places += places_in_class(node) if isinstance(node, ast.ClassDef) else [(node.end_lineno, node.name)]
        elif named:
            before, after = node.lineno < named[0].lineno, node.lineno > named[-1].lineno
            places.append((node.end_lineno, "header" if before else "end" if after else "constants"))
    places.append((len(lines), "end" if named else "header"))
    banner = next((at for at, line in enumerate(lines, 1) if line.startswith(BANNER)), len(lines) + 1)
    parts, number = {}, 0
    part = previous = None
    for last, name in places:
        if name != previous:
            part = None
        while number < last:
            number += 1
            line = lines[number - 1]
            if part is None and line.strip():  # a part begins with its first line that is not blank
                count = sum(key.partition(" ")[0] == name for key in parts)
                key = f"{name} {count + 1}" if count else name
                part = parts[key] = Part(key, number, [], number < banner - 1)
                previous = name
            if part is not None:
                part.lines.append(line)
    for part in parts.values():
        while not part.lines[-1].strip():
            part.lines.pop()
    return list(parts.values())


def places_in_class(node):
    """Where the parts of a class end: (number of the last line, key)."""
    methods = [each for each in node.body if isinstance(each, FUNCTIONS)]
    if not methods:
        return [(node.end_lineno, node.name)]
    first = node.body[0]
    # The line `class ...:` is the class's, even if a method comes at once: up to it, or to its decorators.
    head = min([first.lineno, *(each.lineno for each in getattr(first, "decorator_list", ()))]) - 1
    places, key = [(head, node.name)], node.name
    for each in node.body:
        key = f"{node.name}.{each.name}" if isinstance(each, FUNCTIONS) else key
        places.append((each.end_lineno, key))
    return places


def whole(source):
    """A file as one part."""
    return Part(WHOLE, 1, source.rstrip("\n").split("\n"))


def hunks_of(old, new, name):
    """All parts of two versions of a file, as hunks in the order of the newer one; `old` is None if there is none.

    What only the older one has stands after the part that it follows there.
    """
    if old is None:
        return [Hunk(WHOLE, None, whole(new), "new")]
    if not name.endswith(".py"):
        before, after = whole(old), whole(new)
        return [Hunk(WHOLE, before, after, "same" if before.lines == after.lines else "changed")]
    older, newer = ({part.key: part for part in parts_of(source)} for source in (old, new))
    kept = in_place(list(older), list(newer))
    hunks = []
    for key, part in newer.items():
        before = older.get(key)
        if before is None:
            state = "new"
        elif before.lines == part.lines and key in kept:
            state = "same"
        elif before.bare == part.bare:
            state = "moved"
        else:
            state = "changed"
        hunks.append(Hunk(key, before, part, state))
    previous = None
    for key, part in older.items():
        if key not in newer:
            at = next((at for at, hunk in enumerate(hunks, 1) if hunk.key == previous), 0)
            hunks.insert(at, Hunk(key, part, None, "gone"))
        previous = key
    return pair_moved(hunks)


def pair_moved(hunks):
    """Join a part that is gone with a new one of the same lines: a method that became a function has moved."""
    for new in [hunk for hunk in hunks if hunk.state == "new"]:
        for gone in [hunk for hunk in hunks if hunk.state == "gone"]:
            if gone.old.bare == new.new.bare:
                hunks.remove(gone)
                new.old, new.state = gone.old, "moved"
                break
    return hunks


def in_place(old, new):
    """The keys that stand in the same order in both lists: a longest common subsequence. The others were moved."""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    return {old[block.a + at] for block in matcher.get_matching_blocks() for at in range(block.size)}


# Within a hunk: lines, and words within a line.

LIKE = 0.5  # two lines are shown as one that changed when at least so much of their words is common
FAR = (
    2,
    40,
)  # a block that is found elsewhere has moved if it has at least so many lines, and so many letters and digits
WORD = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass
class Row:
    """A line as it is shown, with the older version at the left and the newer one at the right.

    `kind` is `same`, `indent` (only the space at its start differs), `changed`, `replaced` (two lines that are not
    alike, and stand beside each other to save room), `removed` or `added`. `old` and `new` are the numbers of the lines
    in their files, counted from 1, or None. `words` are the two lists of (start, end) in the lines that changed.
    `elsewhere` is the key of the hunk in which a line that has moved is in the other version.
    """

    kind: str
    old: int | None
    new: int | None
    words: tuple = ((), ())
    elsewhere: str | None = None


def rows_of(hunks):
    """The rows of each hunk that differs, as {key: [Row, ...]}. A block may have moved from one hunk to another."""
    differing = [hunk for hunk in hunks if hunk.needs_note]
    sides = []  # of each hunk its two lists of bare lines, and which of them are the same
    for hunk in differing:
        old, new = ([line.strip() for line in part.lines] if part else [] for part in (hunk.old, hunk.new))
        matcher = difflib.SequenceMatcher(lambda line: not line, old, new, autojunk=False)
        pairs = [(a + at, b + at) for a, b, size in matcher.get_matching_blocks() for at in range(size)]
        sides.append((old, new, pairs))
    moved = moves(differing, sides)
    return {hunk.key: list(rows_of_hunk(hunk, side, moved)) for hunk, side in zip(differing, sides, strict=True)}


def moves(hunks, sides):
    """Where blocks of lines went: {("old" or "new", key, index): key of the other hunk}, in both directions."""
    left, right = {}, {}  # the lines without a partner: (key, index): line
    for hunk, (old, new, pairs) in zip(hunks, sides, strict=True):
        paired_old, paired_new = {a for a, _ in pairs}, {b for _, b in pairs}
        left.update({(hunk.key, at): line for at, line in enumerate(old) if at not in paired_old})
        right.update({(hunk.key, at): line for at, line in enumerate(new) if at not in paired_new})
    places = {}
    for at, line in right.items():
        if line:
            places.setdefault(line, []).append(at)
    found = {}
    for key, index in left:
        best = []
        for other, start in places.get(left[key, index], ()):
            run = []
            while True:
                here, there = (key, index + len(run)), (other, start + len(run))
                if here not in left or ("old", *here) in found or ("new", *there) in found:
                    break
                if left[here] != right.get(there):
                    break
                run.append((here, there))
            best = max(best, run, key=len)
        text = "".join(left[here] for here, _ in best)
        if len(best) >= FAR[0] and sum(map(str.isalnum, text)) >= FAR[1]:
            for here, there in best:
                found["old", *here], found["new", *there] = there[0], here[0]
    return found


def rows_of_hunk(hunk, side, moved):
    """The rows of one hunk."""
    old, new, pairs = side
    raw_old, raw_new = ((part.lines if part else []) for part in (hunk.old, hunk.new))
    first_old, first_new = ((part.first if part else 0) for part in (hunk.old, hunk.new))
    gone, came = [], []  # what has no partner since the last row that has one

    def replaced():
        """Put what has gone beside what came, but for what has moved."""
        here = [at for at in gone if ("old", hunk.key, at) not in moved]
        there = [to for to in came if ("new", hunk.key, to) not in moved]
        beside = dict(zip(here, there, strict=False))
        for at in gone:
            if at in beside:
                yield Row("replaced", first_old + at, first_new + beside[at])
            else:
                yield Row("removed", first_old + at, None, elsewhere=moved.get(("old", hunk.key, at)))
        for to in came:
            if to not in beside.values():
                yield Row("added", None, first_new + to, elsewhere=moved.get(("new", hunk.key, to)))
        gone.clear()
        came.clear()

    a = b = 0
    for end_a, end_b in [*pairs, (len(old), len(new))]:
        for at, to in align(
            [None if ("old", hunk.key, at) in moved else old[at] for at in range(a, end_a)],
            [None if ("new", hunk.key, at) in moved else new[at] for at in range(b, end_b)],
        ):
            if to is None:
                gone.append(a + at)
            elif at is None:
                came.append(b + to)
            else:
                yield from replaced()
                at, to = a + at, b + to
                yield Row("changed", first_old + at, first_new + to, words_of(raw_old[at], raw_new[to]))
        yield from replaced()
        if (end_a, end_b) != (len(old), len(new)):
            kind = "same" if raw_old[end_a] == raw_new[end_b] else "indent"
            yield Row(kind, first_old + end_a, first_new + end_b)
        a, b = end_a + 1, end_b + 1


def align(old, new):
    """Pair the lines of two blocks that are alike, in their order: yields (index or None, index or None).

    The pairs are those whose likenesses have the largest sum. A line that is None or blank is like no other.
    """
    best = [[0.0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for at in reversed(range(len(old))):
        for to in reversed(range(len(new))):
            both = likeness(old[at], new[to])
            pair = both + best[at + 1][to + 1] if both >= LIKE else 0
            best[at][to] = max(pair, best[at + 1][to], best[at][to + 1])
    at = to = 0
    while at < len(old) or to < len(new):
        if at < len(old) and best[at][to] == best[at + 1][to]:
            yield at, None
            at += 1
        elif to < len(new) and best[at][to] == best[at][to + 1]:
            yield None, to
            to += 1
        else:
            yield at, to
            at, to = at + 1, to + 1


@functools.cache
def words_in(line):
    """The words of a line, or its punctuation where it has none."""
    return Counter(re.findall(r"\w+", line) or line.split())


@functools.cache
def likeness(old, new):
    """How much of the words of two lines is common, from 0 to 1."""
    if not old or not new:
        return 0.0
    one, other = words_in(old), words_in(new)
    return 2 * (one & other).total() / (one.total() + other.total())


@functools.cache
def words_of(old, new):
    """What differs within a line: two lists of (start, end), for the older and the newer one."""
    spaces = [len(line) - len(line.lstrip()) for line in (old, new)]
    words = [WORD.findall(line.strip()) for line in (old, new)]
    marks = [], []
    for tag, *spans in difflib.SequenceMatcher(None, *words, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        for side, (first, last) in enumerate((spans[:2], spans[2:])):
            if first == last:
                continue
            start = spaces[side] + sum(map(len, words[side][:first]))
            end = start + sum(map(len, words[side][first:last]))
            line = (old, new)[side]
            if marks[side] and line[marks[side][-1][1] : start].isspace():
                start = marks[side].pop()[0]
            marks[side].append((start, end))
    return tuple(
        [(start, start + len(line[start:end].rstrip())) for start, end in each]
        for line, each in zip((old, new), marks, strict=True)
    )
