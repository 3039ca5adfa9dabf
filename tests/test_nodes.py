"""nodes/: many server processes and one room, over NATS JetStream, with nothing at fault."""

import pytest
from cluster import NODES, Nats, compare, number, skip_without_nats

skip_without_nats()


@pytest.fixture
def nats(run, scratch):
    """A NATS server of the test's own."""
    return Nats(run, scratch / "nats")


@pytest.fixture
def nodes(serve, nats):
    """Start nodes: `nodes(3)`."""
    return lambda count, *args: [serve(NODES, "--nats", nats.url, *args) for _ in range(count)]


def test_all_hear_all_in_one_order(nodes):
    first, second, third = nodes(3)
    listener = first.enter("listener")
    ana, bob, carla = first.enter("ana"), second.enter("bob"), third.enter("carla")
    for peer in ana, bob, carla:
        number(peer, 0, 200)
    rest = compare(listener, [ana, bob, carla], 200)
    assert rest == {
        "listener": ["* ana joined\n", "* bob joined\n", "* carla joined\n"],
        "ana": ["* bob joined\n", "* carla joined\n"],
        "bob": ["* carla joined\n"],
        "carla": [],
    }
