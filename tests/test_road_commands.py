"""The growing road from commands/ on: a line that begins with a slash asks the server for something."""

import re

from harness import QUESTION
from road import each_since, fill, since

HELP = [
    "* /help: List the commands.\n",
    "* /list: Say who is here.\n",
    "* /me TEXT: Say what you do: after /me waves the others read that you wave.\n",
    "* /nick NAME: Take another name.\n",
    "* /pm NAME TEXT: Say something to one person alone.\n",
    "* /quit: Leave.\n",
]
ODD_NAME = "a name has 1 to 20 letters, digits, - and _, and begins with a letter"
NONE_SUCH = "there is no {}; /help lists what there is"

ERRORS = {
    "/foo": NONE_SUCH.format("/foo"),
    "/foo bar": NONE_SUCH.format("/foo"),
    "/": NONE_SUCH.format("/"),
    "/ list": NONE_SUCH.format("/"),
    "/list/": NONE_SUCH.format("/list/"),
    "/lis": NONE_SUCH.format("/lis"),
    "/\tlist": NONE_SUCH.format("/"),
    "/_list": NONE_SUCH.format("/_list"),
    "/do_list": NONE_SUCH.format("/do_list"),
    "/__class__": NONE_SUCH.format("/__class__"),
    "/ｌｉｓｔ": NONE_SUCH.format("/ｌｉｓｔ"),
    "/x\u0301\U0001f600": NONE_SUCH.format("/x\u0301\U0001f600"),
    "/%s{0}\\n": NONE_SUCH.format("/%s{0}\\n"),
    "/" + "x" * 18: NONE_SUCH.format("/" + "x" * 18),
    "/" + "x" * 19: NONE_SUCH.format("/" + "x" * 19),
    "/" + "x" * 20: NONE_SUCH.format("/" + "x" * 19),
    "/" + "x" * 4094: NONE_SUCH.format("/" + "x" * 19),
    "/" + "é" * 2047: NONE_SUCH.format("/" + "é" * 19),
    "/help me": "it is /help",
    "/list " + "x " * 2000: "it is /list",
    "/LIST all": "it is /list",
    "/quit now": "it is /quit",
    "/me": "it is /me TEXT",
    "/me   \t": "it is /me TEXT",
    "/pm": "it is /pm NAME TEXT",
    "/pm bob": "it is /pm NAME TEXT",
    "/pm bob  ": "it is /pm NAME TEXT",
    "/pm\u3000bob\u3000": "it is /pm NAME TEXT",
    "/pm dora hello": "nobody here is called dora",
    "/pm bob, hello": "nobody here is called bob,",
    "/pm * hello": "nobody here is called *",
    "/pm " + "x" * 20 + " hello": "nobody here is called " + "x" * 20,
    "/pm " + "x" * 4000 + " hello": "nobody here is called " + "x" * 20,
    "/pm ana hello": "that is you",
    "/PM ＡＮＡ hello": "that is you",
    "/nick 7": ODD_NAME,
    "/nick *": ODD_NAME,
    "/nick " + "x" * 21: ODD_NAME,
    "/nick bob": "bob is taken",
    "/nick ＢＯＢ": "BOB is taken",
}
# From accounts/ on the first may have a second word, and then ask for what takes time.
NICK_ERRORS = {"/nick": "it is /nick NAME", "/nick \t": "it is /nick NAME", "/nick an na": ODD_NAME}


@each_since("commands")
def test_help_lists_them(serve, step):
    """To who asks, alone, and however it is written."""
    ana, bob = fill(serve(step), "ana", "bob")
    ana.send(b"/help\n/me\n")
    *lines, _ = ana.read_until(b"error: it is /me TEXT\n").decode().splitlines(keepends=True)
    if step == "commands":
        assert lines == HELP
    else:  # there are more, and /nick may take a password
        assert set(HELP) - {HELP[3]} <= set(lines)
        assert [line for line in lines if re.fullmatch(r"\* /nick NAME( \[PASSWORD\])?: [A-Z].+\.\n", line)]
    ana.send(b"  /help\n/HeLP\n")
    ana.expect("".join(lines).encode())
    ana.expect_nothing()
    bob.expect(b"ana says:   /help\n")
    bob.expect_nothing()


@each_since("commands")
def test_list_says_who_is_here(serve, step):
    """Also who asks, and not who is still at the door."""
    server = serve(step)
    visitor = server.visit()
    visitor.expect(QUESTION)
    dora, ana, bob = fill(server, "dora", "ana", "bob")
    ana.send(b"/list\n/LIST\n")
    ana.expect(b"* here: ana, bob, dora\n" * 2)
    bob.close()
    ana.expect(b"* bob left\n")
    dora.expect(b"* bob left\n")
    ana.send(b"/list\t \n")
    ana.expect(b"* here: ana, dora\n")
    dora.expect_nothing()


@each_since("commands")
def test_a_word_to_one_person_alone(serve, step):
    server = serve(step)
    ana, bob, carla = fill(server, "ana", "bob", "carla")
    ana.send(b"/pm bob hello\n/PM BOB  how are  you? \n")
    bob.expect(b"ana whispers: hello\nana whispers: how are  you? \n")
    ana.expect(b"* you whisper to bob: hello\n* you whisper to bob: how are  you? \n")
    ana.send("/pm ｂｏｂ /list\n/pm bob * carla left\n/pm bob Zażółć, 日本\n".encode())
    bob.expect("ana whispers: /list\nana whispers: * carla left\nana whispers: Zażółć, 日本\n".encode())
    ana.expect(
        "".join(f"* you whisper to bob: {text}\n" for text in ("/list", "* carla left", "Zażółć, 日本")).encode()
    )
    text = b"x" * (4096 - len(b"/pm bob \n"))
    ana.send(b"/pm bob " + text + b"\n")
    bob.expect(b"ana whispers: " + text + b"\n")
    ana.expect(b"* you whisper to bob: " + text + b"\n")
    for peer in (ana, bob, carla):
        peer.expect_nothing()
    newcomer = server.enter("dora")
    newcomer.expect_nothing()


@since("commands")
def test_answers_come_in_their_order(serve, step):
    """What is said to all, what is whispered, and what is answered: as it was asked for, however it is told."""
    server = serve(step)
    ana, bob, carla = fill(server, "ana", "bob", "carla")
    with server.frozen():
        bob.send(b"/me yawns\n")
        ana.send(b"one\n/pm bob two\nthree\n/me four\n/list\n/pm carla five\nsix\n")
    bob.expect(b"ana says: one\nana whispers: two\nana says: three\n~ ana four\nana says: six\n")
    carla_heard = b"".join(carla.read_line() for _ in range(6))
    assert carla_heard.replace(b"~ bob yawns\n", b"") == (
        b"ana says: one\nana says: three\n~ ana four\nana whispers: five\nana says: six\n"
    )
    ana_heard = b"".join(ana.read_line() for _ in range(4))
    assert ana_heard.replace(b"~ bob yawns\n", b"") == (
        b"* you whisper to bob: two\n* here: ana, bob, carla\n* you whisper to carla: five\n"
    )


@each_since("commands")
def test_an_action(serve, step):
    ana, bob, carla = fill(serve(step), "ana", "bob", "carla")
    ana.send(b"/me waves\n/ME  is  not here \n/me * bob left\n/me bob says: hello\n/me /list\n")
    said = b"waves\nis  not here \n* bob left\nbob says: hello\n/list\n"
    for peer in (bob, carla):
        peer.expect(b"".join(b"~ ana " + text for text in said.splitlines(keepends=True)))
    ana.expect_nothing()


@each_since("commands")
def test_a_line_that_begins_with_two_slashes_says_one(serve, step):
    ana, bob = fill(serve(step), "ana", "bob")
    ana.send(b"//list\n//\n///\n////x\n// y\n//pm bob hello\n /list\n\t//\n")
    for text in ("/list", "/", "//", "///x", "/ y", "/pm bob hello", " /list", "\t//"):
        bob.expect_line(ana, text)
    ana.expect_nothing()


@each_since("commands")
def test_another_name(serve, step):
    """Everybody hears of it, also who takes it. The old one is free then, and the new one is not."""
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    ana.send("before\n/nick Ａnna\nafter\n".encode())
    bob.expect(b"ana says: before\n* ana is now Anna\nAnna says: after\n")
    ana.expect(b"* ana is now Anna\n")
    server.await_log(rf"{re.escape(ana.logged)} is now Anna, 2 online")
    ana.name = "Anna"
    bob.send(b"/list\n/pm anna hello\n/pm ana hello\n/nick ANNA\n")
    bob.expect(b"* here: Anna, bob\n* you whisper to Anna: hello\n")
    bob.expect(b"error: nobody here is called ana\nerror: ANNA is taken\n")
    ana.expect(b"bob whispers: hello\n")
    carla = server.enter("ana")
    for peer in (ana, bob):
        peer.expect(b"* ana joined\n")
    ana.send(b"/nick aNNa\n")  # of one's own it may be another spelling
    for peer in (ana, bob):
        peer.expect(b"* Anna is now aNNa\n")
    carla.read_until(b"* Anna is now aNNa\n")  # after what was said before, from history/ on
    ana.name = "aNNa"
    ana.close()
    for peer in (bob, carla):
        peer.expect(b"* aNNa left\n")
    server.await_log(rf"{re.escape(ana.logged)} left, 2 online")
    carla.send(b"/nick anna\n")
    for peer in (bob, carla):
        peer.expect(b"* ana is now anna\n")


@since("commands")
def test_two_take_the_same_name_in_the_same_moment(serve, step):
    """One gets it: of the two in the room, or of one in the room and one at the door."""
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    with server.frozen():
        ana.send(b"/nick eva\n")
        bob.send(b"/nick EVA\n")
    first = ana.read_line(), bob.read_line()
    winner = ana if first[0] == b"* ana is now eva\n" else bob
    loser = bob if winner is ana else ana
    old, new = ("ana", "eva") if winner is ana else ("bob", "EVA")
    notice, error = (
        f"* {old} is now {new}\n".encode(),
        f"error: {'EVA' if winner is ana else 'eva'} is taken\n".encode(),
    )
    heard = first[1 if winner is ana else 0] + loser.read_line()
    assert heard == notice + error
    visitor = server.visit()
    visitor.expect(QUESTION)
    with server.frozen():
        loser.send(b"/nick max\n")
        visitor.send(b"Max\n")
    answer = visitor.read_line()
    if answer.startswith(b"* you are Max; "):
        loser.expect(b"* Max joined\nerror: max is taken\n")
    else:
        assert answer == b"error: Max is taken\n"
        loser.expect(f"* {loser.name} is now max\n".encode())


@each_since("commands")
def test_quit_leaves(serve, step):
    """What was said before is heard, and what stands after it is not."""
    server = serve(step)
    ana, bob, carla = fill(server, "ana", "bob", "carla")
    ana.send(b"goodbye\n/quit\nand one more\n/nick eva\n/quit\n/foo\nha")
    ana.expect_closed()
    for peer in (bob, carla):
        peer.expect(b"ana says: goodbye\n* ana left\n")
    server.await_log(rf"{re.escape(ana.logged)} left, 2 online")
    with server.frozen():
        bob.send(b"/QUIT\n")
        bob.finish()  # the end of the stream comes with it
    bob.expect_closed()
    carla.expect(b"* bob left\n")
    carla.expect_nothing()
    server.await_log(rf"{re.escape(bob.logged)} left, 1 online")


@since("commands")
def test_wrong_ones_get_a_line_that_helps(serve, step):
    """They do no more than that: nobody else hears of it, and who wrote it goes on."""
    server = serve(step)
    ana, bob = fill(server, "ana", "bob")
    errors = ERRORS | (NICK_ERRORS if step == "commands" else {})
    for text, error in errors.items():
        ana.send(f"{text}\n".encode())
        line = ana.read_line().decode()
        assert line == f"error: {error}\n", text
    ana.send("".join(f"{text}\n" for text in errors).encode() + b"/list\n")  # and all of them at once
    ana.expect("".join(f"error: {error}\n" for error in errors.values()).encode() + b"* here: ana, bob\n")
    bob.expect_nothing()


@since("commands")
def test_bytes_that_are_not_text_in_a_command(serve, step):
    ana, bob = fill(serve(step), "ana", "bob")
    ana.send(b"/pm b\xff\xf1o\x07b \x1b[31mred\x9b \xff\xfd\x03\xe2\x80\xae\xc3\n\xff\xf1/list\n/\xff\n")
    bob.expect("ana whispers: [31mred\ufffd \ufffd\n".encode())
    ana.expect("* you whisper to bob: [31mred\ufffd \ufffd\n* here: ana, bob\n".encode())
    ana.expect(f"error: {NONE_SUCH.format('/')}\n".encode())


@since("commands")
def test_a_command_that_is_too_long(serve, step):
    ana, bob = fill(serve(step), "ana", "bob")
    ana.send(b"/pm bob " + b"x" * 4096 + b"\n")
    ana.expect_closed(maybe_after=b"error: a message may be at most 4096 bytes\n")
    bob.expect(b"* ana left\n")


@since("commands")
def test_a_command_at_the_end_of_the_stream(serve, step):
    ana, bob = fill(serve(step), "ana", "bob")
    ana.send(b"/pm bob that is all")
    ana.finish()
    bob.expect(b"ana whispers: that is all\n* ana left\n")
    assert ana.read_to_end() == b"* you whisper to bob: that is all\n"


@since("commands")
def test_a_word_to_somebody_who_leaves_meanwhile(serve, step):
    """Either it is told and nobody is there to hear it, or nobody is called so any more. The third hears nothing."""
    server = serve(step)
    ana, bob, carla, dora = fill(server, "ana", "bob", "carla", "dora")
    with server.frozen():
        bob.close()
        dora.reset()
        ana.send(b"/pm bob hello\n/pm dora hello\n")
    heard = b"".join(ana.read_line() for _ in range(4)).splitlines()
    for name in (b"bob", b"dora"):
        echo, error, left = (
            b"* you whisper to %s: hello" % name,
            b"error: nobody here is called " + name,
            b"* %s left" % name,
        )
        mine = [line for line in heard if name in line]
        assert mine in ([echo, left], [left, error]), heard
    assert sorted(carla.read_line() for _ in range(2)) == [b"* bob left\n", b"* dora left\n"]
    ana.send(b"/pm bob hello\n")
    ana.expect(b"error: nobody here is called bob\n")
    carla.expect_nothing()


@since("commands")
def test_at_the_door_there_are_none(serve, step):
    server = serve(step)
    (bob,) = fill(server, "bob")
    visitor = server.visit()
    visitor.expect(QUESTION)
    for line in (b"/list", b"/quit", b"/pm bob hello", b"//ana"):
        visitor.send(line + b"\n")
        visitor.expect(f"error: {ODD_NAME}\n".encode() + QUESTION)
    bob.expect_nothing()


def test_the_step_before_tells_all(serve):
    ana, bob, carla = fill(serve("names"), "ana", "bob", "carla")
    ana.send(b"/list\n/pm bob a secret\n")
    for peer in (bob, carla):
        peer.expect(b"ana says: /list\nana says: /pm bob a secret\n")
    ana, bob, carla = fill(serve("commands"), "ana", "bob", "carla")
    ana.send(b"/list\n/pm bob a secret\n")
    ana.expect(b"* here: ana, bob, carla\n* you whisper to bob: a secret\n")
    bob.expect(b"ana whispers: a secret\n")
    carla.expect_nothing()
