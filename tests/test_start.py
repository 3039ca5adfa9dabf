"""Promise: start. Where it listens is said at once; and what went wrong, in one line."""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
from harness import LISTENING, BrokenPromise, ending, free_port, wait_until
from promises import ROOT, UVLOOP

TIME = r"\d\d:\d\d:\d\d"
BAD_PORTS = [
    "nonsense",
    "-1",
    "65536",
    "99999999999999999999",
    "1_000",
    "+5",
    " 5",
    "5 ",
    "９６６９",
    "",
    "1.5",
    "0x10",
]


@pytest.fixture
def outcome(command, run):
    """Start a server that must fail: `outcome("0", "--host", "x")` gives its status and what it wrote."""

    def fail(*args, prefix=()):
        process = run([*prefix, *command, *args], cwd=ROOT)
        return process.wait(), process.log

    return fail


def one_line(log, host, port, reason):
    """Check the one line that says what could not be had, and why."""
    pattern = rf"(?i)\S+: cannot listen on {re.escape(host)}:{port}: .*({reason}).*\n"
    assert re.fullmatch(pattern, log), log


@pytest.mark.promise("start")
def test_it_listens(start):
    """On the port that it was given; and it says so, at once and not when it ends."""
    port = free_port()
    server = start(port=port)
    server.await_log(rf"listening on 127\.0\.0\.1:{port}$")
    server.check_room()
    if not server.model.foreign:
        first = server.log.partition("\n")[0]
        assert re.fullmatch(rf"{TIME} listening on 127\.0\.0\.1:{port}", first)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address of the machine")
@pytest.mark.promise("start")
def test_it_listens_on_that_address_alone(server):
    """Not on all that the machine has, of which 127.0.0.2 is one."""
    with socket.socket() as sock:
        if sock.connect_ex(("127.0.0.2", server.port)) != errno.ECONNREFUSED:
            raise BrokenPromise(f"it answers on 127.0.0.2, too: it listens on {' and '.join(server.listens_on())}")


@pytest.mark.promise("start")
@pytest.mark.ours("the log")
def test_port_0_takes_a_free_one(start):
    servers = [start(), start()]
    assert servers[0].port != servers[1].port
    for server in servers:
        server.check_room()


@pytest.mark.promise("start")
@pytest.mark.ours("the log")
def test_the_first_line_is_seen_at_once_in_a_pipe(start):
    server = start(announce=False, stderr=subprocess.PIPE)
    with server.popen.stderr as pipe:
        line = pipe.readline().decode()
        assert LISTENING.search(line)
        server.kill()


@pytest.mark.promise("start")
@pytest.mark.ours("the default port")
def test_9669_on_127_0_0_1_is_the_default(command, run):
    with (ROOT / "pyproject.toml").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # one test at a time may have that port

        def listens():
            process = run(command, cwd=ROOT)
            process.await_log("listening|in use")
            if "in use" not in process.log:
                return process
            return None

        process = wait_until(listens, within=5.0, every=0.5)
        if not process:
            pytest.skip("9669 is in use")
        process.await_log(r"listening on 127\.0\.0\.1:9669$")
        process.kill()


@pytest.mark.promise("start")
@pytest.mark.ours("--host")
def test_ipv6(start, needs_ipv6):
    server = start(host="::1")
    assert re.search(r"listening on \[::1\]:\d+$", server.log.partition("\n")[0])
    server.check_room()


@pytest.mark.promise("start")
@pytest.mark.ours("--host")
def test_host_by_name(start):
    server = start(host="localhost")
    server.check_room()


@pytest.mark.promise("start")
@pytest.mark.ours("the file server.py")
def test_the_file_alone_and_the_standard_library_suffice(model, command, run, scratch):
    """Copied to another directory, without any installed package."""
    if model.needs:
        pytest.skip("needs something else")
    program = next(number for number, word in enumerate(command) if word.endswith("server.py"))
    for name in model.files:
        shutil.copy((ROOT / command[program]).parent / name, scratch)
    process = run([sys.executable, "-S", "server.py", "0", *command[program + 1 :]], cwd=scratch)
    process.await_log(r"listening on 127\.0\.0\.1:\d+$")


def test_epoll_elsewhere(run):
    """On a system without epoll it says so, in one line."""
    without = "import runpy, select; del select.epoll; runpy.run_path('epoll_based/server.py', run_name='__main__')"
    process = run([sys.executable, "-c", without], cwd=ROOT)
    assert process.wait() == 1
    assert re.fullmatch(r".*epoll.*poll_based/server\.py.*\n", process.log), process.log


@pytest.mark.promise("start")
@pytest.mark.ours("its usage")
def test_a_bad_port(model, command, run):
    """(The growing road has its arguments from asyncio's, which is held to all of them; each start takes its time.)"""
    ports = BAD_PORTS[::3] if model.door else BAD_PORTS
    attempts = {port: run([*command, "--", port], cwd=ROOT) for port in ports}
    attempts["two ports"] = run([*command, "5000", "5001"], cwd=ROOT)
    for port, process in attempts.items():
        assert process.wait() == 2, f"{port!r}: {process.log}"
        assert process.log.startswith("usage: "), f"{port!r}: {process.log}"
        assert "Traceback" not in process.log


@pytest.mark.parametrize("port", ["nonsense", "-1", "65536", "99999999999999999999", "1.5"])
@pytest.mark.promise("start")
@pytest.mark.theirs("ours are held to more in the test above")
def test_what_is_no_port(start, port):
    """As any language has it."""
    server = start(port=port, announce=False)
    status = server.wait()
    if status != 2 or not server.log.strip():
        raise BrokenPromise(f"with {port} for its port it ended {ending(status)}, and not with usage and status 2")


@pytest.mark.promise("start")
@pytest.mark.ours("its error")
def test_a_port_in_use(outcome):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, log = outcome(str(port))
    assert status == 1
    one_line(log, "127.0.0.1", port, "in use")


@pytest.mark.promise("start")
def test_a_port_in_use_by_itself(start):
    """A second server on the same port ends, and says why; the first goes on."""
    first = start()
    second = start(port=first.port, announce=False)
    assert second.wait() == 1
    assert re.fullmatch(r".+\n", second.log), f"one line should say why: {second.log}"
    first.check_room()


@pytest.mark.promise("start")
@pytest.mark.ours("its error")
def test_a_port_that_is_not_allowed(outcome):
    """Root is stripped of the right to use it."""
    prefix = ()
    if os.geteuid() == 0:
        prefix = ["setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]
        if not shutil.which("setpriv"):
            pytest.skip("root may use every port, and there is no setpriv")
    with contextlib.suppress(OSError):
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
            first_free = int(file.read())
        if first_free <= 1:
            pytest.skip("every port is allowed here")
    if sys.platform == "darwin":
        pytest.skip("every port is allowed on macOS")
    status, log = outcome("1", prefix=prefix)
    assert status == 1
    one_line(log, "127.0.0.1", 1, "permission denied")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b", "x" * 70 + ".invalid", " "])
@pytest.mark.promise("start")
@pytest.mark.ours("its error")
def test_an_unknown_host(outcome, host):
    status, log = outcome("0", "--host", host)
    assert status == 1
    one_line(log, host, 0, "")


@pytest.mark.promise("start.elsewhere")
@pytest.mark.ours("its error")
def test_an_address_that_is_not_ours(outcome):
    status, log = outcome("0", "--host", "203.0.113.77")
    assert status == 1
    one_line(log, "203.0.113.77", 0, "cannot assign|can't assign")


@pytest.mark.parametrize("host", ["203.0.113.77", "0.0.0.0"])
@pytest.mark.promise("start.elsewhere", instead="usage")
@pytest.mark.ours("its error")
def test_plain_text_on_this_machine_alone(outcome, host):
    status, log = outcome("0", "--host", host)
    assert status == 2
    assert re.fullmatch(rf"\S+: cannot listen on {host} in plain text, .*--cert.*\n", log), log


def test_the_command_for_uvloop_is_the_one_that_its_page_gives():
    assert f'python -c "{UVLOOP}" 9669' in (ROOT / "asyncio_based/README.md").read_text()
