"""Promises: limits, start. Whatever is lacking: nobody is deaf for ever, nobody spins, nobody shows a traceback."""

import contextlib
import errno
import json
import os
import platform
import re
import resource
import shutil
import sys
import time
from pathlib import Path

import pytest
from harness import BrokenPromise, wait_until
from promises import ROOT
from test_limits import FULL, fill
from test_stopping import stop

INJECTED = str(ROOT / "tests/injected")
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can change the limits of another process")
SECCOMP = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="needs Linux's seccomp"
)
OURS = pytest.mark.ours("made to fail from within")
LACKS = ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM", "MemoryError"]


def injected(**plan):
    """The environment in which that happens to a server; see injected/sitecustomize.py."""
    return {"PYTHONPATH": INJECTED, "CHAT_INJECT": json.dumps(plan)}


@pytest.fixture
def lack(scratch):
    """While a `with lack("ENOMEM"):` lasts, what was to fail fails in that way."""

    @contextlib.contextmanager
    def last(name):
        new = scratch / "new"
        new.write_text(name)
        new.rename(last.path)
        yield
        last.path.unlink()

    last.path = scratch / "lack"
    return last


def check_newcomers(server):
    """Two newcomers, the very next ones, come in, and one hears the other."""
    __tracebackhide__ = True
    speaker, listener = server.pair()
    speaker.send(b"there is room\n")
    listener.expect_line(speaker, "there is room")
    for peer in {speaker, listener}:
        peer.close()


# accept() fails


@pytest.mark.promise("limits")
@OURS
def test_accept_fails_once_in_every_way(start):
    """Whoever it was, or the next one, comes in."""
    errors = [*LACKS, "ECONNABORTED", "EPROTO", "EAGAIN", "EINTR", "ETIMEDOUT", "EHOSTUNREACH", "ENETDOWN", "EIO"]
    server = start(env=injected(fail=["socket.socket.accept"], errors=errors))
    for _ in range(3):
        check_newcomers(server)
    server.check_idle(0.3)


@pytest.mark.promise("limits")
@OURS
def test_accept_fails_for_a_while(start, lack):
    """Who is inside talks on, the server does not spin, and who waits outside comes in when it works again."""
    server = start(env=injected(fail=["socket.socket.accept"], **{"while": str(lack.path)}))
    if server.model.name == "io_uring":
        pytest.skip("it does not accept with accept()")
    alice, bob = server.join(2) if not server.model.echoes else [None] * 2
    for name in LACKS:
        with lack(name):
            server.connect().close()  # an accept() that had begun before may still let this one in
            waiting = server.connect()
            waiting.send(b"here I am\n")
            server.check_idle(0.3)
            if alice:
                alice.send(b"nobody comes\n")
                bob.expect_line(alice, "nobody comes")
        hearer = bob or waiting
        hearer.expect_line(waiting, "here I am")
        waiting.close()
        if alice:
            alice.unread.clear()
    stop(server)


@pytest.mark.promise("limits")
@OURS
def test_memory_is_lacking_for_who_was_accepted(start, lack):
    """Nobody else notices, and the very next one comes in when there is memory again."""
    server = start(env=injected(poor=str(lack.path)))
    if server.model.name == "io_uring":
        pytest.skip("it does not accept with accept()")
    alice, bob = server.join(2) if not server.model.echoes else [None] * 2
    with lack("MemoryError"):
        for _ in range(3):
            server.connect().expect_closed()  # and not left standing
            if alice:
                alice.send(b"nobody comes\n")
                bob.expect_line(alice, "nobody comes")
        server.check_idle(0.3)
    check_newcomers(server)
    stop(server)


@pytest.mark.promise("stopping")
@OURS
def test_stopping_while_accept_fails(start, lack):
    server = start(env=injected(fail=["socket.socket.accept"], **{"while": str(lack.path)}))
    with lack("ENOBUFS"):
        for _ in range(3):
            server.connect()
        time.sleep(0.1)
        stop(server)


# What a newcomer needs besides


NEEDS = {
    "thread_per_client": {"threading.Thread.start": ["RuntimeError", "MemoryError"]},
    "process_per_client": {
        "os.fork": ["EAGAIN", "ENOMEM", "EPERM", "ENOSYS", "MemoryError"],
        "socket.socketpair": ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EPERM"],
    },
}


@pytest.mark.parametrize("name, call", [(name, call) for name, calls in NEEDS.items() for call in calls])
def test_what_a_newcomer_needs_cannot_be_had(serve, lack, name, call):
    """It is told that the room is full, which goes on; and then the very next one comes in."""
    server = serve(name, env=injected(fail=[call], **{"while": str(lack.path)}))
    alice, bob = server.join(2)
    held = server.descriptors()
    for error in NEEDS[name][call]:
        for _ in range(3):
            with lack(error):
                newcomer = server.connect()
                newcomer.expect_closed(maybe_after=FULL)
                assert newcomer.came.head == FULL
                server.await_log(rf"{re.escape(newcomer.name)} refused: the room is full, 2 online$")
            alice.send(b"still here\n")
            bob.expect_line(alice, "still here")
        (newcomer,) = server.join(1)
        newcomer.close()
        server.await_log(rf"{re.escape(newcomer.name)} left, 2 online$")
    server.check_descriptors(at_most=held)
    server.check_idle(0.3)
    stop(server)


# Address space: an allocation fails wherever it is made


def vm_size(server):
    """Bytes of address space that a server's process takes."""
    return int(re.search(r"VmSize:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())[1]) << 10


def limit(server, kind, soft):
    _, hard = resource.prlimit(server.popen.pid, kind)
    resource.prlimit(server.popen.pid, kind, (soft, hard))


@pytest.mark.parametrize("spare", [0, 4, 16])
@pytest.mark.promise("limits.room")
@pytest.mark.ours("more than the contract asks for: many a language's runtime ends without memory")
@LINUX
def test_no_address_space_for_newcomers(start, spare):
    """However many come in: the others are refused or wait, and all is as before when there is space again."""
    server = start()
    server.check_room()
    alice, bob = server.join(2)
    limit(server, resource.RLIMIT_AS, vm_size(server) + (spare << 20))
    crowd = [server.connect() for _ in range(120)]
    alice.send(b"crowded\n")
    bob.read_until(alice.line("crowded"))
    server.check_idle(0.3)
    limit(server, resource.RLIMIT_AS, resource.RLIM_INFINITY)
    for peer in crowd:
        peer.close()
    check_newcomers(server)
    alice.send(b"as before\n")
    bob.read_until(alice.line("as before"))
    stop(server)


@pytest.mark.parametrize("size", [50, 60, 100])
@pytest.mark.promise("limits.room")
@pytest.mark.ours("the log")
@LINUX
def test_little_address_space_from_the_start(start, size):
    """It says so and ends, or it works."""
    server = start(shell=f'ulimit -S -v {size << 10}; exec "$@"', announce=False)
    wait_until(lambda: not server.running or " listening on " in server.log)
    if not server.running:
        if "Fatal Python error" in server.log or "ImportError" in server.log or not server.log:
            pytest.skip("too little for Python itself")
        check_one_line(server)
        return
    server._await_announcement()
    peers = [server.connect() for _ in range(60)]
    server.check_idle(0.3)
    for peer in peers:
        peer.close()
    server.await_log(
        "(?s)online\n(?!.*[1-9] online\n).*(left|reset by peer), 0 online\n\\Z|\\A.*refused.*[^1-9]0 online\n\\Z",
    )
    limit(server, resource.RLIMIT_AS, resource.RLIM_INFINITY)
    check_newcomers(server)
    stop(server)


# Descriptors


@pytest.mark.promise("limits.room")
@pytest.mark.ours("more than the contract asks for")
@LINUX
def test_descriptors_taken_away_and_given_back(start):
    """Who is inside when the limit is lowered may go; newcomers come in once it is raised."""
    server = start()
    server.join(30)
    before, _ = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    for count in 12, 20, 3:
        limit(server, resource.RLIMIT_NOFILE, count)
        for _ in range(5):
            server.connect()
        server.check_idle(0.3)
        limit(server, resource.RLIMIT_NOFILE, before)
        for peer in list(server.peers):
            peer.reset()
        check_newcomers(server)
        server.join(30)
    stop(server)


def check_one_line(server, reason=""):
    """It has ended with status 1 and a line that says why."""
    __tracebackhide__ = True
    status = server.wait()
    if status != 1 or not re.fullmatch(rf"\S+: cannot .*{reason}.*\n", server.log, re.IGNORECASE):
        raise BrokenPromise(f"it ended with {status}, and should have said in one line why: {reason}\n{server.log}")


@pytest.mark.promise("start")
@pytest.mark.ours("its error")
def test_few_descriptors_from_the_start(model, start):
    """It says that they do not suffice, or it works; then who comes is let in, or told that the room is full."""
    if model.name in ("uvloop", "two_way"):
        pytest.skip("uvloop takes descriptors as it goes; the operator of two_way needs some of its own")
    counts = [*range(5, 23, 3 if model.door else 1), 23]  # the growing road takes them as asyncio's does
    servers = {count: start(nofile=count, announce=False) for count in counts}
    for server in servers.values():
        wait_until(lambda server=server: not server.running or " listening on " in server.log)
        if not server.running:
            check_one_line(server)
            continue
        server._await_announcement()
        peer = server.connect()
        server.await_log(rf"{peer.in_log} (joined|refused)")
        peer.close()
        server.check_idle(0.1)
        stop(server)
    assert servers[23].popen.returncode == 0, servers[23].log


# What a sandbox forbids


DENIED = {
    "socket": {"socket": "EPERM"},
    "socket, no buffers": {"socket": "ENOBUFS"},
    "bind": {"bind": "EACCES"},
    "listen": {"listen": "EPERM"},
    "setsockopt": {"setsockopt": "EPERM"},
    "socketpair": {"socketpair": "EMFILE"},
    "epoll": {"epoll_create1": "EMFILE"},
    "eventfd": {"eventfd2": "EPERM"},
    "memfd": {"memfd_create": "EPERM"},
    "memfd, old kernel": {"memfd_create": "ENOSYS"},
    "clone": {"clone": "EAGAIN", "clone3": "ENOSYS", "fork": "EAGAIN", "vfork": "EAGAIN"},
    "clone, not allowed": {"clone": "EPERM", "clone3": "EPERM", "fork": "EPERM", "vfork": "EPERM"},
    "accept4": {"accept4": "ENOSYS"},
}


@pytest.mark.promise("start")
@OURS
@SECCOMP
def test_what_is_needed_at_the_start_is_forbidden(model, start):
    """One line says so, and status 1; or it works without, or refuses who comes."""
    kinds = set(DENIED)
    if model.name == "uvloop":
        pytest.skip("libuv aborts, or takes what it needs as it goes")
    if model.door or model.name == "asyncio_based":
        kinds.remove("socketpair")  # a loop that could not be made says a word of its own when it is collected
    servers = {kind: start(env=injected(deny=DENIED[kind]), announce=False) for kind in sorted(kinds)}
    for kind, server in servers.items():
        wait_until(lambda server=server: not server.running or " listening on " in server.log)
        if not server.running:
            check_one_line(
                server, "" if kind.startswith("clone") else os.strerror(getattr(errno, *DENIED[kind].values()))
            )
            continue
        server._await_announcement()
        peer = server.connect()
        server.await_log(rf"{peer.in_log} (joined|refused)")
        server.check_idle(0.1)
        stop(server)


@pytest.mark.parametrize("error", ["EPERM", "ENOMEM"])
@pytest.mark.promise("limits")
@OURS
@SECCOMP
def test_accept_is_forbidden(start, error):
    """Nobody comes in, and it does not spin."""
    server = start(env=injected(deny={"accept4": error, "accept": error}))
    for _ in range(3):
        server.connect()
    server.check_idle(0.3)
    stop(server)


# Processes and threads


@pytest.mark.parametrize("name", NEEDS)
@LINUX
def test_so_many_processes_and_no_more(serve, name):
    """As a user of its own, which may have 12: threads count as processes."""
    if os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("needs root, and setpriv")
    user = 100_000 + os.getpid()
    rights = "--inh-caps=+dac_read_search --ambient-caps=+dac_read_search --bounding-set=-sys_resource,-sys_admin"
    shell = f'exec setpriv --reuid={user} --regid={user} --clear-groups {rights} prlimit --nproc=12 "$@"'
    server = serve(name, shell=shell)
    for _ in range(2):
        inside = fill(server, 20, at_least=5)
        assert len(inside) < 12
        leaver = inside.pop()
        leaver.close()
        server.await_log(rf"{re.escape(leaver.name)} (left|dropped: .*), {len(inside)} online$")
        newcomer = server.connect()
        server.await_log(rf"{re.escape(newcomer.name)} joined")
        for peer in [*inside, newcomer]:
            peer.reset()
        assert wait_until(lambda: server.log.endswith(" 0 online\n"))
    check_newcomers(server)
    server.check_idle(0.3)
    stop(server)


def test_no_thread_at_the_start(serve):
    """It cannot even accept: one line says so."""
    server = serve(
        "thread_per_client", env=injected(fail=["threading.Thread.start"], errors=["RuntimeError"] * 9), announce=False
    )
    check_one_line(server, "thread")
