"""A plugin for pytest: several students' servers in one run, each held to a few tests.

`pytest -p many_servers --servers=FILE --server-cmd ANY` reads from the file, which is JSON, for each server its name,
its command, and its tests, with the seconds that something may take in each; and writes there, for each server, the
tests that ran, with the failure of each, or "". A test is named without the server: `test_cleaning[controls]`.
(The session begins with a start of `--server-cmd` alone, as ever.)
"""

import dataclasses
import json
import re
from pathlib import Path

import harness
import pytest
from promises import foreign_model

RAN = pytest.StashKey()
CHURN = 500  # clients that come and go: of what is kept of each of these, too, it can be seen that it grows


def pytest_addoption(parser):
    parser.addoption("--servers", type=Path, required=True, help="the JSON file")


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session):
    config = session.config
    servers = json.loads(config.getoption("--servers").read_text())
    config.models = [
        dataclasses.replace(foreign_model(server["command"]), name=name, churn=CHURN)
        for name, server in servers.items()
    ]
    config.stash[RAN] = {name: {} for name in servers}
    config.servers = servers


def its_name(item, model):
    """The name of a test without the server's."""
    return re.sub(r"\[\]$", "", re.sub(rf"\[{model}-?", "[", item.name))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """Keep the tests that are wanted of each server; those that it is to fail come first."""
    kept = []
    for item in items:
        model = item.callspec.params["model"].name
        wanted = config.servers[model]["tests"]
        if (name := its_name(item, model)) in wanted:
            item.user_properties += [("server", model), ("test", name)]
            kept.append(item)
    found = {(dict(item.user_properties)["server"], dict(item.user_properties)["test"]) for item in kept}
    if missing := {(name, test) for name, server in config.servers.items() for test in server["tests"]} - found:
        raise pytest.UsageError(f"there are no such tests: {sorted(missing)}")
    items[:] = kept


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """What must happen has more time in some tests than in others."""
    about = dict(item.user_properties)
    harness.DEADLINE = item.config.servers[about["server"]]["tests"][about["test"]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    about, ran = dict(item.user_properties), item.config.stash[RAN]
    if not report.skipped:
        tests = ran[about["server"]]
        tests[about["test"]] = tests.get(about["test"], "") or (report.longreprtext if report.failed else "")
    return report


def pytest_sessionfinish(session):
    session.config.getoption("--servers").write_text(json.dumps(session.config.stash[RAN]))
