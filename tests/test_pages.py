"""The pages say what is so: their console blocks are replayed (see pages.py), their links lead somewhere, their lines
are wrapped. And pages.py itself does what it should, with small pages that are right or wrong.
"""

import contextlib
import shutil
import signal
import sys

import psutil
import pytest
from harness import wait_until
from pages import Misprint, Page, Untrue, anchors, dead_links, pages, replay, title, too_wide, unexplained
from promises import ROOT

PAGES = pytest.mark.parametrize("path", pages(), ids=title)
GLOSSARY = ROOT / "GLOSSARY.md"
SHORT = 1.0  # seconds of a wait for what never comes
pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")


@PAGES
def test_what_a_page_shows_is_what_comes(path, scratch):
    if left_out := replay(path, scratch).left_out:
        pytest.skip("true, but blocks were left out: " + ", ".join(left_out))


def check(path, wrong):
    __tracebackhide__ = True
    if wrong:
        pytest.fail("\n".join(f"{title(path)}:{problem}" for problem in wrong))


@PAGES
def test_every_block_is_marked(path):
    check(path, Page(path.read_text()).wrong)


@PAGES
def test_prose_is_wrapped(path):
    check(path, too_wide(Page(path.read_text())))


@PAGES
def test_links_lead_somewhere(path):
    check(path, dead_links(Page(path.read_text()), path))


@pytest.mark.parametrize("path", [path for path in pages() if path != GLOSSARY], ids=title)
def test_words_of_the_glossary_are_links(path):
    if not GLOSSARY.exists():
        pytest.skip("there is no glossary")
    check(path, unexplained(Page(path.read_text()), GLOSSARY.read_text()))


@pytest.fixture
def made_up(scratch):
    """Replay a page that the test makes up, in a repository with these files. Returns the replay."""

    def play(text, files=(), **options):
        root = scratch / "root"
        for name, content in {"page.md": text, **dict(files)}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        shutil.rmtree(scratch / "replay", ignore_errors=True)
        (scratch / "replay").mkdir()
        return replay(root / "page.md", scratch / "replay", root, **options)

    return play


def block(lines, info="run"):
    """A page with one block that is run."""
    return f"```console {info}\n{lines}```\n"


# What a page shows comes, or does not.

ECHO = block("$ echo one; echo two\none\ntwo\n$ echo three\nthree\n")


@pytest.mark.parametrize(
    "old, new, line, expected, came",
    [
        ("\ntwo\n", "\ntoo\n", 4, "too", "two"),
        ("one\ntwo\n", "two\n", 3, "two", "one"),
        ("\ntwo\n", "\n", 4, "the prompt", "two"),
        ("\ntwo\n", "\ntwo\nmore\n", 5, "more", "the prompt"),
        ("\ntwo\n", "\ntwo\n\n", 5, "", "the prompt"),
        ("three\n```", "```", 5, "the prompt", "three"),
        ("three\n```", "three\nfour\n```", 7, "four", "the prompt"),
        ("three\n```", "three\n```\n" + block("four\n"), 9, "four", f"nothing, for {SHORT:g} seconds"),
    ],
    ids=[
        "changed",
        "first left out",
        "last left out",
        "one more",
        "blank",
        "all left out",
        "one more at the end",
        "block",
    ],
)
def test_an_untrue_page(made_up, old, new, line, expected, came):
    made_up(ECHO)
    assert old in ECHO
    with pytest.raises(Untrue) as failure:
        made_up(ECHO.replace(old, new), patience=SHORT if came.startswith("nothing") else None)
    where, wanted, got = str(failure.value).split("\n")[:3]
    assert where == f"page.md:{line} (main):"
    assert wanted.startswith(f"  expected: {expected}")
    assert got.startswith(f"  came:     {came}")


@pytest.mark.parametrize("last", ["$ sleep 1000\n", "$ echo two; cat\ntwo\n", "$ sleep 1000\nnever\n"])
def test_a_command_that_hangs(made_up, last):
    with pytest.raises(Untrue, match=r"came: *nothing, for 1 seconds"):
        made_up(block(f"$ echo one\none\n{last}"), patience=SHORT)


ASKS = "$ echo ready; read line; echo you said $line; {}\nready\n"


def test_lines_that_are_typed(made_up):
    answer = block("go on\nyou said go on\n2\n", 'run types="go on"')
    made_up(block(ASKS.format("echo 2"), "run stays") + answer)
    with pytest.raises(Untrue, match=r":7 .*\n.*prompt.*\n.*2"):
        made_up(block(ASKS.format("echo 2"), "run stays") + answer.replace("2\n", ""))
    with pytest.raises(Untrue, match=r":6 .*nothing runs there"):
        made_up(block("$ true\n$\n", "run stays") + block("go on\n", 'run types="go on"'))


DOOR = "$ stty {}echo; echo password?; read line; echo it was $line\npassword?\nit was swordfish\n"


def test_a_secret_is_typed_and_not_seen(made_up):
    hidden, seen = DOOR.format("-"), DOOR.format("")
    made_up(block(hidden, "run secret=swordfish"))
    made_up(block(hidden + hidden.replace("fish", "cat"), "run secret=swordfish|swordcat"))
    with pytest.raises(Untrue, match=r":3 .*'swordfish' is a secret, and the terminal would show it"):
        made_up(block(seen, "run secret=swordfish"), patience=SHORT)
    with pytest.raises(Untrue, match=r":4 .*\n.*\n.*came: *it was herring"):
        made_up(block(hidden, "run secret=herring"))


def test_what_the_program_says_is_not_what_was_typed(made_up):
    """A terminal shows what is typed, and here `cat` shows it again."""
    page = block("$ cat\nhello\nhello\nhi\nhi\n^D\n$ echo end\nend\n", 'run types="hello|hi"')
    made_up(page)
    with pytest.raises(Untrue, match=r":5 .*\n.*hi\n.*hello"):
        made_up(page.replace("hello\nhello\n", "hello\n"))
    made_up("\n".join(page.replace("$ cat", "$ stty echo; cat; stty -echo").split("\n")))


def test_control_keys(made_up):
    """What waits for a trap does so with `wait`: a child that is not `sleep` yet can lose the signal, and sleeps on.

    Or it dies of the signal, if it came before bash had the child ignore it.
    """
    made_up(
        block(
            "$ sleep 1000\n^C\n$ sleep 1000\n^Z\n[1]+  Stopped                 sleep 1000\n$ fg\nsleep 1000\n^C\n"
            "$ (trap 'echo go; kill $! 2> /dev/null; exit' INT; sleep 1000 & echo on; wait)\non\n^Cgo\n"
        )
    )
    with pytest.raises(Untrue, match=r":4 .*\n.*: bye\n.*: +go\n"):
        made_up(block("$ (trap 'echo go; kill $! 2> /dev/null; exit' INT; sleep 1000 & echo on; wait)\non\n^Cbye\n"))


def test_ctrl_c_loses_no_output(made_up):
    """What the program has written, and nobody has read yet, is not thrown away, as a terminal does it by itself."""
    script = "import os, signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
    script += "os.write(1, b''.join(b'%d\\n' % number for number in range(3000)))\n"
    script += "signal.sigwait([signal.SIGINT])\nprint('bye')\n"
    lines = "".join(f"{number}\n" for number in range(1, 3000))
    made_up(block(f"$ python3 many.py\n0\n^C\n{lines}bye\n"), {"many.py": script})


def test_commands_of_several_lines(made_up):
    made_up(
        block(
            "$ cat <<'END' && echo then\nthree $HOME\n  lines\n> of it\nEND\nthree $HOME\n  lines\n> of it\nthen\n"
            "$ echo a \\\n  b\na b\n$ for i in 1 2\n> do echo $i\n> done\n1\n2\n"
        )
    )
    with pytest.raises(Misprint, match=":2: no line END"):
        made_up(block("$ cat <<END\nand so on\n"))


def test_times_ports_and_jobs_are_placeholders(made_up):
    line = "$ echo 10:20:{}3 127.0.0.1:4{}000 and [::1]:4{}111, \"('127.0.0.1', 4{}222)\"\n"
    shown = "10:20:23 127.0.0.1:41000 and [::1]:41111, ('127.0.0.1', 41222)\n"
    made_up(block(line.format(5, 2, 2, 2) + shown))
    made_up(block("$ sleep 1000 &\n[1] 4711\n"))
    made_up(block("$ echo '[1]+  Stopped    it'; echo 'Killed   it'\n[1]+  Stopped        it\nKilled\n"))
    with pytest.raises(Untrue):
        made_up(block("$ sleep 1000 &\n[2] 4711\n"))


def test_a_port_is_the_same_clients_all_over_the_page(made_up):
    once, twice = (
        "$ echo 127.0.0.1:{}\n127.0.0.1:{}\n",
        "$ echo 127.0.0.1:{}, 127.0.0.1:{}\n127.0.0.1:{}, 127.0.0.1:{}\n",
    )
    made_up(block(once.format(30001, 44444)) + block(twice.format(30001, 30002, 44444, 55555)))
    with pytest.raises(Untrue, match="not those of the same client"):
        made_up(block(once.format(30001, 44444)) + block(once.format(30002, 44444)))
    with pytest.raises(Untrue, match="not those of the same client"):
        made_up(block(twice.format(30001, 30001, 44444, 55555)))
    with pytest.raises(Untrue, match="not those of the same client"):
        made_up(block(twice.format(30001, 30002, 44444, 44444)))


@pytest.mark.parametrize(
    "info, shown, right",
    [
        ("run", "1,234 bytes in 5.1 seconds, turn 3", True),
        ("run", "1,233 bytes in 5.1 seconds, turn 3", False),
        ("run figures", "9 bytes in 1,000.25 seconds,  turn 5", True),
        ("run figures", "9 bites in 1,000.25 seconds, turn 5", False),
        ("run figures=bytes,seconds", "9 bytes in 10 seconds, turn 3", True),
        ("run figures=bytes,seconds", "9 bytes in 10 seconds, turn 4", False),
        ("run figures=bytes", "9 bytes in 10 seconds, turn 3", False),
    ],
)
def test_figures(made_up, info, shown, right):
    page = block(f"$ echo 1,234 bytes in 5.1 seconds, turn 3\n{shown}\n", info)
    if right:
        made_up(page)
    else:
        with pytest.raises(Untrue):
            made_up(page)


def test_dates(made_up):
    made_up(block("$ echo [2001-02-03 04:05] says\n[2026-11-25 12:03] says\n"))
    for wrong in "[2026-11-25] says", "[2026-11-25 12:03:04] says", "[2026-11-25 12:03] said":
        with pytest.raises(Untrue):
            made_up(block(f"$ echo [2001-02-03 04:05] says\n{wrong}\n"))


def test_lines_that_are_left_out(made_up):
    made_up(block("$ seq 100\n1\n...\n50\n51\n...\n"))
    made_up(block("$ seq 100; cat\n1\n", "run stays") + block("99\n...\n100\n^D\n", "run tail"))
    with pytest.raises(Untrue, match=r":5 .*\n.*52\n.*51"):
        made_up(block("$ seq 100\n...\n50\n52\n...\n"))
    with pytest.raises(Untrue, match=r":4 .*\n.*101\n.*prompt"):
        made_up(block("$ seq 100\n...\n101\n"))
    with pytest.raises(Untrue, match=r":6 .*\n.*99\n.*2"):
        made_up(block("$ seq 100; cat\n1\n", "run stays") + block("99\n...\n100\n^D\n"))


def test_the_repository_is_a_copy_in_which_ports_are_free(made_up, scratch):
    files = {"a/server.py": "print('listening on', 9669, 8669)\n", "a/other.py": "print(19669, 96690)\n"}
    replayed = made_up(
        block(
            "$ python3 a/server.py\nlistening on 9669 8669\n"
            "$ python3 a/other.py; echo 9669 9001\n19669 96690\n9669 9001\n"
            "$ echo new >> a/server.py; echo new > /tmp/new; cat /tmp/new; ls /tmp/\nnew\nnew\n"
            "$ echo $(pwd)/a; cd a; pwd\n/home/you/chat/a\n/home/you/chat/a\n"
        ),
        files,
    )
    assert (scratch / "root/a/server.py").read_text() == files["a/server.py"]
    ports = replayed._ports
    assert set(ports) == {"9669", "8669", "9001"} and not set(ports) & set(ports.values())


def test_python3_is_the_interpreter_of_the_suite(made_up):
    same = "import sys; print((sys.prefix, sys.version) == ({!r}, {!r}))"
    script = {"same.py": same.format(sys.prefix, sys.version)}
    made_up(block("$ python3 same.py; python same.py\nTrue\nTrue\n"), script)


def test_terminals_go_on_where_they_were(made_up):
    made_up(
        block("$ cd /; mine=1\n", "run in=a")
        + block("$ echo $mine.\n.\n", "run in=b")
        + block("$ pwd\n/\n", "run in=a")
    )


def test_pid_is_what_runs_in_the_terminal_of_the_server(made_up):
    made_up(
        block("$ echo on; exec -a it sleep 1000\non\n".replace("exec -a it ", ""), "run in=server stays")
        + block("$ ps -o comm= PID; kill PID\nsleep\n")
        + block("Terminated\n", "run in=server")
    )
    with pytest.raises(Untrue, match=r":2 .*nothing runs in a terminal `server`"):
        made_up(block("$ kill PID\n"))


def test_a_block_that_is_hidden_is_run(made_up):
    page = "<!-- console run\n$ echo hidden\nhidden\n-->\n"
    made_up(page)
    with pytest.raises(Untrue, match=r":3 .*\n.*hitten"):
        made_up(page.replace("\nhidden", "\nhitten"))


def test_a_play(made_up):
    """Two that talk: a third line is typed only when the one before it has come to the other."""
    page = (
        "<!-- play {} -->\n"
        + block("$ python3 poll_based/server.py\n1 listening\n2 joined\n3 joined\n^Cbye\n", "run in=server")
        + block("$ python3 client.py\nhello\nsays: hi\n^C\n", "run in=a types=hello")
        + block("$ python3 client.py\nsays: hello\nhi\n^C\n", "run in=b types=hi")
    )
    order = "server, server: listening, a, server: 2 joined, b, server: 3 joined, a, b, a, b, server"
    files = {"poll_based/server.py": ROOM, "client.py": CLIENT}
    made_up(page.format(order), files)
    with pytest.raises(Untrue, match="hullo"):
        made_up(page.format(order).replace("says: hello", "says: hullo"), files)
    with pytest.raises(Misprint, match=":1, step 2: server has no line with 'nobody'"):
        made_up(page.format(order.replace("listening", "nobody")), files)
    with pytest.raises(Misprint, match=":1, step 12: nothing is left there that would be typed in server"):
        made_up(page.format(order + ", server"), files)
    with pytest.raises(Misprint, match=":1: this play has a block of c"):
        made_up(page.format(order + ", c"), files)


ROOM = """\
import socket, threading
listener, room = socket.create_server(("127.0.0.1", 9669)), []
def attend(sock):
    for line in sock.makefile():
        [other.sendall(f"says: {line}".encode()) for other in room if other is not sock]
print("1 listening", flush=True)
try:
    for number in (2, 3):
        room.append(listener.accept()[0])
        threading.Thread(target=attend, args=room[-1:], daemon=True).start()
        print(number, "joined", flush=True)
    listener.accept()
except KeyboardInterrupt:
    print("bye", flush=True)
"""
CLIENT = """\
import signal, socket, sys, threading
signal.signal(signal.SIGINT, signal.SIG_DFL)
sock = socket.create_connection(("127.0.0.1", 9669))
threading.Thread(target=lambda: [sock.sendall(line.encode()) for line in sys.stdin], daemon=True).start()
for line in sock.makefile():
    print(line, end="", flush=True)
"""


def test_what_needs_a_tool_that_is_missing_is_left_out(made_up):
    needy = block("$ no-such-tool\nnonsense\n", "run needs=ls,no-such-tool")
    right, wrong = block("$ echo one\none\n"), block("$ echo one\ntwo\n")
    assert made_up(needy + right).left_out == {"no-such-tool is not installed": [1]}
    assert made_up(right.replace("run", "run needs=ls,py:json,nofile:4")).left_out == {}
    with pytest.raises(Untrue, match=r":7 .*\n.*two"):
        made_up(needy + wrong)
    for need in "py:no_such_module", "nofile:99999999999":
        assert len(made_up(needy.replace("no-such-tool\n```", "").replace("ls,no-such-tool", need)).left_out) == 1
    play = "<!-- play a, b -->\n" + needy.replace("run", "run in=a") + wrong.replace("run", "run in=b")
    assert len(made_up(play).left_out) == 1


# Everything ends.

SLEEPER = "$ echo 'echo $$ >> /tmp/pids; trap \"\" {}; echo on; exec sleep 1000' > /tmp/it\n"
SLEEPERS = (
    "$ sh /tmp/it > /dev/null &\n[1] 4711\n$ until [ -s /tmp/pids ]; do sleep 0.01; done\n"
    "$ sh /tmp/it\non\n^Z\n[2]+  Stopped                 sh /tmp/it\n$ sh /tmp/it | cat\non\n"
)


def living(pids):
    """Which of these processes there are; a zombie is none."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found += [pid] if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE else []
    return found


@pytest.mark.parametrize("end", ["", "more\n"], ids=["true", "untrue"])
def test_a_replay_ends_all_that_it_has_started(made_up, scratch, end):
    """In the background, stopped, in the foreground; whatever signals it ignores."""
    page = block(SLEEPER.format("HUP INT TERM") + SLEEPERS + end, "run stays")
    if end:
        with pytest.raises(Untrue, match="more"):
            made_up(page, patience=SHORT)
    else:
        made_up(page)
    pids = [int(pid) for pid in (scratch / "replay/tmp/pids").read_text().split()]
    assert len(pids) == 3 and not living(pids)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_replay_that_is_killed_leaves_nothing(run, scratch, number):
    page = scratch / "page.md"
    page.write_text(block(SLEEPER.format("USR1") + SLEEPERS, "run"))
    command = run([sys.executable, ROOT / "tests/pages.py", page], env={"TMPDIR": str(scratch)})

    def pids():
        return [int(pid) for path in scratch.glob("*/tmp/pids") for pid in path.read_text().split()]

    assert wait_until(lambda: len(pids()) == 3), command.log
    started = pids()
    command.signal(number)
    assert command.wait() != 0
    assert wait_until(lambda: not living(started))
    assert wait_until(lambda: [path.name for path in scratch.iterdir() if path.is_dir()] == [])


# What is written anew.


def test_a_page_is_written_anew(made_up, scratch):
    page = (
        "# Title\n\n1. item\n\n   ```console run types=typed\n   $ echo 10:00:00 one; echo {}; cat\n"
        "   09:00:00 one\n   {}"
        '   typed\n   typed\n   ^D\n   ```\n\nmore\n\n```console read because="of it"\n$ echo no\nyes\n```\n'
        "```console run in=other\n$ echo 127.0.0.1:30000; echo 127.0.0.1:30001; (exit 3)\n127.0.0.1:44444\n"
        "127.0.0.1:{}\n$ echo $?\n{}```\n"
    )
    right = page.format("two words", "two words\n", "55555", "3\n")
    for wrong in (
        page.format("two words", "2 words\n", "55555", "3\n"),
        page.format("two words", "", "55555", "4\n"),
        page.format("two words", "two words\n   and so on\n", "55555", ""),
        page.format("two words", "two words\n", "55555", "3\n4\n5\n"),
        right,
    ):
        played = made_up(wrong, write=True)
        assert (scratch / "root/page.md").read_text() == right
        assert bool(played.problems) == (wrong != right)
    made_up(page.format("two words", "two words\n", "44444", "3\n"), write=True)
    assert "\n127.0.0.1:44444\n127.0.0.1:30001\n$" in (scratch / "root/page.md").read_text()


def test_what_stays_is_written_anew(made_up, scratch):
    page = block("$ echo 1; echo 2; echo 3; cat\n1\n{}3\n", "run stays") + block("4\n^D\n", "run types=4")
    made_up(page.format("7\n"), write=True)
    assert (scratch / "root/page.md").read_text() == page.format("2\n").replace("4\n^D", "4\n4\n^D")


def test_the_command(run, scratch):
    page = scratch / "page.md"
    page.write_text("# " + "x" * 200 + "\n" + block("$ ls tests/pages.py\ntests/page.py\n"))
    command = run([sys.executable, ROOT / "tests/pages.py", page])
    assert command.wait() == 1
    assert f"{page}:1: 202 columns" in command.log and "  expected: tests/page.py\n" in command.log
    page.write_text(page.read_text()[200:])
    command = run([sys.executable, ROOT / "tests/pages.py", "--write", page])
    assert command.wait() == 0 and "written anew" in command.log
    assert page.read_text().endswith("\ntests/pages.py\n```\n")
    assert run([sys.executable, ROOT / "tests/pages.py", page]).wait() == 0
    assert run([sys.executable, ROOT / "tests/pages.py", scratch / "none.md"]).wait() == 2


# What can be seen without running anything.


@pytest.mark.parametrize(
    "text, line",
    [
        ("```\n$ ls\n```", 1),
        ("x\n\n```console\n$ ls\n```", 3),
        ("```bash\nls\n```", 1),
        ("```console read\nls\n```", 1),
        ('```console read because=""\nls\n```', 1),
        ("```console ran\n$ ls\n```", 1),
        ("```console run stay\n$ ls\n```", 1),
        ("```console run in\n$ ls\n```", 1),
        ("```console run stays=yes\n$ ls\n```", 1),
        ("```console run types=hello\n$ cat\nhullo\n```", 1),
        ('```console run types="hello\n$ cat\nhello\n```', 1),
        ("```console run secret=hello\n$ cat\npassword\n```", 1),
        ("```console run\n$ ls\n", 1),
        ("1. item\n\n   ```\n   $ ls\n   ```", 3),
        ("Do this:\n\n    ls\n    ls\n", 3),
        ("<!-- console ran\n$ ls\n-->", 1),
        ("<!-- play a,\n b", 1),
    ],
)
def test_a_block_without_its_marks(made_up, text, line):
    wrong = Page(text).wrong
    assert len(wrong) == 1 and wrong[0].startswith(f"{line}: ")
    with pytest.raises(Misprint, match=f"^page.md:{line}: "):
        made_up(text)


def test_blocks_with_their_marks():
    text = (
        '```console read because="it takes long"\nls\n```\n```python\nx\n```\n<!-- a comment -->\n<!--\nof more\n-->\n'
        "1. item\n\n    more of it\n\n    ```mermaid\n    x\n    ```\n````text\n```\n````\n"
    )
    assert Page(text).wrong == []


@pytest.mark.parametrize(
    "line, right",
    [
        ("x" * 100, True),
        ("x " * 50 + "x", False),
        ("x" * 101, False),
        ("- " + "x" * 99, False),
        ("| " + "x" * 200 + " |", True),
        ("```text\n" + "x" * 200 + "\n```", True),
        ("<!-- " + "x" * 200 + " -->", True),
        ("<!--\n" + "x" * 200 + "\n-->", True),
        ("x" * 90 + " [a](" + "x" * 200 + ")", True),
        ("x" * 99 + " [a](x)", False),
        ("x" * 90 + "<!-- bench:value x y z -->1 s<!-- /bench -->", True),
        ("x" * 90 + "<!-- bench:value x y z -->1,234,567 s<!-- /bench -->", False),
        ("ä" * 100, True),
    ],
)
def test_the_width_of_prose(line, right):
    assert (too_wide(Page(f"# Title\n\n{line}\n")) == []) == right


def test_anchors():
    text = "# One `two`: three, [four](x.md)!\n## A_b c-d\n### Same\n### Same\n<a id='own'></a>\n```text\n# no\n```\n"
    assert anchors(Page(text)) == {"one-two-three-four", "a_b-c-d", "same", "same-1", "own"}


@pytest.mark.parametrize(
    "link, right",
    [
        ("b.md", True),
        ("b.md#a-heading", True),
        ("#here", True),
        ("../page.md", False),
        ("folder/c.md", True),
        ("folder", True),
        ("c.md", False),
        ("b.md#no-heading", False),
        ("#nowhere", False),
        ("https://example.org/x", True),
        ("folder/../../outside.md", False),
        ("code.py#L3", True),
        ("code.py#x", False),
    ],
)
def test_links(scratch, link, right):
    root, outside = scratch / "root", scratch / "outside.md"
    (root / "folder").mkdir(parents=True)
    for path in root / "b.md", root / "folder/c.md", root / "code.py", outside:
        path.write_text("# Title\n\n## A heading\n")
    text = f"# Here\n\n`[no](no.md)` words\nand [more\nwords]({link}), | [`x`]({link})\n```text\n[no](no.md)\n```\n"
    (root / "page.md").write_text(text)
    dead = dead_links(Page(text), root / "page.md", root)
    assert [problem.split(": ")[:2] for problem in dead] == ([] if right else [["5", link]] * 2)


def test_words_of_the_glossary():
    glossary = "# Glossary\n\n## backpressure\n\nx\n\n## event loop\n\nx\n\n## turn\n\nx\n"
    right = "# The event loop\n\nAn [event\nloop](GLOSSARY.md#event-loop) turns in turn, `backpressure`: event loops\n"
    assert unexplained(Page(right), glossary) == []
    for word in ("Event loops", "event\nloop"):
        assert len(unexplained(Page(right.replace("An ", f"An {word} and an ")), glossary)) == 1
    wrong = unexplained(Page(right + "Backpressure\n"), glossary)
    assert len(wrong) == 1 and wrong[0].startswith("5: ")
