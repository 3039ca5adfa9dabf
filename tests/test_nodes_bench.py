"""bench/nodes.py: what it measures, and that the page has the figures of its result."""

import argparse
import json
import re
import subprocess
import sys

import pytest
from cluster import skip_without_nats
from promises import ROOT

BENCH = ROOT / "bench"


@pytest.fixture
def bench(monkeypatch):
    """The module."""
    monkeypatch.syspath_prepend(str(BENCH))
    import nodes

    return nodes


def test_the_figures_of_the_page_are_those_of_the_result():
    done = subprocess.run([sys.executable, str(BENCH / "nodes.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_figures_are_filled_in_and_checked(bench, scratch):
    result = json.loads(bench.RESULT.read_text())
    assert len(result["measurements"]) == result["rounds"] * len(bench.SCENES)
    page = scratch / bench.PAGE
    page.parent.mkdir(parents=True)
    page.write_text("before\n<!-- nodes:cost -->\nold\n<!-- /nodes -->\nafter\n")
    assert bench.fill(result, write=False, root=scratch)
    assert "old" in page.read_text()
    assert bench.fill(result, write=True, root=scratch)
    text = page.read_text()
    assert re.fullmatch(
        r"before\n<!-- nodes:cost -->\n(\| .* \|\n)+\n(?!\|)[^<]+\n<!-- /nodes -->\nafter\n", text, re.DOTALL
    )
    for name in bench.SCENES:
        assert re.search(rf"^\| {re.escape(name)} \|( [\d,.]* \|){{{len(bench.COLUMNS)}}}$", text, re.MULTILINE)
    assert not bench.fill(result, write=False, root=scratch)


def test_it_measures(bench):
    """What it finds makes sense: lines were said, each took a while, and the processes did something for it."""
    skip_without_nats()
    options = argparse.Namespace(rounds=1, seconds=0.3)
    scenes = {"two nodes": (2, 1, 2, 0), "no node": (0, 1, 2, 0)}
    many, one = bench.measure_all(options, scenes)["measurements"]
    for figures in many, one:
        assert figures["lines a second"] > 1
        assert 0 < figures["ms for a line"] <= figures["99 of 100 within ms"]
    assert many["µs of all nodes"] > 0  # one alone may need less than the hundredth of a second that the system counts
    assert many["µs of NATS"] > 0 and not one["µs of NATS"]
