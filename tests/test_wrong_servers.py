"""The tests are tested: each server that is wrong on purpose fails the promise that it breaks, and no other.

They go the way of a student's server, through --server-cmd. Of the promises that are independent of the
broken one, only those are checked again that take little time.
"""

import shlex
import sys
from pathlib import Path

import pytest
from promises import PROMISES, ROOT

FOLDER = Path(__file__).parent / "wrong_servers"

BREAKS = {
    "always_asks_to_write": ("idle", "message"),
    "announces_who_leaves": ("leaving", "start"),
    "breaks_on_telnet": ("message", "broadcast"),
    "cannot_have_its_port_again": ("stopping", "message"),
    "ctrl_c_waits_for_the_line": ("leaving", "message"),
    "delivers_blank_lines": ("framing", "latency"),
    "delivers_the_tail": ("limits", "message"),
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
    "limit_is_one_less": ("limits", "message"),
    "logs_what_is_said": ("log", "message"),
    "loses_the_last_line": ("framing", "message"),
    "needs_its_log": ("log", "message"),
    "never_drops_its_memory": ("leaving", "message"),
    "never_full": ("limits", "message"),
    "passes_escapes_on": ("message", "broadcast"),
    "passes_overrides_on": ("message", "broadcast"),
    "reorders": ("broadcast", "idle"),
    "repeats": ("broadcast", "start"),
    "sends_again_what_does_not_fit": ("slow", "message"),
    "stalls_on_a_slow_reader": ("slow", "message"),
    "starves_the_others": ("fairness", "message"),
    "takes_a_recv_for_a_message": ("framing", "start"),
    "waits_for_its_clients": ("stopping", "message"),
}


@pytest.fixture
def verdicts(run):
    """Test a server for some promises: `verdicts("greets", ["start"])` gives the verdict for each promise."""

    def test(name, promises, *options):
        command = shlex.join([sys.executable, str(FOLDER / f"{name}.py")]) + " {port}"
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
    verdict, log = verdicts(name, [kept], "--deadline=60")
    assert verdict[kept] == "kept", log


@pytest.mark.parametrize("promise", PROMISES)
def test_the_correct_one_keeps_its_promises(verdicts, promise):
    verdict, log = verdicts("base", [promise], "--deadline=60")
    assert verdict[promise] == "kept", log
