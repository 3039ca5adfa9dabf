"""What the tests of the growing road share: the steps that a test is run for, and a room of people with names."""

import dataclasses

import pytest
from promises import NO_LIMITS, ROAD


def _each(steps):
    missing = "cannot run here: {}".format
    return pytest.mark.parametrize(
        "step",
        [
            pytest.param(step.name, marks=pytest.mark.skipif(bool(step.missing), reason=missing(step.missing)))
            for step in steps
        ],
    )


def _from(first):
    return ROAD[[step.name for step in ROAD].index(first) :]


def _ends(first):
    steps = _from(first)
    return steps[:1] + steps[1:][-1:]


def since(first):
    """Run a test for the step that brought what it is about, and for the last step, which should still have it."""
    return _each(_ends(first))


def each_since(first):
    """Run a test, which takes little time, for a step and all that came later."""
    return _each(_from(first))


def ends(first):
    """The names of these two steps, for a test that takes long, and so runs for both at once."""
    return [step.name for step in _ends(first) if not step.missing]


def with_limits(step):
    """The model of a step with the limits that it has by itself. (The one in MODELS has none.)"""
    (model,) = [model for model in ROAD if model.name == step]
    words = list(model.command)
    start = words.index(NO_LIMITS[0])
    assert words[start : start + len(NO_LIMITS)] == NO_LIMITS
    return dataclasses.replace(model, command=(*words[:start], *words[start + len(NO_LIMITS) :]))


def fill(server, *names):
    """Have people of these names come in, one after the other, and hear of each other; return them."""
    __tracebackhide__ = True
    peers = []
    for name in names:
        newcomer = server.enter(name)
        for peer in peers:
            peer.expect(f"* {name} joined\n".encode())
        peers.append(newcomer)
    return peers
