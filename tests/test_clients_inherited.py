"""The clients and what they find: process 1, signals, descriptors, terminals that misbehave, options, a console."""

import contextlib
import importlib.util
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import harness
import psutil
import pytest
import test_clients
from harness import wait_until
from hypothesis import example, given
from hypothesis import strategies as st
from promises import ROOT
from test_clients import GONE, NEEDS, WAITS, command, end_of_typing, keyboard, type_in

listener, begin = test_clients.listener, test_clients.begin  # fixtures

NINE = [*WAITS, "blocking/two_way"]
BY_TURNS = ["blocking", "blocking/two_way"]
SIGNALS = [signal.SIGINT, signal.SIGTERM]
CANNOT_READ = r"client\.py: cannot read standard input: [^\n]+\n"
CANNOT_WRITE = r"client\.py: cannot write to standard output: [^\n]+\n"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def clients(*names):
    """Run a test with these clients, or with all nine."""
    return pytest.mark.parametrize("client", [pytest.param(name, marks=NEEDS.get(name, ())) for name in names or NINE])


def after(code):
    """The start of a command line: run this code, and become what the rest of the line says."""
    return [sys.executable, "-c", f"import os, signal, sys\n{code}\nos.execv(sys.argv[1], sys.argv[1:])"]


def namespaces(*options):
    """The start of a command line: run in namespaces of its own. Skip where that is not allowed."""
    words = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), *options]
    if not shutil.which("unshare") or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip(f"not allowed here: {shlex.join(words)}")
    return words


@pytest.fixture
def started(begin):
    """Start a client after something else: `started(after("..."), "poll_based", host, port)` gives a Process."""

    def start(prefix, client, *address, **options):
        return begin(client, *address, shell=f'exec {shlex.join(prefix)} "$@"', **options)

    return start


def check_well(process, peer):
    """Fail unless a line goes each way."""
    type_in(process, b"hello\n")
    peer.expect(b"hello\n")
    peer.send(b"127.0.0.1:5 says: well, hello\n")
    process.await_log("says: well, hello$")


def check_ends_well(process, peer):
    """Fail unless it ends in good order with its keyboard, having said nothing of its own."""
    end_of_typing(process)
    assert peer.read_to_end() == b""
    peer.close()
    assert (process.wait(), process.log) == (0, "127.0.0.1:5 says: well, hello\n")


# Process 1, as in a container: the kernel spares it what a signal does by default


def inner(process):
    """The process that `unshare --fork` has started, as it is called outside of its namespace."""
    return wait_until(lambda: psutil.Process(process.pid).children())[0].pid


@on_linux
@clients()
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_process_1(client, number, listener, started):
    process = started(namespaces("--pid", "--fork"), client, *listener.address)
    peer = listener.accept()
    check_well(process, peer)
    os.kill(inner(process), number)
    assert peer.read_to_end() == b""
    process.wait()
    assert process.log == "127.0.0.1:5 says: well, hello\n"
    assert wait_until(lambda: not process.processes())


@on_linux
@clients()
def test_ctrl_c_ends_process_1(client, listener, terminal):
    child = terminal([*namespaces("--pid", "--fork"), *command(client, *listener.address)])
    peer = listener.accept()
    child.sendline(b"hello")
    peer.expect(b"hello\n")
    child.sendintr()
    assert peer.read_to_end() == b""
    child.expect_exact(b"hello\r\n")
    assert child.read().strip() in (b"^C", b"")


# Signals


@clients()
@pytest.mark.parametrize("how", ["ignored", "blocked"])
@pytest.mark.parametrize("number", SIGNALS)
def test_signals_that_were_ignored_or_blocked_end_it_all_the_same(client, how, number, listener, started):
    code = {
        "ignored": "for number in signal.valid_signals() - {9, 19}: signal.signal(number, signal.SIG_IGN)",
        "blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    }
    process = started(after(code[how]), client, *listener.address)
    peer = listener.accept()
    check_well(process, peer)
    process.signal(number)
    assert peer.read_to_end() == b""
    assert (process.wait(), process.log) == (-number, "127.0.0.1:5 says: well, hello\n")
    assert wait_until(lambda: not process.processes())


@clients()
@pytest.mark.parametrize("how", ["ignored", "blocked"])
def test_with_all_signals_ignored_or_blocked_it_works(client, how, listener, started):
    code = {
        "ignored": "for number in signal.valid_signals() - {9, 19}: signal.signal(number, signal.SIG_IGN)",
        "blocked": "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    }
    process = started(after(code[how]), client, *listener.address)
    peer = listener.accept()
    check_well(process, peer)
    check_ends_well(process, peer)


@clients("process_per_client")
@pytest.mark.parametrize("code", ["signal.signal(signal.SIGIO, signal.SIG_IGN)", "signal.pthread_sigmask(0, {29})"])
def test_the_keyboards_process_does_not_outlive_the_other(client, code, listener, started):
    process = started(after(code), client, *listener.address)
    peer = listener.accept()
    check_well(process, peer)
    process.signal(signal.SIGKILL)
    assert peer.read_to_end() == b""
    assert wait_until(lambda: not process.processes())


# Ctrl-C while it is not yet connected

SILENT = """
import fcntl, socket, struct, subprocess
subprocess.run(["mount", "--bind", {conf!r}, "/etc/resolv.conf"], check=True)
server = socket.socket(type=socket.SOCK_DGRAM)
fcntl.ioctl(server, 0x8914, struct.pack("16sH14x", b"lo", 0x41))  # SIOCSIFFLAGS: up and running
server.bind(("127.0.0.1", 53))
server.set_inheritable(True)
"""


@pytest.fixture
def silence(scratch):
    """The start of a command line: have a resolver that never answers."""
    (scratch / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    return after(SILENT.format(conf=str(scratch / "resolv.conf")))


def is_asked(pid):
    """Whether a question waits for the silent resolver in the namespace of a process."""
    sockets = Path(f"/proc/{pid}/net/udp").read_text()
    return re.search(r"^ *\d+: 0100007F:0035 \S+ 07 \w+:0*[1-9A-F]", sockets, re.MULTILINE)


@on_linux
@clients()
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_host_is_looked_up(client, number, silence, started):
    process = started([*namespaces("--mount", "--net"), *silence], client, "somewhere.example", "9669")
    assert wait_until(lambda: is_asked(process.pid))
    process.signal(number)
    assert (process.wait(2.0), process.log) == (-number, "")


@on_linux
@clients()
def test_a_signal_to_process_1_while_the_host_is_looked_up(client, silence, started):
    prefix = [*namespaces("--mount", "--net", "--pid", "--fork", "--mount-proc"), *silence]
    process = started(prefix, client, "somewhere.example", "9669")
    assert wait_until(lambda: is_asked(inner(process)))
    os.kill(inner(process), signal.SIGINT)
    process.wait(2.0)
    assert process.log == ""


@on_linux
@clients()
def test_a_signal_while_it_connects(client, begin):
    """To a listener that is full the system gives no answer."""
    with socket.socket() as full, socket.socket() as other:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        other.connect(full.getsockname())
        assert select.select([full], [], [], harness.DEADLINE)[0]  # one waits to be accepted, and so it is full
        process = begin(client, *full.getsockname())
        # Its own socket is asked for: of all sockets together the system's table may show one twice.
        assert wait_until(
            lambda: any(
                connection.status == psutil.CONN_SYN_SENT
                for connection in psutil.Process(process.pid).net_connections("tcp4")
            )
        )
        process.signal(signal.SIGINT)
        assert (process.wait(2.0), process.log) == (-signal.SIGINT, "")


# Descriptors


@clients()
def test_a_thousand_descriptors_are_open(client, listener, started):
    """Above 1023 select(2) cannot take them: it says so. The others work."""
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (2000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
while (number := os.dup(1)) < 1100: os.set_inheritable(number, True)
"""
    process = started(after(code), client, *listener.address)
    peer = listener.accept()
    if client == "select_based":
        assert process.wait() == 1
        assert re.fullmatch(r"client\.py: select cannot wait for descriptor \d+, [^\n]+\n", process.log)
    else:
        check_well(process, peer)
        check_ends_well(process, peer)


# Run a client in an interpreter that goes on, as a console does. {before} and {after} are what else is to be done.
IN_PROCESS = """
import argparse, asyncio, fcntl, mmap, os, pathlib, selectors, signal, socket, sys, threading
sys.path.insert(0, os.path.dirname(sys.argv[1]))
if "proactor" in sys.argv[1]: import proactor
sys.argv = sys.argv[1:]
text = pathlib.Path(sys.argv[0]).read_text()
try:
    {before}
    exec(compile(text, sys.argv[0], "exec"), dict(__name__="__main__", __file__=sys.argv[0], __doc__=""))
finally:
    {after}
"""


def in_process(client, address, before="pass", after="pass"):
    """The command line that runs a client so."""
    code = IN_PROCESS.format(before=before, after=after)
    return [sys.executable, "-X", "dev", "-c", code, *command(client, *address)[1:]]


@pytest.mark.parametrize("spare", range(1, 8))
@clients()
def test_descriptors_lack(client, spare, listener, run):
    """It works, or one line says why not: for a socket, a pipe, an event loop, whatever it opens."""
    if client == "asyncio_based" and spare < 3:
        pytest.skip("asyncio itself complains of a loop that is half made")
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({3 + spare}, 99))"
    process = run(in_process(client, listener.address, limit), stdin=subprocess.PIPE)
    listener.sock.setblocking(False)

    def comes():
        with contextlib.suppress(BlockingIOError):
            return listener.accept()
        return not process.running

    peer = wait_until(comes)
    if peer is not True:
        peer.sock.setblocking(True)
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            type_in(process, b"hello\n")
            if peer.read_some():
                peer.send(b"127.0.0.1:5 says: well, hello\n")
        end_of_typing(process)
        peer.read_to_end()
        peer.close()
    status = process.wait()
    if status:
        assert (status, process.log.count("\n")) == (1, 1), process.log
        assert process.log.startswith("client.py: ")
    else:
        assert process.log == "127.0.0.1:5 says: well, hello\n"


@on_linux
@clients("thread_per_client", "process_per_client")
def test_no_thread_and_no_process_can_be_had(client, listener, run):
    if os.geteuid() != 0:
        pytest.skip("only root can become a user who may have so few")
    few = "import encodings.idna, resource, shutil; os.setuid(65534); resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))"
    process = run(in_process(client, listener.address, few), stdin=subprocess.PIPE)
    assert process.wait() == 1
    assert re.fullmatch(r"client\.py: [^\n]+\n", process.log)


# A keyboard and a screen that misbehave

NON_BLOCKING = after("os.set_blocking(0, False)")


@clients()
def test_a_terminal_that_was_left_non_blocking(client, listener, terminal):
    """It works, and stays what it was: that belongs to everybody who has this terminal open."""
    line = f'{shlex.join(NON_BLOCKING)} "$@"; echo status $?; "$0" -c "import os; print(os.get_blocking(0))"'
    child = terminal(["sh", "-c", line, sys.executable, *command(client, *listener.address)])
    peer = listener.accept()
    for text in (b"hello", b"and again"):
        child.sendline(text)
        peer.expect(text + b"\n")
        peer.send(b"127.0.0.1:5 says: " + text + b"\n")
        child.expect_exact(b"says: " + text + b"\r\n")
    child.sendeof()
    assert peer.read_to_end() == b""
    peer.close()
    child.expect_exact(b"status 0\r\nFalse\r\n")


@clients()
def test_a_pipe_that_was_left_non_blocking_and_has_nothing_yet(client, listener, begin):
    with keyboard("pipe") as (typing_end, stdin):
        os.set_blocking(stdin, False)
        process = begin(client, *listener.address, stdin=stdin)
        peer = listener.accept()
        process.check_idle()
        for text in (b"hello\n", b"half a ", b"line\n"):
            os.write(typing_end, text)
            if client in BY_TURNS and text == b"half a ":
                continue
            peer.expect(text if client not in BY_TURNS or text == b"hello\n" else b"half a line\n")
            peer.send(b"127.0.0.1:5 says: indeed\n")
        assert wait_until(lambda: process.log.count("indeed") == (2 if client in BY_TURNS else 3))
        assert not os.get_blocking(stdin)


@clients()
@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_much_at_once_for_a_screen_that_is_non_blocking(client, kind, listener, begin):
    """All of it comes, and what the client says last."""
    with keyboard(kind) as ends:
        screen, stdout = ends if kind == "terminal" else ends[::-1]
        os.set_blocking(stdout, False)
        process = begin(client, *listener.address, stdout=stdout, stderr=stdout)
        peer = listener.accept()
        type_in(process, b"hello\n")
        peer.expect(b"hello\n")
        much = b"127.0.0.1:5 says: " + b"x" * 500_000 + b"\n"
        peer.send(much)
        peer.close()
        if client in BY_TURNS:
            type_in(process, b"hello\n")
        expected, seen = much + GONE.encode(), b""
        while len(seen) < len(expected):
            seen += os.read(screen, 1000).replace(b"\r\n", b"\n")
        assert (seen, process.wait()) == (expected, 1)


@clients()
@pytest.mark.parametrize("kind", ["a file to write", "the wrong end of a pipe", "a terminal to write"])
def test_standard_input_that_cannot_be_read(client, kind, listener, begin, scratch):
    with keyboard("pipe") as (typing_end, _), keyboard() as (_, stdin):
        shells = {
            "a file to write": f'exec "$@" 0>{scratch}/file',
            "the wrong end of a pipe": f'exec "$@" 0>/dev/fd/{typing_end}',
            "a terminal to write": f'exec "$@" 0>{os.ttyname(stdin)}',
        }
        process = begin(client, *listener.address, shell=shells[kind], stdin=subprocess.DEVNULL, pass_fds=[typing_end])
        assert process.wait() == 1
        assert re.fullmatch(CANNOT_READ, process.log)


@clients()
def test_in_the_background_where_the_terminal_cannot_be_read(client, listener, terminal):
    """To read it from there stops a process, unless that signal is ignored: then it fails."""
    code = """
import signal, subprocess, sys
signal.signal(signal.SIGTTIN, signal.SIG_IGN)
print("status", subprocess.call(sys.argv[1:], process_group=0))
"""
    child = terminal([sys.executable, "-c", code, *command(client, *listener.address)])
    child.expect(rb"\A" + CANNOT_READ.replace(r"\n", r"\r\n").replace("[^", "[^\r").encode() + rb"status 1\r\n")


@clients()
@pytest.mark.parametrize("rest", ["", " >&0 2>&0"], ids=["the keyboard", "all of it"])
def test_the_terminal_is_gone(client, rest, listener, begin):
    """A process that ignores SIGHUP, by nohup for one, outlives its terminal."""
    code = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    typing_end, stdin = os.openpty()
    process = begin(
        client, *listener.address, shell=f'exec {shlex.join(after(code))} "$@"' + rest, stdin=stdin, pass_fds=()
    )
    os.close(stdin)
    peer = listener.accept()
    os.write(typing_end, b"hello\n")
    peer.expect(b"hello\n")
    peer.send(b"127.0.0.1:5 says: hello\n")
    if not rest:
        process.await_log("says: hello$")
    os.close(typing_end)
    assert peer.read_to_end() == b""
    assert process.wait() == 1
    assert re.fullmatch("" if rest else r"[^\n]+ says: hello\n" + CANNOT_READ, process.log)


@clients()
@pytest.mark.parametrize("kind", ["/dev/full", "a terminal that is gone"])
def test_standard_output_that_cannot_be_written(client, kind, listener, begin):
    if kind == "/dev/full":
        if not os.path.exists(kind):
            pytest.skip("no /dev/full")
        stdout = os.open(kind, os.O_WRONLY)
    else:
        other, stdout = os.openpty()
        os.close(other)
    process = begin(client, *listener.address, stdout=stdout)
    os.close(stdout)
    peer = listener.accept()
    type_in(process, b"hello\n")
    peer.expect(b"hello\n")
    peer.send(b"127.0.0.1:5 says: hello\n")
    assert process.wait() == 1
    assert re.fullmatch(CANNOT_WRITE, process.log)


@clients()
def test_nothing_at_all_can_be_written(client, listener, begin):
    """The status tells it still: not 120, with which Python ends if it cannot flush."""
    process = begin(client, *listener.address, shell='exec "$@" >/dev/full 2>/dev/full')
    peer = listener.accept()
    type_in(process, b"hello\n")
    peer.expect(b"hello\n")
    peer.send(b"127.0.0.1:5 says: hello\n")
    assert process.wait() == 1


# The network


@on_linux
@clients()
def test_keepalive(client, listener, begin):
    """The system looks after a server whose machine vanished: nobody else tells a client that only listens."""
    begin(client, *listener.address)
    peer = listener.accept()
    ours, theirs = peer.sock.getpeername()[1], listener.address[1]
    pattern = re.compile(rf"^ *\d+: \w+:{ours:04X} \w+:{theirs:04X} 01 \w+:\w+ 02:", re.MULTILINE)
    assert wait_until(lambda: pattern.search(Path("/proc/net/tcp").read_text()))


# Lines that get no answer


def definitions(path):
    """What a program defines."""
    spec = importlib.util.spec_from_file_location("program", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PIECES = [
    b"\xff",
    b"\xfa",
    b"\xf0",
    b"\xf1",
    b"\xfd",
    b"\xf4",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b"\x1b",
    b"x",
    b"\x85",
    b"\xc2\x85",
]
PIECES += ["\u202e".encode(), "\u3000".encode(), b"\xe2\x80"]


@clients(*BY_TURNS)
@given(line=st.one_of(st.binary(), st.lists(st.sampled_from(PIECES)).map(b"".join)))
@example(line=b"\xff\xfa" + b"x" * 5000 + b"\xff\xf0")
def test_it_reads_a_line_as_its_server_does(client, line):
    ours, theirs = definitions(f"{client}/client.py"), definitions(f"{client}/server.py")
    line = line.replace(b"\n", b"") + b"\n"
    assert ours.clean(line) == theirs.clean(line)


BLANK = [
    b"\xff",
    b"\xff\xf1",
    b"\xff\xfd",
    b"\xff\xfd\x03",
    b"\xff\xfa\x18\0x\xff\xf0",
    b"\xff\xfaunfinished",
    b"\xff\xf4",
    b"\r\0",
]
BLANK += [b" " * 5000, b"\xff\xf9 \x1b\r"]


@clients(*BY_TURNS)
def test_what_is_blank_to_the_server_is_not_waited_for(client, listener, begin):
    process = begin(client, *listener.address)
    peer = listener.accept()
    type_in(process, b"\n".join([*BLANK, b""]))
    check_well(process, peer)


# Python's options

OPTIONS = ["-OO", "-O", "-I", "-P", "-E", "-s", "-S", "-B", "-u", "-bb", "-X dev", "-W error", "-W default", "-X utf8"]
OPTIONS += ["-X dev -W error -bb -I", "-X utf8=0"]
SETTINGS = [
    {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
]
SETTINGS += [{"PYTHONASYNCIODEBUG": "1"}, {"PYTHONOPTIMIZE": "2"}]


@clients()
@pytest.mark.parametrize("option", OPTIONS)
def test_it_says_nothing_of_its_own_with_any_option(client, option, listener, run):
    python, *words = command(client, *listener.address)
    process = run([python, *option.split(), *words], stdin=subprocess.PIPE)
    peer = listener.accept()
    check_well(process, peer)
    check_ends_well(process, peer)


@clients()
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_bytes_whatever_the_settings(client, settings, listener, begin):
    process = begin(client, *listener.address, env=settings)
    peer = listener.accept()
    type_in(process, "grüß dich 👋\n".encode())
    peer.expect("grüß dich 👋\n".encode())
    peer.send("127.0.0.1:5 says: grüß dich 👋\n".encode())
    process.await_log("grüß dich 👋$")
    peer.close()
    if client in BY_TURNS:
        type_in(process, b"hello\n")
    assert (process.wait(), process.log) == (1, "127.0.0.1:5 says: grüß dich 👋\n" + GONE)
    process = begin(client, "grüß.invalid", "x", env=settings)
    assert process.wait() == 2
    process = begin(client, "x" * 64 + "ü", "9669", env=settings)
    assert (process.wait(), process.log.count("\n")) == (1, 1)


@clients("asyncio_based")
def test_development_mode_does_not_tell_how_long_the_screen_took(client, listener, run):
    reading_end, stdout = os.pipe()
    python, *words = command(client, *listener.address)
    process = run([python, "-X", "dev", *words], stdin=subprocess.PIPE, stdout=stdout)
    os.close(stdout)
    with open(reading_end, "rb") as screen:
        peer = listener.accept()
        much = b"127.0.0.1:5 says: much\n" * 10_000
        peer.send(much)
        time.sleep(0.3)  # what takes 0.1 seconds is slow
        end_of_typing(process)
        assert (screen.read(len(much)), peer.read_to_end()) == (much, b"")
        peer.close()
        assert (process.wait(), process.log) == (0, "")


# In a console: the interpreter goes on

STATE = """def state():
        signals = [signal.getsignal(number) for number in sorted(signal.valid_signals() - {9, 19})]
        blocking = [os.get_blocking(number) for number in range(3)]
        return signals, signal.pthread_sigmask(0, []), signal.set_wakeup_fd(-1), blocking, sorted(os.listdir("/dev/fd"))
    before = state()"""
SAME = """for thread in threading.enumerate()[1:]: thread.join(5)
    print(before == state() or (before, state()), threading.active_count())"""


@clients()
@pytest.mark.parametrize("end", ["keyboard", "server", "no server", "/dev/null"])
def test_it_leaves_the_interpreter_as_it_was(client, end, listener, run):
    if end == "no server":
        listener.sock.close()
    stdin = subprocess.DEVNULL if end == "/dev/null" else subprocess.PIPE
    process = run(in_process(client, listener.address, STATE, SAME), stdin=stdin)
    if end != "no server":
        peer = listener.accept()
        if end == "keyboard":
            check_well(process, peer)
            end_of_typing(process)
        if end != "server":
            assert peer.read_to_end() == b""
        peer.close()
        if end == "server" and client in BY_TURNS:
            type_in(process, b"hello\n")
    assert process.wait() == (0 if end in ("keyboard", "/dev/null") else 1)
    assert "True 1\n" in process.log, process.log


@pytest.fixture
def console(terminal):
    """Start a client with `python -i`, which is a console afterwards."""

    def start(client, *address):
        python, *words = command(client, *address)
        return terminal([python, "-q", "-i", *words], env={**os.environ, "PYTHON_BASIC_REPL": "1"})

    return start


def check_console(child):
    """Fail unless the console takes the very next line, and Ctrl-C does not end it."""
    child.expect_exact(b">>> ")
    child.sendline(b"print(6 * 7)")
    child.expect_exact(b"42\r\n>>> ")
    # A signal that comes just before a sleep waits for its end: so it is many short ones.
    child.sendline(b"import time; print('begun'); [time.sleep(0.1) for _ in range(600)]")
    child.expect_exact(b"begun\r\n")
    child.sendintr()
    child.expect_exact(b"KeyboardInterrupt")
    child.expect_exact(b">>> ")
    child.sendline(b"print(6 * 8)")
    child.expect_exact(b"48\r\n>>> ")


@clients()
def test_in_a_console_the_server_goes_away(client, listener, console):
    child = console(client, *listener.address)
    listener.accept().close()
    if client in BY_TURNS:
        child.sendline(b"hello")
    child.expect_exact(GONE.replace("\n", "\r\n").encode())
    check_console(child)


@clients()
@pytest.mark.parametrize("key", ["Ctrl-C", "Ctrl-D"])
def test_in_a_console_the_keyboard_ends_the_client_alone(client, key, listener, console):
    child = console(client, *listener.address)
    peer = listener.accept()
    child.sendline(b"hello")
    peer.expect(b"hello\n")
    peer.send(b"127.0.0.1:5 says: hello\n")
    child.expect_exact(b"says: hello\r\n")
    if key == "Ctrl-C":
        child.sendintr()
    else:
        child.sendeof()
    assert peer.read_to_end() == b""
    peer.close()
    check_console(child)
    assert b"Traceback" not in child.before
