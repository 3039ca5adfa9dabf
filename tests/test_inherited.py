"""Promises: start, stopping. What a server inherits from whoever starts it does it no harm: signals, descriptors, the
environment, options of the interpreter, a console, process 1, a resolver that is silent.
"""

import contextlib
import errno
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from harness import Room, wait_until
from promises import ROOT
from test_stopping import stop

SIGNALS = ["SIGINT", "SIGTERM", "SIGALRM", "SIGCHLD", "SIGPIPE", "SIGHUP", "SIGUSR1", "SIGURG", "SIGIO", "SIGQUIT"]


def after(code):
    """A shell's words that do this, in Python, before they become the server."""
    code = f"import os, signal, sys; {code}; os.execvp(sys.argv[1], sys.argv[1:])"
    return f'exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} "$@"'


def chat_and_leave(server):
    """Two talk, one leaves, one is dropped."""
    speaker, listener = server.pair()
    for number in range(3):
        speaker.send(f"hello {number}\n".encode())
        listener.expect_line(speaker, f"hello {number}")
    speaker.close()
    server.await_log(rf"{re.escape(speaker.logged)} left, \d online$")
    if listener is not speaker:
        listener.send(b"x" * 3000)
        listener.send(b"x" * 3000)
        listener.read_to_end()
        server.await_log(rf"{re.escape(listener.logged)} dropped: message too long, \d online$")


FIRST = r"listening on \S+|history in .+, \d+ lines|web page on \S+"
LINE = rf"\d\d:\d\d:\d\d ({FIRST}|\S+ (joined|left|dropped: [a-z ]+), \d+ online|bye)"


def check_log(server):
    """Nothing but our own lines."""
    assert re.fullmatch(f"(?:{LINE}\n)+", server.log), server.log


def served(server, number=signal.SIGTERM):
    chat_and_leave(server)
    stop(server, number)
    check_log(server)


# Signals


@pytest.mark.parametrize(
    "before",
    [
        f"signal.pthread_sigmask(signal.SIG_BLOCK, [{', '.join('signal.' + name for name in SIGNALS)}])",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
        "[signal.signal(getattr(signal, name), signal.SIG_IGN) for name in %r]" % [s for s in SIGNALS if s != "SIGINT"],
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN); signal.signal(signal.SIGALRM, signal.SIG_IGN); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD, signal.SIGALRM, signal.SIGTERM, signal.SIGINT])",
    ],
    ids=["blocked", "all blocked", "ignored", "both"],
)
@pytest.mark.promise("stopping")
@pytest.mark.ours("the log")
def test_signals_ignored_or_blocked(start, before):
    for number in signal.SIGTERM, signal.SIGINT:
        served(start(shell=after(before)), number)


@pytest.mark.promise("stopping")
@pytest.mark.ours("the log")
def test_sigterm_and_sigint_ignored_and_blocked(start):
    """As a shell without job control, a supervisor and nohup may do: SIGTERM ends it."""
    numbers = "[signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP]"
    before = (
        f"signal.pthread_sigmask(signal.SIG_BLOCK, {numbers}); [signal.signal(n, signal.SIG_IGN) for n in {numbers}]"
    )
    served(start(shell=after(before)))


@pytest.mark.ours("--idle")
def test_idle_users_are_dropped_with_its_signals_blocked_and_ignored(serve):
    before = "signal.pthread_sigmask(signal.SIG_BLOCK, [14, 17]); [signal.signal(n, signal.SIG_IGN) for n in (14, 17)]"
    if sys.platform != "linux":
        pytest.skip("signals have other numbers")
    server = serve("process_per_client", "--idle", 1, shell=after(before))
    peer = server.connect()
    peer.expect(b"error: idle for 1 seconds\n", within=5)
    peer.expect_closed()
    server.await_log("dropped: idle, 0 online$")
    stop(server)


@pytest.mark.promise("stopping")
@pytest.mark.ours("the log")
def test_an_alarm_that_was_set_before(start):
    """It comes in the middle of the chat: who is not told otherwise dies of it, and exec keeps it."""
    if sys.platform != "linux":
        pytest.skip("exec keeps timers on Linux")
    served(
        start(shell=after("signal.signal(signal.SIGALRM, signal.SIG_IGN); signal.setitimer(signal.ITIMER_REAL, 0.3)"))
    )


# Descriptors


@pytest.mark.parametrize("count, allowed", [(1000, 1024), (1012, 1024), (1018, 1024), (3000, 4096)])
@pytest.mark.promise("start")
@pytest.mark.ours("its error")
def test_a_thousand_open_descriptors(start, count, allowed):
    """It works with what is left, or says in one line that it cannot."""
    before = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({allowed}, {allowed})); "
    before += f"f = [os.dup2(os.open(os.devnull, os.O_RDWR), n) for n in range(3, {count})]"
    server = start(shell=after(before), announce=False)
    wait_until(lambda: not server.running or " listening on " in server.log)
    if not server.running:
        assert server.wait() == 1
        assert re.fullmatch(r"\S+: cannot .*\n", server.log), server.log
        assert count > 1000 or server.model.name in ("select_based", "two_way"), server.log
        return
    server._await_announcement()
    peer = server.connect()
    server.await_log(rf"{peer.in_log} (joined|refused)")
    if "refused" in server.log:
        assert count > 1000 or server.model.name == "select_based", server.log
    peer.close()
    server.check_idle(0.2)
    stop(server)


CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"]


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.promise("start")
@pytest.mark.ours("its options")
def test_closed_standard_descriptors(start, closed):
    """No client's connection gets their numbers, and so nobody is sent the log."""
    server = start(shell=f'exec "$@" {closed}', polled="2>&-" in closed, port=0 if "2>&-" not in closed else free())
    if server.model.name == "two_way":
        pytest.skip("its operator is what it is about")
    speaker, listener = server.pair()
    speaker.send(b"hello\n")
    listener.expect_line(speaker, "hello")
    for peer in {speaker, listener}:
        peer.expect_nothing(0.1)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def free():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


@pytest.mark.promise("log")
@pytest.mark.ours("the log")
@pytest.mark.usefixtures("program")
def test_a_log_that_does_not_block(start):
    """A pipe that another program has made non-blocking and that is full: lines are lost, and nothing else."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    server = start(stderr=writing, polled=True, port=free())
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    for _ in range(20):
        server.check_room()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    os.set_blocking(reading, False)
    said = b""
    with contextlib.suppress(BlockingIOError):
        while data := os.read(reading, 1 << 16):
            said += data
    os.close(reading)
    os.close(writing)
    assert b"Traceback" not in said and b"--- Logging error ---" not in said, said[-2000:]


# The environment


@pytest.mark.promise("start")
@pytest.mark.ours("the log")
def test_odd_surroundings(start):
    """No environment, no UTF-8, files that nobody may read."""
    for shell in (
        'umask 777; exec env -i "$@"',
        'exec env -i LC_ALL=C "$@"',
        'exec env LC_ALL=C PYTHONIOENCODING=ascii "$@"',
        'exec env PYTHONIOENCODING=latin-1 "$@"',
        'exec env LANG=xx_YY LC_ALL=xx_YY "$@"',
    ):
        server = start(shell=shell)
        speaker, listener = server.pair()
        speaker.send("zażółć 日本 🦊\n".encode())
        listener.expect_line(speaker, "zażółć 日本 🦊")
        stop(server)
        check_log(server)


@pytest.mark.promise("start")
@pytest.mark.ours("the log")
def test_the_working_directory_is_gone(model, command, start, scratch):
    """Started by its full path."""
    if model.name in ("two_way", "uvloop"):
        pytest.skip("it is not started by a path")
    gone = scratch / "gone"
    gone.mkdir()
    words = [str(ROOT / word) if word.endswith("server.py") else word for word in command]
    shell = f"cd {shlex.quote(str(gone))}; rmdir {shlex.quote(str(gone))}; shift {len(words)}; "
    served(start(shell=shell + f'exec {shlex.join(words)} "$@"'))


# Options of the interpreter

OPTIONS = [
    ["-OO"],
    ["-O"],
    ["-I"],
    ["-S"],
    ["-P", "-E", "-s", "-B", "-u"],
    ["-X", "dev"],
    ["-W", "error", "-bb"],
    ["-W", "always", "-X", "tracemalloc", "-X", "faulthandler", "-X", "utf8=0"],
]


def with_options(command, options):
    """The model's command with these options of the interpreter."""
    at = 1 if command[1] == "-c" or command[1].endswith("server.py") else 2
    return [*command[:at], *options, *command[at:]]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
@pytest.mark.promise("start")
@pytest.mark.ours("options of Python's")
def test_options_of_the_interpreter(model, command, start, options):
    """Not a word that is not ours, status 0."""
    if model.needs and {"-I", "-P", "-S", "-E", "-s"} & set(options):
        pytest.skip("it needs what is installed, or what is beside it")
    words = with_options(command, options)
    server = start(shell=f'shift {len(command)}; exec {shlex.join(words)} "$@"')
    served(server, signal.SIGINT if options in (["-OO"], ["-X", "dev"]) else signal.SIGTERM)


@pytest.mark.promise("start")
@pytest.mark.ours("options of Python's")
def test_developer_s_mode_and_what_goes_wrong_at_the_start(command, run):
    """One line, and nothing about what was left open."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        for args in ([taken], [taken, "--host", "localhost"], ["0", "--host", "no.such.host.invalid"]):
            process = run(
                [*command, *args],
                cwd=ROOT,
                env={"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error", "PYTHONASYNCIODEBUG": "1"},
            )
            assert process.wait() == 1
            assert re.fullmatch(r"\S+: cannot listen on .*\n", process.log), process.log


@pytest.mark.promise("start")
@pytest.mark.ours("options of Python's")
def test_developer_s_mode_from_the_environment(start):
    """Its children, if it has any, have that too; asyncio says when something is slow."""
    served(start(env={"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}))


# Consoles


class OnTerminal(Room):
    """A server that runs in a console, on a terminal."""

    def __init__(self, model, child, port):
        self.model, self.child, self.host, self.port = model, child, "127.0.0.1", port
        self._begin()


class Console:
    """A console, the program in which the server is run, and what is typed there."""

    def __init__(self, terminal, model, scratch, words):
        self.model, self.state_path = model, scratch / "state"
        env = {**os.environ, "CHAT_STATE": str(self.state_path), "PYTHON_BASIC_REPL": "1", "TERM": "dumb"}
        env |= {"HOME": str(scratch), "IPYTHONDIR": str(scratch / "ipython")}
        self.child = terminal(words, cwd=ROOT, env=env, encoding="utf-8", echo=False)

    def type(self, line):
        self.child.sendline(line)

    def state(self):
        """What the interpreter says of itself."""
        self.state_path.unlink(missing_ok=True)
        self.type(f"exec(open({str(ROOT / 'tests/injected/interpreter.py')!r}).read()); print('sta' + 'ted')")
        self.child.expect("stated")
        return json.loads(self.state_path.read_text())

    def chat(self):
        """Use the server that has been started, and end it with Ctrl-C. Returns its port."""
        __tracebackhide__ = True
        self.child.expect(r"listening on 127\.0\.0\.1:(\d+)\r?\n")
        server = OnTerminal(self.model, self.child, int(self.child.match[1]))
        if self.model.name == "two_way":
            peer = server.connect()
            peer.send(b"who is there?\n")
            self.child.expect("who is there\\?")
            self.type("it is me")
            peer.expect(b"it is me\n")
            peers = [peer]
        else:
            peers = [server.connect() for _ in range(1 if self.model.echoes else 3)]
            self.child.expect(f"joined, {len(peers)} online")
            peers[0].send(b"hello\n")
            for peer in peers[1:] or peers:
                peer.expect_line(peers[0], "hello")
        begun = time.monotonic()
        self.child.sendintr()
        self.child.expect(r" bye\r?\n")
        assert time.monotonic() - begun < 3.0
        for peer in peers:
            peer.expect_closed()
            peer.close()
        return server.port

    def check_alive(self):
        """It answers, on both outputs, and Ctrl-C is its own again."""
        self.type("import sys; print('an' + 'swer'); print('er' + 'ror', file=sys.stderr)")
        self.child.expect("answer[^e]*error")
        self.type("import time; print('sleep' + 'ing'); [time.sleep(0.1) for _ in range(300)]")
        self.child.expect("sleeping")
        self.child.sendintr()
        self.child.expect("KeyboardInterrupt")
        self.type("print('still ' + 'alive')")
        self.child.expect("still alive")
        self.child.expect(r"(>>> |In \[\d+\]: )")
        self.type("import logging; logging.warning('a warning of ' + 'my own')")
        self.child.expect("WARNING:root:a warning of my own")


@pytest.fixture
def program(model, command):
    """The model's server.py, and its options."""
    if model.name == "uvloop":
        pytest.skip("started with runpy, it is in a console already")
    at = next(number for number, word in enumerate(command) if word.endswith("server.py"))
    return command[at], command[at + 1 :]


@pytest.mark.promise("stopping")
@pytest.mark.ours("python -i")
def test_python_i(model, program, terminal, scratch):
    """`python -i server.py`, Ctrl-C: the console that comes is as it would be without the server."""
    name, options = program
    plain = scratch / "plain.py"
    plain.write_text("import logging, argparse, signal")
    console = Console(terminal, model, scratch, [sys.executable, "-q", "-i", str(plain)])
    expected = console.state()
    console = Console(terminal, model, scratch, [sys.executable, "-q", "-i", name, "0", *options])
    port = console.chat()
    assert console.state() == expected
    console.type(f"sys.argv[1] = '{port}'; main()")
    assert console.chat() == port
    assert console.state() == expected
    console.check_alive()


@pytest.mark.promise("stopping")
@pytest.mark.ours("runpy")
def test_in_a_console_again_and_again(model, program, terminal, scratch):
    """As a teacher shows it: run_path in a console."""
    name, options = program
    console = Console(terminal, model, scratch, [sys.executable, "-q"])
    console.type("import runpy, sys, logging, argparse, signal")
    before, port = console.state(), 0
    for _ in range(3):
        console.type(f"sys.argv = {[name, str(port), *options]}; _ = runpy.run_path('{name}', run_name='__main__')")
        port = console.chat()
        assert console.state() == before
    console.check_alive()


@pytest.mark.promise("stopping")
@pytest.mark.ours("IPython")
def test_ipython_run(model, program, terminal, scratch):
    pytest.importorskip("IPython")
    name, options = program
    words = [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner"]
    words += ["--colors=NoColor", "--HistoryManager.hist_file=:memory:"]
    console = Console(terminal, model, scratch, words)
    console.child.expect(r"In \[1\]: ")
    console.type("import logging, argparse, signal")
    console.state()
    before, port = console.state(), 0
    for _ in range(2):
        console.type(f"%run {name} {port} {shlex.join(options)}")
        port = console.chat()
        assert console.state() == before
    console.check_alive()


@pytest.mark.promise("stopping")
@pytest.mark.ours("runpy")
def test_run_by_a_script_that_goes_on(program, command, start, scratch):
    """With handlers, a log and a mask of its own, which are there again afterwards."""
    path = str(ROOT / program[0])
    script = scratch / "script.py"
    script.write_text(
        f"""
import json, logging, os, runpy, signal, sys
logging.basicConfig(format="MINE %(message)s", level=logging.INFO, filename=os.environ["CHAT_OUT"])
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGALRM, lambda *_: None)
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
def state():
    exec(open({str(ROOT / "tests/injected/interpreter.py")!r}).read(), {{"__name__": "state"}})
    return json.load(open(os.environ["CHAT_STATE"]))
state()
before = state()
runpy.run_path(sys.argv[0], run_name="__main__")
after = state()
for what in before:
    if before[what] != after[what]:
        logging.info("%s was %s and is %s", what, before[what], after[what])
logging.info("goes on")
"""
    )
    code = f"import sys; sys.argv[0] = {path!r}; exec(open({str(script)!r}).read())"
    words = [word if not word.endswith("server.py") else "-c" for word in command]
    words.insert(words.index("-c") + 1, code)
    out = scratch / "out"
    shell = f'shift {len(command)}; exec {shlex.join(words)} "$@"'
    server = start(shell=shell, env={"CHAT_STATE": str(scratch / "state"), "CHAT_OUT": str(out)})
    server.check_room()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0, server.log
    assert server.log.endswith(" bye\n")
    assert out.read_text() == "MINE goes on\n", out.read_text()


# Process 1


@pytest.fixture(scope="session")
def unshare():
    """Words that make what follows process 1 of a namespace; skips where that is not allowed."""
    words = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces can be made here")
    return words


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.promise("stopping")
@pytest.mark.ours("the log")
def test_as_process_1(start, unshare, number):
    """The kernel drops a signal to it for which it has no handler."""
    server = start(shell=f'exec {shlex.join(unshare)} "$@"')
    chat_and_leave(server)
    inside = [process for process in server.processes() if process.pid != server.pid]
    first = next(process for process in inside if process.ppid() == server.pid)
    first.send_signal(number)
    begun = time.monotonic()
    assert server.wait() == 0, server.log
    assert time.monotonic() - begun < 3.0
    assert server.log.endswith(" bye\n")
    check_log(server)


# Looking up a host


@pytest.fixture
def etc(scratch):
    """A shell's words after which a program finds other files in /etc: `etc(hosts="...")`."""
    if os.geteuid() or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no file of /etc can be replaced here")

    def replace(**files):
        mounts = []
        for name, text in files.items():
            name = name.replace("_", ".")
            (scratch / name).write_text(text)
            mounts.append(f"mount --bind {shlex.quote(str(scratch / name))} /etc/{name}")
        script = "; ".join([*mounts, 'exec "$@"'])
        return f'exec unshare --mount sh -c {shlex.quote(script)} sh "$@"'

    return replace


@pytest.fixture
def silent_resolver(etc):
    """A shell's words after which a program asks a resolver that never answers; and the socket that it asks."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.53", 53))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                sock = None
            else:
                pytest.skip(f"no resolver can be had: {error}")
        hosts = shutil.which("true") and "hosts: files dns\n"
        yield etc(resolv_conf="nameserver 127.0.0.53\noptions timeout:9 attempts:2\n", nsswitch_conf=hosts), sock


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.promise("stopping")
@pytest.mark.ours("--host")
@pytest.mark.usefixtures("program")
def test_while_a_host_is_looked_up(start, silent_resolver, number):
    """A resolver that is silent: the signal ends it at once and without a word."""
    shell, sock = silent_resolver
    server = start(shell=shell, host="some.name", announce=False)
    if sock:
        sock.settimeout(15)
        assert b"some" in sock.recv(512)
    else:
        time.sleep(2)
    begun = time.monotonic()
    server.signal_group(number)
    status = server.wait()
    assert time.monotonic() - begun < 3.0
    assert status != 1
    assert server.log in ("", "\n"), server.log


HOSTS = ["::1 localhost\n127.0.0.1 localhost\n", "127.0.0.1 localhost\n::1 localhost\n", "127.0.0.1 localhost\n"]


@pytest.mark.parametrize("hosts", HOSTS, ids=["::1 first", "127.0.0.1 first", "IPv4 alone"])
@pytest.mark.promise("start")
@pytest.mark.ours("--host")
def test_localhost_is_where_the_client_goes(start, etc, hosts, needs_ipv6):
    server = start(shell=etc(hosts=hosts), host="localhost")
    assert f"listening on 127.0.0.1:{server.port}\n" in server.log
    server.host = "127.0.0.1"
    server.check_room()


@pytest.mark.promise("start")
@pytest.mark.ours("--host")
def test_a_host_that_has_ipv6_alone(start, etc, needs_ipv6):
    server = start(shell=etc(hosts="::1 six\n127.0.0.1 localhost\n"), host="six")
    assert f"listening on [::1]:{server.port}\n" in server.log
    server.host = "::1"
    server.check_room()
