"""The clients: on every kind of standard input, with the server going away, in every room.

Where a test must know what goes over the wire, or when, the test itself is the server (`listener`).
"""

import ast
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys

import pexpect
import pytest
from harness import DEADLINE, Peer, free_port, wait_until
from promises import ROOT

# How each waits: by turns, so that it hears nothing while somebody types; or on both at once.
WAITS = {
    "blocking": "by turns",
    "thread_per_client": "on both",
    "process_per_client": "on both",
    "select_based": "on both",
    "poll_based": "on both",
    "epoll_based": "on both",
    "asyncio_based": "on both",
    "proactor_based": "on both",
}
LIBRARIES = {"proactor_based": ["proactor.py"]}  # files that a client needs beside it
NEEDS = {"epoll_based": pytest.mark.skipif(not hasattr(select, "epoll"), reason="Linux only")}

GONE = "client.py: the server closed the connection\n"


def clients(waits=None):
    """Run a test with every client, or with those that wait in this way."""
    names = [name for name in WAITS if waits in (None, WAITS[name])]
    rows = [pytest.param(name, marks=NEEDS.get(name, ())) for name in names]
    return pytest.mark.parametrize("client", rows)


class Listener:
    """The test as the server: what it accepts it can speak through, as any other Peer."""

    def __init__(self, host="127.0.0.1"):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.sock = socket.create_server((host, 0), family=family)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # soon full: clients must wait
        self.sock.settimeout(DEADLINE)
        self.address = self.sock.getsockname()[:2]
        self.peers, self.gone = [], []

    def accept(self):
        self.peers.append(Peer(self, self.sock.accept()[0]))
        return self.peers[-1]

    def close(self):
        for peer in list(self.peers):
            peer.reset()
        self.sock.close()


@pytest.fixture
def listener():
    with contextlib.closing(Listener()) as listener:
        yield listener


def command(client, *address):
    """How a client is started; it connects to this address."""
    return [sys.executable, str(ROOT / client / "client.py"), *map(str, address)]


def copy_libraries(client, directory):
    """Copy what a client needs beside it."""
    for name in LIBRARIES.get(client, []):
        shutil.copy(ROOT / client / name, directory)


@contextlib.contextmanager
def keyboard(kind="terminal"):
    """The two ends of a terminal or a pipe: where one types, and what a client has as its standard input."""
    ends = os.openpty() if kind == "terminal" else os.pipe()[::-1]
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


@pytest.fixture
def begin(run):
    """Start a client, typed into through a pipe: `begin("poll_based", host, port)` gives a Process."""
    with contextlib.ExitStack() as pipes:

        def begin(client, *address, stdin=subprocess.PIPE, shell='exec "$@"', **options):
            process = run(["sh", "-c", shell, "sh", *command(client, *address)], stdin=stdin, **options)
            if stdin == subprocess.PIPE:
                pipes.callback(end_of_typing, process)
            return process

        yield begin


def type_in(process, data):
    """Type bytes into the pipe that is the keyboard of a process."""
    process.popen.stdin.write(data)
    process.popen.stdin.flush()


def end_of_typing(process):
    with contextlib.suppress(BrokenPipeError):
        process.popen.stdin.close()


# On a terminal


@clients()
def test_talk_on_a_terminal(client, listener, terminal):
    child = terminal(command(client, *listener.address))
    peer = listener.accept()
    for text in (b"hello", "grüß dich 👋".encode()):
        child.sendline(text)
        peer.expect(text + b"\n")
        peer.send(b"127.0.0.1:5 says: " + text + b"\n")
        child.expect_exact(b"says: " + text + b"\r\n")


@clients("on both")
def test_the_half_of_a_line_that_is_typed_survives_what_arrives(client, listener, terminal):
    child = terminal(command(client, *listener.address))
    peer = listener.accept()
    child.send(b"half a ")
    child.expect_exact(b"half a ")  # the terminal has it
    peer.send(b"127.0.0.1:5 says: sorry to interrupt\n")
    child.expect_exact(b"sorry to interrupt\r\n")
    child.sendline(b"sentence")
    peer.expect(b"half a sentence\n")


@clients()
def test_ctrl_d_half_closes_and_prints_what_still_comes(client, listener, terminal):
    child = terminal(command(client, *listener.address))
    peer = listener.accept()
    child.sendeof()
    assert peer.read_to_end() == b""
    peer.send(b"127.0.0.1:5 says: good-bye\n")
    child.expect_exact(b"good-bye\r\n")
    peer.close()
    child.expect(pexpect.EOF)
    assert (child.before, child.wait()) == (b"", 0)


@clients()
def test_ctrl_c_leaves_quietly(client, listener, terminal):
    child = terminal(command(client, *listener.address))
    peer = listener.accept()
    child.sendintr()
    assert peer.read_to_end() == b""
    child.expect(pexpect.EOF)
    child.wait()
    assert (child.before.strip(), child.signalstatus) in [(b"^C", signal.SIGINT), (b"", signal.SIGINT)]


@clients("on both")
@pytest.mark.parametrize("end", ["close", "reset"])
def test_the_server_goes_away_while_a_line_is_typed(client, end, listener, terminal):
    """A thread that still waits for the keyboard keeps nobody here."""
    child = terminal(command(client, *listener.address))
    peer = listener.accept()
    child.send(b"half a line")
    child.expect_exact(b"half a line")
    getattr(peer, end)()
    child.expect(pexpect.EOF)
    assert (child.before, child.wait()) == (GONE.replace("\n", "\r\n").encode(), 1)


@clients()
@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_standard_input_stays_blocking(client, kind, listener, begin):
    """O_NONBLOCK belongs to the open file, which the shell has too: it would find its own input broken."""
    with keyboard(kind) as (typing_end, stdin):
        process = begin(client, *listener.address, stdin=stdin)
        peer = listener.accept()
        os.write(typing_end, b"hello\n")
        peer.expect(b"hello\n")
        assert os.get_blocking(stdin)
        peer.close()
        assert process.wait() == 1
        assert os.get_blocking(stdin)


# Other kinds of standard input


@clients()
@pytest.mark.parametrize("stdin", ["pipe", "file", "/dev/null", "closed", "all closed"])
def test_end_of_standard_input(client, stdin, listener, begin, scratch):
    """All of it is sent, then the sending side is closed; what still comes is printed; the status is 0."""
    typed = b"one\ntwo" if stdin in ("pipe", "file") else b""
    (scratch / "typed").write_bytes(typed)
    shells = {
        "pipe": 'exec "$@"',
        "file": f'exec "$@" <{scratch}/typed',
        "/dev/null": 'exec "$@" </dev/null',
        "closed": 'exec "$@" <&-',
        "all closed": 'exec "$@" <&- >&- 2>&-',
    }
    process = begin(client, *listener.address, shell=shells[stdin])
    peer = listener.accept()
    if stdin == "pipe":
        type_in(process, typed)
        end_of_typing(process)
    if typed:
        peer.expect(b"one\n")
        peer.send(b"one indeed\n")
        peer.expect(b"two")
    assert peer.read_to_end() == b""
    peer.send(b"127.0.0.1:5 says: late\n")
    peer.close()
    assert process.wait() == 0
    printed = ("one indeed\n" if typed else "") + "127.0.0.1:5 says: late\n"
    assert process.log == ("" if stdin == "all closed" else printed)


@clients("on both")
def test_a_closed_standard_output_is_not_the_socket(client, listener, begin):
    """A closed descriptor's number goes to the next one opened: what is printed would go back to the room."""
    process = begin(client, *listener.address, shell='exec "$@" >&-')
    peer = listener.accept()
    peer.send(b"127.0.0.1:5 says: hello\n")
    type_in(process, b"hello?\n")
    peer.expect(b"hello?\n")
    end_of_typing(process)
    assert peer.read_to_end() == b""
    peer.close()
    assert (process.wait(), process.log) == (0, "")


@clients()
def test_nobody_reads_standard_output_any_more(client, listener, begin):
    """As in `client.py | head -1`: the end, without a traceback, also from Python's own flush at exit."""
    reader, writer = os.pipe()
    process = begin(client, *listener.address, stdout=writer)
    os.close(writer)
    os.close(reader)
    peer = listener.accept()
    type_in(process, b"hello\n")
    peer.send(b"127.0.0.1:5 says: hello\n")
    assert (process.wait(), process.log) == (1, "")


@clients("on both")
def test_what_comes_is_printed_byte_for_byte_and_at_once(client, listener, begin):
    """Also when the output is a file and not a terminal, and a character is cut in two."""
    process = begin(client, *listener.address)
    peer = listener.accept()
    said = "127.0.0.1:5 says: ü".encode()
    for data in (said[:-1], said[-1:], b"\t\n"):
        before = process.log_path.read_bytes()
        peer.send(data)
        assert wait_until(lambda before=before, data=data: process.log_path.read_bytes() == before + data)


# Much at once


@clients("on both")
def test_lines_that_come_at_once_go_out_at_once(client, listener, begin):
    """A reader with a buffer of its own takes all of them, gives out one, and waits with the rest."""
    process = begin(client, *listener.address)
    peer = listener.accept()
    type_in(process, b"one\ntwo\nthree\nand half of")
    peer.expect(b"one\ntwo\nthree\nand half of")


@clients("on both")
@pytest.mark.parametrize("chunk", ["4096", "1 << 24"])
def test_much_in_both_directions(client, chunk, listener, run, scratch):
    """It prints what comes although the server takes nothing from it: nobody waits for each other forever.

    Of the big chunk the socket takes a part at a time.
    """
    copy_libraries(client, scratch)
    text = (ROOT / client / "client.py").read_text()
    assert "CHUNK = 4096" in text
    (scratch / "client.py").write_text(text.replace("CHUNK = 4096", f"CHUNK = {chunk}"))
    mine = b"".join(b"%07d of mine\n" % number for number in range(500_000))
    theirs = b"theirs, theirs\n" * 1_000_000
    (scratch / "mine").write_bytes(mine)
    program = [sys.executable, str(scratch / "client.py"), *map(str, listener.address)]
    with open(scratch / "mine", "rb") as stdin, open(scratch / "printed", "wb") as stdout:
        process = run(program, stdin=stdin, stdout=stdout)
    peer = listener.accept()
    peer.send(theirs)  # it is more than the buffers between us hold, and I read nothing meanwhile
    assert peer.read_to_end() == mine
    peer.close()
    assert process.wait() == 0
    assert (scratch / "printed").read_bytes() == theirs


@clients("on both")
def test_a_server_that_takes_nothing_stops_the_reading_of_the_keyboard(client, listener, begin, scratch):
    """Backpressure: else a long file ends up in memory."""
    with open(scratch / "long", "wb") as file:
        file.truncate(100 << 20)
    with open(scratch / "long", "rb") as stdin:
        process = begin(client, *listener.address, stdin=stdin)
        listener.accept()
        assert wait_until(lambda: os.lseek(stdin.fileno(), 0, os.SEEK_CUR) > 0)
        process.check_idle()
        assert os.lseek(stdin.fileno(), 0, os.SEEK_CUR) < 50 << 20
        assert process.memory() < 50 << 20


# Idle


@clients()
def test_idle_on_a_terminal_and_after_its_end(client, listener, begin):
    with keyboard() as (typing_end, stdin):
        process = begin(client, *listener.address, stdin=stdin)
        peer = listener.accept()
        process.check_idle()
        os.write(typing_end, b"hello\n")
        peer.expect(b"hello\n")
        peer.send(b"127.0.0.1:5 says: hello\n")
        process.await_log("says: hello$")
        process.check_idle()
        os.write(typing_end, b"\x04")
        assert peer.read_to_end() == b""
        process.check_idle()


@clients()
def test_idle_after_the_end_of_a_pipe(client, listener, begin):
    """The other end of the pipe is closed, which poll reports for good, asked or not."""
    process = begin(client, *listener.address)
    peer = listener.accept()
    end_of_typing(process)
    assert peer.read_to_end() == b""
    process.check_idle()


@clients("on both")
def test_idle_with_unsent_bytes_and_the_pipe_closed(client, listener, begin):
    process = begin(client, *listener.address, shell='head -c 50000000 /dev/zero | ("$@"; echo $?)')
    peer = listener.accept()
    assert peer.read_some()
    process.check_idle()
    assert len(peer.read_to_end(within=60)) > 10_000_000
    peer.close()
    process.await_log("^0$")


# The server goes away


@clients("on both")
@pytest.mark.parametrize("end", ["close", "reset"])
def test_what_came_before_the_server_went_away_is_printed(client, end, listener, begin):
    process = begin(client, *listener.address)
    peer = listener.accept()
    type_in(process, b"hello\n")
    peer.expect(b"hello\n")
    with process.frozen():
        peer.send(b"127.0.0.1:5 says: good-bye\n" * 1000)
        getattr(peer, end)()
    assert process.wait() == 1
    assert process.log == "127.0.0.1:5 says: good-bye\n" * 1000 + GONE


@clients("on both")
def test_reset_while_it_sends(client, listener, begin, scratch):
    """To send fails at once after a reset; but what came before is still there to be printed."""
    with open(scratch / "long", "wb") as file:
        file.truncate(50 << 20)
    with open(scratch / "long", "rb") as stdin:
        process = begin(client, *listener.address, stdin=stdin)
    peer = listener.accept()
    assert peer.read_some()
    with process.frozen():
        peer.send(b"error: a message may be at most 4096 bytes\n" * 1000)
        peer.reset()
    assert process.wait() == 1
    assert process.log == "error: a message may be at most 4096 bytes\n" * 1000 + GONE


@clients("on both")
def test_reset_at_any_moment(client, listener, begin, scratch):
    """Above it goes on after all of it has happened; here it is busy, and the moment is what it is."""
    with open(scratch / "long", "wb") as file:
        file.truncate(50 << 20)
    for number in range(20):
        with open(scratch / "long", "rb") as stdin:
            process = begin(client, *listener.address, stdin=stdin)
        peer = listener.accept()
        taken = 0
        while taken < number << 16:
            taken += len(peer.read_some())
        peer.send(b"error: a message may be at most 4096 bytes\n")
        peer.reset()
        assert process.wait() == 1
        assert process.log == "error: a message may be at most 4096 bytes\n" + GONE


@clients("on both")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_real_server_goes_away(client, number, serve, begin):
    server = serve("select_based")
    process = begin(client, server.host, server.port)
    server.await_log("joined, 1 online")
    server.signal(number)
    assert (process.wait(), process.log) == (1, GONE)


@clients("by turns")
def test_turn_taking_finds_out_at_its_next_line(client, listener, begin):
    process = begin(client, *listener.address)
    listener.accept().close()
    type_in(process, b"still there?\n")
    assert (process.wait(), process.log) == (1, GONE)


@clients()
def test_a_message_too_long(client, serve, begin):
    """The server's last word is printed, unless its reset overtakes it. Either way, the client says so."""
    server = serve("blocking" if client == "blocking" else "select_based")
    process = begin(client, server.host, server.port)
    type_in(process, b"x" * 4096 + b"\nstill there?\n")
    assert process.wait() == 1
    assert process.log in (GONE, "error: a message may be at most 4096 bytes\n" + GONE)


# Errors at start


@clients()
def test_nobody_listens(client, begin):
    port = free_port()
    process = begin(client, "127.0.0.1", port)
    assert process.wait() == 1
    assert process.log.startswith(f"client.py: cannot connect to 127.0.0.1:{port}: ")
    assert process.log.count("\n") == 1


@clients()
@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64, "", "1_000", "xn--\udcff"])
def test_unknown_host(client, host, begin):
    """Some of these are refused by Python itself, which has to encode them, with a UnicodeError."""
    process = begin(client, host, "9669")
    assert process.wait(within=60) == 1
    assert process.log.startswith("client.py: cannot connect to ")
    assert process.log.count("\n") == 1


BAD = [["127.0.0.1", port] for port in ["65536", "x", "1_000", "+5", " 5", "-1", "", "９６６９", "9" * 5000]]


@clients()
@pytest.mark.parametrize("arguments", [*BAD, ["65536"], ["９６６９"], ["127.0.0.1", "1", "2"]], ids=repr)
def test_bad_arguments(client, arguments, begin):
    process = begin(client, *arguments)
    assert process.wait() == 2
    assert process.log.startswith("usage: client.py ")


@clients()
def test_a_lone_number_is_a_port(client, listener, begin):
    process = begin(client, listener.address[1], stdin=subprocess.DEVNULL)
    peer = listener.accept()
    assert peer.read_to_end() == b""
    peer.close()
    assert (process.wait(), process.log) == (0, "")


@clients()
def test_ipv6(client, needs_ipv6, begin):
    with contextlib.closing(Listener("::1")) as listener:
        process = begin(client, *listener.address)
        peer = listener.accept()
        type_in(process, b"hello\n")
        peer.expect(b"hello\n")
        peer.send(b"[::1]:5 says: hello\n")
        end_of_typing(process)
        assert peer.read_to_end() == b""
        peer.close()
        assert (process.wait(), process.log) == (0, "[::1]:5 says: hello\n")


# In the rooms


@clients("on both")
@pytest.mark.promise("broadcast")
def test_every_client_in_every_room(client, server, begin):
    if server.model.tls:
        pytest.skip("its clients are tested in test_road_clients.py")
    (alice,) = server.join(1)
    process = begin(client, server.host, server.port)
    if server.model.door:
        type_in(process, b"guest\n")
    type_in(process, "grüß dich\n".encode())
    assert alice.read_line().endswith(" says: grüß dich\n".encode())
    alice.send(b"hello\n")
    process.await_log(f"^{alice.name} says: hello$")
    type_in(process, b"good-bye")  # the last line needs no newline
    end_of_typing(process)
    assert alice.read_line().endswith(b" says: good-bye\n")
    assert process.wait() == 0
    heard = [line for line in process.log.splitlines(keepends=True) if not line.startswith(("your name?", "* "))]
    assert "".join(heard) == alice.line("hello").decode()


@clients()
@pytest.mark.promise("broadcast", instead="echo")
def test_every_client_with_a_server_that_answers(client, server, begin):
    process = begin(client, server.host, server.port)
    type_in(process, b"one\n \n\x1b\ntwo\nthree")
    end_of_typing(process)
    assert process.wait() == 0
    assert [line.partition(" says: ")[2] for line in process.log.splitlines()] == ["one", "two", "three"]


@clients("by turns")
@pytest.mark.promise("broadcast")
def test_turn_taking_hangs_in_a_room(client, server, terminal):
    """It hears nothing while it is its turn to type, and sends nothing while it waits for an answer."""
    if server.model.door:
        pytest.skip("its turn begins with a question")
    (alice,) = server.join(1)
    child = terminal(command(client, server.host, server.port))
    child.sendline(b"first")
    assert alice.read_line().endswith(b" says: first\n")
    child.sendline(b"second")
    alice.expect_nothing()  # nobody answered the first, and so it is still waiting
    alice.send(b"hello\n")
    child.expect_exact(f"{alice.name} says: hello")  # taken for the answer: so much for the turn
    assert alice.read_line().endswith(b" says: second\n")
    alice.send(b"one\ntwo\n")
    child.expect_exact(b"says: one")
    assert child.expect_exact([b"two", pexpect.TIMEOUT], timeout=0.5) == 1  # it was said, and is not heard
    child.sendline(b"third")
    child.expect_exact(b"says: two")


# By turns


@clients("by turns")
def test_lines_that_get_no_answer_are_not_waited_for(client, listener, begin):
    """What is blank once the server has cleaned it is no message: the wait for an answer would be long."""
    process = begin(client, *listener.address)
    peer = listener.accept()
    blank = [" ", "\t", "\r", "\x1b\x07\x7f", "\x85\x9b", "\u202e\u2066", "\u3000\u2028", ""]
    type_in(process, "\n".join([*blank, "hello", ""]).encode())
    peer.expect(b"hello\n")
    peer.send(b"127.0.0.1:5 says: hello\n")
    process.await_log("says: hello$")


# The text


@clients()
def test_it_needs_nothing_beside_it(client, listener, scratch, run):
    shutil.copy(ROOT / client / "client.py", scratch)
    copy_libraries(client, scratch)
    program = [sys.executable, "-E", "-s", str(scratch / "client.py"), *map(str, listener.address)]
    process = run(program, stdin=subprocess.DEVNULL)
    peer = listener.accept()
    assert peer.read_to_end() == b""
    peer.close()
    assert (process.wait(), process.log) == (0, "")


def functions(client):
    """The text of each function of a client, in their order."""
    text = (ROOT / client / "client.py").read_text()
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for node in ast.parse(text).body if isinstance(node, kinds)]
    return {node.name: ast.get_source_segment(text, node) for node in nodes}


@pytest.mark.parametrize("client", WAITS)
def test_what_the_model_does_not_touch_is_the_same(client):
    """A diff of two clients is to show the model and nothing else."""
    model, common = functions(client), functions("select_based")
    assert next(iter(model)) == "chat"
    assert list(model)[-6:] == ["read_typed", "show", "fail", "port", "end_at_signals", "main"]
    # epoll is not everywhere, and asyncio.run has another loop than the one it takes.
    touched = ["chat", "main"] if client in ("epoll_based", "asyncio_based") else ["chat"]
    for name in common.keys() - touched:
        assert model[name] == common[name]
