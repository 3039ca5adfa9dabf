"""The bench sees what is wrong: servers known to lose, to repeat, to reorder, to tear, to die."""

import contextlib
import importlib.util
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "bench"
LINUX = sys.platform == "linux"
pytestmark = pytest.mark.skipif(not LINUX, reason="the bench needs epoll and /proc")

# A chat of the plainest kind, whose FAULT is put in where it says so.
FAULTY = """
import os, selectors, socket, sys
fault, port = sys.argv[1], int(sys.argv[2])
selector, clients, told, held = selectors.DefaultSelector(), {}, 0, {}
listener = socket.create_server(("127.0.0.1", port), backlog=200)
selector.register(listener, selectors.EVENT_READ)

def tell(sock, line):
    global told
    plain = b"everybody" in line  # the probes by which the load sees that all have joined
    told += not plain
    if told % 50 or plain or not fault:
        sock.sendall(line + held.pop(sock, b""))
    elif fault == "duplicate":
        sock.sendall(line + line)
    elif fault == "reorder":
        held[sock] = line
    elif fault == "tear":
        sock.sendall(line[: len(line) // 2] + line)
    elif fault == "mix":
        sock.sendall(line.replace(b"127.0.0.1:", b"127.0.0.2:"))
    elif fault == "cut":
        sock.close()
    elif fault == "die" and told >= 1000:
        os._exit(3)
    elif fault in ("die", "cut"):
        sock.sendall(line)

while True:
    for key, _ in selector.select():
        sock = key.fileobj
        if sock is listener:
            sock, address = listener.accept()
            if fault == "refuse":
                sock.close()
                continue
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            clients[sock] = b"%s:%d says: " % (address[0].encode(), address[1]), b""
            selector.register(sock, selectors.EVENT_READ)
            continue
        head, received = clients[sock]
        try:
            data = sock.recv(4096)
        except OSError:
            data = b""
        if not data:
            selector.unregister(sock)
            del clients[sock]
            sock.close()
            continue
        *lines, received = (received + data).split(b"\\n")
        clients[sock] = head, received
        for line in lines:
            for other in list(clients):
                if other is not sock or fault == "echo":
                    try:
                        tell(other, head + line + b"\\n")
                    except OSError:
                        pass
"""
needs_c = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
INNER_LOOPS = [pytest.param([], id="C", marks=needs_c), pytest.param(["--without-c"], id="Python")]


@pytest.fixture(autouse=True)
def bench_modules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))


@pytest.fixture
def running(reaper):
    """Start a server as the bench does it."""
    import servers

    with contextlib.ExitStack() as stack:

        def start(server):
            started = stack.enter_context(servers.Running(server))
            reaper.begin_group(started.process.pid)
            stack.callback(reaper.end_group, started.process.pid)
            return started

        yield start


@pytest.fixture
def faulty(running, scratch):
    """Start a server with the given fault, or with none."""
    import servers

    script = scratch / "faulty.py"
    script.write_text(FAULTY)
    return lambda fault="": running(servers.other("faulty", sys.executable, str(script), fault, "{port}"))


def load(running, *arguments):
    command = [sys.executable, str(BENCH / "load.py"), str(running.port), "--pid", str(running.process.pid)]
    command += ["--seconds", "0.3", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def faults(result):
    return {name for name in ("lost", "duplicated", "reordered", "torn", "own") if result[name]}


@pytest.mark.parametrize("inner_loop", INNER_LOOPS)
class TestWhatIsWrongIsSeen:
    def test_nothing_is_wrong(self, faulty, inner_loop):
        result = load(faulty(), "--clients", 5, "--in-flight", 4, *inner_loop)
        assert result["faultless"]
        assert not faults(result)
        assert result["delivered"] > 100
        assert result["cpu_us_per_line"] > 0
        assert result["memory_joined"] > 1_000_000

    def test_lost(self, faulty, inner_loop):
        result = load(faulty("lose"), "--clients", 5, "--in-flight", 4, *inner_loop)
        assert result["lost"] >= result["delivered"] // 100
        assert faults(result) == {"lost"}
        assert not result["faultless"]

    def test_duplicated(self, faulty, inner_loop):
        result = load(faulty("duplicate"), "--clients", 5, "--in-flight", 4, *inner_loop)
        assert faults(result) == {"duplicated"}

    def test_reordered(self, faulty, inner_loop):
        result = load(faulty("reorder"), "--clients", 2, "--talkers", 1, "--in-flight", 8, *inner_loop)
        assert result["reordered"] > 0
        assert not faults(result) - {"reordered", "lost"}  # the last one held back is never sent

    def test_torn(self, faulty, inner_loop):
        result = load(faulty("tear"), "--clients", 5, "--in-flight", 4, *inner_loop)
        assert result["torn"] > 0
        assert not result["duplicated"]

    def test_in_another_name(self, faulty, inner_loop):
        result = load(faulty("mix"), "--clients", 5, "--in-flight", 4, *inner_loop)
        assert result["torn"] > 0

    def test_own_lines(self, faulty, inner_loop):
        result = load(faulty("echo"), "--clients", 5, "--in-flight", 4, *inner_loop)
        assert result["own"] > 0

    def test_cut_off(self, faulty, inner_loop):
        result = load(faulty("cut"), "--clients", 5, "--in-flight", 4, *inner_loop)
        assert result["disconnected"] > 0
        assert not result["faultless"]

    def test_refused(self, faulty, inner_loop):
        result = load(faulty("refuse"), "--clients", 5, *inner_loop)
        assert result["refused"] == 5
        assert not result["measured"]

    def test_death(self, faulty, inner_loop):
        begin = time.monotonic()
        result = load(faulty("die"), "--clients", 5, "--in-flight", 4, "--seconds", 30, *inner_loop)
        assert result["died"]
        assert not result["faultless"]
        assert time.monotonic() - begin < 20  # it does not wait for the rest of the 30 seconds

    def test_delay_counts_from_when_a_line_was_due(self, faulty, inner_loop):
        """The server is stopped for a while: the lines that were due meanwhile have waited."""
        running = faulty()

        pid = running.process.pid
        before = len(os.listdir(f"/proc/{pid}/fd"))

        def hold():
            while len(os.listdir(f"/proc/{pid}/fd")) < before + 3:  # the load has not come yet
                time.sleep(0.01)
            time.sleep(1.0)
            os.kill(running.process.pid, signal.SIGSTOP)
            time.sleep(0.5)
            os.kill(running.process.pid, signal.SIGCONT)

        holder = threading.Thread(target=hold)
        holder.start()
        arguments = "--mode", "steady", "--clients", 3, "--rate", 200, "--seconds", 3
        latency = load(running, *arguments, *inner_loop)["latency_us"]
        holder.join()
        assert latency["lines"] == 2 * 600
        assert latency["max"] > 300_000
        assert latency["p99"] > 200_000  # a sixth of the lines waited a quarter of a second on average
        assert latency["p50"] < 100_000


def test_a_line_byte_by_byte(faulty):
    result = load(faulty(), "--mode", "bits", "--clients", 3, "--rate", 2000, "--size", 200)
    assert result["faultless"]
    assert result["bits"] >= 199
    assert result["cpu_us_per_bit"] > 0


def test_coming_and_going(faulty):
    result = load(faulty(), "--mode", "churn", "--clients", 3)
    assert result["faultless"]
    assert result["visits"] > 20
    assert not result["visits_failed"]


def test_one_that_never_reads(faulty):
    """A server that blocks on it stands still: seen as a pause, and as lines that never came."""
    result = load(faulty(), "--clients", 3, "--in-flight", 50, "--size", 4000, "--deaf", 1, "--seconds", 1.5)
    assert result["deaf_dropped"] == 0
    assert result["stalls"] > 0
    assert result["longest_pause"] > 0.4


@needs_c
def test_the_limit_keeps_the_contract_that_is_measured(running):
    import servers

    limit = running(servers.known_servers()["limit"])
    result = load(limit, "--clients", 20, "--in-flight", 16)
    assert result["faultless"], result
    result = load(limit, "--clients", 5, "--in-flight", 50, "--size", 4000, "--deaf", 1, "--seconds", 1)
    assert result["faultless"], result
    assert result["deaf_dropped"] == 1


@pytest.fixture(scope="module")
def small_run(scratch_root):
    """One run of run.py, with a server that loses lines, one that is not there, and the limit."""
    for module in ("matplotlib", "rich"):
        if not importlib.util.find_spec(module):
            pytest.skip(f"needs {module}: pip install '.[bench]'")
    where = scratch_root / "bench"
    where.mkdir()
    (where / "faulty.py").write_text(FAULTY)
    command = [
        sys.executable,
        str(BENCH / "run.py"),
        "--seconds",
        "0.2",
        "--rounds",
        "2",
        "--output",
        "result.json",
    ]
    command += ["--servers", "limit"] if shutil.which("cc") else ["--servers", "poll_based"]
    command += ["--scenarios", "few,steady,room-10,quiet-10"]
    command += ["--server-cmd", f"loser={sys.executable} {where}/faulty.py lose {{port}}"]
    command += ["--server-cmd", f"absentee={sys.executable} {where}/nothing.py {{port}}"]
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    return where, done.stdout


def test_run_says_what_it_will_do_and_what_was_wrong(small_run):
    where, out = small_run
    assert "4 scenarios, 2 rounds: 24 times 0.2 s" in out
    assert " s; Ctrl-C" in out
    rows = [line for line in out.splitlines() if "loser" in line]
    assert any("lost: " in row for row in rows)
    assert "absentee does not listen" in " ".join(out.split())
    result = json.loads((where / "result.json").read_text())
    assert result["machine"]["processor"]
    assert len(result["measurements"]) == 24
    lines = [m for m in result["measurements"] if m["server"] == "loser" and m["scenario"] == "few"]
    assert all(m["lost"] and not m["faultless"] for m in lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_halfway_it_leaves_no_process_behind(scratch, needs_extra, number):
    (scratch / "faulty.py").write_text(FAULTY)
    command = [
        sys.executable,
        str(BENCH / "run.py"),
        "--seconds",
        "20",
        "--scenarios",
        "few",
        "--rounds",
        "1",
    ]
    command += ["--servers", "poll_based", "--output", "result.json"]
    command += ["--server-cmd", f"mine={sys.executable} {scratch}/faulty.py no {{port}}"]
    from meter import ServerMeter

    run = subprocess.Popen(command, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while "round 1" not in run.stdout.readline():
            assert run.poll() is None, run.stderr.read()
        deadline = time.monotonic() + 20
        while len(family := ServerMeter(run.pid).family()) < 3:  # run.py, the server and the load
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(number)
        run.communicate(timeout=20)
    finally:
        run.kill()
        run.wait()
    assert not [pid for pid in family if ServerMeter(pid).alive()]


def test_plots_same_input_same_bytes(small_run):
    import plot

    where, _ = small_run
    path = where / "result.json"
    drawn = {made: made.read_bytes() for made in where.glob("result-*.svg")}
    assert {"result-growth.svg", "result-latency.svg"} <= {made.name for made in drawn}
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    subprocess.run(
        [sys.executable, str(BENCH / "plot.py"), str(path)], check=True, env=environment, capture_output=True
    )
    for made, content in drawn.items():
        assert made.read_bytes() == content, made
        assert plot.INK.encode() in content
        assert xml.etree.ElementTree.fromstring(content).tag.endswith("svg")
        assert b"\xc2\xb5s" in content or b"lines delivered" in content  # units


def test_figures_are_filled_in_and_checked(small_run, scratch):
    import readmes

    where, _ = small_run
    result = json.loads((where / "result.json").read_text())
    readme = scratch / "README.md"
    readme.write_text(
        "before\n<!-- bench:table few --><!-- /bench -->\nIt takes "
        "<!-- bench:value few loser cpu_us_per_line -->nothing<!-- /bench --> a line.\n"
        "<!-- bench:machine --><!-- /bench -->\n<!-- bench:model loser -->\nold\n<!-- /bench -->\nafter\n"
    )
    assert readmes.fill(result, write=False, root=scratch) == ["README.md"]
    assert readmes.fill(result, write=True, root=scratch) == ["README.md"]
    text = readme.read_text()
    assert "| `loser` |" in text
    assert " µs<!-- /bench --> a line." in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert readmes.fill(result, write=False, root=scratch) == []
    readme.write_text(text.replace(" µs<!--", "1 µs<!--"))
    assert readmes.fill(result, write=False, root=scratch) == ["README.md"]
    readme.unlink()
    deep = scratch / "features" / "names" / "more" / "PAGE.md"
    for page, seen in ((deep, True), (scratch / ".venv" / "README.md", False)):
        page.parent.mkdir(parents=True)
        page.write_text("<!-- bench:model loser --><!-- /bench -->")
        assert bool(readmes.fill(result, write=False, root=scratch)) is seen
        page.unlink()


@pytest.mark.parametrize(
    "mark",
    [
        "<!-- bench:value few nobody cpu_us_per_line --><!-- /bench -->",
        "<!-- bench:share few poll_based nonsense --><!-- /bench -->",
        "<!-- bench:model nobody -->\n<!-- /bench -->",
        "<!-- bench:model -->\n<!-- /bench -->",
        "<!-- bench:table nothing -->\n<!-- /bench -->",
        "<!-- bench:table -->\n<!-- /bench -->",
        "<!-- bench:nonsense -->\n<!-- /bench -->",
        "<!-- bench: model poll_based -->\n<!-- /bench -->",
        "<!-- bench:model poll_based\n",
        "<!-- bench:model poll_based -->\n",
        "<!-- bench:model poll_based -->\n<!-- bench:machine -->\n<!-- /bench -->",
        "<!-- /bench -->",
    ],
)
def test_a_mark_for_which_there_is_nothing_is_refused(scratch, mark):
    """Also one that is half a mark: what it is about would never be made anew."""
    import readmes

    result = json.loads((BENCH / "results" / "published.json").read_text())
    (scratch / "README.md").write_text(f"<!-- bench:machine -->\nold\n<!-- /bench -->\n{mark}")
    with pytest.raises(SystemExit, match=r"README\.md: .*<!-- "):
        readmes.fill(result, write=True, root=scratch)
    assert "old" in (scratch / "README.md").read_text()


def test_the_figures_in_the_pages_are_those_of_the_published_result():
    published = BENCH / "results" / "published.json"
    if not published.exists():
        pytest.skip("nothing is published yet")
    done = subprocess.run([sys.executable, str(BENCH / "plot.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_step_costs_is_filled_in(scratch):
    """A table of all steps is made of a result, and is made anew when it is not of that."""
    import growing

    result = json.loads(growing.RESULT.read_text())
    assert len(result["measurements"]) == result["rounds"] * len(growing.SCENARIOS) * (len(growing.COMPARED) + 2)
    page = scratch / "features" / "README.md"
    page.parent.mkdir()
    page.write_text("before\n<!-- road:all -->\nold\n<!-- /road -->\nafter\n")
    assert growing.fill(result, write=False, root=scratch) == ["features/README.md"]
    assert "old" in page.read_text()
    assert growing.fill(result, write=True, root=scratch) == ["features/README.md"]
    text = page.read_text()
    assert re.fullmatch(r"before\n<!-- road:all -->\n(\| .* \|\n)+<!-- /road -->\nafter\n", text)
    for step in growing.COMPARED:
        assert re.search(rf"^\| `{step}` \|.*\|( \d+\.\d\d times \|){{4}}$", text, re.MULTILINE)
    assert growing.fill(result, write=False, root=scratch) == []


def test_the_figures_of_the_growing_road_are_those_of_its_result():
    done = subprocess.run([sys.executable, str(BENCH / "growing.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["rich", "matplotlib"])
def test_what_is_missing_is_named(bench, scratch, module):
    """Also what is needed for the plots alone, and before anything is measured."""
    for name in ("rich", "matplotlib"):
        (scratch / f"{name}.py").write_text(f"raise ImportError('no', name='{name}')" if name == module else "")
    if module == "matplotlib":
        pytest.importorskip("rich", reason="needs rich: pip install '.[bench]'")
        (scratch / "rich.py").unlink()
    done = bench("run.py", *SHORT, PYTHONPATH=str(scratch))
    assert done.returncode == 1
    assert f"needs {module}" in done.stderr
    assert ".[bench]" in done.stderr
    assert not done.stdout


SHORT = "--servers", "poll_based", "--scenarios", "few", "--seconds", "0.05", "--rounds", "1", "--output", "result.json"
PLAIN_LOCALE = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


@pytest.fixture
def bench(scratch):
    """Run a program of the bench to its end: `bench("plot.py", "--check", PYTHONIOENCODING="ascii")`."""

    def run(program, *arguments, options=(), **environment):
        command = [sys.executable, str(BENCH / program), *map(str, arguments)]
        environment = {**os.environ, **environment}
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **dict(options)}
        return subprocess.run(command, cwd=scratch, env=environment, encoding="latin-1", timeout=240, **pipes)

    return run


@pytest.fixture
def needs_extra():
    for module in ("matplotlib", "rich"):
        pytest.importorskip(module, reason=f"needs {module}: pip install '.[bench]'")


def measurements(path):
    """Whoever reads the file at any moment finds a whole one."""
    return json.loads(path.read_text())["measurements"] if path.exists() else []


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "latin-1"}, {"PYTHONIOENCODING": "ascii:strict"}, PLAIN_LOCALE],
    ids=["latin-1", "ascii", "locale"],
)
def test_what_cannot_be_encoded_is_shown_more_plainly(bench, scratch, needs_extra, environment):
    done = bench("run.py", *SHORT, **environment)
    assert done.returncode == 0, done.stderr
    assert len(measurements(scratch / "result.json")) == 1
    assert "| poll_based |" in done.stdout
    assert "Medians (lowest-highest round)" in done.stdout


@pytest.mark.parametrize("how", ["cut", "full", "closed"])
def test_without_standard_output_the_result_is_saved(bench, scratch, needs_extra, how):
    if how == "cut":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full", os.O_WRONLY)
    options = {"stdout": writing}
    if how == "closed":
        options["preexec_fn"] = lambda: os.close(1)
    try:
        done = bench("run.py", *SHORT, options=options)
    finally:
        os.close(writing)
    assert len(measurements(scratch / "result.json")) == 1
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert str(scratch / "result.json") in done.stderr


def test_cut_while_it_measures(scratch, needs_extra):
    """As `| head -6` does it."""
    command = [sys.executable, str(BENCH / "run.py"), *SHORT[:-4], "--rounds", "3", "--output", "result.json"]
    run = subprocess.Popen(command, cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while "round 1" not in run.stdout.readline():
            assert run.poll() is None
        run.stdout.close()
        _, err = run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == 0
    assert len(measurements(scratch / "result.json")) == 3
    assert len(err.splitlines()) == 1, err


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_whatever_ends_it_leaves_what_was_measured(scratch, needs_extra, name, reaper):
    """The result is saved as it comes; a kill -9 alone leaves no time to say where."""
    number = signal.Signals[name]
    command = [sys.executable, str(BENCH / "run.py"), *SHORT[:-4], "--rounds", "999", "--output", "result.json"]
    run = subprocess.Popen(
        command, cwd=scratch, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    reaper.begin_group(run.pid)
    result = scratch / "result.json"
    from meter import ServerMeter

    family = []
    try:
        deadline = time.monotonic() + 60
        while len(seen := measurements(result)) < 2:
            assert run.poll() is None, run.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        family = ServerMeter(run.pid).family()[1:]
        run.send_signal(number)
        _, err = run.communicate(timeout=30)
    finally:
        run.kill()
        run.wait()
        for pid in family:  # a kill -9 leaves them behind
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reaper.end_group(run.pid)
    assert measurements(result)[:2] == seen[:2]
    if name != "SIGKILL":
        assert run.returncode == 128 + number
        assert len(err.splitlines()) == 1, err
        assert str(result) in err
        assert not list(scratch.glob(".bench-*"))


def test_a_round_that_was_interrupted_is_kept_and_not_counted():
    import report

    def measurement(number, server, speed):
        figures = {"lines_per_second": speed}
        return {"round": number, "server": server, "scenario": "few", "measured": True, **figures}

    rounds = [measurement(0, "mine", 50), measurement(0, "yours", 10), measurement(1, "mine", 80)]
    result = {"scenarios": ["few"], "servers": {"mine": {}, "yours": {}}, "measurements": rounds, "rounds": 5}
    result["whole_rounds"] = 1
    assert report.rounds_of(result) == 1
    assert report.summarise(result)["few"]["mine"].figures["lines_per_second"].median == 50
    result["whole_rounds"], result["measurements"] = 0, rounds[:1]
    assert report.summarise(result)["few"]["mine"].figures["lines_per_second"].median == 50


def test_a_place_where_nothing_can_be_saved_is_found_out_before(bench, scratch, needs_extra):
    (scratch / "file").write_text("")
    os.mkfifo(scratch / "fifo")
    for place in ("file/result.json", "fifo", ".", "x" * 300, "/proc/result.json"):
        done = bench("run.py", *SHORT[:-1], place)
        assert done.returncode == 1, place
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert "cannot be saved" in done.stderr
        assert not done.stdout
    assert (scratch / "fifo").is_fifo()


def test_a_folder_is_made_and_a_link_stays_a_link(bench, scratch, needs_extra):
    (scratch / "link.json").symlink_to("new/folder/result.json")
    done = bench("run.py", *SHORT[:-1], "link.json")
    assert done.returncode == 0, done.stderr
    assert (scratch / "link.json").is_symlink()
    assert len(measurements(scratch / "new" / "folder" / "result.json")) == 1


def test_a_disk_that_fills_up_ends_the_run_with_what_was_saved(bench, scratch, needs_extra):
    import compiled

    compiled.compiled("hot.c", "-shared", "-fPIC")  # is larger than what may be written from now on
    full = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))}
    done = bench("run.py", *SHORT[:-4], "--rounds", 30, "--output", "result.json", options=full)
    assert done.returncode == 1
    assert f"{scratch}/result.json: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert 1 <= len(measurements(scratch / "result.json")) < 30
    assert "poll_based" in done.stdout.partition("Medians")[0]
    assert not list(scratch.glob(".bench-*"))


def test_an_old_file_stays_as_it_was_when_there_is_no_room(scratch):
    path = scratch / "old.json"
    path.write_text("old")
    path.chmod(0o640)
    program = "import sys; from pathlib import Path; from output import save; save(Path(sys.argv[1]), b'new' * 1000)"
    command = [sys.executable, "-c", program, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(BENCH), "PYTHONDONTWRITEBYTECODE": "1"}

    def few_bytes():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    done = subprocess.run(command, env=environment, preexec_fn=few_bytes, capture_output=True, text=True)
    assert "File too large" in done.stderr
    assert [entry.name for entry in scratch.iterdir()] == ["old.json"]
    assert path.read_text() == "old"
    subprocess.run(command, env=environment, check=True)
    assert path.read_text() == "new" * 1000
    assert path.stat().st_mode & 0o777 == 0o640


WRONG = [
    "run.py --rounds 0",
    "run.py --rounds -1",
    "run.py --rounds some",
    "run.py --seconds nan",
    "run.py --seconds 0",
    "run.py --seconds inf",
    "run.py --server-cores first",
    "run.py --server-cores 4096",
    "run.py --load-core 4096",
    "run.py --servers nobody",
    "run.py --servers=",
    "run.py --servers poll_based,poll_based",
    "run.py --scenarios=",
    "run.py --scenarios few,few",
    "run.py --server-cmd x=true",
    "run.py --server-cmd =true_{port}",
    "run.py --server-cmd x='{port}",
    "run.py --server-cmd x=./nothing_{port}",
    "run.py --server-cmd x=/etc/passwd_{port}",
    "run.py --server-cmd poll_based=true_{port}",
    "run.py --nonsense",
    "load.py",
    "load.py 0",
    "load.py 65536",
    "load.py 9 --seconds nan",
    "load.py 9 --rate 0",
    "load.py 9 --size 23",
    "load.py 9 --clients 1",
    "load.py 9 --clients 16385",
    "load.py 9 --in-flight 0",
    "load.py 9 --at-once 0",
    "load.py 9 --deaf -1",
    "load.py 9 --pid 0",
    "plot.py",
    "plot.py --nonsense",
]


@pytest.mark.parametrize("words", WRONG)
def test_arguments_that_make_no_sense(bench, words, request):
    if words.startswith("run.py"):
        request.getfixturevalue("needs_extra")
    program, *arguments = words.split()
    done = bench(program, *(argument.replace("_{", " {") for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"bench/{program}: ")
    assert not done.stdout


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"measurements": [', "\0\xff"])
def test_a_file_that_is_no_result(bench, scratch, content):
    (scratch / "result.json").write_bytes(content.encode("latin-1"))
    done = bench("plot.py", "result.json")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_the_check_of_the_pages_needs_no_locale(bench):
    done = bench("plot.py", "--check", **PLAIN_LOCALE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("how, why", [("kill -ILL $$", "SIGILL"), ("exit 3", "status 3")])
def test_a_server_that_ends_without_a_word(running, how, why):
    import servers

    with pytest.raises(RuntimeError, match=rf"mute does not listen: it said nothing; it .* {why}"):
        running(servers.other("mute", "sh", "-c", how, "{port}"))


@pytest.mark.parametrize(
    "load_does, why",
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("print('{\"measured\": true, ', flush=True); os.kill(os.getpid(), signal.SIGILL)", "SIGILL"),
        ("print('{\"measured\": true, ', flush=True)", "it said nothing"),
        ("sys.exit(4)", "status 4"),
    ],
)
def test_a_load_that_ends_without_a_result(monkeypatch, scratch, needs_extra, load_does, why):
    import run
    import scenarios
    import servers

    (scratch / "load.py").write_text(f"import os, signal, sys\n{load_does}\n")
    monkeypatch.setattr(run, "BENCH", scratch)
    cores = os.sched_getaffinity(0)
    server = servers.known_servers()["poll_based"]
    result = run.measure(server, scenarios.BY_NAME["few"], 0.05, (cores, cores))
    assert not result["measured"]
    assert why in result["error"]


def test_a_server_that_dies_or_cannot_be_started_is_a_result(bench, scratch, needs_extra):
    (scratch / "faulty.py").write_text(FAULTY)
    (scratch / "no_program").write_text("neither a script nor a program")
    (scratch / "no_program").chmod(0o755)
    (scratch / "says").write_text("#!/bin/sh\necho '[/usr/bin/x] [bold]no[/nothing]'")
    (scratch / "says").chmod(0o755)
    commands = [f"dier={sys.executable} faulty.py die {{port}}", "no$_$one=./no_program {port}", "[/x]=./says {port}"]
    words = [word for command in commands for word in ("--server-cmd", command)]
    done = bench("run.py", *SHORT, *words, PYTHONIOENCODING="utf-8")
    assert done.returncode == 0, done.stderr
    by_name = {m["server"]: m for m in measurements(scratch / "result.json")}
    assert by_name["poll_based"]["faultless"]
    assert by_name["dier"]["died"]
    assert by_name["dier"]["error"] == "dier ended: it said nothing; it ended with status 3"
    assert by_name["no$_$one"]["error"] == "no$_$one cannot be started: Exec format error"
    assert "[/usr/bin/x] [bold]no[/nothing]" in by_name["[/x]"]["error"]
    assert "[/x]" in done.stdout


def test_a_compiler_that_cannot_compile_is_one_line(bench, scratch, needs_extra):
    cc = scratch / "cc"
    for does, why in (("echo hot.c:7: error: no >&2; exit 1", "error: no"), ("kill -ILL $$", "SIGILL")):
        cc.write_text(f"#!/bin/sh\n{does}\n")
        cc.chmod(0o755)
        path = f"{scratch}:{os.environ['PATH']}"
        for program, arguments in (("run.py", SHORT), ("load.py", ("9",))):
            done = bench(program, *arguments, PATH=path, TMPDIR=str(scratch))
            assert done.returncode == 1
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert "cc cannot compile hot.c" in done.stderr
            assert why in done.stderr


def test_a_process_may_have_any_name():
    """The meter reads those of all processes of the machine."""
    from meter import ServerMeter

    program = "open('/proc/self/comm', 'wb').write(b'\\xff) (\\xfe'); print('named', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"named\n"
        meter = ServerMeter(child.pid)
        assert meter.alive()
        assert child.pid in ServerMeter(os.getpid()).family()
        assert meter.cpu() > 0
        assert meter.peak() > 0
    finally:
        child.communicate()


def test_shares_are_taken_within_a_round():
    import report

    def measurement(number, server, speed, cost):
        figures = {"lines_per_second": speed, "cpu_us_per_line": cost}
        return {"round": number, "server": server, "scenario": "few", "measured": True, **figures}

    rounds = [measurement(0, "limit", 100, 1), measurement(0, "mine", 50, 2)]
    rounds += [measurement(1, "limit", 10, 10), measurement(1, "mine", 9, 11)]
    rounds += [measurement(2, "limit", 100, 1), measurement(2, "mine", 80, 1.25)]
    result = {"scenarios": ["few"], "servers": {"limit": {}, "mine": {}}, "measurements": rounds}
    mine = report.summarise(result)["few"]["mine"]
    assert mine.shares["lines_per_second"] == report.Figure(0.8, 0.5, 0.9)
    assert mine.shares["cpu_us_per_line"].median == 0.8
    assert mine.figures["lines_per_second"] == report.Figure(50, 9, 80)
    assert report.number(12_345_678) == "12,300,000"
    assert report.number(0.012345) == "0.0123"
    assert report.number(3.14159, 2) == "3.1"
    assert report.number(999.6) == "1,000"
