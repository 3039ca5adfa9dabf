"""The growing road from history/ on: what was said is kept, told to who comes, and searched."""

import contextlib
import itertools
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import Peer, Stopwatch, wait_until
from promises import ROAD, ROOT
from road import each_since, fill, since
from test_scarcity import injected
from test_stopping import stop
from tls import TlsSocket

MIB = 1 << 20
STAMPED = re.compile(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d)\] (.*)\n")
USAGE = b"error: it is /history [COUNT], COUNT from 1 to 200\n"
AGAIN = b"* the history is written again\n"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")

SAID = [
    "cats AND dogs",
    "it's raining cats, and nobody says a word",
    "Zażółć gęślą jaźń",
    "Привет, мир",
    "日本 東京",
    'she said "never again", and left',
    "a/b-c_d e.f",
]

SEARCHES = {  # and the numbers of the lines that are found
    "cats": [0, 1],
    "CATS": [0, 1],
    "dogs cats": [0],
    "cats   \t dogs": [0],
    "cats birds": [],
    "cat": [],
    "ana": [*range(7)],
    "ana raining": [1],
    "and": [0, 1, 5],
    "cats OR birds": [],
    "cats NOT dogs": [],
    "NOT birds": [],
    "cats AND dogs": [0],
    "NEAR(cats dogs)": [],
    "cat*": [],
    "cats *": [0, 1],
    "^cats": [0, 1],
    "text:cats": [],
    "{text}: cats": [],
    "- text : cats": [],
    "cats + dogs": [0],
    "cats) OR (dogs": [],
    '"': [],
    '""': [],
    '"cats': [0, 1],
    '"cats dogs"': [0],
    'cats""dogs': [],
    '"never again",': [5],
    "never-again": [5],
    "again-never": [],
    "it's": [1],
    "'; DROP TABLE lines; --": [],
    "%": [],
    "c_ts": [],
    "\\": [],
    "?": [],
    "$1 :a @a": [],
    "zażółć": [2],
    "ZAŻÓŁĆ GĘŚLĄ": [2],
    "мир привет": [3],
    "МИР": [3],
    "東京": [4],
    "\U0001f600": [],
    "a/b": [6],
    "a-b-c": [6],
    "e f": [6],
}


def recall(peer, *said):
    """The next lines must be of the history, and these; return their times."""
    __tracebackhide__ = True
    times = []
    for text in said:
        line = peer.read_line().decode()
        found = STAMPED.fullmatch(line)
        if not found or found[2] != text:
            peer.fail(f"{peer.name} was told {line!r} of what was said before, and not {text!r}")
        times.append(found[1])
    return times


def stored(path):
    """All the lines that are in the file. The server may go on meanwhile."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [text for (text,) in database.execute("SELECT text FROM lines ORDER BY id")]


def await_stored(path, *said):
    """Wait until these lines, and no other, are in the file."""
    __tracebackhide__ = True
    wait_until(lambda: stored(path) == [*said])
    assert stored(path) == [*said]


def written(path):
    """How many lines are in the file."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT count(*) FROM lines").fetchone()[0]


def check_sound(path):
    """Fail unless the database is whole, the index of its words included."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        database.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")


def talk(speaker, listeners, texts):
    """Say these, and have all of them heard by the listeners. Returns the lines as they are kept."""
    __tracebackhide__ = True
    for start in range(0, len(texts), 100):
        some = texts[start : start + 100]
        speaker.send("".join(f"{text}\n" for text in some).encode())
        for listener in listeners:
            listener.expect_lines(speaker, some)
    return [speaker.line(text).decode().removesuffix("\n") for text in texts]


@contextlib.contextmanager
def locked(path):
    """Another program keeps the database for itself, while a `with locked(path):` lasts."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.execute("ROLLBACK")


def visit_with(server, prepare):
    """A client at the door, whose socket something is done to before it connects."""
    sock = socket.socket()
    prepare(sock)
    sock.connect((server.host, server.port))
    peer = Peer(server, TlsSocket(sock) if server.model.tls else sock)
    server.peers.append(peer)
    return peer


def far_away(sock):
    """Have the system keep little for a connection, on either side, as it does at first on a real network."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)


def namespace(*commands):
    """For `shell=`: do these commands, such as mount, for the server alone, and start it. Skip where one cannot."""
    for options in ["--mount --propagation private", "--map-root-user --mount --propagation private"]:
        try:
            subprocess.run(["unshare", *options.split(), "true"], check=True, capture_output=True)
        except (OSError, subprocess.SubprocessError):
            continue
        return f"""exec unshare {options} sh -euc '{"; ".join(commands)}; exec "$@"' sh "$@" """
    pytest.skip("nothing may be mounted here")


def without_privilege():
    """For `shell=`: root, too, may write to a file only if its mode says so."""
    if os.getuid() != 0:
        return 'exec "$@"'
    if not shutil.which("setpriv"):
        pytest.skip("root may write to every file, and there is no setpriv")
    return 'exec setpriv --bounding-set=-dac_override --inh-caps=-dac_override "$@"'


# What is told of it


@each_since("history")
def test_who_comes_is_told_what_was_said_lately(serve, step):
    """The last 20 lines, right after the welcome; nobody else is told them."""
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    said = talk(ana, [bob], ["hello", "zażółć"])
    ana.send(b"/me waves\n//help is a command\n")
    bob.expect(b"~ ana waves\nana says: /help is a command\n")
    said += ["~ ana waves", "ana says: /help is a command"]
    carla = server.enter("carla")
    recall(carla, *said)
    carla.expect_nothing()
    said += talk(bob, [carla], [f"number {number}" for number in range(18)])
    dora = server.enter("dora")
    recall(dora, *said[2:])
    dora.expect_nothing()
    for peer in (ana, bob):
        peer.read_until(b"* dora joined\n")
        peer.expect_nothing(0.1)


@since("history")
def test_there_is_nothing_to_tell(serve, step):
    server = serve(step)
    (ana,) = fill(server, "ana")
    ana.send(b"/history\n/search hello\n")
    ana.expect(b"* nothing was said yet\n* nothing found\n")
    ana.expect_nothing()


@since("history")
def test_the_times_are_those_of_the_place(serve, step):
    """Kept are the seconds since 1970; told is the time of the server's own place."""
    server = serve(step, env={"TZ": "IST-5:30"})
    before = time.time()
    ana, bob = fill(server, "ana", "bob")
    talk(ana, [bob], ["hello"])
    after = time.time()
    (told,) = recall(server.enter("carla"), "ana says: hello")
    possible = {
        time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds + 5.5 * 3600)) for seconds in (int(before), int(after))
    }
    assert told in possible


@since("history")
def test_as_many_lines_as_one_asks_for(serve, step):
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    ana.send(b"/history 200\n")
    ana.expect(b"* nothing was said yet\n")
    said = talk(ana, [bob], [f"number {number}" for number in range(210)])
    for command, count in {
        "/history": 20,
        "/HISTORY  7 ": 7,
        "/history 1": 1,
        "/history 200": 200,
        "/history 0003": 3,
    }.items():
        ana.send(f"{command}\n".encode())
        recall(ana, *said[-count:])
    for words in ["0", "201", "999", "-1", "+5", "x", "5 5", "5.0", "1e2", "0x5", "٣", "³", "1_0", "9" * 4000]:
        ana.send(f"/history {words}\n".encode())
        ana.expect(USAGE)
    ana.expect_nothing()
    bob.expect_nothing(0.1)


@since("history")
def test_search(serve, step):
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    said = talk(ana, [bob], SAID)
    for words, numbers in SEARCHES.items():
        bob.send(f"/search {words}\n".encode())
        if numbers:
            recall(bob, *(said[number] for number in numbers))
        else:
            assert bob.read_line() == b"* nothing found\n", words
    for command in ["/search", "/search \t "]:
        bob.send(f"{command}\n".encode())
        bob.expect(b"error: it is /search WORDS\n")
    ana.expect_nothing()


@since("history")
def test_search_for_very_much(serve, step):
    """4096 bytes, the newline included, of one word, of many, and of what is a part of FTS5's language."""
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    said = talk(ana, [bob], ["cats and dogs", "ź" * 1000])
    fillers = {"cats ": said[:1], "a cats ": [], '" ': [], '"': [], "(": [], "ź": [], "x y ": [], "NEAR(": [], "* ": []}
    for filler, found in fillers.items():
        command = f"/search {filler * (4087 // len(filler.encode()))}".encode()
        bob.send(command.ljust(4095) + b"\n")
        recall(bob, *found) if found else bob.expect(b"* nothing found\n")
    bob.send(f"/search {'ź' * 1000}\n".encode())
    recall(bob, said[1])
    talk(bob, [ana], ["the end"])


@since("history")
def test_search_tells_the_last_ones_and_goes_back_to_the_first(serve, step, scratch):
    """Also to what is older than the lines that the server holds in memory, and than the server."""
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")
    said = talk(ana, [bob], ["the very first", *(f"number {number}" for number in range(250))])
    ana.send(b"/search number\n/search very first\n")
    recall(ana, *said[-20:], said[0])
    stop(server)
    (carla,) = fill(serve(step, "--history", path), "carla")
    recall(carla, *said[-20:])
    carla.send(b"/search first very\n/history 200\n")
    recall(carla, said[0], *said[-200:])


@since("history")
def test_who_searches_finds_what_was_said_just_now(serve, step):
    (ana,) = fill(serve(step), "ana")
    for number in range(5):
        ana.send(f"word{number}\n/search word{number}\n".encode())
        recall(ana, f"ana says: word{number}")


@since("history")
def test_many_search_at_once(serve, step):
    server = serve(step)
    ana, bob, *others = fill(server, "ana", "bob", *(f"carl{number}" for number in range(10)))
    said = talk(ana, [bob, *others], [f"number {number}" for number in range(30)])
    with server.frozen():
        for other in others:
            other.send(b"/search number\n" * 5)
    talked = talk(ana, [bob], ["hello", "are you there?"])
    for other in others:
        lines = [other.read_line().decode() for _ in range(5 * 20 + 2)]
        found = [STAMPED.fullmatch(line)[2] for line in lines if line.startswith("[")]
        assert found[:20] == said[-20:] and len(found) == 100
        assert [line[:-1] for line in lines if not line.startswith("[")] == talked


@since("history")
def test_the_next_line_waits_for_the_search(serve, step):
    """Also the end of the stream does: with `printf | nc` one can ask, and is told."""
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    said = talk(ana, [bob], ["hello"])
    bob.send(b"/search hello\n/search bob\nit is me\n/search hello\n/list")
    bob.finish()
    recall(bob, *said)
    bob.expect(b"* nothing found\n")
    recall(bob, *said)
    bob.expect(b"* here: ana, bob\n")
    bob.expect_closed()
    ana.expect(b"bob says: it is me\n* bob left\n")


@since("history")
def test_who_comes_while_others_talk_misses_nothing_and_hears_nothing_twice(serve, step):
    """What was said before is told as history, what is said later as it is said; nothing falls between the two."""
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    numbers = {ana: itertools.count(), bob: itertools.count()}
    newcomers = []

    def say(count):
        for speaker, number in numbers.items():
            speaker.send("".join(f"number {next(number)}\n" for _ in range(count)).encode())

    say(20)
    for turn in range(12):
        say(30)
        newcomers.append(server.visit())
        newcomers[-1].send(f"carl{turn}\n".encode())  # while they talk
        newcomers.append(server.visit())
        newcomers[-1].expect(b"your name?\n")
        with server.frozen():  # in the same moment
            say(3)
            newcomers[-1].send(f"dora{turn}\n".encode())
            say(3)
    for speaker in numbers:
        speaker.send(b"that was all\n")
    for peer in newcomers:
        came = b""
        while came.count(b" says: that was all\n") < 2:
            came += peer.read_line()
        assert len(re.findall(rb"^\[", came, re.MULTILINE)) == 20, came
        for name in (b"ana", b"bob"):
            told = [*map(int, re.findall(rb"%b says: number (.*)" % name, came))]
            assert told == [*range(told[0], told[-1] + 1)], f"{peer.name} heard {told} of {name.decode()}"


# What is kept


@each_since("history")
def test_private_messages_commands_and_notices_are_not_kept(serve, step, scratch):
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")
    ana.send(
        b"hello\n/pm bob topsecret\n/PM  bob topsecret\n/me waves\n/topsecret\n/pm nobody topsecret\n"
        b"/search topsecret\n/nick anna\n/list\n/help\n/history\n\n  \n//pm is a command\n"
    )
    carla = server.visit()
    carla.send(b"topsecret name\ncarla\n/quit topsecret\n/quit\n")
    carla.read_until(b"error: it is /quit\n")
    carla.expect_closed()
    bob.read_until(b"* carla left\n")
    kept = ["ana says: hello", "~ ana waves", "anna says: /pm is a command"]
    await_stored(path, *kept)
    recall(server.enter("dora"), *kept)
    bob.send(b"/search topsecret\n/search joined\n")
    bob.read_until(b"* dora joined\n")
    bob.expect(b"* nothing found\n" * 2)
    stop(server)
    await_stored(path, *kept)
    for file in scratch.glob("chat.db*"):
        assert b"topsecret" not in file.read_bytes()


@since("history")
def test_the_file_is_an_sqlite_database_that_others_may_read(serve, step, scratch):
    path = scratch / "chat.db"
    before = int(time.time())
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")
    said = talk(ana, [bob], ["hello", "it's me", "Zażółć"])
    await_stored(path, *said)
    with contextlib.closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (1,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        for number, when, text in database.execute("SELECT id, time, text FROM lines"):
            assert text == said[number - 1] and before <= when <= time.time()
        found = database.execute("SELECT rowid, text FROM words WHERE words MATCH 'zażółć'").fetchall()
        assert found == [(3, said[2])]
        database.execute("BEGIN")  # who reads for long holds nobody up
        database.execute("SELECT count(*) FROM lines").fetchone()
        said += talk(ana, [bob], ["who reads here?"])
        await_stored(path, *said)
    check_sound(path)
    if shutil.which("sqlite3"):
        shell = ["sqlite3", path, "SELECT datetime(time, 'unixepoch') > '2000', text FROM lines LIMIT 1"]
        assert subprocess.run(shell, capture_output=True, text=True).stdout == "1|ana says: hello\n"


@since("history")
def test_the_log_says_where_the_history_is(serve, step, scratch, run):
    """Without --history it is in the current directory."""
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    server.await_log("history in")
    second, *_ = [line for line in server.log.splitlines()[1:] if "web page" not in line]
    assert second.endswith(f" history in {path}, 0 lines")
    ana, bob = fill(server, "ana", "bob")
    talk(ana, [bob], ["hello"] * 7)
    stop(server)
    serve(step, "--history", path).await_log(f"history in {re.escape(str(path))}, 7 lines$")
    (model,) = [model for model in ROAD if model.name == step]
    python, program, *words = model.words(scratch / "files")
    del words[words.index("--history") : words.index("--history") + 2]
    folder = scratch / "elsewhere"
    folder.mkdir()
    default = run([python, ROOT / program, *words, "0"], cwd=folder)
    default.await_log(f"history in {re.escape(str(folder))}/chat-history.db, 0 lines$")
    assert (folder / "chat-history.db").exists()


@since("history")
def test_all_is_written_when_the_server_stops(serve, step, scratch):
    """Also what was said in the last moment, and what the server still had to read."""
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")
    said = talk(ana, [bob], [f"number {number}" for number in range(3000)])
    with server.frozen():
        ana.send(b"".join(b"last %d\n" % number for number in range(100)) + b"/history\n/search last\n/history\n")
        server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert server.log.endswith(" bye\n") and "could not be written" not in server.log
    heard = bob.read_to_end().decode().splitlines()
    assert [line for line in heard if "says" in line] == [f"ana says: last {number}" for number in range(len(heard))]
    await_stored(path, *said, *heard)
    assert not Path(f"{path}-wal").exists(), "it did not close the database"
    check_sound(path)


@since("history")
def test_after_kill_9_the_last_second_at_most_is_lacking(serve, step, scratch):
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")
    said, heard, watch = [], [], Stopwatch(server, ours=False)
    while watch.seconds < 1.6:
        said += talk(ana, [bob], [f"number {len(said) + number}" for number in range(20)])
        watch.lap()
        heard.append((watch.seconds, len(said)))
        time.sleep(0.01)  # or a busy machine's disk is outrun, and MAX_UNWRITTEN lines are all that is kept for it
    server.signal(signal.SIGKILL)
    server.wait()
    kept = stored(path)
    assert kept == said[: len(kept)]
    for seconds, count in heard:
        if seconds <= heard[-1][0] - 1:
            assert len(kept) >= count, f"{len(said) - len(kept)} lines are lacking, of {watch.seconds} seconds"
    check_sound(path)
    again = serve(step, "--history", path)
    again.await_log(f"history in .*, {len(kept)} lines")
    (carla,) = fill(again, "carla")
    recall(carla, *kept[-20:])
    carla.send(b"here I am\n")
    await_stored(path, *kept, "carla says: here I am")


@since("history")
def test_two_servers_with_one_file(serve, step, scratch):
    """Each tells what was said at its own, and all of it is kept."""
    path = scratch / "chat.db"
    one, other = (serve(step, "--history", path) for _ in range(2))
    said = []
    for server, name in ((one, "ana"), (other, "bob")):
        speaker, listener = fill(server, name, "carla")
        said += talk(speaker, [listener], [f"number {number}" for number in range(300)])
    wait_until(lambda: written(path) == 600)
    assert sorted(stored(path)) == sorted(said)
    check_sound(path)


@since("history")
def test_memory_stays_flat(serve, step, scratch):
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")

    def say(count, start):
        for number in range(start, start + count, 500):
            talk(ana, [bob], [f"{line} {'x' * 3000}" for line in range(number, number + 500)])
            wait_until(lambda count=number + 500: written(path) == count)

    say(2000, 0)
    before = server.memory()
    say(8000, 2000)  # 24 MB
    grown = server.memory() - before
    assert grown < 12 * MIB, f"{grown / MIB:.1f} MiB more"


# When the disk is in trouble


def make_other(path, layout):
    """Make a database that another program could have made."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript(f"CREATE TABLE lines (a); INSERT INTO lines VALUES (1); PRAGMA user_version = {layout};")


@since("history")
def test_a_file_that_cannot_be_used(serve, step, scratch):
    """One line and status 1, and nothing is done to the file."""
    files = {name: scratch / name for name in ("folder", "garbage", "half", "other", "numbered", "newer", "pipe")}
    files["folder"].mkdir()
    files["garbage"].write_bytes(os.urandom(10_000))
    make_other(files["other"], 0)
    make_other(files["numbered"], 1)
    make_other(files["newer"], 2)
    files["half"].write_bytes(files["other"].read_bytes()[:2000])
    os.mkfifo(files["pipe"])
    reasons = {
        files["folder"]: "unable to open database file",
        files["garbage"]: "file is not a database",
        files["half"]: ".+",
        files["other"]: "it is another program's database",
        files["numbered"]: "it is another program's database",
        files["newer"]: "its layout is 2, and this server knows 1",
        files["pipe"]: ".+",
        files["garbage"] / "chat.db": "unable to open database file",
        scratch / "nowhere" / "chat.db": "unable to open database file",
        "": "unable to open database file",
        "/dev/null": ".+",
        scratch / ("x" * 300): "unable to open database file",
    }
    before = {file: file.read_bytes() for file in files.values() if file.is_file()}
    servers = {file: serve(step, "--history", file, announce=False) for file in reasons}
    for file, server in servers.items():
        assert server.wait() == 1, server.log
        expected = f"server.py: cannot use history {re.escape(str(file))}: {reasons[file]}\n"
        assert re.fullmatch(expected, server.log), server.log
    assert before == {file: file.read_bytes() for file in before}


@since("history")
def test_an_empty_file_is_a_new_history(serve, step, scratch):
    path = scratch / "chat.db"
    path.touch()
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")
    await_stored(path, *talk(ana, [bob], ["hello"]))


@since("history")
def test_a_new_file_that_somebody_has_locked(serve, step, scratch):
    path = scratch / "chat.db"
    with locked(path):
        server = serve(step, "--history", path, announce=False)
        assert server.wait() == 1
    assert server.log == f"server.py: cannot use history {path}: database is locked\n"


@since("history")
def test_a_file_that_is_locked(serve, step, scratch):
    """The chat goes on; the room is told once, and once more when what was said meanwhile is written."""
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")
    said = talk(ana, [bob], ["before"])
    await_stored(path, *said)
    with locked(path):
        said += talk(ana, [bob], ["meanwhile"])
        for peer in (ana, bob):
            peer.expect(b"* the history cannot be written: database is locked\n")
        said += talk(bob, [ana], ["go on"])
        carla = server.enter("carla")
        recall(carla, *said)
        for peer in (ana, bob):
            peer.expect(b"* carla joined\n")
        bob.send(b"/search before\n/history 1\n")  # who reads is not locked out
        recall(bob, said[0], said[-1])
        carla.expect_nothing(2.5)  # it is tried again
        assert stored(path) == said[:1]
    for peer in (ana, bob, carla):
        peer.expect(AGAIN)
    assert stored(path) == said
    said += talk(ana, [bob, carla], ["after"])
    await_stored(path, *said)
    with locked(path):  # a trouble of its own
        said += talk(ana, [bob, carla], ["once more"])
        bob.expect(b"* the history cannot be written: database is locked\n")
    bob.expect(AGAIN)
    assert stored(path) == said
    assert len(re.findall("the history ", server.log)) == 4


@since("history")
def test_a_lock_that_is_short_is_no_trouble(serve, step, scratch):
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")
    with locked(path):
        said = talk(ana, [bob], ["hello"])
    await_stored(path, *said)
    ana.expect_nothing()


@since("history")
def test_a_server_that_stops_while_its_file_is_locked(serve, step, scratch):
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")
    await_stored(path)
    with locked(path):
        talk(ana, [bob], ["hello", "are you there?"])
        stop(server)
        server = serve(step, "--history", path)  # to start, it need not write
        ana, bob = fill(server, "ana", "bob")
        talk(ana, [bob], ["again"])
        bob.expect(b"* the history cannot be written: database is locked\n")
        talk(ana, [bob], ["and again"])
        stop(server)
        assert "history: 2 lines could not be written" in server.log
    check_sound(path)


@since("history")
def test_what_waits_for_the_disk_is_bounded(serve, step, scratch):
    """The first lines that could not be written, a thousand at most, and the last 10,000; and how many are lacking."""
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")
    first = talk(ana, [bob], ["before"])
    await_stored(path, *first)
    with locked(path):
        ana.send(b"hello\n")
        bob.expect(b"ana says: hello\n* the history cannot be written: database is locked\n")
        ana.expect(b"* the history cannot be written: database is locked\n")
        said = ["ana says: hello"] + talk(ana, [bob], [f"number {number}" for number in range(15_000)])
    bob.expect(AGAIN)
    told = bob.read_line().decode()
    lacking = re.fullmatch(r"\* the history lacks (\d+) lines, which were too many to wait for the disk\n", told)
    count = len(said) - int(lacking[1]) - 10_000
    assert 1 <= count <= 1000
    assert stored(path) == first + said[:count] + said[-10_000:]
    check_sound(path)


@since("history")
def test_a_file_that_is_read_only(serve, step, scratch):
    """As soon as it may be written, it is."""
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")
    said = talk(ana, [bob], ["before"])
    stop(server)
    path.chmod(0o444)
    server = serve(step, "--history", path, shell=without_privilege())
    ana = server.enter("ana")
    recall(ana, *said)
    said += talk(ana, [], ["meanwhile"])
    ana.expect(b"* the history cannot be written: attempt to write a readonly database\n")
    said += talk(ana, [], ["go on"])
    ana.send(b"/history 1\n")
    recall(ana, said[-1])
    carla = server.enter("carla")
    recall(carla, *said)
    path.chmod(0o644)
    carla.expect(AGAIN)
    assert stored(path) == said


@LINUX
@since("history")
def test_a_disk_that_is_full(serve, step, scratch):
    """A small file system, in which room is made after a while."""
    disk = scratch / "disk"
    disk.mkdir()
    prepare = namespace(f"mount -t tmpfs -o size=2m tmpfs {disk}", f"head -c 1500000 /dev/zero >{disk}/ballast")
    server = serve(step, "--history", disk / "chat.db", shell=prepare)
    inside = Path(f"/proc/{server.pid}/root{disk}")
    ana, bob = fill(server, "ana", "bob")
    ana.send(b"".join(b"number %d %b\n" % (number, b"x" * 3000) for number in range(300)))
    said = bob.read_until(b"* the history cannot be written: database or disk is full\n").decode().splitlines()[:-1]
    while len(said) < 300:
        said.append(bob.read_line().decode().removesuffix("\n"))
    ana.expect(b"* the history cannot be written: database or disk is full\n")
    said += talk(bob, [ana], ["go on"])
    recall(server.enter("carla"), *said[-20:])
    bob.expect(b"* carla joined\n")
    (inside / "ballast").unlink()
    bob.expect(AGAIN)
    said += talk(ana, [], ["after"])
    bob.expect(b"ana says: after\n")
    bob.send(b"/search after\n")
    recall(bob, "ana says: after")
    copy = shutil.copytree(inside, scratch / "copy") / "chat.db"  # SQLite itself would look into our own folder
    assert stored(copy) == said
    check_sound(copy)


@LINUX
@since("history")
def test_a_file_that_may_not_grow(serve, step, scratch):
    """A quota, which is raised after a while."""
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")
    said = talk(ana, [bob], ["before"])
    await_stored(path, *said)
    size = max(file.stat().st_size for file in path.parent.glob("chat.db*"))
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, hard))
    said += talk(ana, [bob], ["x" * 4000])
    trouble = bob.read_line()
    assert re.fullmatch(rb"\* the history cannot be written: (disk I/O error|database or disk is full)\n", trouble)
    ana.expect(trouble)
    said += talk(bob, [ana], ["go on"])
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
    bob.expect(AGAIN)
    assert stored(path) == said
    check_sound(path)


@since("history")
def test_a_database_that_is_damaged(serve, step, scratch):
    """Its index of words is lost: the chat goes on, and a search says why it cannot be."""
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    ana, bob = fill(server, "ana", "bob")
    said = talk(ana, [bob], ["before"])
    await_stored(path, *said)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.executescript("DELETE FROM words_data; DELETE FROM words_idx;")
    said += talk(ana, [bob], ["hello"])
    trouble = bob.read_line().decode()
    assert trouble.startswith("* the history cannot be written: "), trouble
    ana.expect(trouble.encode())
    bob.send(b"/search hello\n")
    answer = bob.read_line().decode()
    assert answer.startswith("error: the history cannot be searched: "), answer
    said += talk(bob, [ana], ["go on"])
    recall(server.enter("carla"), *said)


@each_since("history")
def test_a_disk_that_stalls(serve, step, scratch):
    """Nobody waits for it but who searches, and whoever comes is told what was said."""
    path = scratch / "chat.db"
    stall = scratch / "stall"
    server = serve(step, "--history", path, env=injected(stall=str(stall)))
    ana, bob, dora = fill(server, "ana", "bob", "dora")
    said = talk(ana, [bob, dora], [f"number {number}" for number in range(25)])
    await_stored(path, *said)
    stall.touch()
    for number in range(5):
        said += talk(ana, [bob, dora], [f"hello {number}"])
        said += talk(bob, [ana, dora], ["hello to you"])
    assert wait_until(Path(f"{stall}-waiting").exists)
    dora.send(b"/history 1\n/search hello\nfound it\n")
    recall(dora, said[-1])
    carla = server.enter("carla")
    recall(carla, *said[-20:])
    for peer in (ana, bob, dora):
        peer.expect(b"* carla joined\n")
    said += talk(carla, [ana, bob, dora], ["is dora still searching?"])
    said += talk(ana, [bob, carla, dora], ["she is"])
    for peer in (ana, bob, carla, dora):
        peer.expect_nothing(0.1)
    stall.unlink()
    found = [line for line in said if "hello" in line]
    recall(dora, *found)
    for peer in (ana, bob, carla):
        peer.expect_line(dora, "found it")
    await_stored(path, *said, "dora says: found it")
    for peer in (ana, bob, carla, dora):
        peer.expect_nothing(0.1)


@each_since("history")
def test_a_server_stops_while_its_disk_stalls(serve, step, scratch):
    path = scratch / "chat.db"
    stall = scratch / "stall"
    server = serve(step, "--history", path, env=injected(stall=str(stall)))
    ana, bob = fill(server, "ana", "bob")
    said = talk(ana, [bob], ["before"])
    await_stored(path, *said)
    stall.touch()
    talk(ana, [bob], ["hello"])
    assert wait_until(Path(f"{stall}-waiting").exists)
    bob.send(b"/search hello\n")
    ana.send(b"/search before\n/search before\nlast words\n")
    ana.await_taken()
    stop(server)
    assert re.search("history: [12] lines could not be written", server.log)
    assert stored(path) == said
    check_sound(path)


@since("history")
def test_who_searches_may_leave_meanwhile(serve, step, scratch):
    path = scratch / "chat.db"
    stall = scratch / "stall"
    server = serve(step, "--history", path, env=injected(stall=str(stall)))
    ana, bob, carla = fill(server, "ana", "bob", "carla")
    said = talk(ana, [bob, carla], ["hello"])
    await_stored(path, *said)
    stall.touch()
    bob.send(b"/search hello\n")
    carla.send(b"/search hello\n/search hello\n")
    assert wait_until(Path(f"{stall}-waiting").exists)
    bob.close()
    carla.reset()
    talk(ana, [], ["go on"])
    stall.unlink()
    left = {ana.read_line(), ana.read_line()}
    assert left == {b"* bob left\n", b"* carla left\n"}
    ana.send(b"/search hello\n")
    recall(ana, *said)
    assert server.running


@LINUX
@since("history")
def test_long_lines_do_not_drop_who_asks_for_many(serve, step):
    """200 lines can be more than is kept for a client at once: what is no UTF-8 becomes three bytes for one."""
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    text = "\ufffd" * 4095
    for _ in range(200):
        ana.send(b"\x80" * 4095 + b"\n")
        bob.expect_line(ana, text)
    said = [f"ana says: {text}"] * 200
    carla = visit_with(server, far_away)
    carla.send(b"carla\n/history 200\n/history 200\nthat was much\n")
    carla.read_until(b"* you are carla; also here: ana, bob\n")
    recall(carla, *said[-20:])
    bob.expect(b"* carla joined\n")
    recall(carla, *said, *said)
    bob.expect(b"carla says: that was much\n")


# The step before


def test_the_step_before_knows_nothing_of_what_was_said(serve):
    server = serve("limits")
    ana, bob = fill(server, "ana", "bob")
    talk(ana, [bob], ["hello"])
    carla = server.enter("carla")
    carla.send(b"/history\n/search hello\n")
    carla.expect(b"error: there is no /history; /help lists what there is\n")
    carla.expect(b"error: there is no /search; /help lists what there is\n")
    carla.expect_nothing()


def test_the_steps_share_their_history_letter_for_letter():
    first, *others = ROOT.glob("features/*/history.py")
    assert others and all(other.read_text() == first.read_text() for other in others)
