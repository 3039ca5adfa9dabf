"""The tests are tested: each server that is wrong on purpose fails the promise that it breaks, and no other.

They go the way of a student's server, through --server-cmd. Of the promises that are independent of the
broken one, only those are checked again that take little time.

Those of the growing road are a step's own files with some of the text replaced. In wrong_servers/road/ there is a file
for each, which says of which STEP, what is to REPLACE what, by which test it is FOUND_BY, what that is called WITH
besides its fixtures, if anything, and what the failure SAYS, a regular expression.
"""

import dataclasses
import importlib
import inspect
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import harness
import pytest
from other_languages import RIGHT, built, built_wrong
from promises import PROMISES, ROAD, ROOT

FOLDER = Path(__file__).parent / "wrong_servers"

BREAKS = {
    "always_asks_to_write": ("idle", "message"),
    "announces_who_leaves": ("leaving", "start"),
    "breaks_on_telnet": ("message", "broadcast"),
    "cannot_have_its_port_again": ("stopping", "message"),
    "ctrl_c_waits_for_the_line": ("leaving", "message"),
    "delivers_blank_lines": ("framing", "latency"),
    "delivers_the_tail": ("limits", "message"),
    "dies_of_a_broken_pipe": ("leaving", "message"),
    "dies_of_a_lack": ("limits", "message"),
    "dies_of_a_reset": ("leaving", "latency"),
    "drops_what_does_not_fit": ("slow", "message"),
    "drops_who_cannot_be_sent_to": ("leaving", "message"),
    "echoes_to_the_sender": ("broadcast", "message"),
    "ends_with_an_error": ("stopping", "message"),
    "forgets_a_leaver": ("leaving", "message"),
    "forgets_keepalive": ("leaving", "message"),
    "forgets_nodelay": ("latency", "message"),
    "greets": ("broadcast", "start"),
    "has_no_limit": ("limits", "message"),
    "ignores_signals": ("stopping", "message"),
    "keeps_all_that_is_unsent": ("slow", "message"),
    "leaks_descriptors": ("leaving", "message"),
    "leaves_a_child": ("stopping", "message"),
    "limit_is_one_less": ("limits", "message"),
    "listens_on_all": ("start", "message"),
    "logs_what_is_said": ("log", "message"),
    "loses_the_last_line": ("framing", "message"),
    "names_are_mapped": ("broadcast", None),  # with a wrong name nothing is heard as it should be
    "needs_its_log": ("log", "message"),
    "never_drops_its_memory": ("leaving", "message"),
    "never_flushes": ("start", "message"),
    "never_full": ("limits", "message"),
    "passes_escapes_on": ("message", "broadcast"),
    "passes_overrides_on": ("message", "broadcast"),
    "reorders": ("broadcast", "idle"),
    "repeats": ("broadcast", "start"),
    "says_nothing": ("log", "message"),
    "sends_again_what_does_not_fit": ("slow", "message"),
    "sends_in_two_pieces": ("latency", "message"),
    "stalls_on_a_slow_reader": ("slow", "message"),
    "starves_the_others": ("fairness", "message"),
    "takes_a_recv_for_a_message": ("framing", "start"),
    "waits_for_its_clients": ("stopping", "message"),
}

# Of those in other languages: what each of them breaks, and what it keeps.
OTHERS = {
    "c_dies_of_a_broken_pipe": ("leaving", "message"),
    "c_leaves_a_child": ("stopping", "message"),
    "c_listens_on_all": ("start", "latency"),
    "c_never_flushes": ("log", "latency"),
    "c_sends_in_two_pieces": ("latency", "message"),
    "js_counts_characters": ("limits", "latency"),
    "js_listens_on_all": ("start", "latency"),
    "js_says_nothing": ("log", "latency"),
    "java_listens_on_all": ("start", "latency"),
    "java_keeps_all_that_is_unsent": ("slow", "latency"),
}


@pytest.fixture
def verdicts(run):
    """Test a server for some promises: `verdicts("greets", ["start"])` gives the verdict for each promise."""

    def test(name, promises, *options):
        ours = FOLDER / f"{name}.py"
        command = shlex.join([sys.executable, str(ours)]) + " {port}" if ours.exists() else name
        pytest_ = [sys.executable, "-m", "pytest", "-n0", "-pno:cacheprovider", "--server-cmd", command]
        process = run([*pytest_, "--promises", ",".join(promises), *options], cwd=ROOT)
        process.wait(within=500)
        _, found, summary = process.log.rpartition("= promises =")
        assert found, process.log
        lines = [line.partition(" ") for line in summary.splitlines()[1 : len(PROMISES) + 1]]
        return {name: verdict.strip().split()[0] for name, _, verdict in lines}, process.log

    return test


def test_each_of_them_is_listed():
    assert {path.stem for path in FOLDER.glob("*.py")} - {"base"} == set(BREAKS)


@pytest.mark.parametrize("name", BREAKS)
def test_it_breaks_its_promise_and_keeps_another(verdicts, name):
    broken, kept = BREAKS[name]
    verdict, log = verdicts(name, [broken], "--first", "--deadline=5")
    assert verdict[broken] == "BROKEN", log
    # A right one is given more time: nothing that must happen takes long, but on a busy machine.
    if kept:
        verdict, log = verdicts(name, [kept], "--deadline=60")
        assert verdict[kept] == "kept", log


@pytest.mark.parametrize("promise", PROMISES)
def test_the_correct_one_keeps_its_promises(verdicts, promise):
    verdict, log = verdicts("base", [promise], "--deadline=60")
    assert verdict[promise] == "kept", log


@pytest.mark.long
@pytest.mark.parametrize("promises", [list(PROMISES)[:5], list(PROMISES)[5:]])
@pytest.mark.parametrize("program", RIGHT)
def test_a_right_one_in_another_language_keeps_its_promises(verdicts, scratch, program, promises):
    verdict, log = verdicts(built(program, scratch), promises, "--deadline=60")
    assert [name for name in promises if verdict[name] != "kept"] == [], log


@pytest.mark.parametrize("name", OTHERS)
def test_a_wrong_one_in_another_language_is_found(verdicts, scratch, name):
    broken, kept = OTHERS[name]
    command = built_wrong(name, scratch)
    verdict, log = verdicts(command, [broken], "--first", "--deadline=5")
    assert verdict[broken] == "BROKEN", log
    verdict, log = verdicts(command, [kept], "--deadline=60")
    assert verdict[kept] == "kept", log


@pytest.mark.parametrize("name", sorted(path.stem for path in (FOLDER / "road").glob("*.py")))
def test_a_wrong_step_of_the_road_is_found(name, request, serve, scratch, monkeypatch):
    wrong = runpy.run_path(FOLDER / "road" / f"{name}.py")
    (step,) = [model for model in ROAD if model.name == wrong["STEP"]]
    if step.missing:
        pytest.skip(f"cannot run here: {step.missing}")
    folder = shutil.copytree(ROOT / "features" / step.name, scratch / "wrong", ignore=shutil.ignore_patterns("*.md"))
    for old, new in wrong["REPLACE"].items():
        files = [file for file in folder.iterdir() if file.is_file() and old in file.read_text()]
        if len(files) != 1 or files[0].read_text().count(old) != 1:
            raise ValueError(f"not once in {step.name}: {old}")
        (file,) = files
        text = file.read_text()
        file.write_text(text.replace(old, new))

    def serve_wrong(model, *args, **options):
        """Start the wrong server in the place of the right one. From then on what does not come is not long awaited."""
        if getattr(model, "name", model) != step.name:  # it is compared with another step
            return serve(model, *args, **options)
        right = step if model == step.name else model
        words = [word.replace(f"features/{step.name}/", f"{folder}/") for word in right.command]
        server = serve(dataclasses.replace(right, command=tuple(words)), *args, **options)
        monkeypatch.setattr(harness, "DEADLINE", 15.0)
        return server

    module, _, test = wrong["FOUND_BY"].partition(".")
    test = getattr(importlib.import_module(module), test)
    given = {"serve": serve_wrong, "step": step.name, **wrong.get("WITH", {})}
    values = [
        given[key] if key in given else request.getfixturevalue(key) for key in inspect.signature(test).parameters
    ]
    with pytest.raises(AssertionError, match=wrong["SAYS"]):
        test(*values)
