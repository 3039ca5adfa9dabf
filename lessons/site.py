"""Make a web site of the repository: its pages, its code, and every diff with a note to each hunk."""

import argparse
import sys
from pathlib import Path

import differences
import steps


def read(root, path):
    return (root / path).read_text(encoding="utf-8")


def check_notes(root=steps.ROOT):
    """What is wrong with the notes, a line each: hunks without a note, notes without a hunk."""
    wrong = []
    for step in steps.steps(root):
        notes = steps.Notes(step, root)
        wrong += notes.wrong
        wanted = []
        for pair in step.pairs:
            old = read(root, pair.old) if pair.old else None
            hunks = differences.hunks_of(old, read(root, pair.new), pair.name)
            wanted += [(pair.name, hunk.key) for hunk in hunks if hunk.needs_note]
        file = f"{step.name}.md"
        wrong += [f"{file}: {name}: {key}: no note" for name, key in wanted if not notes.found.get((name, key))]
        wrong += [f"{file}: {name}: {key}: no hunk" for name, key in notes.found if (name, key) not in wanted]
    names = {Path(step.notes).name for step in steps.steps(root)}
    wrong += [
        f"{path.name}: there is no such step"
        for path in sorted((root / steps.NOTES).glob("*.md"))
        if path.name not in names
    ]
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--notes", action="store_true", help="list hunks without a note and notes without a hunk")
    args = parser.parse_args()
    if args.notes:
        wrong = check_notes()
        print("\n".join(wrong) if wrong else "each hunk has its note")
        return 1 if wrong else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
