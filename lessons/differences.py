"""What differs between two versions of a file, definition by definition.

A **part** of a file is a function, a method, the head of a class, or what stands between them. A **hunk** is all that
changed in one part between two versions, and is known by the part's key: see parts_of(). A part that has only moved,
whatever its indentation, is no hunk.
"""

import ast
import difflib
import textwrap
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


def parts_of(source):
    """The parts of a file in Python, in their order. Only blank lines belong to none of them. Keys:

    header         all before the first class or function: docstring, imports, constants
    Class          the head of a class, up to its first method
    Class.method   a method; comments and decorators above it belong to it
    function
    constants      statements between classes and functions, with the comments above them: those below the banner
    end            what stands after the last class or function
    """
    lines = source.split("\n")
    keys = [None] * (len(lines) + 1)  # of each line, counted from 1; None: it belongs to what comes after it

    def claim(nodes, key_of, start, stop):
        """Give each line from start on to a node; blank lines and comments go to the next node."""
        for node in nodes:
            last = node.end_lineno
            key = key_of(node)
            keys[start : last + 1] = [key] * (last + 1 - start)
            if isinstance(node, ast.ClassDef):
                top = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                methods = [each for each in node.body if isinstance(each, FUNCTIONS)]
                if methods:
                    inner = top + 1
                    for each in node.body:
                        inner_key = f"{node.name}.{each.name}" if isinstance(each, FUNCTIONS) else node.name
                        keys[inner : each.end_lineno + 1] = [inner_key] * (each.end_lineno + 1 - inner)
                        inner = each.end_lineno + 1
                    # The class's own line may be several, if its bases are; they are above its first statement.
                    body = min([node.body[0].lineno, *(d.lineno for d in getattr(node.body[0], "decorator_list", []))])
                    for number in range(top, body):
                        if lines[number - 1].strip() and not lines[number - 1].lstrip().startswith("#"):
                            keys[number] = node.name
            start = last + 1
        keys[start:stop] = ["end"] * (stop - start)

    body = ast.parse(source).body
    named = [node for node in body if isinstance(node, (*FUNCTIONS, ast.ClassDef))]
    first, last = (named[0].lineno, named[-1].lineno) if named else (len(lines) + 1, 0)

    def key_of(node):
        if node in named:
            return node.name
        return "header" if node.lineno < first else "end" if node.lineno > last else "constants"

    claim(body, key_of, 1, len(lines) + 1)
    banner = next((at for at, line in enumerate(lines, 1) if line.startswith(BANNER)), len(lines) + 1)
    parts = {}
    for number in range(1, len(lines) + 1):
        key, line = keys[number], lines[number - 1]
        if key not in parts:
            if not line.strip():
                continue  # a part begins with its first line that is not blank
            parts[key] = Part(key, number, [], number < banner - 1)
        parts[key].lines.append(line)
    for part in parts.values():
        while part.lines and not part.lines[-1].strip():
            part.lines.pop()
    return list(parts.values())


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
