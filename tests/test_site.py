"""The lessons' site: what differs, which notes are missing, the build, and what its pages are made of."""

import html.parser
import http.client
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import harness
import pytest
from harness import wait_until
from hypothesis import given
from hypothesis import strategies as st
from promises import ROOT
from test_web_page import CONTRAST

LESSONS = ROOT / "lessons"
LIBRARIES = ["jinja2", "markdown_it", "pygments"]


def load(name):
    """A module of lessons/, which is on no path: it has a site.py, as the standard library does."""
    spec = importlib.util.spec_from_file_location(f"lessons_{name}", LESSONS / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


differences, steps = load("differences"), load("steps")


# What differs.

SOURCE = '''"""What it is."""

import os

A = 1


# Above a class.
@decorated
class One(Base, metaclass=Meta):
    """Its words."""

    size = 3

    def __init__(self):
        self.a = 1

    # Above a method.
    @property
    def two(self):

        def inner():
            pass

    later = two


async def three():
    pass


# ----
# The same in every version
# ----

B = (
    2
)


class Four:
    def five(self):
        pass


if __name__ == "__main__":
    three()
'''


def test_the_parts_of_a_file():
    parts = differences.parts_of(SOURCE)
    assert [(part.key, part.first, len(part.lines), part.model) for part in parts] == [
        ("header", 1, 5, True),
        ("One", 8, 6, True),
        ("One.__init__", 15, 2, True),
        ("One.two", 18, 8, True),
        ("three", 28, 2, True),
        ("constants", 32, 7, False),
        ("Four", 41, 1, False),
        ("Four.five", 42, 2, False),
        ("end", 46, 2, False),
    ]
    again = "def a(): pass\nx = 1\ndef a(): pass\ny = 1\nclass B:\n    def c(self): pass\n    # d\n    d = c\n"
    assert [(part.key, part.lines) for part in differences.parts_of(again)] == [
        ("a", ["def a(): pass"]),
        ("constants", ["x = 1"]),
        ("a 2", ["def a(): pass"]),
        ("constants 2", ["y = 1"]),
        ("B", ["class B:"]),
        ("B.c", ["    def c(self): pass", "    # d", "    d = c"]),
    ]
    assert [(part.key, part.first) for part in differences.parts_of("\nimport os\n")] == [("header", 2)]
    assert differences.parts_of("\n\n") == []


@pytest.mark.parametrize("path", [path for paths in steps.versions().values() for path in paths])
def test_each_line_of_each_version_is_in_one_part(path):
    lines = (ROOT / path).read_text().split("\n")
    found = {}
    for part in differences.parts_of("\n".join(lines)):
        for number, line in enumerate(part.lines, part.first):
            assert number not in found
            found[number] = line
    assert found.items() <= dict(enumerate(lines, 1)).items()
    assert all(number in found for number, line in enumerate(lines, 1) if line.strip())


def hunks(old, new, name="x.py"):
    return differences.hunks_of(old, new, name)


def states(old, new):
    return {hunk.key: hunk.state for hunk in hunks(old, new) if hunk.state != "same"}


def function(name, *lines):
    return f"def {name}():\n" + "".join(f"    {line}\n" for line in lines) + "\n\n"


def test_the_states_of_hunks():
    one, two, three = function("one", "return 1"), function("two", "return 2"), function("three", "return 3")
    assert states(one + two, one + two) == {}
    assert states(one + two, one + function("two", "return 3")) == {"two": "changed"}
    assert states(one, one + two) == {"two": "new"}
    assert states(one + two + three, one + three) == {"two": "gone"}
    assert states(one + two + three, two + three + one) == {"one": "moved"}
    assert states(one + two, "class A:\n    def two():\n        return 2\n\n\n" + one) == {
        "A": "new",
        "A.two": "moved",
    }
    # Where it stands makes it no other function; but what stands elsewhere in it does.
    assert states(function("a", "if x:", "    y()", "    z()"), function("a", "if x:", "    y()", "z()")) == {
        "a": "changed"
    }
    assert [hunk.key for hunk in hunks(one + two + three, one + three)] == ["one", "two", "three"]
    assert [(hunk.key, hunk.state) for hunk in hunks(None, one)] == [("whole", "new")]
    assert [(hunk.key, hunk.state) for hunk in hunks("<p>", "<b>", "x.html")] == [("whole", "changed")]
    assert [(hunk.key, hunk.state) for hunk in hunks("<p>", "<p>", "x.html")] == [("whole", "same")]


def rows(old, new):
    return differences.rows_of(hunks(old, new))


def test_rows_of_lines_that_are_alike():
    found = rows(
        function("a", "sock.send(client.unsent)", "return"),
        function("a", "total = 1", "await sock.send(client.unsent)", "return"),
    )["a"]
    assert [(row.kind, row.old, row.new) for row in found] == [
        ("same", 1, 1),
        ("added", None, 2),
        ("changed", 2, 3),
        ("same", 3, 4),
    ]
    assert found[2].words == ([], [(4, 9)])


def test_rows_that_have_nothing_in_common_stand_beside_each_other():
    found = rows(function("a", "one(two)", "three"), function("a", "four(five, six)"))["a"]
    assert [(row.kind, row.old, row.new) for row in found[1:]] == [("replaced", 2, 2), ("removed", 3, None)]


def test_a_body_that_was_indented():
    body = ["sock, address = listener.accept()", "if full:", "    return refuse(sock)", "clients.add(sock)"]
    found = rows(function("accept", *body), function("accept", "while True:", *("    " + line for line in body)))
    assert [row.kind for row in found["accept"]] == ["same", "added", *["indent"] * 4]


def test_a_block_that_moved_to_another_function():
    block = ["for client in list(clients):", "    client.send(record)", "    client.count += len(record)"]
    old = function("run", "wait()", *block) + function("stop", "pass")
    new = function("run", "wait()", "stop()") + function("stop", "pass", "if clients:", *("    " + x for x in block))
    found = rows(old, new)
    assert [(row.kind, row.elsewhere) for row in found["run"] if row.elsewhere] == [("removed", "stop")] * 3
    assert [(row.kind, row.elsewhere) for row in found["stop"] if row.elsewhere] == [("added", "run")] * 3
    # Two short lines may be the same by chance.
    short = ["if it:", "    pass"]
    found = rows(
        function("run", "wait()", *short) + function("stop", "a"), function("run", "wait()") + function("stop", *short)
    )
    assert not any(row.elsewhere for each in found.values() for row in each)


LINE = st.sampled_from(
    ["", "pass", "one(two)", "  one(three)", "if x:", "    for line in lines_of(the_record):", "x, y"]
)


@given(st.lists(LINE, max_size=12), st.lists(LINE, max_size=12))
def test_rows_have_each_line_of_both_versions_once_and_in_order(old, new):
    one, other = differences.whole("\n".join(old)), differences.whole("\n".join(new))
    found = differences.rows_of([differences.Hunk("whole", one, other, "changed")])["whole"]
    assert [row.old for row in found if row.old] == list(range(1, len(one.lines) + 1))
    assert [row.new for row in found if row.new] == list(range(1, len(other.lines) + 1))
    for row in found:
        texts = [one.lines[row.old - 1] if row.old else None, other.lines[row.new - 1] if row.new else None]
        assert (row.kind == "same") == (texts[0] == texts[1])
        if row.kind == "indent":
            assert texts[0].strip() == texts[1].strip()
        if row.kind == "changed":
            rest = ["", ""]
            for side, (text, marks) in enumerate(zip(texts, row.words, strict=True)):
                at = 0
                for start, end in marks:
                    assert at <= start < end <= len(text)
                    rest[side] += text[at:start]
                    at = end
                rest[side] += text[at:]
            assert "".join(rest[0].split()) == "".join(rest[1].split())


# The notes.


def test_each_hunk_has_its_note(run):
    told = run([sys.executable, LESSONS / "site.py", "--notes"])
    assert told.wait() == 0, told.log
    assert told.log == "each hunk has its note\n"


PAGE = """\
# {title}

A word that has a [meaning](GLOSSARY.md#socket).

## What the sketch breaks

Much.

## The server

It is `diff -u blocking/server.py poll_based/server.py`.

## What it cannot do

Nothing, see [the road](README.md#the-server).

## Three things to try

<details><summary>Answer</summary>

42

</details>
"""
CODE = '''"""What {folder} is."""


def run():
    return "{folder}"


# ----------
# The same in every version: take it as given.
# ----------

LIMIT = 3


def port(text):
    return int(text)
'''


@pytest.fixture
def small(scratch, run):
    """A repository with all folders and pages, and nothing in them: what is wrong with it is found soon."""
    root = scratch / "small"
    shutil.copytree(LESSONS, root / "lessons", ignore=shutil.ignore_patterns("__pycache__", "notes", "recordings"))
    for step in steps.steps():
        for folder in (step.old, step.new):
            (root / folder).mkdir(parents=True, exist_ok=True)
            for name in steps.FIRST:
                if (ROOT / folder / name).is_file():
                    (root / folder / name).write_text(CODE.format(folder=folder))
    pages = {f"{folder}/README.md" for step in steps.steps() for folder in (step.old, step.new)}
    others = {page for page in steps.PAGES if page.endswith("README.md")}
    for page in {*pages, *others}:
        up = "../" * page.count("/")
        (root / page).parent.mkdir(parents=True, exist_ok=True)
        text = PAGE.format(title=page).replace("](GLOSSARY", f"]({up}GLOSSARY").replace("](README", f"]({up}README")
        (root / page).write_text(text)
    (root / "GLOSSARY.md").write_text("# Glossary\n\n## socket\n\nOne end.\n")
    for page in {*steps.PAGES} - others - {"GLOSSARY.md"}:
        (root / page).write_text("# More\n")
    (root / steps.NOTES).mkdir()
    for step in steps.steps(root):
        note = [f"# {step.title}"]
        for pair in step.pairs:
            note += ["", f"## {pair.name}"]
            for key in "header", "run":
                note += ["", f"### {key}", "", f"Why `{key}` changed."]
        (root / step.notes).write_text("\n".join(note) + "\n")
    return root


@pytest.fixture
def site(small, run):
    """Run site.py of the small repository, and return its status and what it said."""
    for library in LIBRARIES:
        pytest.importorskip(library, reason="the extra `lessons` is not installed")

    def start(*args, **env):
        ended = run([sys.executable, small / "lessons/site.py", *args], env={**os.environ, **env})
        return ended.wait(), ended.log

    return start


def change(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


NO_ANCHOR = "a link to an anchor that is not there"
NOTE = f"{steps.NOTES}/select_based--poll_based.md"


@pytest.mark.parametrize(
    "path, old, new, said",
    [
        (NOTE, "### run", "### ran", ["sketch.py: run: no note", "sketch.py: ran: no hunk"]),
        (NOTE, "Why `run` changed.", "", ["sketch.py: run: no note"]),
        (NOTE, "## client.py", "## other.py", ["client.py: header: no note", "client.py: run: no note"]),
        (NOTE, "### run", "### header", [":9: a second note to sketch.py: header", "sketch.py: run: no note"]),
        (NOTE, "# select_based to", "# selects to", [":1: its title should be `# select_based to poll_based`"]),
        (NOTE, "## sketch.py", "Words.\n\n## sketch.py", [":3: text that belongs to no hunk"]),
        (NOTE, "## sketch.py", "### run", [":3: no `## FILE` stands above `### run`"]),
        ("poll_based/client.py", "return int(text)", "return float(text)", ["client.py: port: no note"]),
    ],
)
def test_notes_that_do_not_fit(small, run, path, old, new, said):
    change(small / path, old, new)
    told = run([sys.executable, small / "lessons/site.py", "--notes"])
    assert told.wait() == 1
    lines = told.log.splitlines()
    for words in said:
        assert any(line.startswith("select_based--poll_based.md:") and line.endswith(words) for line in lines), lines


def test_a_definition_that_moved_needs_no_note(small, run):
    path = small / "asyncio_based/client.py"
    port = "def port(text):\n    return int(text)\n"
    change(path, "\n\n" + port, "")
    change(path, "def run", port + "\n\ndef run")
    told = run([sys.executable, small / "lessons/site.py", "--notes"])
    assert (told.wait(), told.log) == (0, "each hunk has its note\n")


def test_notes_of_no_step(small, run):
    (small / steps.NOTES / "poll_based--blocking.md").write_text("# poll_based to blocking\n")
    told = run([sys.executable, small / "lessons/site.py", "--notes"])
    assert (told.wait(), told.log) == (1, "poll_based--blocking.md: there is no such step\n")


# The build.


@pytest.mark.parametrize(
    "path, old, new, said",
    [
        ("poll_based/README.md", "README.md#the-server", "READ.md", "poll_based/README.md: a dead link: ../READ.md"),
        (
            "poll_based/README.md",
            "#the-server",
            "#no-server",
            f"poll_based/index.html: {NO_ANCHOR}: ../index.html#no-server",
        ),
        (
            "README.md",
            "GLOSSARY.md#socket",
            "GLOSSARY.md#sock",
            f"index.html: {NO_ANCHOR}: GLOSSARY.html#sock",
        ),
        (
            "README.md",
            "Much.",
            "![x](https://example.org/x.svg)",
            "README.md: an image from elsewhere: https://example.org/x.svg",
        ),
        ("README.md", "Much.", "![x](x.svg)", "README.md: a dead link: x.svg"),
        (
            "README.md",
            "Much.",
            "[x](poll_based/server.py#L99)",
            f"index.html: {NO_ANCHOR}: poll_based/server.py.html#L99",
        ),
        ("README.md", "Much.", "```mermaid\npie\n```", "README.md: a diagram with a line that is not understood: pie"),
        ("README.md", "Much.", "```no-such\npie\n```", "no such language: no-such"),
        ("README.md", "Much.", '<a id="the-server"></a>', "index.html: the anchor the-server is there 2 times"),
        (NOTE, "### run", "### ran", "select_based--poll_based.md: sketch.py: run: no note"),
        ("poll_based/server.py", "def run", "def def", "select_based/server.py or poll_based/server.py is no Python: "),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_built(small, site, path, old, new, said):
    change(small / path, old, new)
    status, log = site()
    assert status == 1 and "Traceback" not in log
    assert any(line.startswith(said) for line in log.splitlines()), log
    assert not (small / "site").exists()


def test_a_page_that_is_missing(small, site):
    (small / "poll_based/README.md").unlink()
    status, log = site()
    assert (status, log.splitlines()[0]) == (1, "poll_based/README.md: the page is missing")


def test_a_folder_that_is_missing(small, site):
    shutil.rmtree(small / "poll_based")
    assert site() == (1, f"{small}/poll_based: no such file or directory\n")


def test_without_notes(small, site):
    shutil.rmtree(small / steps.NOTES)
    assert site()[0] == 1
    assert site("--without-notes")[0] == 0
    assert "No note yet." in (small / "site/steps/select_based--poll_based/server.html").read_text()


def test_what_is_there_is_replaced_only_if_it_is_a_site(small, site, scratch):
    out = scratch / "out"
    out.mkdir()
    (out / "mine").write_text("precious")
    assert site("--out", str(out)) == (1, f"{out} is there, and is no site: it is left as it is\n")
    assert [path.name for path in out.iterdir()] == ["mine"]
    (out / "mine").unlink()
    assert site("--out", str(out))[0] == 0
    (out / "poll_based/old.html").write_text("of a page that is gone")
    assert site("--out", str(out))[0] == 0
    assert (out / "poll_based/index.html").is_file() and not (out / "poll_based/old.html").exists()


def test_what_it_needs_is_named_in_one_line(run):
    """Without site-packages."""
    told = run([sys.executable, "-S", LESSONS / "site.py", "--out", "/dev/null/x"])
    assert told.wait() == 1
    assert re.fullmatch(r"\w+ is missing: pip install '\.\[lessons\]'\n", told.log)


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Serving it.


def test_it_is_served_and_a_browser_is_opened(small, site, run, scratch):
    site()
    script, opened = scratch / "browser", scratch / "opened"
    script.write_text(f'#!/bin/sh\necho "$1" > {opened}.new && mv {opened}.new {opened}\n')
    script.chmod(0o755)
    server = run(
        [sys.executable, small / "lessons/site.py", "--serve", "0"], env={**os.environ, "BROWSER": str(script)}
    )
    url = server.await_log(r"(http://127\.0\.0\.1:(\d+)/) \(Ctrl-C ends it\)")
    assert wait_until(opened.exists) and opened.read_text() == url[1] + "\n"
    connection = http.client.HTTPConnection("127.0.0.1", int(url[2]), timeout=harness.DEADLINE)
    connection.request("GET", "/poll_based/index.html")
    assert b"<h1" in connection.getresponse().read()
    connection.close()
    said = server.log
    server.signal(signal.SIGINT)
    assert server.wait() == 0
    assert server.log.removeprefix(said).strip() == ""


def test_a_port_that_cannot_be_had(site):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        status, log = site("--serve", str(number), "--no-open")
    assert status == 1 and log.splitlines()[1:] == [f"port {number} cannot be had: address already in use"]
    for wrong in "x", "65536", "-1":
        status, log = site("--serve", wrong)
        assert status == 2 and "usage:" in log


# The site of this repository.


NOT_COPIED = ".*cache", ".git", ".venv", ".hypothesis", "__pycache__", "*.egg-info", "build", "site"


def build(root, seed):
    """Build the site of a copy of this repository, and return where it is. Its notes are another test's business."""
    command = [sys.executable, root / "lessons/site.py", "--without-notes"]
    env = {**os.environ, "PYTHONHASHSEED": seed}
    ended = subprocess.run(command, timeout=600, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert ended.returncode == 0, ended.stdout
    return root / "site"


@pytest.fixture(scope="session")
def built(scratch_root):
    """The site of a copy, which nobody changes meanwhile; built once for each worker."""
    for library in LIBRARIES:
        pytest.importorskip(library, reason="the extra `lessons` is not installed")
    root = Path(tempfile.mkdtemp(dir=scratch_root)) / "repository"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return build(root, "1")


def test_two_builds_are_the_same_bytes(built, scratch):
    """Also in another folder, and with another order of sets."""
    root = scratch / "elsewhere"
    shutil.copytree(built.parent, root, ignore=shutil.ignore_patterns("site"))
    one, other = tree(built), tree(build(root, "2"))
    assert one.keys() == other.keys()
    assert [path for path in one if one[path] != other[path]] == []


class Reader(html.parser.HTMLParser):
    """What a page is made of, as far as it can be seen without a browser."""

    def __init__(self, path):
        super().__init__()
        self.headings, self.landmarks, self.loads, self.unnamed, self.stack = [], [], [], [], []
        self.lang = None
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == "html":
            self.lang = attrs.get("lang")
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag in ("header", "main", "nav"):
            self.landmarks.append(tag)
            if tag == "nav" and not attrs.get("aria-label"):
                self.unnamed.append(tag)
        if tag in ("script", "img", "link"):
            self.loads.append(attrs.get("src") or attrs.get("href"))
        if tag == "img" and not attrs.get("alt"):
            self.unnamed.append(attrs)
        if tag in ("input", "select") and "label" not in self.stack:
            self.unnamed.append(attrs)
        if tag not in ("meta", "link", "img", "input", "br", "hr"):
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)  # `<img ... />`

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag, f"</{tag}>"


def test_what_each_page_is_made_of(built):
    """Headings are in order, landmarks have names, elements are closed, and nothing comes from elsewhere."""
    pages = sorted(built.rglob("*.html"))
    assert len(pages) > 300
    for path in pages:
        page = Reader(path)
        assert page.lang == "en" and page.stack == [], path
        assert page.landmarks.count("main") == page.landmarks.count("header") == 1, path
        assert page.headings[0] == 1 and page.headings.count(1) == 1, path
        steps_down = [(a, b) for a, b in zip(page.headings, page.headings[1:], strict=False) if b > a + 1]
        assert steps_down == [], path
        assert page.unnamed == [], path
        assert [load for load in page.loads if re.match(r"(?!data:)[a-z]+:|//", load)] == [], path


def test_every_step_and_every_two_versions_have_a_page(built):
    for step in steps.steps():
        for pair in step.pairs:
            page = (built / "steps" / step.name / f"{Path(pair.name).stem}.html").read_text()
            assert (f'id="{"whole" if pair.old is None else "header"}"' in page) or pair.old == pair.new
    for name, paths in steps.versions().items():
        pages = {path.name for path in (built / "compare" / Path(name).stem).iterdir()}
        assert len(pages) == len(paths) * (len(paths) - 1) // 2


def colours():
    """The variables of the style sheet: for light, and for dark."""
    light, dark = re.findall(r":root \{(.*?)\}", (LESSONS / "assets/style.css").read_text(), re.DOTALL)
    found = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", text)) for text in (light, dark)]
    assert found[0].keys() == found[1].keys()
    return found


def luminance(colour):
    """As WCAG 2 defines it."""
    values = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one, other):
    lighter, darker = sorted([luminance(one), luminance(other)], reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_the_contrast_of_every_text_with_its_ground(scheme):
    colour = colours()[scheme]
    code = ["ink", "keyword", "string", "comment", "number", "name", "builtin"]
    grounds = ["paper", "panel", "old", "old-mark", "new", "new-mark", "moved"]
    pairs = [(text, ground) for text in code for ground in grounds]
    pairs += [(text, ground) for text in ("soft", "accent") for ground in ("paper", "panel", "moved")]
    pairs += [("minus", "old"), ("plus", "new"), ("minus", "moved"), ("plus", "moved"), ("paper", "ink")]
    pairs += [("minus", "paper"), ("plus", "paper")]
    weak = {pair: round(contrast(*(colour[name] for name in pair)), 2) for pair in pairs}
    assert {pair: value for pair, value in weak.items() if value < CONTRAST} == {}


def test_the_workflow_runs_what_the_readme_says():
    line = re.search(r"^python3 -m venv \.venv && .*pytest$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert f"- run: {line[0]}\n" in (ROOT / ".github/workflows/suite.yml").read_text()
