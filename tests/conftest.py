"""Options, fixtures, and the parametrisation of the tests over the models (see promises.py)."""

import contextlib
import functools
import importlib
import re
import shlex
import shutil
import signal
import socket
import tempfile
from pathlib import Path

import harness
import hypothesis
import pytest
from hypothesis.configuration import set_hypothesis_home_dir
from promises import MODELS, PROMISES, ROAD, foreign_model, is_spared, misspelt
from reaper import Reaper

# The same examples in every run, and nothing stored.
hypothesis.settings.register_profile(
    "suite",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile("suite")

LONG = {f"test_{name}" for name in ("wrong_servers", "check", "course_grade", "exercises", "nodes_faults", "sketches")}
REAPER, SERVERS, BROKEN, FIRST = (pytest.StashKey() for _ in range(4))


def pytest_addoption(parser):
    group = parser.getgroup("chat", "teaching chat")
    group.addoption("--start-within", type=float, default=5.0, help="seconds until a --server-cmd must listen (5)")
    group.addoption("--promises", help="these promises alone, or parts: slow, message.telnet, -slow.stall")
    group.addoption("--first", action="store_true", help="of each promise show the first failure alone")
    group.addoption(
        "--road",
        choices=["only", "without", "ends"],
        help="the growing road's tests alone; all but those; or of the contract's tests on that road those of its ends",
    )
    group.addoption("--deadline", type=float, help="seconds for anything that must happen (15 of a --server-cmd)")


def chosen(config, option, known, parts=False):
    """The names that an option lists, checked. `parts`: each may begin with `-`, and have a part after a dot."""
    names = [name for word in (config.getoption(option) or "").split(",") if (name := word.strip())]
    whole = [name.removeprefix("-").partition(".")[0] for name in names] if parts else names
    if unknown := [name for name in whole if name not in known]:
        raise pytest.UsageError(f"{option}: {', '.join(unknown)} is none of {', '.join(known)}")
    return names


def is_about(item, name):
    """Whether a test is one of a promise, or of a part of one: that is in its mark, or in the words of its name."""
    promise, _, part = name.partition(".")
    if promise_of(item) != promise:
        return False
    words = re.sub(r"[\W_]+", " ", item.name)
    return not part or item.get_closest_marker("promise").args[0] == name or f" {part} " in f" {words} "


def inherit_no_signals():
    """Undo what whoever started us (nohup, a shell's background, a supervisor) has ignored or blocked.

    What we start would inherit it: exec keeps what is ignored and blocked, and takes only handlers away.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python's own
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def pytest_configure(config):
    inherit_no_signals()
    config.addinivalue_line(
        "markers",
        "promise(name, instead='', needs=''): the promise that it holds, for the models that keep it, or that do "
        "something else instead; and that keep another promise, without which it cannot be tested",
    )
    config.addinivalue_line("markers", "plain(reason): not for a model that speaks TLS")
    config.addinivalue_line("markers", "long: it takes up to a minute, and so comes first")
    config.addinivalue_line("markers", "ours(reason): needs the log format or arguments of our own servers")
    config.addinivalue_line("markers", "theirs(reason): for a student's server alone")
    config.stash[BROKEN], config.stash[FIRST] = set(), {}
    chosen(config, "--promises", PROMISES, parts=True)
    chosen(config, "--like", [model.name for model in MODELS])
    command = config.getoption("--server-cmd")
    harness.DEADLINE = config.getoption("--deadline") or (harness.DEADLINE if command is None else 15.0)
    if command is not None:
        with usage_error("--server-cmd", ValueError):
            words = shlex.split(command)
        if not words:
            raise pytest.UsageError("--server-cmd: it is empty")
        if "{port}" not in command:
            raise pytest.UsageError("--server-cmd: say with {port} where the port goes")
    config.models = MODELS if command is None else [foreign_model(command, config.getoption("--like"))]


@contextlib.contextmanager
def usage_error(option, *errors):
    """Say what is wrong with an option in one line, before anything runs."""
    try:
        yield
    except errors as error:
        raise pytest.UsageError(f"{option}: {error}") from None


def pytest_sessionstart(session):
    """A student's server is started once: what cannot start at all is said once, and not by every test."""
    config = session.config
    if (command := config.getoption("--server-cmd")) is None or hasattr(config, "workerinput"):
        return
    config.stash[REAPER] = Reaper()
    (model,) = config.models
    with tempfile.TemporaryDirectory(prefix="chat-tests-", ignore_cleanup_errors=True) as folder:
        config.stash[REAPER].directory(folder)
        with usage_error("--server-cmd", harness.BrokenPromise):
            try:
                server = harness.Server(config.stash[REAPER], model, Path(folder) / "log", announce=False)
            except (OSError, ValueError) as error:
                raise harness.BrokenPromise(harness.why_not(model.command[0], error)) from None
            try:
                watch, allowed = harness.Stopwatch(server), config.getoption("--start-within")
                server.await_port(once=True)
                if (took := watch.lap()) > allowed:
                    raise harness.BrokenPromise(
                        f"{command} listens {took:.1f} seconds after its start, and may take {allowed:g}: "
                        "each test starts it anew"
                    )
            finally:
                server.kill()


def pytest_ignore_collect(collection_path, config):
    """For a student's server, leave out the files that hold no promise: they would need more to be installed."""
    if config.getoption("--server-cmd") is not None and collection_path.match("tests/test_*.py"):
        return True if b"mark.promise(" not in collection_path.read_bytes() else None
    return None


def pytest_report_header(config):
    return "servers: " + ", ".join(map(str, config.models))


def pytest_unconfigure(config):
    if REAPER in config.stash:
        config.stash[REAPER].close()


def promise_of(definition):
    """The promise that a test holds, or ""."""
    mark = definition.get_closest_marker("promise")
    return mark.args[0].partition(".")[0] if mark else ""


def pytest_generate_tests(metafunc):
    """Run a test for each model that keeps its promise, or that does the named thing instead."""
    if "model" not in metafunc.fixturenames:
        return

    def fits(model, promise, instead="", needs=""):
        return (
            model.instead(promise) == instead
            and model.is_held_to(instead)
            and not (needs and model.instead(needs))
            and not is_spared(model, promise)
        )

    mark = metafunc.definition.get_closest_marker("promise")
    if wrong := misspelt(*mark.args, **mark.kwargs):
        raise pytest.UsageError(f"{metafunc.definition.nodeid}: {wrong}")
    models = [model for model in metafunc.config.models if fits(model, *mark.args, **mark.kwargs)]
    metafunc.parametrize("model", models or [None], ids=str)


def on_the_road(item, model):
    """Whether a test is one of the growing road: of its servers, its own files, its pages, its wrong servers."""
    words = "test_road", "test_web_page", "features", "of_the_road"
    return bool(model and model.door) or any(word in item.nodeid for word in words)


def pytest_collection_modifyitems(config, items):
    """Leave out what was not asked for, and skip what cannot be had."""
    names, kept, dropped = chosen(config, "--promises", PROMISES, parts=True), [], []
    left_out = [name[1:] for name in names if name.startswith("-")]
    promises = [name for name in names if not name.startswith("-")]
    for name in [*promises, *left_out]:
        if "." in name and not any(is_about(item, name) for item in items):
            promise, _, part = name.partition(".")
            raise pytest.UsageError(f"--promises: no test of {promise} is about {part}")
    foreign, road = config.getoption("--server-cmd") is not None, config.getoption("--road")
    for item in items:
        promise = promise_of(item)
        if promise and promise not in PROMISES:
            raise pytest.UsageError(f"{item.nodeid}: no promise is called {promise}")
        model = item.callspec.params.get("model") if hasattr(item, "callspec") else None
        wanted = not promises or any(is_about(item, name) for name in promises)
        wanted = wanted and not any(is_about(item, name) for name in left_out)
        wanted = wanted and (model or "model" not in item.fixturenames)
        if road == "ends":
            wanted = wanted and not (promise and model in ROAD[1:-1])
        elif road and (road == "only") != on_the_road(item, model):
            wanted = False
        if not wanted or (foreign and not model) or (not foreign and item.get_closest_marker("theirs")):
            dropped.append(item)
            continue
        kept.append(item)
        item.user_properties.append(("promise", promise))
        ours = item.get_closest_marker("ours")
        if ours and model and model.foreign:
            item.add_marker(pytest.mark.skip(reason=f"needs our own servers: {ours.args[0]}"))
        plain = item.get_closest_marker("plain")
        if plain and model and model.tls:
            item.add_marker(pytest.mark.skip(reason=f"not through TLS: {plain.args[0]}"))
        if model and model.missing:
            item.add_marker(pytest.mark.skip(reason=model.missing))
    config.hook.pytest_deselected(items=dropped)
    items[:] = dealt(kept, int(getattr(config, "workerinput", {}).get("workercount", 1)))


def dealt(items, workers):
    """The items in an order that has no worker left alone with what takes longest in the end.

    pytest-xdist gives each worker a stretch of the list, and who is done steals from the end of another's. So each
    stretch has its share of what is long.
    """
    slow = [item for item in items if item.get_closest_marker("long") or item.path.stem in LONG]
    slow.sort(key=lambda item: not item.get_closest_marker("long"))
    long = set(slow)
    rest = [item for item in items if item not in long]
    order = []
    for worker in range(workers):
        share = slow[worker::workers]
        stretch = rest[len(rest) * worker // workers : len(rest) * (worker + 1) // workers]
        for number, item in enumerate(share):  # among others: while it waits, other workers use the processor
            order += [item, *stretch[len(stretch) * number // len(share) : len(stretch) * (number + 1) // len(share)]]
        order += stretch if not share else []
    return order


def pytest_runtest_setup(item):
    """With --first, leave a promise alone once it is broken."""
    if item.config.getoption("--first") and promise_of(item) in item.config.stash[BROKEN] - {""}:
        pytest.skip("this promise is broken already")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Add to a failure which promise is broken, what went over the wire, and the server's log."""
    report = yield
    if not report.failed:
        return report
    promise = promise_of(item)
    item.config.stash[BROKEN].add(promise)
    if promise:
        report.sections.append(("the promise", f"{promise}: {PROMISES[promise]}"))
    for server in item.stash.get(SERVERS, []):
        report.sections.append(("sent and come", server.describe()))
        report.sections.append(("the server's log", server.log_end))
    return report


CUT_SHORT = "???"  # what pytest-xdist gives for the time of a report on a test whose worker has died


def pytest_runtest_logreport(report):
    """Where all reports come together. (Each worker knows of its own alone.)"""
    if report.when == CUT_SHORT:
        path, _, name = report.nodeid.partition("::")
        test = getattr(importlib.import_module(Path(path).stem), name.partition("[")[0])
        marks = [mark.args[0] for mark in getattr(test, "pytestmark", []) if mark.name == "promise"]
        report.user_properties.append(("promise", marks[0].partition(".")[0] if marks else ""))


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(report, config):
    """With --first, a promise that is broken is left alone, also by those who did not know of it yet."""
    if not config.getoption("--first") or not report.failed or hasattr(config, "workerinput"):
        return
    name, first = dict(report.user_properties).get("promise"), config.stash[FIRST]
    if name and first.setdefault(name, report.nodeid) != report.nodeid:
        report.outcome, report.longrepr = "skipped", (*report.location[:2], "this promise is broken already")


def pytest_terminal_summary(terminalreporter):
    """For a student's server: which promises it keeps. A failure and what follows from it in the end are one."""
    if terminalreporter.config.getoption("--server-cmd") is None:
        return
    tests = {name: {kind: set() for kind in ("passed", "failed", "skipped", "cut short")} for name in PROMISES}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if name := dict(report.user_properties).get("promise"):
                kind = "cut short" if report.when == CUT_SHORT else "failed" if outcome == "error" else outcome
                tests[name][kind].add(report.nodeid)
    terminalreporter.section("promises")
    for name, kinds in tests.items():
        terminalreporter.line(f"{name:10} {verdict(kinds)}")


def verdict(kinds):
    """What the summary says of a promise: what was not tested is not said to be kept."""
    counts = {kind: f"{len(tests)} test{'s' * (len(tests) > 1)}" for kind, tests in kinds.items()}
    if kinds["failed"]:
        return f"BROKEN in {counts['failed']}"
    if kinds["cut short"]:
        return f"UNKNOWN: {counts['cut short']} did not end, as pytest's worker was killed"
    if not kinds["passed"]:
        return "not tested"
    return f"kept in {counts['passed']}" + (f", not tested in {len(kinds['skipped'])}" if kinds["skipped"] else "")


@pytest.fixture(scope="session", autouse=True)
def many_descriptors():
    """Allow pytest itself, which is every client, as many descriptors as it may have."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 20000 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


@pytest.fixture(scope="session")
def reaper(pytestconfig):
    """What ends everything that the tests have started, whatever happens to pytest."""
    if REAPER not in pytestconfig.stash:
        pytestconfig.stash[REAPER] = Reaper()
    return pytestconfig.stash[REAPER]


@pytest.fixture(scope="session")
def scratch_root(reaper):
    """A directory for this pytest process, which goes when it goes."""
    path = Path(tempfile.mkdtemp(prefix="chat-tests-"))
    reaper.directory(path)
    set_hypothesis_home_dir(path / "hypothesis")
    return path


@pytest.fixture
def scratch(scratch_root):
    """An empty directory for one test."""
    path = Path(tempfile.mkdtemp(dir=scratch_root))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def log_path(scratch):
    """A function that names a new log file."""
    names = (scratch / f"log{number}" for number in range(1000))
    return lambda: next(names)


@pytest.fixture
def run(reaper, log_path):
    """Start any program: `run(["nc", ...], stdin=subprocess.PIPE)` gives a harness.Process."""
    processes = []

    def start(command, **options):
        processes.append(harness.Process(reaper, command, log_path(), **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


@pytest.fixture
def terminal(reaper):
    """Start a program on a terminal of its own: `terminal(["telnet", ...])` gives a harness.Terminal."""
    children = []

    def spawn(command, **options):
        child = harness.Terminal(command, **options)
        reaper.begin_group(child.pid)
        children.append(child)
        return child

    yield spawn
    for child in children:
        child.end()
        reaper.end_group(child.pid)


@pytest.fixture
def serve(request, reaper, log_path):
    """Start the server of a model that the test names: `serve("poll_based")` gives a harness.Room."""
    servers = request.node.stash.setdefault(SERVERS, [])
    models = {model.name: model for model in MODELS}

    def start_server(model, *args, **options):
        model = models.get(model, model)
        servers.append(harness.Room(reaper, model, log_path(), *args, **options))
        return servers[-1]

    yield start_server
    for server in servers:
        server.close()
    for server in servers:
        _, found, rest = server.log.partition("Traceback")
        if found and not server.model.foreign:
            raise harness.BrokenPromise(f"the log has a traceback: {rest[:2000]}")


@pytest.fixture
def command(model, scratch):
    """The words with which the test's model is started, for tests that start it by other means than `start`."""
    return model.words(scratch / "files")


@pytest.fixture
def start(model, serve):
    """Start a server of the test's model: `start(nofile=64)` gives a harness.Room."""
    return functools.partial(serve, model)


@pytest.fixture
def server(start):
    """A server of the model, listening. It must still be running when the test is over."""
    server = start()
    yield server
    if not server.running:
        raise harness.BrokenPromise(f"the server ended {harness.ending(server.popen.returncode)}:\n{server.log_end}")


@pytest.fixture
def needs_ipv6():
    """Skip where the machine has no IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6: {error}")
