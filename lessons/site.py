"""Make a web site of the repository: its pages, its code, and every diff with a note to each hunk.

python lessons/site.py                      into the folder site/, which a browser opens without a server
python lessons/site.py --serve [PORT]       and serve it to this machine, and open a browser
python lessons/site.py --notes              list the hunks without a note, and the notes without a hunk
"""

import argparse
import html
import http.server
import itertools
import json
import os
import posixpath
import re
import sys
import threading
import urllib.parse
import webbrowser
from collections import Counter
from pathlib import Path

import differences
import steps

HERE = Path(__file__).resolve().parent
MARK = "assets/search-index.js"  # a folder that has this file is a site of ours, and may be replaced
LANGUAGES = {
    ".py": "python",
    ".c": "c",
    ".html": "html",
    ".css": "css",
    ".js": "javascript",
    ".toml": "toml",
    ".yml": "yaml",
    "": "text",
}
COPIED = {".svg", ".json", ".png"}
FOLDERS = ["bench", "course", "lessons", "tests", ".github/workflows"]  # besides those of the steps
EVENINGS = [
    ("The first evening: the sketches", "sketch.py"),
    ("The second evening: the servers of the main road", "server.py"),
    ("The third evening: the side roads", "server.py"),
    ("More evenings: the growing road", "server.py"),
]
EXERCISE = "Three things to try"


class Unfit(Exception):
    """What is wrong with the repository, so that no site can be made: a line each in `lines`."""

    def __init__(self, lines):
        super().__init__("\n".join(lines))
        self.lines = lines


def read(root, path):
    return (root / path).read_text(encoding="utf-8")


def hunks_between(root, old, new):
    """The hunks of two files; `old` is None where there is none."""
    texts = [read(root, path) if path else None for path in (old, new)]
    try:
        return differences.hunks_of(*texts, posixpath.basename(new))
    except SyntaxError as error:
        raise Unfit([f"{old} or {new} is no Python: {error}"]) from None


def check_notes(root=steps.ROOT):
    """What is wrong with the notes, a line each: hunks without a note, notes without a hunk."""
    wrong, files = [], set()
    for step in steps.steps(root):
        file = step.notes.rpartition("/")[2]
        files.add(file)
        notes = steps.Notes(step, root)
        wrong += notes.wrong
        hunks = [(pair.name, hunk) for pair in step.pairs for hunk in hunks_between(root, pair.old, pair.new)]
        wanted = [(name, hunk.key) for name, hunk in hunks if hunk.needs_note]
        wrong += [f"{file}: {name}: {key}: no note" for name, key in wanted if not notes.found.get((name, key))]
        wrong += [f"{file}: {name}: {key}: no hunk" for name, key in notes.found if (name, key) not in wanted]
    found = sorted(path.name for path in (root / steps.NOTES).glob("*.md"))
    return wrong + [f"{name}: there is no such step" for name in found if name not in files]


class Site:
    """The site of the repository at `root`: `files` is {path: bytes}, once build() has returned."""

    def __init__(self, root=steps.ROOT, need_notes=True):
        import jinja2  # here, as all that is no part of CPython: --notes needs none of it

        self.root, self.need_notes = root, need_notes
        self.files, self.wrong, self.index = {}, [], []
        self.steps = steps.steps(root)
        self.versions = steps.versions(root)
        folders = list(dict.fromkeys(folder for step in self.steps for folder in (step.old, step.new)))
        self.pages = [*steps.PAGES[:1], *(f"{at}/README.md" for at in folders), *steps.PAGES[1:]]
        self.wrong += [f"{path}: the page is missing" for path in self.pages if not (root / path).is_file()]
        self.pages = [path for path in self.pages if (root / path).is_file()]
        self.code = [f"{at}/{name}" for at in folders for name in steps.files_of(root, at)]
        for at in FOLDERS:
            found = sorted(path.relative_to(root).as_posix() for path in (root / at).rglob("*") if path.is_file())
            self.code += [
                path
                for path in found
                if Path(path).suffix in LANGUAGES.keys() - {"", ".html"} and "__pycache__" not in path
            ]
        self.code += [path for path in ("check.py", "pyproject.toml", "LICENSE", ".ci/run") if (root / path).is_file()]
        self.step_pages = {
            (pair.old, pair.new): f"steps/{step.name}/{Path(pair.name).stem}.html"
            for step in self.steps
            for pair in step.pairs
        }
        self.pairs = [
            (name, old, new) for name, paths in self.versions.items() for old, new in itertools.combinations(paths, 2)
        ]
        self.templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self.coloured, self.diffs = {}, {}  # what was made of files and of pairs of them

    # Where things are.

    def place(self, path):
        """The page of a file or folder of the repository, or None."""
        if path in self.pages:
            folder, _, name = path.rpartition("/")
            name = "index.html" if name == "README.md" else name.removesuffix(".md") + ".html"
            return f"{folder}/{name}".lstrip("/")
        if path in self.code:
            return f"{path}.html"
        if (self.root / path).is_file() and Path(path).suffix in COPIED:
            self.files.setdefault(path, (self.root / path).read_bytes())
            return path
        if (self.root / path).is_dir():
            return self.place(posixpath.join(path, "README.md").removeprefix("./"))
        return None

    def pair_page(self, old, new):
        """Where the diff of two files is, or None."""
        if (old, new) in self.step_pages:
            return self.step_pages[old, new]
        for name, paths in self.versions.items():
            if old in paths and new in paths and old != new:
                old, new = sorted((old, new), key=paths.index)
                return f"compare/{Path(name).stem}/{comparison(old, new)}.html"
        return None

    def linker(self, source, out):
        """The function `link` of a Document that is made of the file `source` and stands on the page `out`."""

        def link(target, image=False):
            if isinstance(target, tuple):
                paths = [posixpath.normpath(path) for path in target]
                page = self.pair_page(*paths)
                return {"href": relative(out, page), "class": "diff"} if page else None
            if re.match(r"[a-z]+:", target):
                if image:
                    self.wrong.append(f"{source}: an image from elsewhere: {target}")
                return {"rel": "noreferrer"}
            path, _, anchor = target.partition("#")
            path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path)) if path else source
            page = self.place(path)
            if page is None:
                self.wrong.append(f"{source}: a dead link: {target}")
                return {}
            anchor = re.sub(r"^(L\d+)-L\d+$", r"\1", anchor)
            url = relative(out, page) + (f"#{anchor}" if anchor else "")
            if image:
                return {"src": url}
            if path == "GLOSSARY.md" and anchor and source != "GLOSSARY.md":
                return {"href": url, "class": "term"}
            return {"href": url}

        return link

    def document(self, source, text, out, **options):
        import render

        return render.Document(text, source, self.linker(source, out), **options)

    def lines(self, path):
        """The lines of a file of code, coloured."""
        import render

        if path not in self.coloured:
            language = "bash" if path == ".ci/run" else LANGUAGES[Path(path).suffix]
            self.coloured[path] = render.highlight(read(self.root, path), language)
        return self.coloured[path]

    # What is written.

    def write(self, out, template, **values):
        """Render a template into a page."""
        base = "../" * out.count("/")
        text = self.templates.get_template(template).render(
            base=base,
            out=out,
            menu=self.menu(out),
            url=lambda page: relative(out, page),
            **values,
        )
        self.files[out] = text.encode()

    def menu(self, out):
        """The pages of the side bar: groups of (title, [(title, page, whether it is this one)])."""
        main = ["blocking", *(step.new for step in self.steps if step.road == "main")]
        side = [step.new for step in self.steps if step.road == "side"]
        growing = [step.new for step in self.steps if step.road == "growing"]
        groups = [
            ("", ["README.md"]),
            ("The main road", [f"{folder}/README.md" for folder in main]),
            ("Side roads", [*(f"{folder}/README.md" for folder in side), "proactor_based/PROACTOR.md"]),
            ("The growing road", ["features/README.md", *(f"{folder}/README.md" for folder in growing)]),
            ("Measured", ["bench/README.md", "bench/FIGURES.md"]),
            ("Your own server", [path for path in self.pages if path.startswith("course/")]),
            ("Tools and words", ["lessons/README.md", "GLOSSARY.md"]),
        ]
        return [
            (title, [(short(path), self.place(path), self.place(path) == out) for path in paths if path in self.pages])
            for title, paths in groups
        ]

    def build(self):
        """Make all files. Unfit says what is wrong."""
        if self.need_notes and (wrong := check_notes(self.root)):
            raise Unfit(wrong)
        if self.wrong:
            raise Unfit(self.wrong)
        for path in sorted((HERE / "assets").iterdir()):
            self.files[f"assets/{path.name}"] = path.read_bytes()
        for path in self.pages:
            self.page(path)
        for path in self.code:
            self.code_page(path)
        for number, step in enumerate(self.steps):
            self.step(number, step)
        self.write("steps/index.html", "steps.html", roads=self.roads())
        for name, old, new in self.pairs:
            self.compare(name, old, new)
        self.compare_page()
        self.course()
        self.write("code.html", "code.html", folders=self.folders())
        self.write("search.html", "search.html")
        self.files[MARK] = script("searchIndex", self.index)
        if wrong := self.wrong or dead_links(self.files):
            raise Unfit(wrong)
        return self.files

    def page(self, path):
        """A page of Markdown. The glossary also becomes the pop-ups."""
        out, text = self.place(path), read(self.root, path)
        document = self.document(path, text, out)
        folder = posixpath.dirname(path)
        files = [code for code in self.code if posixpath.dirname(code) == folder] if path.endswith("/README.md") else []
        near = [(step, self.tabs(step)) for step in self.steps if folder and folder in (step.old, step.new)]
        self.write(
            out,
            "page.html",
            title=document.title,
            content=document.html,
            toc=[entry for entry in document.toc if entry[0] == 2],
            files=[(posixpath.basename(code), self.place(code)) for code in files],
            diffs=[(step, tabs) for step, tabs in near if step.new == folder],
            onward=[(step, tabs) for step, tabs in near if step.old == folder],
        )
        for anchor, title, words in document.sections:
            if anchor:
                where = document.title if title != document.title else path
                self.index.append([f"{out}#{anchor}", title, where, " ".join(words)])
        if path == "GLOSSARY.md":
            terms = {anchor: [title, words[0]] for anchor, title, words in document.sections if anchor and words}
            self.files["assets/glossary.js"] = script("glossary", terms)

    def code_page(self, path):
        import render

        out = self.place(path)
        lines = [render.line_html(line) for line in self.lines(path)]
        if lines and not lines[-1]:
            lines.pop()
        around = [
            (f"{step.title}", self.step_pages[pair.old, pair.new])
            for step in self.steps
            for pair in step.pairs
            if path in (pair.old, pair.new)
        ]
        page = self.place(posixpath.join(posixpath.dirname(path), "README.md"))
        self.write(out, "file.html", title=path, path=path, lines=lines, diffs=around, page=page)
        if path.endswith(".py") and posixpath.dirname(path) not in FOLDERS:
            for part in differences.parts_of(read(self.root, path)):
                said = re.search(r'"""(.*?)(?:"""|$)', "\n".join(part.lines), re.MULTILINE)
                self.index.append([f"{out}#L{part.first}", part.key, path, said[1] if said else ""])

    def tabs(self, step):
        """The files of a step: (name, page)."""
        return [(pair.name, self.step_pages[pair.old, pair.new]) for pair in step.pairs]

    def roads(self):
        titles = {"main": "The main road", "side": "Side roads", "growing": "The growing road"}
        return [
            (title, [(step, self.tabs(step)) for step in self.steps if step.road == road])
            for road, title in titles.items()
        ]

    def folders(self):
        """All code, for its page: (folder, [(name, page)])."""
        found = {}
        for path in self.code:
            found.setdefault(posixpath.dirname(path) or ".", []).append((posixpath.basename(path), self.place(path)))
        return list(found.items())

    def diff(self, old, new, notes=None, prefix="", source="", out=""):
        """The hunks of two files for a template; `notes` are {key: Markdown}, from the file `source`."""
        import render

        key = old, new
        if key not in self.diffs:
            hunks = hunks_between(self.root, old, new)
            self.diffs[key] = hunks, differences.rows_of(hunks)
        hunks, rows = self.diffs[key]
        notes = {key: self.document(source, text, out).html for key, text in (notes or {}).items()}
        made = render.Diff(hunks, rows, self.lines(old) if old else [], self.lines(new), notes, prefix)
        return [made.view(hunk) for hunk in hunks]

    def step(self, number, step):
        """The pages of a step, one for each pair of files."""
        notes = steps.Notes(step, self.root)
        for pair in step.pairs:
            out = self.step_pages[pair.old, pair.new]
            mine = {key: text for (name, key), text in notes.found.items() if name == pair.name}
            hunks = self.diff(pair.old, pair.new, mine, source=step.notes, out=out)
            around = []
            for word, at in (("Before", number - 1), ("After", number + 1)):
                if 0 <= at < len(self.steps):
                    tabs = dict(self.tabs(self.steps[at]))
                    page = tabs.get(pair.name) or next(iter(tabs.values()))
                    around.append((word, f"{self.steps[at].title}", page))
            self.write(
                out,
                "diff.html",
                title=f"{step.title}: {pair.name}",
                step=step,
                old=pair.old,
                new=pair.new,
                old_page=self.place(pair.old) if pair.old else None,
                new_page=self.place(pair.new),
                lesson=self.place(f"{step.new}/README.md"),
                tabs=self.tabs(step),
                hunks=hunks,
                split=any(not hunk["model"] for hunk in hunks),
                around=around,
                noted=True,
            )
            for key, text in mine.items():
                self.index.append([f"{out}#{key}", f"{key}, what changed", f"{step.title}: {pair.name}", text])

    def compare(self, name, old, new):
        """The page of any two versions of a file. It has no notes: those are for steps."""
        out = f"compare/{Path(name).stem}/{comparison(old, new)}.html"
        hunks = self.diff(old, new)
        self.write(
            out,
            "diff.html",
            title=f"{posixpath.dirname(old)} and {posixpath.dirname(new)}: {name}",
            step=None,
            old=old,
            new=new,
            old_page=self.place(old),
            new_page=self.place(new),
            lesson=None,
            tabs=[],
            hunks=hunks,
            split=any(not hunk["model"] for hunk in hunks),
            around=[],
            noted=self.step_pages.get((old, new)),
        )

    def compare_page(self):
        """Where a reader chooses two versions."""
        versions = [
            (
                name,
                Path(name).stem,
                [(posixpath.dirname(path), steps.dotted(posixpath.dirname(path))) for path in paths],
            )
            for name, paths in self.versions.items()
        ]
        self.write("compare/index.html", "compare.html", versions=versions)

    def course(self):
        """The whole course on one page, in its order, to be printed."""
        out = "course.html"
        chosen = {
            0: sorted(
                (step for step in self.steps if any(pair.name == "sketch.py" for pair in step.pairs)),
                key=lambda step: step.new == "process_per_client",  # the last one, as README.md has it
            ),
            1: [step for step in self.steps if step.road == "main"],
            2: [step for step in self.steps if step.road == "side"],
            3: [step for step in self.steps if step.road == "growing"],
        }
        evenings = []
        for number, (title, file) in enumerate(EVENINGS):
            lessons = [self.lesson(number, chosen[number][0].old, None, file, out)] if number < 2 else []
            lessons += [self.lesson(number, step.new, step, file, out) for step in chosen[number]]
            evenings.append((title, f"evening-{number + 1}", lessons))
        self.write(out, "course.html", evenings=evenings)

    def lesson(self, number, folder, step, file, out):
        """One step of the course: its picture, diff or code, failure and exercise."""
        import render

        source = f"{folder}/README.md"
        text = read(self.root, source)
        name = f"{steps.dotted(folder)}-{number + 1}"
        first = render.section_of(text, text.partition("\n")[0].removeprefix("# "))
        opening = first.split("\n## ")[0].split("<!-- sketch:code -->")[0]
        wanted = {
            0: ["What the sketch breaks"],
            1: ["The server", "What it cannot do", EXERCISE],
            2: ["The server", "What it cannot do", EXERCISE],
            3: ["What the step before cannot do", "How it waits", "What is still missing", EXERCISE],
        }[number]
        sections = []
        for title in wanted:
            if section := render.section_of(text, title):
                made = self.document(source, section, out, prefix=f"{name}-", deeper=2)
                sections.append(made.html)
        pictures = [link for link in re.findall(r"!\[[^\]]*\]\([^)]*\)", text) if "pictures/" in link]
        there = opening + "".join(render.section_of(text, title) for title in wanted)
        made = self.document(source, opening, out, prefix=f"{name}-", deeper=2)
        hunks, code = [], []
        if step:
            pair = next(pair for pair in step.pairs if pair.name == file)
            notes = {key: said for (at, key), said in steps.Notes(step, self.root).found.items() if at == file}
            hunks = self.diff(pair.old, pair.new, notes, f"{name}-", step.notes, out)
            hunks = [hunk for hunk in hunks if hunk["model"] and not hunk["folded"]]
        elif file == "sketch.py":
            code = [render.line_html(line) for line in self.lines(f"{folder}/{file}")]
        pictures = [link for link in pictures if link not in there]
        shown = [self.document(source, link, out).html for link in (pictures if number else pictures[:1])]
        return {
            "name": name,
            "title": made.title,
            "folder": folder,
            "page": self.place(source),
            "file": file,
            "opening": re.sub(r"<h\d[^>]*>.*?</h\d>", "", made.html, count=1, flags=re.DOTALL),
            "pictures": shown,
            "step": step,
            "diff": self.step_pages[next((p.old, p.new) for p in step.pairs if p.name == file)] if step else None,
            "hunks": hunks,
            "code": code,
            "sections": sections,
        }


def short(path):
    """What a page is called in the side bar."""
    names = {
        "README.md": "start page",
        "features/README.md": "about it",
        "bench/README.md": "how, and how much",
        "bench/FIGURES.md": "the figures",
        "lessons/README.md": "the lessons",
        "course/README.md": "check.py",
        "course/exercises/README.md": "exercises",
        "course/LECTURERS.md": "for lecturers",
        "GLOSSARY.md": "glossary",
        "proactor_based/PROACTOR.md": "the proactor's library",
    }
    return names.get(path) or posixpath.dirname(path).removeprefix("features/").removeprefix("course/exercises/")


def comparison(old, new):
    """What the page of two versions is called."""
    return "--".join(steps.dotted(posixpath.dirname(path)) for path in (old, new))


def relative(out, page):
    """How the page `out` links to `page`; the names of our folders begin with a dot at times, but need no quoting."""
    return posixpath.relpath(page, posixpath.dirname(out) or ".")


def script(name, value):
    """Data as a script: a page that is a file may load that, and no JSON."""
    text = json.dumps(value, ensure_ascii=False, indent=0, sort_keys=True)
    return f"window.{name} = {text};\n".encode()


# What is checked.


# What we write is regular: neither text nor attributes have a bare < or >, and all attributes have quotes.
TAG = re.compile(r"<[a-z][^<>]*?\s(?:id|href|src)=[^<>]*>")
ATTRIBUTE = re.compile(r'\s(id|href|src)="([^"]*)"')


class Anchors:
    """The links and the anchors of a page."""

    def __init__(self, text):
        found = [pair for tag in TAG.findall(text) for pair in ATTRIBUTE.findall(tag)]
        self.links = [html.unescape(value) for name, value in found if name != "id"]
        self.ids = Counter(html.unescape(value) for name, value in found if name == "id")


def dead_links(files):
    """The links between pages that lead nowhere, ids that are there twice, and what would be loaded from elsewhere."""
    pages = {name: Anchors(data.decode()) for name, data in files.items() if name.endswith(".html")}
    wrong = []
    for name, page in pages.items():
        wrong += [f"{name}: the anchor {one} is there {count} times" for one, count in page.ids.items() if count > 1]
        for link in dict.fromkeys(page.links):
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = urllib.parse.unquote(link).partition("#")
            path = posixpath.normpath(posixpath.join(posixpath.dirname(name), path)) if path else name
            if path not in files:
                wrong.append(f"{name}: a dead link: {link}")
            elif anchor and path in pages and anchor not in pages[path].ids:
                wrong.append(f"{name}: a link to an anchor that is not there: {link}")
    return wrong


# The command.


def put(files, out):
    """Write a site into a folder, in the place of one that is there. OSError, or Unfit if something else is there."""
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise Unfit([f"{out} is there, and is no site: it is left as it is"])
    out.mkdir(parents=True, exist_ok=True)
    for path in sorted(out.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(out).as_posix() not in files:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    for name in sorted(files, key=lambda name: (name != MARK, name)):
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Say nothing: the reader looks at the browser."""


def serve(out, number, browser):
    """Serve a folder to this machine until Ctrl-C. Returns the status."""
    try:
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", number), lambda *args: Quiet(*args, directory=os.fspath(out))
        )
    except OSError as error:
        print(f"port {number} cannot be had: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        return 1
    url = f"http://127.0.0.1:{server.server_port}/"
    print(f"{url} (Ctrl-C ends it)", flush=True)
    with server:
        try:
            if browser:
                threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
            server.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def port(text):
    """Text as the number of a port; ValueError, which argparse reports, if it is none."""
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError
    return int(text)


def complain(error):
    """Say what went wrong, and return the status for it."""
    told = isinstance(error, OSError) and error.filename
    print(f"{error.filename}: {error.strerror.lower()}" if told else error, file=sys.stderr)
    return 1


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=steps.ROOT / "site", help="where it goes (site/)")
    parser.add_argument("--serve", metavar="PORT", nargs="?", type=port, const=8000, help="serve it (on 8000)")
    parser.add_argument("--no-open", action="store_true", help="with --serve: open no browser")
    parser.add_argument("--notes", action="store_true", help="list hunks without a note, and notes without a hunk")
    parser.add_argument("--without-notes", action="store_true", help="build though notes are missing")
    args = parser.parse_args()
    if args.notes:
        try:
            wrong = check_notes()
        except (Unfit, OSError) as error:
            return complain(error)
        print("\n".join(wrong) if wrong else "each hunk has its note")
        return 1 if wrong else 0
    try:
        import jinja2  # noqa: F401
        import render
    except ImportError as error:
        print(f"{error.name} is missing: pip install '.[lessons]'", file=sys.stderr)
        return 1
    try:
        files = Site(need_notes=not args.without_notes).build()
        put(files, args.out)
    except (Unfit, render.Wrong, OSError, UnicodeDecodeError) as error:
        return complain(error)
    size = sum(map(len, files.values())) / 1e6
    print(f"{args.out}: {len(files)} files, {size:.1f} MB", flush=True)
    return serve(args.out, args.serve, not args.no_open) if args.serve is not None else 0


if __name__ == "__main__":
    sys.exit(main())
