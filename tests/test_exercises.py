"""The exercises: each start fails as its page says and in nothing else, each answer passes, and no page gives it away.

What is expected is in course/exercises/*/exercise.toml:

    name, title         the folder's name, and what its page is called
    step, kind          the folder that it belongs to; "mend" or "build"
    like                the model of which no more is expected (check.py --like), if there is one
    stages              what it is held to: stages, and single checks of others (check.py --list)
    breaks              the checks that the start fails, always
    may_break           those that it fails when the system has it so: two things came at once, or did not
    start_of            the file of which the start is a copy, if it is one
    answer_of           the file of which the answer is a copy, if it is one
"""

import difflib
import json
import re
import shlex
import shutil
import sys
import tomllib

import pytest
from pages import Page, dead_links, replay, title, too_wide, unexplained
from promises import ROOT

FOLDER = ROOT / "course" / "exercises"
EXERCISES = {path.parent.name: tomllib.loads(path.read_text()) for path in sorted(FOLDER.glob("*/exercise.toml"))}
NAMES = pytest.mark.parametrize("name", EXERCISES)
PAGES = pytest.mark.parametrize("path", sorted(FOLDER.glob("**/README.md")), ids=title)
STEPS = ["blocking", "thread_per_client", "select_based", "poll_based", "asyncio_based", "epoll_based"]
KEYS = {"name", "title", "step", "kind", "like", "stages", "breaks", "may_break", "start_of", "answer_of"}
MOST_FAULTY = 24  # lines in which a start that is to be mended differs from the answer
TELLING = 16  # characters of a line of code that gives something away
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="much of what the checks look at only Linux tells")


def read(name, file):
    return (FOLDER / name / file).read_text()


@pytest.fixture
def examine(run, scratch):
    """Run check.py for a file of an exercise: the verdicts of its checks, as pairs of verdict and reason."""

    def test(name, file):
        report = scratch / "report.json"
        words = [sys.executable, "check.py", "--all", "--json", str(report), shlex.quote(f"{FOLDER / name / file}")]
        process = run(words, cwd=ROOT)
        process.wait(within=400)
        assert report.exists(), process.log
        report = json.loads(report.read_text())
        assert not report["fatal"], process.log
        checks = {key: value for stage in report["stages"] for key, value in stage["checks"].items()}
        return {key: (check["verdict"], check["because"]) for key, check in checks.items()}, process.log

    return test


@LINUX
@NAMES
def test_the_start_fails_as_it_should(name, examine):
    exercise = EXERCISES[name]
    verdicts, log = examine(name, "server.py")
    broken = {check for check, (verdict, _) in verdicts.items() if verdict == "BROKEN"}
    assert {*exercise["breaks"]} <= broken <= {*exercise["breaks"], *exercise.get("may_break", ())}, log
    # What depends on that is not tested, and all the rest passes.
    for check, (verdict, because) in verdicts.items():
        if check not in broken and verdict != "passed":
            assert verdict == "not tested", log
            assert because.removeprefix("because of ") in broken or cannot_be_had(because), f"{check}: {because}\n{log}"


@LINUX
@NAMES
def test_the_answer_passes(name, examine):
    verdicts, log = examine(name, "answer/server.py")
    for check, (verdict, because) in verdicts.items():
        assert verdict == "passed" or cannot_be_had(because), f"{check}\n{log}"
    assert {*EXERCISES[name]["breaks"]} <= {*verdicts}


def cannot_be_had(because):
    """Whether a check was left out as this system does not allow it, and not because of another one."""
    return bool(because) and not because.startswith("because")


def test_each_step_has_something_to_mend_and_something_to_build():
    kinds = {(exercise["step"], exercise["kind"]) for exercise in EXERCISES.values()}
    assert kinds == {(step, kind) for step in STEPS for kind in ("mend", "build")}
    assert {path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"} == {*EXERCISES}


@NAMES
def test_an_exercise_is_complete(name):
    exercise = EXERCISES[name]
    assert exercise["name"] == name
    assert set(exercise) <= KEYS
    page = read(name, "README.md")
    assert page.startswith(f"# {exercise['title']}\n")
    command = f"$ python3 check.py course/exercises/{name}/server.py"
    for part in "## Predict first", "## Hints", "## The answer", command:
        assert part in page
    assert f"]({name}/README.md)" in (FOLDER / "README.md").read_text(), "the list of exercises does not have it"


@NAMES
def test_copies_are_copies(name):
    """What is said to be a sketch or a server of ours still is: when that changes, copy it, and the fault with it."""
    exercise = EXERCISES[name]
    for key, file in ("start_of", "server.py"), ("answer_of", "answer/server.py"):
        if key in exercise:
            assert read(name, file) == (ROOT / exercise[key]).read_text(), f"cp {exercise[key]} {FOLDER / name / file}"
    if exercise["kind"] == "mend":
        assert "answer_of" in exercise
        assert len(changed(name)) <= MOST_FAULTY


def changed(name):
    """The lines in which the start and the answer differ, without blanks around them."""
    pair = [read(name, file).splitlines() for file in ("server.py", "answer/server.py")]
    return [line[2:].strip() for line in difflib.ndiff(*pair) if line[0] in "+-"]


@NAMES
def test_the_page_gives_nothing_away(name):
    """No line in which start and answer differ, and no name that only the answer has, is on the page."""
    page = " ".join(re.sub(r"diff -u .*", "", read(name, "README.md")).split())
    code = [line for line in changed(name) if len(line) >= TELLING and not line.startswith('"""')]
    assert code
    assert [line for line in code if line in page] == []
    assert not re.search(r"\blines? \d", page), "it names a line by its number"


@PAGES
def test_what_a_page_shows_is_what_comes(path, scratch):
    if not shutil.which("bash"):
        pytest.skip("bash is not installed")
    if left_out := replay(path, scratch).left_out:
        pytest.skip("true, but blocks were left out: " + ", ".join(left_out))


@PAGES
def test_a_page_is_in_order(path):
    page = Page(path.read_text())
    glossary = (ROOT / "GLOSSARY.md").read_text()
    assert page.wrong + too_wide(page) + dead_links(page, path) + unexplained(page, glossary) == []
