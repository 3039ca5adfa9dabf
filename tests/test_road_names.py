"""The growing road from names/ on: who comes is asked for a name, and the room calls it by that."""

import re
import signal
import time
from unicodedata import normalize

import harness
import pytest
from harness import QUESTION
from road import each_since, ends, fill, since

DOOR_TIME = 30  # seconds in which somebody at the door must answer
ODD = b"error: a name has 1 to 20 letters, digits, - and _, and begins with a letter\n"
TOO_LATE = b"error: no name within 30 seconds\n"

REFUSED = {
    "nothing": b"",
    "blanks": b" \t ",
    "wide blanks": "\u3000\u00a0\u2003".encode(),
    "controls": b"\0\x07\x1b\x7f",
    "telnet's bytes": b"\xff\xfd\x03\xff\xf1",
    "an unfinished option": b"\xff\xfd",
    "overrides": "\u202e\u2069".encode(),
    "nothing to be seen": "\u3164".encode(),
    "part of it not to be seen": "ana\uffa0".encode(),
    "nothing but a joiner": "a\u200db".encode(),
    "21 letters": b"a" * 21,
    "21 letters in seven ligatures": "ﬃ".encode() * 7,
    "a whole message": b"a" * 4095,
    "two words": b"ana maria",
    "a digit first": b"7ana",
    "a full-width digit first": "７ana".encode(),
    "a hyphen first": b"-ana",
    "a line first": b"_ana",
    "a notice": b"* ana",
    "history": b"[ana]",
    "an action": b"~ ana",
    "an address": b"127.0.0.1:9669",
    "a message": b"ana says: hello",
    "a command": b"/list",
    "markup": b"<b>ana</b>",
    "an emoji": "ana\U0001f600".encode(),
    "half a character": b"ana\xc3",
    "an accent alone": "\u0301ana".encode(),
}

ALLOWED = {
    b"a": "a",
    b"a" * 20: "a" * 20,
    b"Ana-1_x": "Ana-1_x",
    b"  ana\t": "ana",
    b"ana\r": "ana",
    b"a\0n\x07a": "ana",
    b"\xff\xfb\x1fan\xff\xf1a\xff": "ana",
    "\u202eana\u2069".encode(): "ana",
    "ａｎａ７".encode(): "ana7",
    "ﬁn".encode(): "fin",
    "e\u0301".encode() * 20: "é" * 20,
    "Zażółć".encode(): "Zażółć",
    "日本".encode(): "日本",
    "Άννα٣".encode(): "Άννα٣",
}

ALIKE = [
    ("ana", "ANA"),
    ("Ana", "aNa"),
    ("ana", "ａｎａ"),
    ("ana", "ªnª"),
    ("fin", "ﬁn"),
    ("FIN", "ﬁn"),
    ("strasse", "Straße"),
    ("Straße", "STRASSE"),
    ("Σίσυφος", "ΣΊΣΥΦΟΣ"),
    ("Ångström", "a\u030angstro\u0308m"),
    ("ångström", "\u212bngström"),
    ("ガ", "ｶﾞ"),
    ("DŽ", "ǆ"),
]

HOSTILE = [
    "* bob left",
    "* you are carla; nobody else is here",
    "error: you are to leave",
    "your name?",
    "password?",
    "[2026-11-25 12:03] bob says: it was me",
    "bob says: it was me",
    "bob whispers: it was me",
    "~ bob waves",
    "\t* bob left",
    " * bob left",
    "\u2028* bob left",
    "\u2029* bob left",
]


def events(server):
    """What the log says of who comes and goes, without the time."""
    return [line[9:] for line in server.log.splitlines() if line.endswith(" online")]


@each_since("names")
def test_who_comes_is_asked_and_everybody_hears_of_it(serve, step):
    server = serve(step)
    ana = server.visit()
    ana.expect(QUESTION)
    ana.expect_nothing()
    ana.send(b"ana\n")
    ana.expect(b"* you are ana; nobody else is here\n")
    dora = server.enter("dora")
    assert dora.welcome == "* you are dora; also here: ana\n"
    ana.expect(b"* dora joined\n")
    bob = server.enter("bob")
    assert bob.welcome == "* you are bob; also here: ana, dora\n"
    for peer in (ana, dora):
        peer.expect(b"* bob joined\n")
    ana.send(b"hello\n")
    for peer in (bob, dora):
        peer.expect(b"ana says: hello\n")
    dora.close()
    for peer in (ana, bob):
        peer.expect(b"* dora left\n")
    ana.expect_nothing()


@each_since("names")
def test_a_message_cannot_be_taken_for_a_notice(serve, step):
    ana, bob = fill(serve(step), "ana", "bob")
    ana.send("".join(f"{line}\n" for line in HOSTILE).encode())
    ana.send(b"\x1b\r\0* bob left\n\xff\xf1* bob left\nover\r* bob left\n\x85* bob left\n")
    bob.expect("".join(f"ana says: {line}\n" for line in HOSTILE).encode())
    bob.expect(b"ana says: * bob left\nana says: * bob left\nana says: over* bob left\n")
    bob.expect("ana says: \ufffd* bob left\n".encode())


@since("names")
def test_further_lines_in_the_same_packet_are_messages(serve, step):
    server = serve(step)
    (bob,) = fill(server, "bob")
    ana = server.visit()
    ana.send(b"7\n\nbob\nana\nhello\nhow are you?\nfi")
    ana.expect(QUESTION + (ODD + QUESTION) * 2 + b"error: bob is taken\n" + QUESTION)
    ana.expect(b"* you are ana; also here: bob\n")
    bob.expect(b"* ana joined\nana says: hello\nana says: how are you?\n")
    ana.send(b"ne?\n")
    bob.expect(b"ana says: fine?\n")


@since("names")
def test_a_name_a_byte_at_a_time(serve, step):
    server = serve(step)
    (bob,) = fill(server, "bob")
    ana = server.visit()
    ana.send_parts([bytes([byte]) for byte in "Zażółć\nhello\n".encode()], pause=0.005)
    bob.expect("* Zażółć joined\nZażółć says: hello\n".encode())


@since("names")
def test_who_leaves_at_once_is_heard(serve, step):
    """The name may also be all that somebody says: at the end of the stream it needs no newline."""
    server = serve(step)
    (bob,) = fill(server, "bob")
    with server.frozen():
        ana, carla = server.visit(), server.visit()
        ana.send(b"ana\nlast words")
        ana.finish()
    bob.expect(b"* ana joined\nana says: last words\n* ana left\n")
    carla.send(b"carla")
    carla.finish()
    bob.expect(b"* carla joined\n* carla left\n")
    assert carla.read_to_end().startswith(QUESTION + b"* you are carla; also here: bob\n")


@since("names")
def test_names_that_are_refused(serve, step):
    """As often as they like, and as is said at once."""
    server = serve(step)
    (bob,) = fill(server, "bob")
    ana = server.visit()
    ana.expect(QUESTION)
    for what, name in REFUSED.items():
        ana.send(name + b"\n")
        line = ana.read_line()
        assert line == ODD, what
        ana.expect(QUESTION)
    ana.send(b"ana\n")
    ana.expect(b"* you are ana; also here: bob\n")
    bob.expect(b"* ana joined\n")


@since("names")
def test_names_that_are_allowed(serve, step):
    server = serve(step)
    for line, name in ALLOWED.items():
        peer = server.visit()
        peer.expect(QUESTION)
        peer.send(line + b"\n")
        peer.expect(f"* you are {name}; nobody else is here\n".encode())
        peer.close()
        server.await_log(f"{re.escape(name)}@{re.escape(peer.address)} left, 0 online")


@since("names")
def test_names_that_look_alike_are_one(serve, step):
    """It is free again as soon as whoever has it has left."""
    server = serve(step)
    visitor = server.visit()
    visitor.expect(QUESTION)
    for name, other in ALIKE:
        peer = server.enter(name)
        visitor.send(f"{other}\n".encode())
        visitor.expect(f"error: {normalize('NFKC', other)} is taken\n".encode() + QUESTION)
        peer.close()
        server.await_log(rf"{re.escape(peer.address)} left")
    visitor.send("ǆ\n".encode())
    visitor.expect("* you are dž; nobody else is here\n".encode())


@since("names")
def test_a_name_that_two_take_in_the_same_moment(serve, step):
    server = serve(step)
    visitors = [server.visit() for _ in range(8)]
    for visitor in visitors:
        visitor.expect(QUESTION)
    with server.frozen():
        for visitor, name in zip(visitors, ["ana", "ANA", "ａｎａ", "Ana"] * 2, strict=True):
            visitor.send(f"{name}\nit is me\n".encode())
    answers = [visitor.read_line() for visitor in visitors]
    welcomes = [answer for answer in answers if answer.startswith(b"* you are ")]
    refusals = [answer for answer in answers if answer.startswith(b"error: ") and answer.endswith(b" is taken\n")]
    assert (len(welcomes), len(refusals)) == (1, 7), answers
    # Their next line was a name, too: one that has a blank in it.
    for visitor, answer in zip(visitors, answers, strict=True):
        if answer in refusals:
            visitor.expect(QUESTION + ODD + QUESTION)
        else:
            visitor.expect_nothing()


@since("names")
def test_a_name_whose_owner_leaves_in_the_same_moment(serve, step):
    """Either she is there still, or the name is free: the newcomer is told which."""
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    visitor = server.visit()
    visitor.expect(QUESTION)
    with server.frozen():
        visitor.send(b"ana\n")
        ana.close()
    answer = visitor.read_line()
    if answer == b"error: ana is taken\n":
        visitor.expect(QUESTION)
        bob.expect(b"* ana left\n")
        visitor.send(b"ana\n")
        answer = visitor.read_line()
    else:
        bob.expect(b"* ana left\n")
    assert answer == b"* you are ana; also here: bob\n"
    bob.expect(b"* ana joined\n")


@each_since("names")
def test_who_is_at_the_door_hears_nothing_and_does_not_count(serve, step):
    server = serve(step)
    visitor, silent = server.visit(), server.visit()
    ana, bob = fill(server, "ana", "bob")
    ana.send(b"hello\n")
    bob.expect(b"ana says: hello\n")
    visitor.send(b"7\n")
    visitor.expect(QUESTION + ODD + QUESTION)
    visitor.close()
    server.await_log(re.escape(visitor.address))
    ana.close()
    bob.expect(b"* ana left\n")
    silent.expect(QUESTION)
    silent.expect_nothing()
    bob.expect_nothing()
    assert events(server) == [
        f"{ana.logged} joined, 1 online",
        f"{bob.logged} joined, 2 online",
        f"{visitor.address} left, 2 online",
        f"{ana.logged} left, 1 online",
    ]


@since("names")
def test_who_comes_does_not_hear_what_was_said_before(serve, step):
    """Also not when it was said in the same moment, and those in the room have still to be told."""
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    ana.send(b"earlier\n")
    bob.expect(b"ana says: earlier\n")
    visitor = server.visit()
    visitor.expect(QUESTION)
    with server.frozen():
        ana.send(b"before\n")
        visitor.send(b"carla\n")
        bob.send(b"after\n")
    first, second = ana.read_line(), ana.read_line()
    assert {first, second} == {b"* carla joined\n", b"bob says: after\n"}
    third, fourth = bob.read_line(), bob.read_line()
    assert {third, fourth} == {b"* carla joined\n", b"ana says: before\n"}
    ana.send(b"the end\n")
    came = visitor.read_until(b"ana says: the end\n").splitlines(keepends=True)
    assert b"ana says: earlier\n" not in came
    # The others tell in which order it was: what they heard before she joined is not for her, and the rest is.
    assert (b"ana says: before\n" in came) == (fourth == b"ana says: before\n"), came
    assert (b"bob says: after\n" in came) == (second == b"bob says: after\n"), came


@since("names")
def test_how_the_log_calls_people(serve, step):
    """Who is at the door has no name; and what drops somebody is said of both."""
    server = serve(step)
    too_long = b"error: a message may be at most 4096 bytes\n"
    ana, bob = fill(server, "ana", "bob")
    visitor = server.visit()
    visitor.send(b"x" * 5000)
    visitor.expect(QUESTION)
    visitor.expect_closed(maybe_after=too_long)
    ana.send(b"x" * 5000)
    ana.expect_closed(maybe_after=too_long)
    bob.expect(b"* ana left\n")
    bob.reset()
    server.await_log(" 0 online")
    assert events(server) == [
        f"{ana.logged} joined, 1 online",
        f"{bob.logged} joined, 2 online",
        f"{visitor.address} dropped: message too long, 2 online",
        f"{ana.logged} dropped: message too long, 1 online",
        f"{bob.logged} dropped: connection reset by peer, 0 online",
    ]


@since("names")
def test_the_room_is_not_told_who_left_when_the_server_stops(serve, step):
    server = serve(step)
    ana, bob, carla = fill(server, "ana", "bob", "carla")
    carla.close()
    for peer in (ana, bob):
        peer.expect(b"* carla left\n")
    server.signal(signal.SIGTERM)
    for peer in (ana, bob):
        peer.expect_closed()
    assert server.wait() == 0


@pytest.mark.long
def test_who_gives_no_name_is_dropped_after_30_seconds(serve):
    """The seconds begin with the last question. Until then they hear nothing, also not of what is said in the room."""
    rooms = []
    for step in ends("names"):
        server = serve(step)
        ana, bob = fill(server, "ana", "bob")
        came = time.monotonic()
        silent, unsure = server.visit(), server.visit()
        silent.send(b"ann")
        rooms.append((server, ana, bob, came, silent, unsure))
    time.sleep(2)
    for number, (_, ana, bob, _, _, unsure) in enumerate(rooms):
        unsure.expect(QUESTION)
        asked = time.monotonic()
        unsure.send(b"7\n")
        unsure.expect(ODD + QUESTION)
        ana.send(b"hello\n")
        bob.expect(b"ana says: hello\n")
        rooms[number] += (asked,)
    for server, ana, bob, came, silent, unsure, asked in rooms:
        silent.expect(QUESTION + TOO_LATE, within=DOOR_TIME + harness.DEADLINE)
        assert time.monotonic() - came >= DOOR_TIME
        unsure.expect(TOO_LATE, within=DOOR_TIME + harness.DEADLINE)
        assert time.monotonic() - asked >= DOOR_TIME
        for peer in (silent, unsure):
            peer.expect_closed()
            server.await_log(rf"{re.escape(peer.address)} dropped: no name, 2 online")
        ana.send(b"still here\n")  # she gave a name in time, and so nothing happens to her
        bob.expect(b"ana says: still here\n")


@pytest.mark.usefixtures("needs_ipv6")
@since("names")
def test_a_name_at_an_ipv6_address(serve, step):
    server = serve(step, host="::1")
    (ana,) = fill(server, "ana")
    server.await_log(rf"ana@\[::1\]:{ana.address.rpartition(':')[2]} joined, 1 online")


def test_the_step_before_tells_people_apart_by_their_ports_alone(serve):
    before = serve("asyncio_based")
    ana, bob = before.join(2)
    ana.send(b"ana\n")
    bob.expect(f"{ana.address} says: ana\n".encode())
    ana, bob = fill(serve("names"), "ana", "bob")
    ana.send(b"hello\n")
    bob.expect(b"ana says: hello\n")
