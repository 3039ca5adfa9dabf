"""blocking/two_way: two people take turns over one connection. The test is both of them, or one.

The server has a keyboard of its own here, and so most of its tests are its own: the operator sits at a real terminal
(`desk`), or types into a pipe (`serve`).
"""

import ast
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pexpect
import psutil
import pytest
from harness import DEADLINE, Process, Server, free_port
from promises import ROOT, Model

FOLDER = "blocking/two_way"
TWO_WAY = Model("two_way", (sys.executable, f"{FOLDER}/server.py"))
CLIENT = [sys.executable, str(ROOT / FOLDER / "client.py")]
NOBODY = b"error: nobody is at the keyboard any more\n"
TOO_LONG = b"error: a message may be at most 4096 bytes\n"
GRACE = 2.0 + 1.0  # seconds in which it stops: two, and one because this machine may be busy


class Desk:
    """A server on a terminal of its own, at which the test is the operator."""

    def __init__(self, child):
        self.child, self.host, self.peers, self.gone = child, "127.0.0.1", [], []
        child.expect(rb"\A\d\d:\d\d:\d\d listening on \S+:(\d+)\r\n")
        self.port = int(child.match[1])

    model, connect, visit = TWO_WAY, Server.connect, Server.visit

    def types(self, text):
        """Type a line; the terminal shows it too."""
        self.child.sendline(text)
        self.child.expect_exact(f"{text}\r\n".encode())

    def sees(self, text):
        """The very next thing on the screen is this line."""
        self.child.expect(rb"\A([^\n]*)\r\n")
        assert self.child.match[1].decode() == text

    def logs(self, pattern):
        """The very next thing on the screen is this line of the log."""
        self.child.expect(rb"\A\d\d:\d\d:\d\d ([^\n]*)\r\n")
        assert re.fullmatch(pattern, self.child.match[1].decode()), self.child.match[1]

    def sees_nothing(self, seconds=0.3):
        """Nothing comes on the screen for a while."""
        with pytest.raises(pexpect.TIMEOUT):
            self.child.expect("(?s).", timeout=seconds)

    def sees_the_end(self):
        """Nothing more comes, and the server has ended with this status."""
        self.child.expect(pexpect.EOF)
        self.child.wait()
        assert self.child.before == b""
        return self.child.exitstatus

    def sees_stopped(self, name, begun):
        """The server closes what there is, and ends in good order and in time."""
        if name:
            self.logs(rf"{re.escape(name)} dropped: server stopping, 0 online")
        self.logs("bye")
        assert self.sees_the_end() == 0
        assert time.monotonic() - begun < GRACE

    def meet(self):
        """A caller whose conversation has begun."""
        peer = self.connect()
        self.logs(rf"{re.escape(peer.name)} joined, 1 online")
        return peer

    def left(self, peer, why="left"):
        self.logs(rf"{re.escape(peer.name)} {why}, 0 online")


@pytest.fixture
def sit_down(terminal):
    """Start a server on a terminal: `sit_down("--host", "::1")` gives a Desk."""
    desks = []

    def start(*arguments, **options):
        command = [*TWO_WAY.command, "0", *arguments]
        desks.append(Desk(terminal(command, cwd=str(ROOT), **options)))
        return desks[-1]

    yield start
    for desk in desks:
        for peer in list(desk.peers):
            peer.reset()


@pytest.fixture
def desk(sit_down):
    return sit_down()


@pytest.fixture
def caller(terminal):
    """Start the client on a terminal: `caller(desk)` gives a pexpect.spawn."""
    return lambda desk: terminal([*CLIENT, desk.host, desk.port])


@pytest.fixture
def typed(serve):
    """Start a server whose keyboard is a pipe, and close the pipe at the end."""
    pipes = []

    def start(text=b"", **options):
        server = serve(TWO_WAY, **{"stdin": subprocess.PIPE, **options})
        pipes.append(server.popen.stdin)
        if text:
            type_in(server, text)
        return server

    yield start
    for pipe in pipes:
        if pipe:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def type_in(server, text):
    server.popen.stdin.write(text)
    server.popen.stdin.flush()


def screen_of(child):
    """The very next line on a client's terminal."""
    child.expect(rb"\A([^\n]*)\r\n")
    return child.match[1].decode()


def client_types(child, text):
    child.sendline(text)
    assert screen_of(child) == text  # the terminal's echo


def status_of(child):
    """The exit status of a client that shows nothing more."""
    child.expect(pexpect.EOF)
    child.wait()
    assert child.before == b""
    return child.exitstatus


# Taking turns, on two terminals


def test_two_people_take_turns(desk, caller):
    child = caller(desk)
    desk.logs(r"127\.0\.0\.1:\d+ joined, 1 online")
    for question, answer in [("hello", "hi"), ("grüß dich 👩‍🚀", "ты кто?"), ("  spaces  ", "  too  ")]:
        client_types(child, question)
        desk.sees(question)
        desk.types(answer)
        assert screen_of(child) == answer
    child.sendeof()
    desk.logs(r"127\.0\.0\.1:\d+ left, 0 online")
    assert status_of(child) == 0


def test_what_goes_over_the_wire_is_the_line(desk):
    """No names, no prompt."""
    peer = desk.meet()
    for number in range(3):
        peer.send(f"question {number}\n".encode())
        desk.sees(f"question {number}")
        desk.types(f"answer {number}")
        peer.expect(f"answer {number}\n".encode())
    peer.expect_nothing()
    desk.sees_nothing()


@pytest.mark.parametrize("apart", [False, True], ids=["at once", "later"])
def test_a_line_waits_unseen_until_it_is_its_turn(desk, apart):
    peer = desk.meet()
    peer.send(b"one\n" if apart else b"one\ntwo\nthree\n")
    desk.sees("one")
    if apart:
        peer.send(b"two\nthree\n")
    desk.sees_nothing()
    for seen, answer in [("two", "1"), ("three", "2")]:
        desk.types(answer)
        desk.sees(seen)
        desk.sees_nothing()
        peer.expect(f"{answer}\n".encode())
    desk.types("3")
    peer.expect(b"3\n")


def test_what_the_server_says_waits_until_the_client_has_typed(terminal):
    """The other side of it: a caller hears one line a turn, however much was said."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(DEADLINE)
        child = terminal([*CLIENT, *listener.getsockname()])
        sock, _ = listener.accept()
        with sock:
            sock.sendall(b"early\nnews\n")
            assert child.expect(["(?s).", pexpect.TIMEOUT], timeout=0.3) == 1
            client_types(child, "hello?")
            assert screen_of(child) == "early"
            assert child.expect(["(?s).", pexpect.TIMEOUT], timeout=0.3) == 1
            client_types(child, "what?")
            assert screen_of(child) == "news"


def test_what_the_operator_types_ahead_waits_in_the_terminal(desk):
    """It is the answer to the next line, whoever says that."""
    desk.types("typed ahead")
    peer = desk.meet()
    peer.expect_nothing()
    peer.send(b"hello\n")
    desk.sees("hello")
    peer.expect(b"typed ahead\n")
    peer.send(b"are you there?\n")
    desk.sees("are you there?")
    desk.types("yes")
    desk.types("and this is for you alone")
    peer.expect(b"yes\n")
    peer.close()
    desk.left(peer)
    second = desk.meet()
    second.send(b"hello\n")
    desk.sees("hello")
    second.expect(b"and this is for you alone\n")


def test_what_a_client_types_ahead_waits_in_the_terminal(desk, caller):
    child = caller(desk)
    desk.logs(r"\S+ joined, 1 online")
    client_types(child, "one")
    client_types(child, "two")
    desk.sees("one")
    desk.sees_nothing()
    desk.types("1")
    desk.sees("two")
    assert screen_of(child) == "1"


@pytest.mark.parametrize("blank", ["", "   ", "\x1b\x07", "\u202e"], ids=ascii)
def test_a_blank_line_is_no_turn(typed, blank):
    """On neither side: Enter alone answers nothing."""
    server = typed()
    peer = server.connect()
    peer.send(f"{blank}\n".encode() * 3 + b"hello\n")
    server.await_log("joined, 1 online\nhello\n")
    type_in(server, f"{blank}\n".encode() * 3)
    peer.expect_nothing()
    type_in(server, b"hi\n")
    peer.expect(b"hi\n")


# quit


def test_the_client_quits(desk, caller):
    child = caller(desk)
    desk.logs(r"\S+ joined, 1 online")
    client_types(child, "hello")
    desk.sees("hello")
    desk.types("hi")
    assert screen_of(child) == "hi"
    client_types(child, "quit")
    assert status_of(child) == 0
    desk.sees("quit")
    desk.logs(r"\S+ left, 0 online")
    desk.meet()


def test_the_operator_quits(desk, caller):
    child = caller(desk)
    desk.logs(r"\S+ joined, 1 online")
    client_types(child, "hello")
    desk.sees("hello")
    desk.types("quit")
    desk.logs(r"\S+ dropped: the operator quit, 0 online")
    assert screen_of(child) == "quit"
    assert status_of(child) == 0
    desk.meet()


@pytest.mark.parametrize("end", [b"quit\n", b"quit\r\n", b" quit \n", b"\x1b\xff\xf9quit\r\0\n", b"quit\nmore\n"])
def test_quit_from_any_program(desk, end):
    peer = desk.meet()
    peer.send(end)
    desk.child.expect(rb"\A *quit *\r\n")
    desk.left(peer)
    peer.expect_closed()


@pytest.mark.parametrize("text", ["quit now", "QUIT", "quit\x00quit", "quitquit"], ids=ascii)
def test_what_is_not_quit(desk, text):
    peer = desk.meet()
    peer.send(f"{text}\n".encode())
    desk.sees(text.replace("\0", ""))
    desk.types("not yet")
    peer.expect(b"not yet\n")


def test_quit_as_the_last_line_without_a_newline(desk, run):
    process = run([*CLIENT, str(desk.port)], stdin=subprocess.PIPE)
    process.popen.stdin.write(b"quit")
    process.popen.stdin.close()
    desk.logs(r"\S+ joined, 1 online")
    desk.sees("quit")
    desk.logs(r"\S+ left, 0 online")
    assert (process.wait(), process.log) == (0, "")


@pytest.mark.parametrize("line", [b"quit\r\0\n", b"\x1bquit\n", b"\xff\xf9 quit\n", "\u3000quit\u202e\n".encode()])
def test_what_the_server_takes_for_quit_the_client_takes_for_quit(desk, run, line):
    """Else it waits for an answer, and says that the server has gone."""
    process = run([*CLIENT, str(desk.port)], stdin=subprocess.PIPE)
    desk.logs(r"\S+ joined, 1 online")
    type_in(process, line)
    desk.child.expect(rb"\A\s*(\xe3\x80\x80)?quit\r\n")
    desk.logs(r"\S+ left, 0 online")
    assert (process.wait(), process.log) == (0, "")


def test_what_is_quit_is_heard_also_after_a_line_too_many(desk):
    """The kernel holds a line that nobody will read, and closes with a reset; `quit` was there before it."""
    peer = desk.meet()
    peer.send(b"one\n")
    desk.sees("one")
    peer.send(b"too early\n")
    desk.types("quit")
    desk.left(peer, "dropped: the operator quit")
    peer.expect(b"quit\n")
    peer.expect_closed()


# One conversation at a time


def test_a_second_caller_waits(desk, caller):
    first = desk.meet()
    second = desk.connect()
    second.send(b"me too\n")
    first.send(b"hello\n")
    desk.sees("hello")
    desk.types("hi")
    first.expect(b"hi\n")
    second.expect_nothing()
    desk.sees_nothing()
    first.send(b"quit\n")
    desk.sees("quit")
    desk.left(first)
    desk.logs(rf"{re.escape(second.name)} joined, 1 online")
    desk.sees("me too")
    desk.types("now you")
    second.expect(b"now you\n")


def test_many_conversations_leave_nothing_behind(typed):
    server = typed(b"answer\n" * 300)
    held = None
    for number in range(300):
        peer = server.connect()
        peer.send(b"hello\n")
        peer.expect(b"answer\n")
        [peer.close, peer.reset, peer.finish][number % 3]()
        if number == 10:
            held = server.descriptors()
    server.check_descriptors(at_most=held)
    assert server.log.count(" joined, 1 online") == 300


# Leaving, which nobody notices in the operator's turn


@pytest.mark.parametrize("how", ["close", "reset"])
def test_who_leaves_in_the_operators_turn_is_noticed_after_it(desk, how):
    peer = desk.meet()
    peer.send(b"hello\n")
    desk.sees("hello")
    getattr(peer, how)()
    desk.sees_nothing()
    desk.types("are you there?")
    desk.logs(rf"{re.escape(peer.name)} (left|dropped: (connection reset by peer|broken pipe)), 0 online")
    desk.meet()


def test_who_leaves_with_lines_unseen(desk):
    """There is nobody for the answers."""
    peer = desk.meet()
    peer.send(b"one\ntwo\nthree\n")
    desk.sees("one")
    peer.reset()
    desk.types("1")
    desk.left(peer, "dropped: (connection reset by peer|broken pipe)")
    desk.meet()


def test_ctrl_c_in_the_client(desk, caller):
    for turn in ("client", "operator"):
        child = caller(desk)
        desk.logs(r"\S+ joined, 1 online")
        if turn == "operator":
            client_types(child, "hello")
            desk.sees("hello")
        child.sendintr()
        child.expect(pexpect.EOF)
        child.wait()
        assert child.signalstatus == signal.SIGINT
        if turn == "operator":
            desk.sees_nothing()
            desk.types("are you there?")
        desk.logs(r"\S+ (left|dropped: (connection reset by peer|broken pipe)), 0 online")


def test_a_half_close_after_a_question(desk):
    """As `printf 'hello\\nquestion' | nc -N`: both are answered."""
    peer = desk.meet()
    peer.send(b"hello\nquestion")
    peer.finish()
    for text in ("hello", "question"):
        desk.sees(text)
        desk.types(f"{text}?")
    desk.left(peer)
    assert peer.read_to_end() == b"hello?\nquestion?\n"


@pytest.mark.parametrize("parts", [[b"half\xff\xf4"], [b"half\xff", b"\xf4\n"], [b"half\xff\xf4more\n"]])
def test_ctrl_c_in_telnet(desk, parts):
    peer = desk.meet()
    peer.send_parts(parts, pause=0.05)
    desk.left(peer)
    peer.expect_closed()


@pytest.mark.skipif(not shutil.which("telnet"), reason="no telnet")
def test_telnet(desk, terminal):
    child = terminal(["telnet", desk.host, desk.port])
    desk.logs(r"\S+ joined, 1 online")
    child.expect_exact("Escape character is '^]'.\r\n")
    client_types(child, "hello")
    desk.sees("hello")
    desk.types("hi")
    assert screen_of(child) == "hi"
    client_types(child, "quit")
    desk.sees("quit")
    desk.logs(r"\S+ left, 0 online")
    child.expect_exact("Connection closed by foreign host.")


# The server goes away from the client


def test_the_server_stops_in_the_clients_turn(desk, caller):
    """Nothing tells the client before its next line."""
    child = caller(desk)
    desk.logs(r"\S+ joined, 1 online")
    desk.child.kill(signal.SIGTERM)
    desk.logs(r"\S+ dropped: server stopping, 0 online")
    desk.logs("bye")
    assert child.expect(["(?s).", pexpect.TIMEOUT], timeout=0.3) == 1
    client_types(child, "hello?")
    assert screen_of(child) == "client.py: the server closed the connection"
    assert status_of(child) == 1


def test_the_server_stops_in_the_operators_turn(desk, caller):
    child = caller(desk)
    desk.logs(r"\S+ joined, 1 online")
    client_types(child, "hello?")
    desk.sees("hello?")
    desk.child.kill(signal.SIGTERM)
    assert screen_of(child) == "client.py: the server closed the connection"
    assert status_of(child) == 1


# The operator's standard input ends


@pytest.mark.parametrize("shell", ['exec "$@" </dev/null', 'exec "$@" <&-', 'exec "$@" <&- >&-'])
def test_nobody_at_the_keyboard_from_the_start(typed, shell):
    """Each caller is told when it is the operator's turn."""
    server = typed(shell=shell)
    for number in range(3):
        peer = server.connect()
        server.await_log(rf"{re.escape(peer.name)} joined, 1 online")
        peer.expect_nothing(0.1)
        peer.send(b"hello\n")
        peer.expect(NOBODY)
        peer.expect_closed()
        server.await_log(rf"{re.escape(peer.name)} dropped: nobody is at the keyboard, 0 online")
        assert server.log.count("hello") == (number + 1 if ">&-" not in shell else 0)
    server.check_idle()


@pytest.mark.parametrize("last", [b"two\n", b"two"], ids=["newline", "no newline"])
def test_the_keyboard_is_a_pipe_that_ends(typed, last):
    """Each of its lines is an answer, one a turn, also across conversations; none is lost."""
    server = typed(b"one\n\n" + last)
    server.popen.stdin.close()
    for answer in (b"one\n", b"two\n"):
        peer = server.connect()
        peer.send(b"hello\n")
        peer.expect(answer)
        peer.send(b"quit\n")
        peer.expect_closed()
    peer = server.connect()
    peer.send(b"hello\nhello\n")
    peer.expect(NOBODY)
    peer.expect_closed()


def test_ctrl_d_hangs_up_on_this_caller_alone(desk):
    """A terminal's end of file is not for good."""
    peer = desk.meet()
    peer.send(b"hello\n")
    desk.sees("hello")
    desk.child.sendeof()
    peer.expect(NOBODY)
    peer.expect_closed()
    desk.left(peer, "dropped: nobody is at the keyboard")
    peer = desk.meet()
    peer.send(b"hello\n")
    desk.sees("hello")
    desk.types("hi")
    peer.expect(b"hi\n")


def test_the_client_hears_that_nobody_is_there(desk, caller):
    child = caller(desk)
    desk.logs(r"\S+ joined, 1 online")
    client_types(child, "hello")
    desk.sees("hello")
    desk.child.sendeof()
    assert screen_of(child) == NOBODY.decode().strip()
    client_types(child, "hello?")
    assert screen_of(child) == "client.py: the server closed the connection"
    assert status_of(child) == 1


@pytest.mark.parametrize("shell", ['exec "$@" 0>/dev/null', 'exec "$@" </proc/self/mem'])
def test_a_keyboard_that_cannot_be_read(typed, shell):
    if "/proc" in shell and sys.platform != "linux":
        pytest.skip("/proc is Linux's")
    server = typed(shell=shell)
    peer = server.connect()
    peer.send(b"hello\n")
    peer.expect(NOBODY)
    peer.expect_closed()


def test_in_the_background_nobody_is_at_the_keyboard(terminal):
    """The shell has the terminal then: reading it fails, and does not stop the server as it stops `cat &`."""
    shell = terminal(
        ["sh", "-c", 'set -m; "$@" & wait $!; echo ended with $?', "sh", *TWO_WAY.command, "0"], cwd=str(ROOT)
    )
    desk = Desk(shell)
    for _ in range(2):
        peer = desk.meet()
        peer.send(b"hello\n")
        desk.sees("hello")
        peer.expect(NOBODY)
        desk.left(peer, "dropped: nobody is at the keyboard")
        peer.close()
    with contextlib.closing(desk.meet()):
        (server,) = psutil.Process(shell.pid).children()
        server.send_signal(signal.SIGTERM)
        desk.logs(r"\S+ dropped: server stopping, 0 online")
        desk.logs("bye")
        desk.sees("ended with 0")


def test_standard_input_stays_blocking(typed):
    ends = os.openpty()
    server = typed(stdin=ends[1])
    peer = server.connect()
    os.write(ends[0], b"hi\n")
    peer.send(b"hello\n")
    peer.expect(b"hi\n")
    assert os.get_blocking(ends[1])
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert os.get_blocking(ends[1])
    for end in ends:
        os.close(end)


# What reaches the operator's terminal, and what goes out


UNSAFE = [
    (b"\x1b[2J\x1b]0;owned\x07text\r", "[2J]0;ownedtext"),
    ("a\x9bb\x85c\x7fd".encode(), "abcd"),
    ("a\u202eb\u2066c".encode(), "abc"),
    (b"\xff\xfd\x01a\xff\xfab\xff\xf0c\xff\xff\xff\xf9", "ac\ufffd"),
    (b"bad \xc3\xe2\x82 utf-8", "bad \ufffd\ufffd utf-8"),
    ("👩‍🚀 ends with NUL\0\r\0".encode(), "👩‍🚀 ends with NUL"),
    (b"a\ttab", "a\ttab"),
]


@pytest.mark.parametrize("line, seen", UNSAFE, ids=[ascii(seen) for _, seen in UNSAFE])
def test_control_characters_do_not_reach_the_operator(typed, scratch, line, seen):
    with open(scratch / "screen", "wb") as screen:
        server = typed(b"yes\n", stdout=screen)
        peer = server.connect()
        peer.send(line + b"\n")
        peer.expect(b"yes\n")
    assert (scratch / "screen").read_bytes() == f"{seen}\n".encode()


def test_control_characters_do_not_reach_a_real_terminal(desk):
    peer = desk.meet()
    peer.send(b"\x1b[31mred\x1b[0m\x07\n")
    desk.sees("[31mred[0m")
    desk.sees_nothing()


def test_what_the_operator_types_goes_out_as_a_line_of_utf_8(typed):
    typing = ["grüß 👋\n".encode(), b"latin-1 \xfc\n", b"\x1b[2Jcr\r\n", b"  spaces  \n", b"x" * 5000 + b"\n"]
    sent = [typing[0], "latin-1 \ufffd\n".encode(), b"[2Jcr\n", typing[3], typing[4]]
    server = typed(b"".join(typing))
    peer = server.connect()
    for line in sent:
        peer.send(b"next\n")
        peer.expect(line)
    assert "says" not in server.log


@pytest.mark.skipif(sys.platform != "linux", reason="other systems' terminals take less")
def test_a_terminal_takes_4095_bytes_of_a_line(desk):
    """What is typed beyond that it drops by itself, the end of the line excepted."""
    peer = desk.meet()
    peer.send(b"hello\n")
    desk.sees("hello")
    desk.child.setecho(False)
    for _ in range(5):
        desk.child.send("x" * 1000)
        time.sleep(0.05)  # the terminal has a limit for what it takes at once, too
    desk.child.send("\n")
    peer.expect(b"x" * 4095 + b"\n")


def test_standard_output_has_what_is_said_and_standard_error_the_log(typed, scratch):
    with open(scratch / "screen", "wb") as screen:
        server = typed(b"answer\n", stdout=screen)
        peer = server.connect()
        peer.send(b"question\n")
        peer.expect(b"answer\n")
        peer.send(b"quit\n")
        peer.expect_closed()
        server.await_log("left, 0 online")
    assert (scratch / "screen").read_bytes() == b"question\nquit\n"
    assert "question" not in server.log and "answer" not in server.log


SCREENS = {"closed": 'exec "$@" >&-', "a full disk": 'exec "$@" >/dev/full', "all closed": 'exec "$@" >&- 2>&-'}


@pytest.mark.parametrize("shell", SCREENS.values(), ids=SCREENS)
def test_nobody_sees_the_screen(typed, shell):
    """The conversation goes on: it is the operator's terminal alone that is broken."""
    if "/dev/full" in shell and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    polled = {"port": free_port(), "polled": True} if "2>&-" in shell else {}
    server = typed(b"one\ntwo\n", shell=shell, **polled)
    peer = server.connect()
    for answer in (b"one\n", b"two\n"):
        peer.send(b"hello\n")
        peer.expect(answer)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_nobody_reads_the_screen_any_more(typed):
    """As in `server.py | head -1`."""
    server = typed(b"one\ntwo\n", stdout=subprocess.PIPE)
    server.popen.stdout.close()
    peer = server.connect()
    for answer in (b"one\n", b"two\n"):
        peer.send(b"hello\n")
        peer.expect(answer)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


# Framing and limits


def test_a_line_a_byte_at_a_time(desk):
    peer = desk.meet()
    text = "grüß dich 👋"
    peer.send_parts([bytes([byte]) for byte in text.encode()])
    desk.sees_nothing(0.1)
    peer.send(b"\n")
    desk.sees(text)


@pytest.mark.parametrize("size", [4096, 4097])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_longest_message(typed, scratch, size, parts):
    with open(scratch / "screen", "wb") as screen:
        server = typed(b"yes\n", stdout=screen)
        peer = server.connect()
        line = b"x" * (size - 1) + b"\n"
        step = -(-size // parts)
        peer.send_parts([line[start : start + step] for start in range(0, size, step)], pause=0.05)
        if size == 4096:
            peer.expect(b"yes\n")
        else:
            peer.expect_closed(maybe_after=TOO_LONG)
            server.await_log("dropped: message too long, 0 online")
    assert (scratch / "screen").read_bytes() == (line if size == 4096 else b"")


def test_a_line_too_long_after_one_that_is_not(desk):
    """What came before it is shown and answered; none of it is."""
    peer = desk.meet()
    peer.send(b"one\n" + b"x" * 5000 + b"\ntwo\n")
    desk.sees("one")
    desk.types("1")
    desk.left(peer, "dropped: message too long")
    peer.expect(b"1\n")
    peer.expect_closed(maybe_after=TOO_LONG)


def test_a_flood_in_the_operators_turn(typed):
    """It stays in the kernel: the server reads nothing, and does nothing, until it has an answer."""
    server = typed()
    peer = server.connect()
    peer.send(b"hello\n")
    server.await_log("hello")
    memory = server.memory()
    peer.sock.settimeout(1.0)
    with pytest.raises(TimeoutError):
        while True:
            peer.sock.sendall(b"flood\n" * 10000)
    assert server.memory() - memory < 2 << 20
    server.check_idle()
    type_in(server, b"hi\n")
    peer.expect(b"hi\n")
    server.await_log("hello\nflood$")
    assert server.log.count("flood") == 1


def test_idle_in_every_wait(desk):
    """For somebody to come, for what it says, for the operator."""
    process = Process.__new__(Process)  # its measures alone
    process.pid = desk.child.pid
    process.check_idle()
    peer = desk.meet()
    process.check_idle()
    peer.send(b"hello\n")
    desk.sees("hello")
    process.check_idle()


# Stopping


def in_no_conversation(desk):
    return ""


def in_the_clients_turn(desk):
    return desk.meet().name


def in_the_middle_of_a_line(desk):
    peer = desk.meet()
    peer.send(b"half a li")
    return peer.name


def in_the_operators_turn(desk):
    peer = desk.meet()
    peer.send(b"hello\nand more\n")
    desk.sees("hello")
    return peer.name


def with_half_a_line_typed(desk):
    name = in_the_operators_turn(desk)
    desk.child.send("half a li")
    desk.child.expect_exact("half a li")
    return name


def after_the_client_has_left(desk):
    name = in_the_operators_turn(desk)
    desk.peers[-1].reset()
    return name


WAITS = [
    in_no_conversation,
    in_the_clients_turn,
    in_the_middle_of_a_line,
    in_the_operators_turn,
    with_half_a_line_typed,
    after_the_client_has_left,
]


@pytest.mark.parametrize("wait", WAITS)
@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_stop(desk, wait, how):
    name = wait(desk)
    time.sleep(0.1)
    begun = time.monotonic()
    if how == "Ctrl-C":
        desk.child.sendintr()
        desk.child.expect_exact("^C")
    else:
        desk.child.kill(signal.SIGTERM)
    desk.sees_stopped(name, begun)
    for peer in desk.peers:
        peer.expect_closed()


def test_what_was_half_typed_at_ctrl_c_is_not_sent(desk):
    name = with_half_a_line_typed(desk)
    desk.child.sendintr()
    desk.child.expect_exact("bye\r\n")
    assert desk.peers[-1].read_to_end() == b"", name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_changes_nothing(typed, number):
    server = typed()
    peer = server.connect()
    peer.send(b"hello\n")
    server.await_log("hello")
    begun = time.monotonic()
    with server.frozen():
        server.signal(signal.SIGTERM)
        server.signal(number)
    assert server.wait() == 0
    assert time.monotonic() - begun < GRACE
    assert server.log.endswith(" bye\n")
    assert server.log.count("bye") == 1


def test_the_same_port_at_once(typed):
    server = typed(b"hi\n")
    for _ in range(3):
        peer = server.connect()
        peer.send(b"hello\n")
        peer.expect(b"hi\n")
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        peer.expect_closed()
        server = typed(b"hi\n", port=server.port)


def test_sigterm_in_the_background_of_a_shell(typed):
    server = typed(shell='trap "" INT; exec "$@"')
    peer = server.connect()
    peer.send(b"hello\n")
    server.await_log("hello")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


# Starting


def test_ipv6(sit_down, needs_ipv6):
    desk = sit_down("--host", "::1")
    desk.host = "::1"
    peer = desk.meet()
    assert peer.name.startswith("[::1]:")
    peer.send(b"hello\n")
    desk.sees("hello")


@pytest.mark.parametrize("port", ["x", "-1", "65536", "1_000", ""])
def test_a_bad_port(run, port):
    process = run([*TWO_WAY.command, "--", port], cwd=ROOT)
    assert process.wait() == 2
    assert process.log.startswith("usage: server.py ")


@pytest.mark.parametrize("host", ["127.0.0.1", "a..b", "no.such.host.invalid"])
def test_where_it_cannot_listen(run, host):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = run([*TWO_WAY.command, str(port), "--host", host], cwd=ROOT)
        assert process.wait() == 1
    assert re.fullmatch(rf"server\.py: cannot listen on {re.escape(host)}:{port}: .+\n", process.log)


def test_the_files_alone_and_the_standard_library_suffice(run, scratch):
    for name in ("server.py", "client.py"):
        shutil.copy(ROOT / FOLDER / name, scratch)
    server = run([sys.executable, "-I", "-S", "server.py", "0"], cwd=scratch)
    port = server.await_log(r"listening on 127\.0\.0\.1:(\d+)$")[1]
    client = run([sys.executable, "-I", "-S", "client.py", port], cwd=scratch, stdin=subprocess.PIPE)
    client.popen.stdin.write(b"hello\n")
    client.popen.stdin.close()
    assert client.wait() == 0
    assert client.log == NOBODY.decode()


# The text


def definitions(path):
    """The text of each function, and of what each class has, in their order."""
    text = (ROOT / path).read_text()
    found = {}
    for node in ast.parse(text).body:
        parts = node.body if isinstance(node, ast.ClassDef) else [node]
        for part in parts:
            if isinstance(part, ast.FunctionDef):
                found[f"{node.name}.{part.name}" if part is not node else part.name] = ast.get_source_segment(
                    text, part
                )
    return found


TOUCHED = {
    "server.py": {"ChatServer.__init__", "ChatServer.run", "ChatServer.receive", "signals_and_log", "main"},
    "client.py": {"chat"},
}
NEW = {"server.py": {"ChatServer.answer", "Keyboard.readable", "Keyboard.readinto", "show"}, "client.py": set()}


@pytest.mark.parametrize("name", TOUCHED)
def test_the_diff_to_blocking_shows_the_turns_and_nothing_else(name):
    ours, theirs = definitions(f"{FOLDER}/{name}"), definitions(f"blocking/{name}")
    assert ours.keys() - theirs.keys() == NEW[name]
    assert [key for key in ours if key not in NEW[name]] == list(theirs)
    assert {key for key in theirs if ours[key] != theirs[key]} == TOUCHED[name]
