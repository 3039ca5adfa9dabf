"""The tests are tested: each server that is wrong on purpose fails the promise that it breaks, and no other.

They go the way of a student's server. Of the promises that are independent of the broken one a sample of tests is run,
which takes little time.

Those of the growing road are a step's own files with some of the text replaced. In wrong_servers/road/ there is a file
for each, which says of which STEP, what is to REPLACE what, by which test it is FOUND_BY, what that is called WITH
besides its fixtures, if anything, and what the failure SAYS, a regular expression.
"""

import dataclasses
import importlib
import inspect
import json
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

# Promises, and a test of another one, that are broken as well where something is heard that nobody said.
HEARD = ("broadcast", "fairness", "framing", "latency", "limits", "log", "message", "test_with_clients_in_the_room[15]")

# What each of them breaks, by which test that is found, and what rests on it and is broken with it: promises and tests.
BREAKS = {
    "always_asks_to_write": ("idle", "test_with_silent_clients", "test_more_connections_than_descriptors"),
    "announces_who_leaves": ("leaving", "test_nobody_notices_who_leaves[leave_by_close]", *HEARD),
    "breaks_on_telnet": ("message", "test_cleaning[telnet]"),
    "cannot_have_its_port_again": ("stopping", "test_the_same_port_at_once[15]"),
    "ctrl_c_waits_for_the_line": ("leaving", "test_ctrl_c_in_telnet[whole-]"),
    "delivers_blank_lines": ("framing", "test_blank_lines_are_no_messages", "fairness"),
    "delivers_the_tail": ("limits", "test_nothing_of_a_too_long_message_is_delivered_later", "log"),
    "dies_of_a_broken_pipe": ("leaving", "test_leaving_during_a_broadcast[close]", "test_after_clients_left[close]"),
    "dies_of_a_lack": ("limits", "test_more_connections_than_descriptors"),
    "dies_of_a_reset": ("leaving", "test_the_rest_of_a_line_is_discarded_at_a_reset"),
    "drops_what_does_not_fit": ("slow", "test_a_slow_reader_gets_every_byte_that_waited"),
    "drops_who_cannot_be_sent_to": ("leaving", "test_last_words[close]"),
    "echoes_to_the_sender": (
        "broadcast",
        "test_everybody_else_hears_it_and_the_sender_does_not",
        "fairness",
        "leaving",
        "limits",
        "log",
        "slow",
        "test_with_clients_in_the_room[15]",
    ),
    "ends_with_an_error": ("stopping", "test_with_clients_in_the_room[2]"),
    "forgets_a_leaver": (
        "leaving",
        "test_a_half_close_ends_the_connection",
        "idle",
        "test_last_line_without_newline",
        "test_more_connections_than_descriptors",
        "test_who_came_and_how_each_left",
    ),
    "forgets_keepalive": ("leaving", "test_keepalive"),
    "forgets_nodelay": ("latency", "test_a_second_short_message_does_not_wait"),
    "greets": ("broadcast", "test_no_greeting_and_no_history", *HEARD, "leaving", "slow"),
    "has_no_limit": ("limits", "test_a_message_of_4097_bytes[newline]", "log"),
    "ignores_signals": ("stopping", "test_with_nobody_there[15]"),
    "keeps_all_that_is_unsent": ("slow", "test_a_client_that_never_reads_is_dropped_and_nobody_waits"),
    "leaks_descriptors": ("leaving", "test_thousands_come_and_go"),
    "leaves_a_child": ("stopping", "test_with_clients_in_the_room[15]"),
    "limit_is_one_less": ("limits", "test_a_message_of_4096_bytes"),
    "listens_on_all": ("start", "test_it_listens_on_that_address_alone"),
    "logs_what_is_said": ("log", "test_what_clients_say_is_not_logged"),
    "loses_the_last_line": ("framing", "test_last_line_without_newline"),
    "names_are_mapped": (
        "broadcast",
        "test_everybody_else_hears_it_and_the_sender_does_not",
        *HEARD,
        "leaving",
        "slow",
        "test_it_listens",
        "test_after_clients_left[close]",
        "test_a_second_signal_changes_nothing[2-15]",
    ),
    "needs_its_log": ("log", "test_a_log_that_cannot_be_written[a full disk]"),
    "never_drops_its_memory": ("leaving", "test_thousands_come_and_go"),
    "never_flushes": ("start", "test_it_listens", "test_who_came_and_how_each_left"),
    "never_full": ("limits", "test_more_connections_than_descriptors"),
    "passes_escapes_on": ("message", "test_cleaning[controls]", "test_blank_lines_are_no_messages"),
    "passes_overrides_on": ("message", "test_cleaning[bidirectional]", "test_blank_lines_are_no_messages"),
    "reorders": ("broadcast", "test_order_and_exactly_once_with_many_senders", "test_a_hundred_lines_at_once", "slow"),
    "repeats": ("broadcast", "test_order_and_exactly_once_with_many_senders", "test_a_hundred_lines_at_once", "slow"),
    "says_nothing": ("log", "test_who_came_and_how_each_left", "test_it_listens"),
    "sends_again_what_does_not_fit": ("slow", "test_a_slow_reader_gets_every_byte_that_waited"),
    "sends_in_two_pieces": ("latency", "test_a_first_short_message_does_not_wait"),
    "stalls_on_a_slow_reader": ("slow", "test_a_client_that_never_reads_is_dropped_and_nobody_waits"),
    "starves_the_others": ("fairness", "test_others_are_heard_during_a_flood"),
    "takes_a_recv_for_a_message": (
        "framing",
        "test_half_a_line_is_not_delivered",
        "slow",
        "test_a_message_of_4097_bytes[newline]",
        "test_with_clients_in_the_room[15]",
    ),
    "waits_for_its_clients": ("stopping", "test_with_clients_in_the_room[15]"),
}

# Of those in other languages.
OTHERS = {
    "c_dies_of_a_broken_pipe": ("leaving", "test_leaving_during_a_broadcast[close]"),
    "c_leaves_a_child": ("stopping", "test_with_clients_in_the_room[15]"),
    "c_listens_on_all": ("start", "test_it_listens_on_that_address_alone"),
    "c_never_flushes": ("log", "test_who_came_and_how_each_left", "test_it_listens"),
    "c_sends_in_two_pieces": ("latency", "test_a_first_short_message_does_not_wait"),
    "js_counts_characters": ("limits", "test_a_message_of_4097_bytes[characters]"),
    "js_listens_on_all": ("start", "test_it_listens_on_that_address_alone"),
    "js_says_nothing": ("log", "test_who_came_and_how_each_left", "test_it_listens"),
    "java_listens_on_all": ("start", "test_it_listens_on_that_address_alone"),
    "java_keeps_all_that_is_unsent": ("slow", "test_a_client_that_never_reads_is_dropped_and_nobody_waits"),
}

# The tests to which those are held whose promise this is not: what takes little time, and is about the whole promise.
SAMPLE = {
    "start": ["test_it_listens", "test_it_listens_on_that_address_alone"],
    "message": ["test_cleaning[controls]", "test_cleaning[bidirectional]", "test_cleaning[telnet]"],
    "broadcast": ["test_everybody_else_hears_it_and_the_sender_does_not", "test_no_greeting_and_no_history"],
    "framing": [
        "test_half_a_line_is_not_delivered",
        "test_a_hundred_lines_at_once",
        "test_last_line_without_newline",
        "test_blank_lines_are_no_messages",
    ],
    "limits": [
        "test_a_message_of_4096_bytes",
        "test_a_message_of_4097_bytes[newline]",
        "test_nothing_of_a_too_long_message_is_delivered_later",
        "test_more_connections_than_descriptors",
    ],
    "slow": ["test_a_slow_reader_gets_every_byte"],
    "fairness": ["test_others_are_heard_during_a_flood"],
    "leaving": [
        "test_nobody_notices_who_leaves[leave_by_close]",
        "test_nobody_notices_who_leaves[leave_by_reset]",
        "test_a_half_close_ends_the_connection",
        "test_ctrl_c_in_telnet[whole-]",
    ],
    "stopping": ["test_with_clients_in_the_room[15]", "test_a_second_signal_changes_nothing[2-15]"],
    "log": ["test_what_clients_say_is_not_logged", "test_who_came_and_how_each_left"],
    "idle": ["test_with_silent_clients", "test_after_clients_left[close]"],
    "latency": ["test_a_first_short_message_does_not_wait", "test_a_second_short_message_does_not_wait"],
}
# What takes more time, and goes wrong first where a server's memory, descriptors or buffers are not as those of ours.
HEAVY = ["test_thousands_come_and_go", "test_endless_line[line]", "test_many_who_never_read_cost_bounded_memory"]
IN_VAIN, PATIENTLY = 5.0, 60.0  # seconds for what must happen: where it is known that it does not, and elsewhere


@pytest.fixture
def verdicts(run):
    """Test a server for some promises: `verdicts("./server {port}", ["start"])` gives the verdict for each promise."""

    def test(command, promises, *options):
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


@pytest.fixture
def hold(run, scratch):
    """Hold servers to tests, each in one run of pytest: `hold({NAME: (COMMAND, {TEST: SECONDS})})` gives for each name
    the tests that ran, with their failures."""

    def test(servers):
        file = scratch / "servers.json"
        file.write_text(
            json.dumps({name: {"command": command, "tests": tests} for name, (command, tests) in servers.items()})
        )
        pytest_ = [sys.executable, "-m", "pytest", "-n0", "-pno:cacheprovider", "--server-cmd", python("base")]
        process = run([*pytest_, "-pmany_servers", f"--servers={file}"], cwd=ROOT)
        assert process.wait(within=550) in (0, 1), process.log
        return json.loads(file.read_text())

    return test


def python(name):
    """The command that starts one of the wrong servers."""
    return shlex.join([sys.executable, "-S", "-E", str(FOLDER / f"{name}.py")]) + " {port}"


def wanted(broken, found_by, *resting, most=9, but=()):
    """To which tests a wrong server is held, and how long something may take in them; not to the promises in `but`."""
    kept = [promise for promise in PROMISES if promise not in (broken, *resting, *but)]
    tests = [test for promise in kept for test in SAMPLE[promise][:most] if test not in resting]
    return dict.fromkeys(tests, PATIENTLY) | {found_by: IN_VAIN}


def check_found(table, results):
    """Each server fails the test by which its mistake is found, and no other one."""
    wrong = {}
    for name, ran in results.items():
        failures = {test: failure for test, failure in ran.items() if failure}
        assert len(ran) > len(failures), f"{name}: {ran}"
        if failures.keys() != {table[name][1]}:
            wrong[name] = failures or "its mistake is not found"
    assert not wrong, "\n".join(f"{name}: {failures}" for name, failures in wrong.items())


# Several in one run, since to collect the tests takes longer than to run them for one.
TOGETHER = [list(BREAKS)[start : start + 4] for start in range(0, len(BREAKS), 4)]


@pytest.mark.parametrize("names", TOGETHER, ids=", ".join)
def test_each_breaks_its_promise_and_no_other(hold, names):
    check_found(BREAKS, hold({name: (python(name), wanted(*BREAKS[name])) for name in names}))


@pytest.mark.long
@pytest.mark.parametrize("promises", [list(PROMISES)[:4], list(PROMISES)[4:7], list(PROMISES)[7:]])
def test_the_correct_one_keeps_its_promises(verdicts, promises):
    verdict, log = verdicts(python("base"), promises, "--deadline=60")
    assert [name for name in promises if verdict[name] != "kept"] == [], log


def test_a_wrong_one_is_told_which_promise_it_breaks(verdicts):
    verdict, log = verdicts(python("ends_with_an_error"), ["latency", "stopping"], "--first", "--deadline=15")
    assert verdict["stopping"] == "BROKEN" and verdict["latency"] == "kept" and verdict["slow"] == "not", log


@pytest.mark.long
@pytest.mark.parametrize("promises", [list(PROMISES)[:5], list(PROMISES)[5:]])
@pytest.mark.parametrize("program", ["Chat.java", "chat.js"])
def test_a_right_one_in_another_language_keeps_its_promises(verdicts, scratch, program, promises):
    """All of them: with a heap, and with streams of its own, a server differs most from ours."""
    verdict, log = verdicts(built(program, scratch), promises, "--deadline=60")
    assert [name for name in promises if verdict[name] != "kept"] == [], log


@pytest.mark.long
@pytest.mark.parametrize("program", sorted({*RIGHT} - {"Chat.java", "chat.js"}))
def test_a_right_one_in_another_language_passes_the_sample(hold, scratch, program):
    tests = [test for sample in SAMPLE.values() for test in sample]
    results = hold({"right": (built(program, scratch), dict.fromkeys([*tests, *HEAVY], PATIENTLY))})
    assert results["right"].keys() == {*tests, *HEAVY}
    assert {test: failure for test, failure in results["right"].items() if failure} == {}


@pytest.mark.parametrize("language", ["c", "js", "java"])
def test_wrong_ones_in_another_language_are_found(hold, scratch, language):
    servers = {}
    for name in OTHERS:
        if name.startswith(f"{language}_"):
            folder = scratch / name
            folder.mkdir()
            # The right ones are held to fairness, which takes most of the processor there.
            servers[name] = (built_wrong(name, folder), wanted(*OTHERS[name], most=1, but=("fairness",)))
    check_found(OTHERS, hold(servers))


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
