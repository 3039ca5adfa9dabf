"""Real programs as clients: telnet and the several netcats are what a student will use."""

import contextlib
import os
import re
import shutil
import signal
import subprocess

import pexpect
import pytest
from harness import BrokenPromise

# Where each of them is told to end at the end of its input, with what.
PROGRAMS = {
    "nc.openbsd": ["nc.openbsd", "-N"],
    "nc.traditional": ["nc.traditional", "-q", "1"],
    "ncat": ["ncat"],
    "socat": ["socat", "-", "TCP:{host}:{port}"],
}
NETCATS = list(PROGRAMS)
NO_CLOSE_NOTIFY = ["ncat"]  # TLS's end, without which half a line may have been cut off: 7.93 sends none, 7.99 does
TLS = {"ncat": ["ncat", "--ssl"], "socat": ["socat", "-", "OPENSSL:{host}:{port},verify=0"]}


def program(name):
    """Skip where the program is not installed; where all of them must be (.ci/run says so), fail."""
    if not shutil.which(name):
        if os.environ.get("CHAT_ALL_PROGRAMS"):
            raise BrokenPromise(f"{name} is not installed, and CHAT_ALL_PROGRAMS is set")
        pytest.skip(f"{name} is not installed")
    return PROGRAMS.get(name, [name])


def command(name, server):
    """The command line with which the program connects to the server."""
    words = program(name)
    if server.model.tls:
        if name not in TLS:
            pytest.skip(f"{name} speaks no TLS")
        words = TLS[name]
    if "{port}" not in words[-1]:
        words = [*words, "{host}", "{port}"]
    return [word.replace("{host}", server.host).replace("{port}", str(server.port)) for word in words]


@contextlib.contextmanager
def talking(run, words):
    """The program, with a pipe to its standard input."""
    process = run(words, stdin=subprocess.PIPE, bufsize=0)
    with contextlib.suppress(BrokenPipeError), process.popen.stdin:
        yield process


def introduction(server):
    """What somebody types before anything else, where a name is asked for."""
    return "nina\n" if server.model.door else ""


def heard_from(listener, text):
    """The name of the one who is heard saying `text`."""
    heard = listener.read_line().decode()
    found = re.fullmatch(rf"(\S+) says: {re.escape(text)}\n", heard)
    assert found, heard
    return found[1]


@pytest.mark.parametrize("name", NETCATS)
@pytest.mark.promise("broadcast")
def test_a_netcat_talks_and_listens(server, run, name):
    (alice,) = server.join(1)
    with talking(run, command(name, server)) as netcat:
        netcat.popen.stdin.write(f"{introduction(server)}hello\n".encode())
        its_name = heard_from(alice, "hello")
        alice.send("cześć\n".encode())
        netcat.await_log(f"^{re.escape(alice.name)} says: cześć$")
        assert f"{its_name} says" not in netcat.log
    netcat.wait()
    alice.expect_nothing(0.1)


@pytest.mark.parametrize("name", NETCATS)
@pytest.mark.promise("broadcast", instead="echo")
def test_a_netcat_hears_itself(server, run, name):
    with talking(run, command(name, server)) as netcat:
        netcat.popen.stdin.write(b"hello\n")
        netcat.await_log(r"^\S+ says: hello$")
    netcat.wait()
    server.check_room()


@pytest.mark.parametrize("name", NETCATS)
@pytest.mark.promise("broadcast")
def test_what_a_netcat_has_in_a_pipe(server, run, name):
    """`printf 'one\\ntwo' | nc`: all of it is heard, the last line without a newline too, and nc ends."""
    (alice,) = server.join(1)
    end = "\n" if server.model.tls and name in NO_CLOSE_NOTIFY else ""
    with talking(run, command(name, server)) as netcat:
        netcat.popen.stdin.write(f"{introduction(server)}one\ntwo{end}".encode())
    assert [alice.read_line().partition(b" says: ")[2] for _ in range(2)] == [b"one\n", b"two\n"]
    netcat.wait()


@pytest.mark.parametrize("name", NETCATS)
@pytest.mark.promise("stopping")
def test_a_netcat_ends_with_the_server(start, run, name):
    server = start()
    with talking(run, command(name, server)) as netcat:
        netcat.popen.stdin.write(f"{introduction(server)}hello\n".encode())
        if server.model.echoes:
            netcat.await_log("says: hello")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        netcat.popen.stdin.close()
        netcat.wait()


@pytest.fixture
def telnet(terminal):
    """A telnet on a terminal of its own, in the room: `telnet(server)`."""

    def connect(server, name="tina"):
        child = terminal([*program("telnet"), server.host, server.port])
        child.expect("Escape character is[^\n]*\n")
        if server.model.door:
            child.expect_exact(b"your name?\r\n")
            child.sendline(name)
            child.expect(rf"\* you are {name};.*\n".encode())
        return child

    return connect


@pytest.mark.promise("broadcast")
@pytest.mark.plain("telnet does not speak it")
def test_telnet_talks_and_listens(server, telnet):
    (alice,) = server.join(1)
    child = telnet(server)
    child.sendline("hello")
    name = heard_from(alice, "hello")
    alice.send("cześć\n".encode())
    child.expect_exact(f"{alice.name} says: cześć\r\n".encode())
    assert f"{name} says".encode() not in child.before


@pytest.mark.promise("broadcast")
@pytest.mark.plain("telnet does not speak it")
def test_two_telnets(server, telnet):
    one, two = telnet(server, "one"), telnet(server, "two")
    (alice,) = server.join(1)
    for speaker, listener in (one, two), (two, one):
        speaker.sendline("can you hear me?")
        name = heard_from(alice, "can you hear me?")
        listener.expect_exact(f"{name} says: can you hear me?\r\n".encode())


@pytest.mark.promise("leaving")
@pytest.mark.plain("telnet does not speak it")
def test_ctrl_c_in_a_telnet_disconnects_it(server, telnet):
    """telnet sends IAC IP and goes on; the server ends the connection. What was half typed stays unheard."""
    child = telnet(server)
    if not server.model.echoes:
        (alice,) = server.join(1)
        child.sendline("hello")
        heard_from(alice, "hello")
    child.sendcontrol("c")
    child.expect_exact("Connection closed by foreign host.")
    child.expect(pexpect.EOF)
    server.check_room()
    server.check_idle()


@pytest.mark.promise("leaving")
@pytest.mark.plain("telnet does not speak it")
def test_quit_in_a_telnet(server, telnet):
    child = telnet(server)
    child.send("\x1d")  # Ctrl-]
    child.expect_exact("telnet>")
    child.sendline("quit")
    child.expect_exact("Connection closed.")
    child.expect(pexpect.EOF)
    server.check_room()


@pytest.mark.promise("stopping")
@pytest.mark.plain("telnet does not speak it")
def test_telnet_says_that_the_server_is_gone(start, telnet):
    server = start()
    child = telnet(server)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    child.expect_exact("Connection closed by foreign host.")
