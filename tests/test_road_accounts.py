"""The growing road from accounts/ on: a registered name belongs to who knows its password."""

import contextlib
import hashlib
import json
import re
import runpy
import signal
import sqlite3
import sys
import time
from types import SimpleNamespace
from unicodedata import normalize

import pytest
from harness import QUESTION, Stopwatch, converse, wait_until
from promises import ROOT
from road import each_since, fill, since
from test_programs import program
from test_road_history import await_stored, check_sound, locked, recall, talk, visit_with
from test_scarcity import injected
from test_stopping import stop

HIDE, SHOW = b"\xff\xfb\x01", b"\xff\xfc\x01"  # IAC WILL ECHO, IAC WONT ECHO (RFC 857)
ASKED = HIDE + b"password?\n"
WRONG = b"error: wrong password\n"
LENGTH = b"error: a password has 8 to 200 characters\n"
CHANGED = b"* your password is changed\n"
TOO_MANY = b"error: too many guesses, try again later\n"
LACKING = b"error: passwords cannot be checked now, try again later\n"
MANY_ADDRESSES = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has all of 127.0.0.0/8")


def quick(**plan):
    """For `env=`: what else is injected, and hashing that takes no time, for tests that are not about that."""
    return injected(cheap=True, **plan)


def owned(name):
    """What who registers a name is told."""
    return f"* {name} is yours now: its password is asked at the door\n".encode()


def register(peer, password):
    """Have somebody who is in the room register the name."""
    __tracebackhide__ = True
    peer.send(f"/register {password}\n".encode())
    peer.expect(owned(peer.name))


def leave(peer):
    """Leave, and wait until the name is free again."""
    peer.close()
    peer.server.await_log(rf"{peer.in_log} (left|dropped)")


def own(server, **passwords):
    """Register these names, of people who leave then; nobody else may be there."""
    __tracebackhide__ = True
    for name, password in passwords.items():
        peer = server.enter(name)
        register(peer, password)
        leave(peer)


def asked(server, name, host=None):
    """A visitor who has given a name, perhaps from another address of this machine, and is asked for the password."""
    __tracebackhide__ = True
    peer = visit_with(server, lambda sock: sock.bind((host, 0))) if host else server.visit()
    peer.expect(QUESTION)
    peer.send(f"{name}\n".encode())
    peer.expect(ASKED)
    return peer


def answer(peer, password, *answers):
    """Answer with a password, and expect these lines."""
    __tracebackhide__ = True
    peer.send(f"{password}\n".encode())
    peer.expect(SHOW + b"".join(answers))


def spied(path, what):
    """What an injected spy has written down, of hashes or of comparisons."""
    found = map(json.loads, path.read_text().splitlines()) if path.exists() else []
    return [rest for kind, *rest in found if kind == what]


# At the door


@each_since("accounts")
def test_a_registered_name_needs_its_password(serve, step):
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    register(ana, "correct horse")
    bob.expect_nothing(0.1)
    leave(ana)
    bob.expect(b"* ana left\n")
    visitor = asked(server, "ana")
    bob.send(b"is it ana?\n")
    visitor.expect_nothing()
    answer(visitor, "correct hors", WRONG, QUESTION)
    visitor.send(b"ana\n")
    visitor.expect(ASKED)
    visitor.send(b"correct horse\n")
    visitor.expect(SHOW + b"* you are ana; also here: bob\n")
    recall(visitor, "bob says: is it ana?")
    bob.expect(b"* ana joined\n")
    visitor.send(b"it is me\n")
    bob.expect(b"ana says: it is me\n")
    bob.expect_nothing(0.1)
    visitor.expect_nothing(0.1)


@since("accounts")
def test_however_the_name_is_written(serve, step):
    server = serve(step, env=quick())
    own(server, Zażółć="correct horse")
    for name in ("Zażółć", "ZAŻÓŁĆ", "  zażółć ", "za\u017c\u00f3\u0142c\u0301"):
        visitor = asked(server, name)
        answer(visitor, "correct horse", f"* you are {normalize('NFKC', name.strip())}; nobody else is here\n".encode())
        leave(visitor)
    anna = server.enter("zażółcia")  # another one
    anna.send("/nick ZAŻÓŁĆ\n".encode())
    anna.expect(WRONG)


@since("accounts")
def test_who_does_not_know_it_may_take_another_name(serve, step):
    server = serve(step, env=quick())
    own(server, ana="correct horse")
    visitor = asked(server, "ana")
    answer(visitor, "", WRONG, QUESTION)
    visitor.send(b"bob\n")
    visitor.expect(b"* you are bob; nobody else is here\n")


@since("accounts")
def test_all_in_one_packet(serve, step):
    """As `printf | nc` sends it. Also a byte at a time, and with what telnet puts in."""
    server = serve(step, env=quick())
    own(server, ana="correct horse")
    (bob,) = fill(server, "bob")
    ana = server.visit()
    ana.send(b"ana\ncorrect horse\nhello\nlast words")
    ana.finish()
    ana.expect(QUESTION + ASKED + SHOW + b"* you are ana; also here: bob\n")
    ana.expect_closed()
    bob.expect(b"* ana joined\nana says: hello\nana says: last words\n* ana left\n")
    ana = server.visit()
    ana.send_parts(
        [bytes([byte]) for byte in b"ana\n\xff\xfd\x01correct horse\r\0\n\xff\xfe\x01hello\r\n"], pause=0.002
    )
    bob.expect(b"* ana joined\nana says: hello\n")
    leave(ana)
    bob.expect(b"* ana left\n")
    ana = server.visit()
    ana.send(b"ana\ncorrect horse")  # the end of the stream ends the answer
    ana.finish()
    bob.expect(b"* ana joined\n* ana left\n")


@since("accounts")
def test_a_name_that_is_taken_meanwhile(serve, step):
    """Two know the password; or it is registered by the very one who has it."""
    server = serve(step, env=quick())
    own(server, ana="correct horse")
    visitors = [asked(server, "ana") for _ in range(3)]
    with server.frozen():
        for visitor in visitors:
            visitor.send(b"correct horse\n")
    answers = []
    for visitor in visitors:
        visitor.expect(SHOW)
        answers.append(visitor.read_line())
    assert sorted(answers) == [b"* you are ana; nobody else is here\n"] + [b"error: ana is taken\n"] * 2
    for visitor, line in zip(visitors, answers, strict=True):
        if line.startswith(b"error"):
            visitor.expect(QUESTION)
            visitor.send(b"ANA\n")  # of a name that is taken no password is asked
            visitor.expect(b"error: ANA is taken\n" + QUESTION)
            visitor.close()


@since("accounts")
def test_a_name_that_is_taken_while_somebody_is_about_to_change_to_it(serve, step, scratch):
    spy, hold = scratch / "spy", scratch / "hold"
    server = serve(step, env=quick(spy=str(spy), hold=str(hold)))
    own(server, ana="correct horse")
    bob, carla = fill(server, "bob", "carla")
    visitor = asked(server, "ana")
    hold.touch()
    visitor.send(b"correct horse\n")
    assert wait_until(lambda: len(spied(spy, "hash")) == 2)
    bob.send(b"/nick ana correct horse\n/list\n")
    bob.await_taken()
    talk(carla, [bob], ["whoever has the name first"])  # by then the server is at bob's command
    hold.unlink()
    visitor.expect(SHOW + b"* you are ana; also here: bob, carla\n")
    bob.expect(b"* ana joined\nerror: ana is taken\n* here: ana, bob, carla\n")


@since("accounts")
def test_a_password_is_no_command_and_no_message(serve, step):
    server = serve(step, env=quick())
    (bob,) = fill(server, "bob")
    for name, password in {
        "ana": "/quit now",
        "carla": "//list of all",
        "dora": "/register",
        "erin": "* bob left",
    }.items():
        peer = server.enter(name)
        register(peer, password)
        leave(peer)
        bob.expect(f"* {name} joined\n* {name} left\n".encode())
        answer(asked(server, name), password, f"* you are {name}; also here: bob\n".encode())
        bob.expect(f"* {name} joined\n".encode())
        server.peers[-1].close()
        bob.expect(f"* {name} left\n".encode())


def test_who_gives_no_password_is_dropped_after_30_seconds(serve):
    """The seconds begin with that question."""
    server = serve("accounts", env=quick())
    own(server, ana="correct horse")
    visitor = server.visit()
    visitor.expect(QUESTION)
    time.sleep(1)
    before = time.monotonic()
    visitor.send(b"ana\n")
    visitor.expect(ASKED)
    visitor.send(b"correct ho")
    visitor.expect(b"error: no name within 30 seconds\n")
    assert time.monotonic() - before >= 30
    visitor.expect_closed()
    server.await_log(f"{re.escape(visitor.address)} dropped: no name, 0 online")


def test_telnet_does_not_show_a_password(serve, terminal):
    server = serve("accounts", env=quick())
    own(server, ana="correct horse")
    (bob,) = fill(server, "bob")
    child = terminal([*program("telnet"), server.host, server.port])
    child.expect_exact("your name?")
    for password in "wrong-horse", "correct horse":
        assert wait_until(child.getecho)
        child.sendline("ana")
        child.expect_exact("ana\r\n")
        child.expect_exact("password?")
        assert wait_until(lambda: not child.getecho())
        child.sendline(password)
        child.expect_exact(["your name?", "* you are ana; also here: bob"])
        assert b"horse" not in child.before
    assert wait_until(child.getecho)
    child.sendline("hello")
    child.expect_exact("hello\r\n")
    bob.expect(b"* ana joined\nana says: hello\n")


# The commands


@since("accounts")
def test_how_long_a_password_is(serve, step):
    """8 to 200 characters, whatever they are; blanks around it do not count."""
    server = serve(step, env=quick())
    good = {
        "eight": "12345678",
        "most": "x" * 200,
        "blanks": "a b c  d",
        "wide": "zażółćgę",
        "widest": "\U0001f600" * 200,
        "around": "   not around \t ",
    }
    for name, password in good.items():
        peer = server.enter(name)
        for bad in ("1234567", "x" * 201, "zażółćg", "\u0301" * 7, "  1234567 ", "ż" * 201, "x" * 4000):
            peer.send(f"/register {bad}\n".encode())
            peer.expect(LENGTH)
        for bad in ("/register", "/register   "):
            peer.send(f"{bad}\n".encode())
            peer.expect(b"error: it is /register PASSWORD\n")
        register(peer, password)
        for bad in ("1234567", "x" * 201):
            peer.send(f"/password {bad}\n".encode())
            peer.expect(LENGTH)
        peer.send(b"/password\n")
        peer.expect(b"error: it is /password NEW\n")
        leave(peer)
    for name, password in good.items():
        answer(asked(server, name), f" {password.strip()}\t ", b"* you are %s; " % name.encode())
        leave(server.peers[-1])
    answer(asked(server, "eight"), "x" * 4000, WRONG, QUESTION)


@since("accounts")
def test_registering_twice_and_a_new_password(serve, step):
    server = serve(step, env=quick())
    ana, bob = fill(server, "ana", "bob")
    ana.send(b"/password correct horse\n")
    ana.expect(b"error: ana is not registered; /register PASSWORD does it\n")
    register(ana, "correct horse")
    ana.send(b"/register battery staple\n")
    ana.expect(b"error: ana is registered already; /password NEW changes its password\n")
    ana.send(b"/PASSWORD battery staple\nhello\n")
    ana.expect(CHANGED)
    bob.expect(b"ana says: hello\n")
    bob.expect_nothing(0.1)
    leave(ana)
    visitor = asked(server, "ana")
    answer(visitor, "correct horse", WRONG, QUESTION)
    visitor.send(b"ana\n")
    visitor.expect(ASKED)
    answer(visitor, "battery staple", b"* you are ana; also here: bob\n")


@since("accounts")
def test_nick_to_a_name_that_belongs_to_somebody(serve, step):
    server = serve(step, env=quick())
    own(server, ana="correct horse")
    bob, carla = fill(server, "bob", "carla")
    bob.send(b"/nick ana\n")
    bob.expect(WRONG)
    bob.send(b"/nick ana correct  horse\nI am bob\n")
    bob.expect(WRONG)
    carla.expect(b"bob says: I am bob\n")
    bob.send(b"/nick ANA  correct horse \nI am ana\n")
    for peer in (bob, carla):
        peer.expect(b"* bob is now ANA\n")
    carla.expect(b"ANA says: I am ana\n")
    bob.send(b"/nick ana\n")  # one's own name needs none
    for peer in (bob, carla):
        peer.expect(b"* ANA is now ana\n")
    carla.send(b"/nick Ana correct horse\n")
    carla.expect(b"error: Ana is taken\n")
    bob.send(b"/nick\n")
    bob.expect(b"error: it is /nick NAME [PASSWORD]\n")
    bob.send(b"/nick dora\n")  # and one that nobody has needs none
    carla.expect(b"* ana is now dora\n")
    carla.send(b"/nick 7 correct horse\n")
    carla.expect(b"error: a name has 1 to 20 letters, digits, - and _, and begins with a letter\n")


@since("accounts")
def test_the_new_name_is_what_is_registered(serve, step):
    server = serve(step, env=quick())
    (ana,) = fill(server, "ana")
    ana.send(b"/nick bob\n/register correct horse\n/nick carla\n/register battery staple\n/nick Bob correct horse\n")
    ana.expect(b"* ana is now bob\n" + owned("bob"))
    ana.expect(b"* bob is now carla\n" + owned("carla") + b"* carla is now Bob\n")
    server.enter("ana")
    for name in ("carla", "bob"):
        visitor = server.visit()
        visitor.expect(QUESTION)
        visitor.send(f"{name}\n".encode())
        visitor.expect(ASKED if name == "carla" else b"error: bob is taken\n")


# What is kept


@since("accounts")
def test_accounts_outlive_the_server(serve, step, scratch):
    path = scratch / "chat.db"
    server = serve(step, "--history", path)
    own(server, ana="correct horse", bob="correct horse", carla="battery staple")
    visitor = asked(server, "ana")
    visitor.send(b"correct horse\n/password new horse\n")
    visitor.read_until(CHANGED)
    server.signal(signal.SIGKILL)
    server.wait()
    server = serve(step, "--history", path)
    visitor = asked(server, "ana")
    answer(visitor, "new horse", b"* you are ana; nobody else is here\n")
    answer(asked(server, "carla"), "battery staple", b"* you are carla; also here: ana\n")
    stop(server)
    check_sound(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        accounts = {name: rest for name, *rest in database.execute("SELECT name, salt, hash FROM accounts")}
    assert set(accounts) == {"ana", "bob", "carla"}
    assert len({salt for salt, _ in accounts.values()}) == 3
    salt, hashed = accounts["bob"]
    assert len(salt) >= 16 and hashed == hashlib.scrypt(b"correct horse", salt=salt, n=2**14, r=8, p=5, maxmem=1 << 26)


@since("accounts")
def test_the_file_of_the_step_before_goes_on(serve, step, scratch):
    """And that step takes it back, with what it does not know."""
    path = scratch / "chat.db"
    before = serve("history", "--history", path)
    ana, bob = fill(before, "ana", "bob")
    said = talk(ana, [bob], ["hello"])
    stop(before)
    server = serve(step, "--history", path, env=quick())
    ana = server.enter("ana")
    recall(ana, *said)
    register(ana, "correct horse")
    said += talk(ana, [], ["I have a password"])
    await_stored(path, *said)
    stop(server)
    before = serve("history", "--history", path)
    recall(before.enter("ana"), *said)
    stop(before)
    asked(serve(step, "--history", path, env=quick()), "ana")


@since("accounts")
def test_passwords_are_nowhere_to_be_read(serve, step, scratch):
    path = scratch / "chat.db"
    server = serve(step, "--history", path, env=quick())
    ana, bob = fill(server, "ana", "bob")
    ana.send(b"/register secret7\n/register topsecret one\n/register topsecret two\n/password topsecret three\n")
    ana.expect(
        LENGTH + owned("ana") + b"error: ana is registered already; /password NEW changes its password\n" + CHANGED
    )
    ana.send(b"/nick carla topsecret four\n/password\n/search topsecret\n")
    ana.expect(WRONG + b"error: it is /password NEW\n* nothing found\n")
    leave(ana)
    visitor = asked(server, "ana")
    answer(visitor, "topsecret five", WRONG, QUESTION)
    visitor.send(b"ana\ntopsecret three\nhello\n/history\n")
    visitor.expect(ASKED + SHOW + b"* you are ana; also here: bob\n")
    recall(visitor, "ana says: hello")
    bob.expect(b"* ana left\n* ana joined\nana says: hello\n")
    await_stored(path, "ana says: hello")
    for running in True, False:
        if not running:
            stop(server)
        for file in [*scratch.glob("chat.db*"), server.log_path]:
            assert b"secret" not in file.read_bytes(), file
    assert not [file for file in scratch.rglob("*") if file.is_file() and b"secret" in file.read_bytes()]


@since("accounts")
def test_a_password_that_cannot_be_kept(serve, step, scratch):
    """It is not asked then, and can be given as soon as the file is there again."""
    path = scratch / "chat.db"
    server = serve(step, "--history", path, env=quick())
    own(server, bob="battery staple")
    (ana,) = fill(server, "ana")
    with locked(path):
        ana.send(b"/register correct horse\n/password correct horse\n")
        ana.expect(b"error: the password cannot be kept: database is locked\n")
        ana.expect(b"error: ana is not registered; /register PASSWORD does it\n")
        ana.send(b"/nick bob battery staple\n/password correct horse\n")
        ana.expect(b"* ana is now bob\nerror: the password cannot be kept: database is locked\n")
        server.enter("ana").close()
        ana.read_until(b"* ana left\n")
    leave(ana)
    answer(asked(server, "bob"), "battery staple", b"* you are bob; nobody else is here\n")
    register(server.enter("ana"), "correct horse")
    leave(server.peers[-1])
    asked(server, "ana")


@since("accounts")
def test_a_disk_that_stalls_holds_up_who_registers_and_nobody_else(serve, step, scratch):
    stall = scratch / "stall"
    server = serve(step, env=quick(stall=str(stall)))
    own(server, dora="battery staple")
    ana, bob, carla = fill(server, "ana", "bob", "carla")
    stall.touch()
    ana.send(b"/register correct horse\nit is kept\n")
    assert wait_until((scratch / "stall-waiting").exists)
    talk(bob, [carla], ["hello"])
    talk(carla, [bob], ["go on"])
    answer(asked(server, "dora"), "battery staple", b"* you are dora; also here: ana, bob, carla\n")
    ana.expect(b"bob says: hello\ncarla says: go on\n* dora joined\n")
    stall.unlink()
    ana.expect(owned("ana"))
    bob.expect(b"* dora joined\nana says: it is kept\n")


# Guessing


@since("accounts")
def test_who_guesses_from_one_address_waits_longer_and_longer(serve, step):
    """1, 2, 4 seconds: whatever names they are, and on several connections at once. All others talk on."""
    server = serve(step, env=quick())
    own(server, ana="correct horse", bob="correct horse")
    carla, dora = fill(server, "carla", "dora")
    guessers = [asked(server, name) for name in ("ana", "bob", "ana")]
    start = time.monotonic()
    for guesser in guessers:
        guesser.send(b"battery staple\n")
    talk(carla, [dora], ["who is that?"])
    for guesser in guessers:
        guesser.expect(SHOW + WRONG + QUESTION)
    assert time.monotonic() - start >= 1 + 2
    talk(carla, [dora], ["who was that?"])
    carla.send(b"/nick ana correct horse\nthat was me\n")
    dora.expect(b"* carla is now ana\n")
    assert time.monotonic() - start >= 1 + 2 + 4
    dora.expect(b"ana says: that was me\n")


@MANY_ADDRESSES
@since("accounts")
def test_who_guesses_at_one_name_waits_longer_and_longer(serve, step):
    """From wherever. Who wants another name, from another address, does not."""
    server = serve(step, env=quick())
    own(server, ana="correct horse", bob="correct horse")
    guessers = [asked(server, "ana", f"127.0.7.{number}") for number in range(1, 4)]
    start = time.monotonic()
    for guesser in guessers:
        guesser.send(b"battery staple\n")
    ana = asked(server, "ana", "127.0.7.5")
    for guesser in guessers:
        guesser.expect(SHOW)
    ana.send(b"correct horse\n")
    answer(asked(server, "bob", "127.0.7.6"), "correct horse", b"* you are bob; nobody else is here\n")
    waiting = [guesser for guesser in guessers if WRONG not in guesser.unread and not guesser.hears(WRONG, 0)]
    assert waiting, "bob waited for those who guess at ana"
    for guesser in guessers:
        guesser.expect(WRONG + QUESTION)
    assert time.monotonic() - start >= 1 + 2
    ana.expect(SHOW + b"* you are ana; also here: bob\n")
    assert time.monotonic() - start >= 1 + 2 + 4
    leave(ana)
    server.peers[-1].expect(b"* ana joined\n* ana left\n")  # bob


@MANY_ADDRESSES
def test_the_right_password_ends_that_for_the_name(serve):
    """Whoever guesses next begins at one second, and not at eight."""
    server = serve("accounts", env=quick())
    own(server, ana="correct horse", bob="correct horse")
    guess = "127.0.7.{}".format
    for number in range(3):
        answer(asked(server, "ana", guess(number)), "battery staple", WRONG)
    ana = asked(server, "ana", guess(3))
    answer(ana, "correct horse", b"* you are ana; nobody else is here\n")
    leave(ana)
    answer(asked(server, "ana", guess(4)), "battery staple", WRONG)
    guessers = [asked(server, "ana", guess(5)), *(asked(server, "bob", guess(number)) for number in range(6, 9))]
    for guesser in guessers:
        guesser.send(b"battery staple\n")
    # At ana the second guess has one second to wait, at bob the third one has three.
    assert converse(guessers, {}, lambda: any(WRONG in guesser.unread for guesser in guessers[:1]))
    assert not all(WRONG in guesser.unread for guesser in guessers[1:])


@MANY_ADDRESSES
@since("accounts")
def test_who_guesses_much_keeps_the_owner_waiting_for_one_guess(serve, step):
    """Ten guesses from another address do not come first: they would take more than a minute."""
    server = serve(step, env=quick())
    own(server, ana="correct horse")
    guessers = [asked(server, "ana", "127.0.7.1") for _ in range(10)]
    ana = asked(server, "ana", "127.0.7.2")
    for guesser in guessers:
        guesser.send(b"battery staple\n")
    for guesser in guessers:
        guesser.expect(SHOW)
    answer(ana, "correct horse", b"* you are ana; nobody else is here\n")


@since("accounts")
def test_ten_guesses_from_an_address_may_wait(serve, step):
    """Who is refused is at the door again, at once."""
    server = serve(step, env=quick())
    own(server, ana="correct horse", bob="correct horse")
    guessers = [asked(server, "ana" if number % 2 else "bob") for number in range(13)]
    with server.frozen():
        for guesser in guessers:
            guesser.send(b"battery staple\n")
    refused = SHOW + TOO_MANY + QUESTION
    assert converse(guessers, {}, lambda: sum(guesser.unread == refused for guesser in guessers) == 3)
    assert sum(guesser.unread.startswith(SHOW + WRONG) or guesser.unread == SHOW for guesser in guessers) == 10
    first = next(guesser for guesser in guessers if guesser.unread == refused)
    first.expect(refused)
    first.send(b"carla\n")
    first.expect(b"* you are carla; nobody else is here\n")


@since("accounts")
def test_who_gives_no_answer_has_not_guessed(serve, step, scratch):
    """Whoever hung up at that question, or pressed Enter, has nobody wait."""
    spy = scratch / "spy"
    server = serve(step, env=quick(spy=str(spy)))
    own(server, ana="correct horse")
    for way in ("close", "reset", "finish"):
        visitor = asked(server, "ana")
        getattr(visitor, way)()
        server.await_log(f"{re.escape(visitor.address)} (left|dropped)")
    visitor = asked(server, "ana")
    answer(visitor, "", WRONG, QUESTION)
    visitor.send(b"bob\n/nick ana\n")
    visitor.expect(b"* you are bob; nobody else is here\n" + WRONG)
    assert len(spied(spy, "hash")) == 1
    visitor.send(b"/nick ana correct horse\n")
    visitor.expect(b"* bob is now ana\n")
    assert len(spied(spy, "hash")) == 2


@MANY_ADDRESSES
@since("accounts")
def test_ten_guesses_at_a_name_may_wait(serve, step):
    server = serve(step, env=quick())
    own(server, ana="correct horse")
    guessers = [asked(server, "ana", f"127.0.7.{number}") for number in range(1, 15)]
    with server.frozen():
        for guesser in guessers:
            guesser.send(b"battery staple\n")
    refused = SHOW + TOO_MANY + QUESTION
    assert converse(guessers, {}, lambda: sum(guesser.unread == refused for guesser in guessers) == 4)


def test_how_long_a_guess_waits():
    """1, 2, 4, 8, 16, and then always 30 seconds, too long for a test to wait for them."""
    module = runpy.run_path(ROOT / "features/accounts/accounts.py")
    guesser = module["Guesser"]()
    pauses = []
    for _ in range(8):
        now = time.monotonic()
        guesser.was_wrong()
        pauses.append(int(guesser.free - now))
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_guesses_of_long_ago_are_forgotten():
    """Not while somebody waits. That, too, would take a test too long."""
    module = runpy.run_path(ROOT / "features/accounts/accounts.py")
    guessers = {name: module["Guesser"]() for name in ("old", "waiting", "new")}
    guessers["waiting"].waiting = 1
    for name in ("old", "waiting"):
        guessers[name].free -= module["FORGET_TIME"] + 1
    accounts = SimpleNamespace(guessers=guessers)
    module["Accounts"].forget(accounts)
    assert set(accounts.guessers) == {"waiting", "new"}


@since("accounts")
def test_every_check_does_the_same_work(serve, step, scratch):
    """Right or wrong, or of a name that nobody has registered: one hash, in a thread, and one comparison of all of it.

    The time that it takes then says nothing of how much of a password was right.
    """
    spy = scratch / "spy"
    server = serve(step, env=injected(spy=str(spy)))
    own(server, ana="correct horse")
    (bob,) = fill(server, "bob")
    for password, came in {"battery staple": WRONG, "correct horse": b"* bob is now ana\n"}.items():
        bob.send(f"/nick ana {password}\n".encode())
        bob.expect(came)
    for line in ("/nick nobody battery staple", "/nick nobody x", "/nick nobody " + "x" * 4000):
        before = [len(spied(spy, what)) for what in ("hash", "compare")]
        bob.send(f"{line}\n".encode())
        bob.expect(WRONG)
        assert [len(spied(spy, what)) for what in ("hash", "compare")] == [count + 1 for count in before]
    hashes, comparisons = spied(spy, "hash"), spied(spy, "compare")
    assert len(hashes) == 6 and len(comparisons) == 5
    assert all(found == hashes[0] for found in hashes)
    in_main, words, salt = hashes[0]
    assert not in_main and (words["n"], words["r"], words["p"]) == (2**14, 8, 5) and salt >= 16
    assert all((one, other) == (64, 64) for _, one, other in comparisons)


@each_since("accounts")
def test_the_room_talks_on_while_passwords_are_hashed(serve, step, scratch):
    spy, hold = scratch / "spy", scratch / "hold"
    server = serve(step, env=quick(spy=str(spy), hold=str(hold)))
    own(server, ana="correct horse")
    bob, carla, dora = fill(server, "bob", "carla", "dora")
    hold.touch()
    visitor = asked(server, "ana")
    visitor.send(b"correct horse\nI am here\n")
    dora.send(b"/register battery staple\nit is mine\n")
    assert wait_until(lambda: len(spied(spy, "hash")) == 3)
    carla.send(b"/register battery staple\n")  # there are two threads
    talk(bob, [carla, dora], ["hello", "go on"])
    erin = server.enter("erin")
    recall(erin, "bob says: hello", "bob says: go on")
    for peer in (bob, carla, dora):
        peer.expect(b"* erin joined\n")
    erin.send(b"/nick eve\n/list\n")
    erin.expect(b"* erin is now eve\n* here: bob, carla, dora, eve\n")
    bob.expect(b"* erin is now eve\n")
    bob.expect_nothing(0.1)
    assert len(spied(spy, "hash")) == 3
    hold.unlink()
    visitor.read_until(b"* you are ana; also here: bob, carla, dora, eve\n")
    dora.read_until(owned("dora"))
    carla.read_until(owned("carla"))
    assert {bob.read_line() for _ in range(3)} == {
        b"* ana joined\n",
        b"ana says: I am here\n",
        b"dora says: it is mine\n",
    }
    assert not any(in_main for in_main, *_ in spied(spy, "hash"))


def test_fifty_passwords_at_once(serve):
    """Somebody who says something is heard within two seconds meanwhile."""
    server = serve("accounts")
    ana, bob = fill(server, "ana", "bob")
    others = server.join(50)
    for peer in (ana, bob):
        peer.read_until(b"* p50 joined\n")
    with server.frozen():
        for other in others:
            other.send(b"/register correct horse\nthat was mine\n")
    watch, most, count = Stopwatch(server), 0.0, 0
    while count < 50:
        watch.lap()
        ana.send(b"hello\n")
        count += bob.read_until(b"ana says: hello\n").count(b" says: that was mine\n")
        most = max(most, watch.lap())
        time.sleep(0.05)
    assert most < 2, f"{most:.1f} seconds until somebody was heard"


def test_a_server_stops_while_passwords_are_hashed(serve):
    """It has read all of this, or some; and what was to come after a password."""
    server = serve("accounts")
    own(server, ana="correct horse")
    visitors = [asked(server, "ana") for _ in range(2)]
    others = server.join(50)
    with server.frozen():
        for visitor in visitors:
            visitor.send(b"correct horse\nhello\nand more\n")
        for other in others:
            other.send(b"/register correct horse\n/password new horse\n/nick ana correct horse\n")
    visitors[0].await_taken()
    stop(server)


@since("accounts")
def test_who_leaves_while_the_password_is_hashed(serve, step, scratch):
    spy, hold = scratch / "spy", scratch / "hold"
    server = serve(step, env=quick(spy=str(spy), hold=str(hold)))
    own(server, ana="correct horse")
    bob, carla = fill(server, "bob", "carla")
    hold.touch()
    visitor, other = asked(server, "ana"), asked(server, "ana")
    visitor.send(b"correct horse\n")
    other.send(b"correct horse\n")
    carla.send(b"/register battery staple\n")
    assert wait_until(lambda: len(spied(spy, "hash")) == 3)
    visitor.reset()
    other.close()
    carla.reset()
    talk(bob, [], ["who is here?"])
    hold.unlink()
    bob.read_until(b"* carla left\n")
    for gone in (visitor, other):
        server.await_log(rf"{gone.in_log} (left|dropped)")
    visitor = server.enter("ana", password="correct horse")
    talk(visitor, [], ["still here"])
    bob.read_until(b"ana says: still here\n")


@since("accounts")
def test_a_check_may_take_longer_than_the_idle_time(serve, step, scratch):
    """Who waits for it is not silent: the time begins when it is in the room."""
    path, spy, hold = scratch / "chat.db", scratch / "spy", scratch / "hold"
    server = serve(step, "--history", path, env=quick())
    own(server, ana="correct horse")
    stop(server)
    server = serve(step, "--history", path, "--idle", "0.02", env=quick(spy=str(spy), hold=str(hold)))
    for _ in range(2):
        hold.touch()
        before = len(spied(spy, "hash"))
        visitor = asked(server, "ana")
        visitor.send(b"correct horse\n")
        assert wait_until(lambda before=before: len(spied(spy, "hash")) > before)
        time.sleep(1.5)
        hold.unlink()
        ana = rf"ana@{re.escape(visitor.name)}"
        server.await_log(rf"{ana} joined, 1 online\n\S+ {ana} dropped: idle, 0 online\n\Z")
    stop(server)


@pytest.mark.parametrize("call, error", [("hashlib.scrypt", "MemoryError"), ("threading.Thread.start", "RuntimeError")])
@since("accounts")
def test_memory_or_threads_are_lacking(serve, step, scratch, call, error):
    """Who wants a password checked is told so in one line, and may try again."""
    lack = scratch / "lack"
    server = serve(step, env=quick(fail=[call], **{"while": str(lack)}))
    ana, bob = fill(server, "ana", "bob")
    lack.write_text(error)
    ana.send(b"/register correct horse\nhello\n")
    ana.expect(LACKING)
    bob.expect(b"ana says: hello\n")
    lack.unlink()
    register(ana, "correct horse")
    leave(ana)
    if call == "hashlib.scrypt":  # a thread is there now
        visitor = asked(server, "ana")
        lack.write_text(error)
        answer(visitor, "correct horse", LACKING, QUESTION)
        lack.unlink()
        visitor.send(b"ana\n")
        visitor.expect(ASKED)
        answer(visitor, "correct horse", b"* you are ana; also here: bob\n")


# The step before


def test_in_the_step_before_anybody_may_take_anybodys_name(serve):
    server = serve("history")
    ana, bob = fill(server, "ana", "bob")
    ana.send(b"/register correct horse\n")
    ana.expect(b"error: there is no /register; /help lists what there is\n")
    leave(ana)
    mallory = server.enter("ana")
    mallory.send(b"it is me\n")
    bob.expect(b"* ana left\n* ana joined\nana says: it is me\n")


def test_the_steps_share_their_accounts_letter_for_letter():
    first, *others = ROOT.glob("features/*/accounts.py")
    assert others and all(other.read_text() == first.read_text() for other in others)
