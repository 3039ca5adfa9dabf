"""The steps of both roads: which version is compared with which, and in which order they are read."""

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTES = "lessons/notes"

MAIN_ROAD = ["blocking", "thread_per_client", "select_based", "poll_based", "asyncio_based"]
SIDE_ROADS = [
    ("blocking", "blocking/two_way"),
    ("thread_per_client", "process_per_client"),
    ("poll_based", "epoll_based"),
    ("epoll_based", "proactor_based"),
]
GROWING_ROAD = ["names", "commands", "limits", "history", "accounts", "tls", "web"]
LEAVES_IT = [("features/history", "features/nodes")]
PAGES = [  # in the order of reading; the folders of the roads come after the first
    "README.md",
    "features/README.md",
    "proactor_based/PROACTOR.md",
    "bench/README.md",
    "bench/FIGURES.md",
    "course/README.md",
    "course/exercises/README.md",
    *(f"course/exercises/{path.name}/README.md" for path in sorted((ROOT / "course/exercises").glob("*_*"))),
    "course/LECTURERS.md",
    "lessons/README.md",
    "GLOSSARY.md",
]
FIRST = ["sketch.py", "server.py", "client.py"]  # the files that a lesson is about; the others are beside them


@dataclass(frozen=True)
class Pair:
    """Two versions of a file, as paths from the repository's root; `old` is None where the file is new."""

    old: str | None
    new: str

    @property
    def name(self):
        """What the file is called in the folder of the newer version."""
        return self.new.rpartition("/")[2]


@dataclass(frozen=True)
class Step:
    """From one folder to the next one, with the files that are compared."""

    old: str
    new: str
    road: str
    pairs: tuple = field(compare=False)

    @property
    def name(self):
        """What its page and the file of its notes are called."""
        return f"{dotted(self.old)}--{dotted(self.new)}"

    @property
    def title(self):
        return f"{self.old} to {self.new}"

    @property
    def notes(self):
        """Where its notes are, as a path from the root."""
        return f"{NOTES}/{self.name}.md"


def dotted(folder):
    """The name of a folder as a part of a file's name."""
    return folder.replace("/", ".")


def files_of(root, folder):
    """The code in a folder: the names of its files, those of FIRST at the front."""
    names = [path.name for path in (root / folder).iterdir() if path.suffix in (".py", ".html") and path.is_file()]
    return sorted(names, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def steps(root=ROOT):
    """All steps of the repository at `root`, in the order of reading. A missing folder is an OSError."""
    roads = [("main", old, new) for old, new in itertools.pairwise(MAIN_ROAD)]
    roads += [("side", old, new) for old, new in SIDE_ROADS]
    growing = [MAIN_ROAD[-1], *(f"features/{name}" for name in GROWING_ROAD)]
    roads += [("growing", old, new) for old, new in itertools.pairwise(growing)]
    roads += [("growing", old, new) for old, new in LEAVES_IT]
    clients = {MAIN_ROAD[-1]: f"{MAIN_ROAD[-1]}/client.py"}  # folder of the growing road: the client that it goes with
    found = []
    for road, old, new in roads:
        pairs = []
        before = files_of(root, old)
        for name in files_of(root, new):
            older = f"{old}/{name}" if name in before else None
            if road == "growing" and name == "client.py":
                older = clients[old]
            pairs.append(Pair(older, f"{new}/{name}"))
        if road == "growing":
            clients[new] = f"{new}/client.py" if "client.py" in files_of(root, new) else clients[old]
        found.append(Step(old, new, road, tuple(pairs)))
    return found


def versions(root=ROOT):
    """Every server, client and sketch, as {name of the file: [path from the root, ...]}, in the order of reading."""
    folders = list(dict.fromkeys(folder for step in steps(root) for folder in (step.old, step.new)))
    return {name: [f"{at}/{name}" for at in folders if (root / at / name).is_file()] for name in FIRST}


HEADING = re.compile(r"(#{1,3}) +(\S.*?) *$")


class Notes:
    """What is written about a step: `found` is {(name of the file, key): Markdown}, `wrong` what cannot be read.

    A file of notes has a title (`# OLD to NEW`), a `## FILE` for each file and a `### KEY` for each hunk.
    """

    def __init__(self, step, root=ROOT):
        self.found, self.wrong = {}, []
        path = root / step.notes
        if not path.is_file():
            return
        name = key = None
        text = {}
        fenced = False
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            here = f"{path.name}:{number}"
            fenced ^= line.lstrip().startswith("```")
            heading = None if fenced else HEADING.fullmatch(line)
            if heading is None:
                if key:
                    text[name, key].append(line)
                elif line.strip():
                    self.wrong.append(f"{here}: text that belongs to no hunk")
            elif heading[1] == "#":
                if heading[2] != step.title:
                    self.wrong.append(f"{here}: its title should be `# {step.title}`")
                name = key = None
            elif heading[1] == "##":
                name, key = heading[2], None
            elif name is None:
                self.wrong.append(f"{here}: no `## FILE` stands above `### {heading[2]}`")
            else:
                key = heading[2]
                if (name, key) in text:
                    self.wrong.append(f"{here}: a second note to {name}: {key}")
                text[name, key] = []
        self.found = {at: "\n".join(lines).strip() for at, lines in text.items()}
