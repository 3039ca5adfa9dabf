"""The stages in which a server grows, and what is checked in each. The contract is in README.md at the root.

A check is a function of the room. `@check(...)` says in which stage it is, what is told before it, which checks it
needs (what is broken there would break it, too), and the hint when nothing more special is known. To add one, write a
function here, and a wrong server that it finds (tests/test_check.py).
"""

import contextlib
import re
import secrets
import signal
import socket
import threading
import time

import oracle
from cases import CASES, WORDS

from course.program import LINUX, SOON, CannotStart, Program, socket_table, wait_until
from course.room import LONGEST, PATIENCE, Broken, NotHere
from course.verdict import Check, Stage

GRACE = 3.0  # seconds from a signal to the end: two, and one for an interpreter's own end
TOO_LONG = b"error: a message may be at most 4096 bytes\n"
FULL = b"error: the room is full\n"
MIB = 1 << 20

STAGES = [
    Stage(
        "start",
        "it runs, stays, and listens where it should",
        "A server is a program that waits. Whoever starts it must know where it listens, and that nobody else does.",
        "README.md#the-contract-in-short (1), GLOSSARY.md#port",
    ),
    Stage(
        "broadcast",
        "two clients hear each other, with the right words",
        "What one says all the others get, with its address in front, and the sender does not. All else rests on this.",
        "README.md#the-contract-in-short (3), GLOSSARY.md#broadcast",
    ),
    Stage(
        "framing",
        "a stream is cut into lines",
        "TCP is a stream of bytes. One recv may bring half a line, or a hundred: only the newline ends a message.",
        "README.md#the-contract-in-short (4), GLOSSARY.md#framing",
    ),
    Stage(
        "message",
        "text that is safe to show",
        "Others see in their terminals what one sends. A line must not be able to take a terminal over.",
        "README.md#the-contract-in-short (2), GLOSSARY.md#message",
    ),
    Stage(
        "stopping",
        "Ctrl-C and kill end it in good order",
        "Whoever runs a server must be able to stop it, and to start it again at once.",
        "README.md#the-contract-in-short (9), GLOSSARY.md#signal",
    ),
    Stage(
        "leaving",
        "clients leave in all possible ways",
        "Clients end, are killed, lose their network. Nobody else may notice, and nothing of them may stay behind.",
        "README.md#the-contract-in-short (8), GLOSSARY.md#end-of-stream, GLOSSARY.md#reset",
    ),
    Stage(
        "limits",
        "nothing grows without bound",
        "Whatever a client sends, and however many come: the server's memory stays flat, and it goes on.",
        "README.md#the-contract-in-short (5), GLOSSARY.md#descriptor",
    ),
    Stage(
        "latency",
        "a short line is there at once",
        "A system may hold back a small segment until the one before it is acknowledged, which takes 40 ms.",
        "README.md#the-contract-in-short (12), GLOSSARY.md#tcp_nodelay",
    ),
    Stage(
        "log",
        "it rests, and says who comes and goes",
        "A server that has nothing to do must not use the processor. Its log says who came and left, and never what "
        "people say.",
        "README.md#the-contract-in-short (10, 11), GLOSSARY.md#readiness",
    ),
    Stage(
        "slow",
        "a client that does not read",
        "A client may stop reading. It must hold nobody up, and may not make the server keep bytes without bound.",
        "README.md#the-contract-in-short (6), GLOSSARY.md#slow-reader",
    ),
    Stage(
        "fairness",
        "a client that floods",
        "A client may send as fast as it can. The others may be delayed, and never kept from their turn.",
        "README.md#the-contract-in-short (7), GLOSSARY.md#flood",
    ),
]
BY_NAME = {stage.name: stage for stage in STAGES}
HEARD = ("broadcast.words", "broadcast.newcomer", "broadcast.own", "broadcast.everybody")
FRAMED = (*HEARD, "framing.half", "framing.many")  # what all that comes after framing rests on


def check(name, tells, needs=(), hint="", room=False, echoes=True):
    """Put a check into its stage: the name is STAGE.WHAT. `echoes`: it makes sense for a server that serves one client
    at a time; `room`: it takes two."""

    def put(function):
        stage = BY_NAME[name.partition(".")[0]]
        stage.checks.append(Check(name, stage.name, tells, function, tuple(needs), hint, room or not echoes))
        return function

    return put


# ----------------------------------------------------------------------------------------------------------------------
# start. That it runs and listens at all has been seen before (see main.py): what cannot be run is told in one line.


@check(
    "start.alone",
    "It is started with a free port. It must listen on 127.0.0.1 alone, and not for the whole network.",
    hint="Bind to 127.0.0.1: with an empty host, 0.0.0.0 or :: it is open to everybody in the network.",
)
def alone(room):
    where = [host for host, port in room.program.listens() if port == room.program.port]
    if wrong := sorted(set(where) - {"127.0.0.1"}):
        raise Broken(f"it listens on {' and '.join(wrong)}, which is more than 127.0.0.1")


@check("start.soon", f"From its start until it listens less than {SOON:.0f} seconds may pass.")
def soon(room):
    if room.started > SOON:
        raise Broken(
            f"it took {room.started:.1f} seconds until it listened",
            "Listen first, and do what takes long afterwards. Who waits for the server thinks that it is not there.",
        )


@check(
    "start.taken",
    "It is started a second time, with the same port. The second must end, with a status that is not 0, and the "
    "first must go on.",
    hint="When bind or listen fails say why on standard error, and end with status 1. (SO_REUSEPORT would let both "
    "listen, each with a part of the clients: use SO_REUSEADDR.)",
)
def taken(room):
    first = room.program
    second = Program(room.words, room.limits, port=first.port, cwd=room.cwd)
    try:
        if not room.patiently(lambda: not second.running, program=second):
            raise Broken("the second one goes on, although the port is taken", "", None, None)
        status, output = second.ask()["status"], second.output
        if status == 0:
            raise Broken(f"the second one ended with status 0, as if all were well, and wrote: {output[-200:]!r}")
        if status < 0:
            raise Broken(f"the second one crashed: {second.how_it_ended()}")
    finally:
        second.close()
    if not first.running:
        raise Broken("the first one ended, too")


# ----------------------------------------------------------------------------------------------------------------------
# broadcast


def mistake_in(came, speaker, listener, text, port):
    """What is wrong with words that came instead of the right ones, and a hint: the typical mistakes by their looks."""
    expected = speaker.line(text)
    number, word = speaker.name.rpartition(":")[2].encode(), text.encode()
    if came == expected[:-1]:
        return "the newline is missing at the end of the line", "End each line that you send with \\n."
    if came == expected[:-1] + b"\r\n":
        return "the line ends with CR LF", "End each line with \\n alone; println or endl of some libraries add \\r."
    if came == expected + b"\n":
        return "an empty line follows", "The line that you received still has its newline: take it off, and add one."
    if came == expected * 2:
        return "the line came twice", "Each of the others gets a line once: is a client in your list twice?"
    if b"\0" in came:
        return "there are NUL bytes in it", "Send as many bytes as the line has, and not the whole buffer (sizeof)."
    if b"::ffff:127.0.0.1" in came:
        return (
            "the address is a mapped one, of IPv4 in IPv6 (::ffff:127.0.0.1)",
            "Listen on an IPv4 socket (AF_INET, 127.0.0.1), or take ::ffff: off before you show the address.",
        )
    if came.startswith((b"/127.0.0.1", b"localhost/", b"('127.0.0.1'", b"localhost:")):
        return (
            "the address is written in another way",
            "It is HOST:PORT, with numbers: 127.0.0.1:52344. Put it together yourself from host and port.",
        )
    if came.startswith(f"127.0.0.1:{port} says: ".encode()):
        return (
            "it has the server's own port, not the one of who speaks",
            "Take the other end's address: getpeername, or what accept returned, and not getsockname.",
        )
    if came.startswith(f"{listener.name} says: ".encode()):
        return (
            "it has the port of who listens, not of who speaks",
            "Put the name of the sender in front, not the receiver's.",
        )
    if re.search(rb"says: b['\"]", came):
        return "the text is written as b'...'", "Decode the bytes before you put them into a text: data.decode()."
    if came.endswith(expected) or expected in came:
        before = came.partition(expected)[0]
        if number in before or b"join" in before.lower():
            return "who comes is announced, or something else is said before the line", "Only messages are sent."
        return "something else is said before or after the line", "Only messages are sent, and no greeting."
    if came in (word + b"\n", word + b"\r\n", word):
        return "the prefix is missing", f"In front of the text stands who says it: {speaker.name} says: "
    if number in came and word in came:
        return "the words around the text are others", f"A line is exactly HOST:PORT says: TEXT, here {expected!r}"
    if word in came:
        return "it does not say who speaks", f"A line is exactly HOST:PORT says: TEXT, here {expected!r}"
    return "something else came", f"A line is exactly HOST:PORT says: TEXT, here {expected!r}"


def line_of(peer, seconds):
    """What comes up to the end of a line, and what follows close behind it."""
    end, patient = time.monotonic() + seconds, seconds >= PATIENCE
    while b"\n" not in peer.unread and peer.receive(
        min(end, time.monotonic() + (0.7 if peer.unread else seconds)), patient
    ):
        pass
    if peer.unread and not peer.ended:
        peer.gather(0.15)
    return bytes(peer.unread)


@check(
    "broadcast.words",
    "B comes, then A. Nothing may be sent to them. Then A sends a line, and B must get 'HOST:PORT says: ' and the "
    "line, with A's address.",
)
def words(room):
    if room.echoes:
        return echoed(room)
    listener, speaker = room.connect(), room.connect()
    listener.letter, speaker.letter = "B", "A"
    for peer in (listener, speaker):
        if peer.receive(time.monotonic() + 0.25) or peer.ended:
            came = line_of(peer, 0.3)
            if peer.ended and not came:
                raise Broken(f"{peer} was disconnected at once", "Keep the connection until the client leaves.")
            hint = (
                "There is no greeting, no prompt and no announcement: a client gets what others say, and nothing else."
            )
            raise Broken(f"{peer} got something before anybody had said anything: a greeting", hint, b"", came, peer)
    # Who came first may be put into the room last, by a thread that is late: so the first words may be said anew.
    said = []
    for pause in (2.0, 3.0, 5.0):
        said.append(f"hello {secrets.token_hex(3)}")
        speaker.send(said[-1].encode() + b"\n")
        if came := line_of(listener, pause):
            break
        if pause == 5.0 and room.starves(listener.sock):
            came = line_of(listener, pause)
        if listener.ended or speaker.ended or not room.program.running:
            break
    text = next((text for text in said if text.encode() in came), said[-1])
    if came.startswith(speaker.line(text)) and came in b"".join(map(speaker.line, said)):
        speaker.send(b"a second line\n")
        if listener.hears(speaker.line("a second line"), PATIENCE):
            return None
        hint = "Serve a client until it leaves, and not for one line alone."
        came = bytes(listener.unread)
        raise Broken(f"{listener} got one line, and not the second", hint, speaker.line("a second line"), came, speaker)
    if came:
        what, hint = mistake_in(came, speaker, listener, text, room.program.port)
        raise Broken(
            f"{listener} should have got the line of {speaker}; {what}", hint, speaker.line(text), came, listener
        )
    what, hint = why_silent(room, speaker, listener, text)
    raise Broken(what, hint, speaker.line(text), b"", listener)


def echoed(room):
    (peer,) = [room.connect()]
    text = f"hello {secrets.token_hex(3)}"
    peer.send(text.encode() + b"\n")
    came = line_of(peer, PATIENCE)
    if came != peer.line(text):
        what, hint = mistake_in(came, peer, peer, text, room.program.port) if came else ("nothing came", "")
        raise Broken(f"{peer} should have got its own line, as it is alone; {what}", hint, peer.line(text), came, peer)


def why_silent(room, speaker, listener, text):
    """Nothing came: what else can be seen of it."""
    if speaker.ended or listener.ended:
        who = speaker if speaker.ended else listener
        return f"{who} was disconnected after a line", "Serve a client until it leaves, and not for one line alone."
    own = line_of(speaker, 0.3)
    if own:
        return (
            f"{speaker} got its own words back ({own[:80]!r}), and {listener} got nothing",
            "Send a line to all the others: keep a list of the clients, and go through it.",
        )
    unread, accepted = room.at_server(speaker)[0], room.at_server(listener)[1]
    if not accepted:
        return "it listens, and accepts nobody", "Call accept, again and again: each time it returns one more client."
    if unread:
        return (
            f"{listener} got nothing, and what {speaker} sent has not been read by the server",
            "It serves one client at a time: the second waits until the first has left. It takes a thread for each, "
            "or one loop that waits for all of them (select, poll).",
        )
    return (
        f"{listener} got nothing of what {speaker} said",
        "Does it serve both at the same time, does it look for \\n in what it receives, and is what it sends flushed?",
    )


@check(
    "broadcast.own",
    "A speaks, then B answers. The first thing that A gets must be B's answer, and not its own line.",
    needs=("broadcast.words",),
    hint="The sender does not get its own line: leave it out when you go through the clients.",
    echoes=False,
)
def own(room):
    room.start()  # in which nobody has said anything
    a, b = room.join(2)
    a.send(b"first\n")
    b.expect_lines(a, ["first"])
    b.send(b"an answer\n")
    came = line_of(a, PATIENCE)
    if came.startswith(a.line("first")):
        raise Broken(f"{a} hears itself", "", b.line("an answer"), came, a)
    a.expect_lines(b, ["an answer"])


@check(
    "broadcast.newcomer",
    "A and B talk, then C comes. C must get nothing of what was said before, and hear what is said from then on.",
    needs=("broadcast.words", "broadcast.own"),
    hint="There is no history: a newcomer hears what is said after it came.",
    echoes=False,
)
def newcomer(room):
    room.start()
    a, b = room.join(2)
    a.send(b"before\n")
    b.expect_lines(a, ["before"])
    c = room.connect()
    c.expect_nothing()
    room.speak_to(a, [c])
    c.expect_nothing("nothing else may be sent to C", seconds=0.05)


@check(
    "broadcast.everybody",
    "Ten clients come. Each says ten lines, one after the other. Each of the others must get each line once, in order.",
    needs=("broadcast.words", "broadcast.own"),
    hint="Each line goes to every other client exactly once. Do several threads change the list at the same time?",
    echoes=False,
)
def everybody(room):
    peers = room.join(10)
    for number in range(10):
        for speaker in peers:
            text = f"line {number} of {speaker.letter}"
            speaker.send(text.encode() + b"\n")
            for listener in peers:
                if listener is not speaker:
                    listener.expect_lines(speaker, [text])


# ----------------------------------------------------------------------------------------------------------------------
# framing


@check(
    "framing.half",
    "A sends 'half'. B must get nothing, and says 'meanwhile'. Then A sends ' a line' and the newline. B must get "
    "'half a line'.",
    needs=HEARD,
    hint="Keep what you received until its newline is there: a recv is not a message. Each client has a buffer of "
    "its own.",
)
def half(room):
    speaker, listener = room.pair()
    speaker.send(b"half")
    listener.expect_nothing("what has no newline yet must not be delivered")
    if listener is not speaker:
        listener.send(b"meanwhile\n")
        speaker.expect_lines(listener, ["meanwhile"], "half of a line of A became part of a line of B")
    speaker.send(b" a line\n")
    listener.expect_lines(speaker, ["half a line"])


@check(
    "framing.many",
    "A sends a hundred lines at once. B must get a hundred lines, each with A's address, in order.",
    needs=HEARD,
    hint="Split what you received at each newline: one recv may hold many lines, and each is a message of its own.",
)
def many(room):
    speaker, listener = room.pair()
    texts = [f"line {number}" for number in range(100)]
    speaker.send("".join(f"{text}\n" for text in texts).encode())
    wanted = b"".join(speaker.line(text) for text in texts)
    end = time.monotonic() + PATIENCE
    while len(listener.unread) < len(wanted) and listener.receive(min(end, time.monotonic() + 3), True):
        pass
    came = bytes(listener.unread)
    if came == wanted:
        return
    hint = ""
    if sorted(came.splitlines()) == sorted(wanted.splitlines()):
        hint = "All lines came, in another order: deliver them in the order in which they were sent."
    elif len(set(came.splitlines())) < came.count(b"\n"):
        hint = "Some lines came twice: each is to be delivered exactly once."
    raise Broken(f"{listener} should have got the hundred lines", hint, wanted, came, listener)


@check(
    "framing.bytes",
    "A sends 'one at', CR LF, and 'a time' a byte at a time, and words in many scripts. B must get whole lines.",
    needs=(*HEARD, "framing.half"),
    hint="Look for the newline in bytes, and decode whole lines: a character of UTF-8 may be cut in two.",
)
def bytes_(room):
    speaker, listener = room.pair()
    for byte in b"one at\r\na time\n":
        speaker.send(bytes([byte]))
        time.sleep(0.01)
    listener.expect_lines(speaker, ["one at", "a time"])
    data = WORDS.encode() + b"\n"
    for start in range(0, len(data), 2):
        speaker.send(data[start : start + 2])
        time.sleep(0.002)
    listener.expect_lines(speaker, [WORDS])


@check(
    "framing.blank",
    "A sends blank lines: nothing, blanks, tabs, CR; then 'mark'. B must get 'mark' alone.",
    needs=HEARD,
    hint="A line in which there is nothing to see is no message: skip it.",
)
def blank(room):
    speaker, listener = room.pair()
    speaker.send(b"\n \n\t \t\n\r\n\nmark\n")
    listener.expect_lines(speaker, ["mark"])


@check(
    "framing.last",
    "A sends 'first', its newline, and 'last words' without one, and closes its sending side. B must get both lines.",
    needs=(*HEARD, "leaving.end"),
    hint="When recv returns nothing the stream has ended, and what is in the client's buffer is its last message.",
)
def last(room):
    speaker, listener = room.pair()
    speaker.send(b"first\nlast words")
    speaker.finish()
    listener.expect_lines(speaker, ["first", "last words"])


# ----------------------------------------------------------------------------------------------------------------------
# message


def say(room, cases, hint="", needs_each=False):
    """Each line is said, and must be heard as its text."""
    speaker, listener = room.pair()
    for line, text in cases:
        speaker.send(line + b"\n")
        wanted = speaker.line(text)
        end = time.monotonic() + PATIENCE
        while b"\n" not in listener.unread and listener.receive(end, True):
            pass
        came, _, _ = listener.unread.partition(b"\n")
        came = bytes(came + b"\n") if b"\n" in listener.unread else bytes(listener.unread)
        same = oracle.collapse(came.decode(errors="surrogateescape")) == oracle.collapse(wanted.decode())
        if not same:
            raise Broken(f"{listener} should have got the text of {literal_of(line)}", hint, wanted, came, listener)
        del listener.unread[: len(came)]


def literal_of(line):
    return repr(line) if len(line) < 60 else f"{line[:60]!r}..."


@check(
    "message.text",
    "A sends text in many scripts, emoji, tabs, and what looks like a format (%s). B must get it unchanged.",
    needs=FRAMED,
    hint="Text is UTF-8: pass its bytes on. Never use what a client sends as a format (printf(text)).",
)
def text(room):
    say(room, CASES["text"])


@check(
    "message.endings",
    "A ends lines with CR LF and CR NUL LF, as telnet and PuTTY do. B must get the text without them.",
    needs=FRAMED,
    hint="Drop the CR, and the NUL that may follow it, in front of the newline.",
)
def endings(room):
    say(room, [(b"crlf\r", "crlf"), (b"crnul\r\0", "crnul")])


@check(
    "message.bad",
    "A sends bytes that are no UTF-8. B must get U+FFFD in their place, and the server must go on.",
    needs=(*FRAMED, "framing.bytes"),
    hint="Decode with replacement: in Python data.decode(errors='replace'). What is no UTF-8 becomes U+FFFD.",
)
def bad(room):
    say(room, [case for case in CASES["bad utf-8"]])


@check(
    "message.controls",
    "A sends control characters, such as ESC, which could take over a terminal. B must get the text without them.",
    needs=FRAMED,
    hint="Remove the characters U+0000 to U+001F but the tab, and U+007F to U+009F: ESC [ 31 m makes a terminal red.",
)
def controls(room):
    say(room, [*CASES["controls"], (b"cr\rinside", "crinside")])


@check(
    "message.overrides",
    "A sends bidirectional overrides and isolates, which turn text around. B must get the text without them.",
    needs=FRAMED,
    hint="Remove U+202A to U+202E and U+2066 to U+2069, the overrides. (Emoji with joiners, U+200D, stay whole.)",
)
def overrides(room):
    say(room, CASES["bidirectional"])


@check(
    "message.telnet",
    "A sends telnet's own commands (IAC, FF) within lines, and unfinished ones. B must get the text without them.",
    needs=(*FRAMED, "framing.bytes"),
    hint="Remove telnet's commands: FF and a byte F0 to F9; FF, FB to FE and an option; FF FA up to FF F0; FF FF is "
    "one byte FF. An unfinished one ends with its line.",
)
def telnet(room):
    say(room, CASES["telnet"] + CASES["unfinished telnet"])


# ----------------------------------------------------------------------------------------------------------------------
# stopping


def stop(room, number):
    """Send the signal; the program must end with status 0, in time."""
    program, name = room.program, signal.Signals(number).name
    before, then = program.starved(), time.monotonic()
    program.signal(number)
    lost = 0.0
    while program.running and (seconds := time.monotonic() - then) < PATIENCE + LONGEST:
        if seconds > PATIENCE and seconds - lost > PATIENCE:
            break
        time.sleep(0.02)
        lost = program.lost_since(before)
    seconds = time.monotonic() - then
    if program.running:
        raise Broken(f"{name} was sent, and it still runs {PATIENCE:.0f} seconds later", "!" + HINTS["stop"])
    status = program.ask()["status"]
    if status == -number:
        raise Broken(
            f"{name} killed it",
            hint_of_interrupt(program.output)
            or f"!Handle {name}: close the connections, log bye, and end with status 0.",
        )
    if status != 0:
        hint = hint_of_interrupt(program.output) or "!After a signal the status is 0: nothing went wrong."
        raise Broken(f"after {name} {program.how_it_ended()}", hint)
    if seconds - lost > GRACE:
        raise Broken(f"it took {seconds:.1f} seconds to end after {name}", "!" + HINTS["stop"])


HINTS = {
    "stop": "At SIGINT and SIGTERM stop accepting, close every connection, and end. Do not wait for clients, or for "
    "threads that wait for clients. In Python a signal's handler runs between two calls: something must end the wait.",
}


def hint_of_interrupt(output):
    if "KeyboardInterrupt" in output:
        return "!Catch KeyboardInterrupt around the loop, or handle SIGINT, and end with status 0."
    return ""


@check(
    "stopping.term",
    "Nobody is there, and SIGTERM is sent (kill PID). It must end with status 0 within two seconds.",
)
def term(room):
    room.start()
    time.sleep(0.1)
    stop(room, signal.SIGTERM)


@check(
    "stopping.interrupt",
    "Clients are there, one with half a line, and SIGINT is sent (Ctrl-C). It must end with status 0 within two "
    "seconds; the connections are closed, and the half line is not delivered.",
    needs=FRAMED,
)
def interrupt(room):
    room.start()
    speaker, listener = room.pair()
    silent = room.connect() if not room.echoes else speaker
    speaker.send(b"hello\nhalf")
    listener.expect_lines(speaker, ["hello"])
    stop(room, signal.SIGINT)
    for peer in {speaker, listener, silent}:
        limit = time.monotonic() + PATIENCE
        while peer.receive(limit):
            pass
        if not peer.ended:
            raise Broken(f"{peer} is not disconnected", "!At the end close every connection.")
        if speaker.line("half") in peer.unread:
            raise Broken(
                "half a line was delivered", "!An unfinished line is no message.", b"", bytes(peer.unread), peer
            )


@check(
    "stopping.twice",
    "SIGTERM is sent twice while the server is stopped, so that both come at once. It must end with status 0.",
    needs=("stopping.term",),
    hint="!A second signal changes nothing: ignore it once the first came.",
)
def twice(room):
    room.start()
    time.sleep(0.1)
    with room.program.frozen():
        room.program.signal(signal.SIGTERM)
        room.program.signal(signal.SIGINT)
    stop(room, signal.SIGTERM)


@check(
    "stopping.again",
    "It is ended while clients are connected, and started with the same port at once. It must listen again.",
    hint="!The system keeps closed connections for a minute (TIME_WAIT), and their port with them: set SO_REUSEADDR "
    "before bind.",
)
def again(room):
    first = room.start()
    peers = [room.connect() for _ in range(3)]
    time.sleep(0.1)
    first.signal(signal.SIGTERM)
    if not wait_until(lambda: not first.running, GRACE):
        first.signal(signal.SIGKILL)
        wait_until(lambda: not first.running, 5)
    for peer in peers:
        peer.receive(time.monotonic() + 2)
        peer.sock.close()
    room.peers.clear()
    port = first.port
    room.end()
    try:
        room.start(port=port)
    except CannotStart as error:
        raise Broken(f"the same port could not be had again at once: {error}") from None


@check(
    "stopping.nothing",
    "After SIGTERM nothing of it may be left: no child, and no process with a session of its own.",
    hint="!End and wait for the processes that you started, before you end yourself.",
)
def nothing(room):
    room.start()
    room.connect()
    time.sleep(0.2)
    program = room.program
    program.signal(signal.SIGTERM)
    if not wait_until(lambda: not program.running, GRACE + 2):
        program.signal(signal.SIGKILL)
        wait_until(lambda: not program.running, 5)  # or the next check would take it for one that runs
        return
    if not room.patiently(lambda: not program.tree(), 2):
        raise Broken(f"it has ended, and {len(program.tree())} processes that it started are left")


# ----------------------------------------------------------------------------------------------------------------------
# leaving


@check(
    "leaving.close",
    "A, B and C are there, and C leaves. Nothing may be sent because of that; then A speaks, and B must hear it.",
    needs=FRAMED,
    hint="An empty recv is the end of the stream: take the client out of the list, and close its socket. Who leaves "
    "is not announced.",
    echoes=False,
)
def close(room):
    a, b, *leavers = room.join(5)
    for number, leaver in enumerate(leavers):
        leaver.expect_lines(a, ["still here"] * number)  # what is unread would make a reset of it
        leaver.close()
        a.expect_nothing(f"{leaver} left, and nobody may notice", "Who leaves is not announced to the others.", 0.15)
        a.send(b"still here\n")
        b.expect_lines(a, ["still here"])


@check(
    "leaving.end",
    "A says 'goodbye' and closes its sending side alone. B must hear it, and the server must close the connection to "
    "A.",
    needs=FRAMED,
    hint="An empty recv is the end of the stream, also of one direction: close the socket, or the client waits for "
    "ever.",
)
def end(room):
    speaker, listener = room.pair()
    speaker.send(b"goodbye\n")
    speaker.finish()
    listener.expect_lines(speaker, ["goodbye"])
    speaker.expect_end()


@check(
    "leaving.reset",
    "A and B are there; others come, say half a line, and leave with a reset. Then A speaks, and B must hear it.",
    needs=FRAMED,
    hint="A reset makes recv fail (ECONNRESET): that ends this client, and nobody else. Half a line is discarded then.",
)
def reset(room):
    if room.echoes:
        for _ in range(5):
            (peer,) = room.join(1)
            peer.send(b"half")
            peer.reset()
        return room.check_open()
    a, b, *leavers = room.join(8)
    for leaver in leavers:
        leaver.send(b"half")
        time.sleep(0.01)
        leaver.reset()
    for number in range(3):
        a.send(f"still here {number}\n".encode())
        # A half line may be heard, too: a send that fails takes the reset away, and recv tells an end without one.
        if not b.hears(a.line(f"still here {number}"), PATIENCE):
            raise Broken(f"{b} did not hear {a}", "", a.line(f"still here {number}"), bytes(b.unread), b)
        b.unread.clear()
        time.sleep(0.03)
    return None


@check(
    "leaving.pipe",
    "While the server is stopped A and Z say much, and ten others close. When it goes on it sends to those who have "
    "gone. B must hear all that A and Z said, and the server must survive.",
    needs=(*FRAMED, "leaving.close"),
    hint="To send to a client that has gone fails (EPIPE, ECONNRESET, SIGPIPE): that ends this client, and nobody "
    "else.",
    echoes=False,
)
def pipe(room):
    a, b, *leavers, z = room.join(13)
    z.letter = "Z"
    texts = [f"line {number} {'x' * 60}" for number in range(30)]
    words = "".join(f"{text}\n" for text in texts).encode()
    for _ in range(2):
        with room.program.frozen():
            a.send(words)
            z.send(words)
            for leaver in leavers:
                leaver.close()
        wanted = {peer: b"".join(map(peer.line, texts)) for peer in (a, z)}
        total, limit = sum(map(len, wanted.values())), time.monotonic() + PATIENCE
        while len(b.unread) < total and b.receive(limit, True):
            pass
        lines = bytes(b.unread).splitlines(keepends=True)
        for peer in (a, z):
            heard = b"".join(line for line in lines if line.startswith(peer.name.encode()))
            if heard != wanted[peer]:
                raise Broken(f"{b} should have got all that {peer} said", "", wanted[peer], heard, b)
        del b.unread[:]
        for peer in (a, z):
            peer.gather(0.1)
            peer.unread.clear()
        leavers = room.join(4) if leavers is not None and _ == 0 else []


@check(
    "leaving.goodbye",
    "While the server is stopped A says much, and C says 'goodbye' and closes. B must hear C's last words, also when "
    "to send to C fails before they are read.",
    needs=(*FRAMED, "leaving.pipe"),
    hint="A send that fails says nothing about what the other side had said: read until the end of the stream, and "
    "drop the client then.",
    echoes=False,
)
def goodbye(room):
    for _ in range(3):
        a, b = room.join(2)
        leavers = room.join(4)
        words = "".join(f"line {number}\n" for number in range(30)).encode()
        with room.program.frozen():
            a.send(words)
            for leaver in leavers:
                leaver.send(b"goodbye\n")
                leaver.close()
        for leaver in leavers:
            if not b.hears(leaver.line("goodbye"), PATIENCE):
                came = bytes(b.unread)
                raise Broken(
                    f"{b} should have heard the last words of {leaver}", "", leaver.line("goodbye"), came[-80:], b
                )
        for peer in (a, b):
            peer.deaf = True


@check(
    "leaving.ctrlc",
    "A says 'whole', then half a line and telnet's Ctrl-C (FF F4). B must hear 'whole' alone, and A is disconnected.",
    needs=(*FRAMED, "message.telnet", "leaving.end"),
    hint="FF F4 (IAC IP) is telnet's Ctrl-C: look for it before you look for lines. It ends the connection, and what "
    "stands before it without a newline is discarded.",
)
def ctrlc(room):
    speaker, listener = room.pair()
    speaker.send(b"whole\n")
    listener.expect_lines(speaker, ["whole"])
    speaker.send(b"half\xff\xf4")
    speaker.expect_end()
    if listener is not speaker:
        listener.expect_nothing("nothing of the unfinished line may be delivered")


@check(
    "leaving.descriptors",
    "A hundred clients come and leave, some with a reset. Then the server may hold no more descriptors than before.",
    needs=(*FRAMED, "leaving.end", "leaving.reset"),
    hint="Close the socket of a client that has left. Descriptors are few, and the server ends up with none.",
)
def descriptors(room):
    if not LINUX:
        raise NotHere("only Linux tells what descriptors a program has")
    room.check_open()
    leave_all(room)
    held = room.program.descriptors()
    for number in range(100):
        peer = room.connect()
        peer.offer(b"half a line" if number % 2 else b"\n")
        peer.reset() if number % 3 else peer.close()
    room.check_open()
    leave_all(room)
    room.check_descriptors(held + 5, "after 100 clients have come and gone", "")


def leave_all(room):
    """All clients leave, and the server has seen it when this returns (or some time is over)."""
    for peer in room.peers:
        peer.finish()
    limit = time.monotonic() + 2
    for peer in list(room.peers):
        while peer.receive(limit):
            pass
        peer.close()


@check(
    "leaving.memory",
    "Some thousand clients come and leave. The server's memory may not grow with each of them.",
    needs=(*FRAMED, "leaving.reset", "leaving.descriptors"),
    hint="Something is kept of each client that ever came: forget it when it has left.",
)
def memory(room):
    if room.echoes:
        return
    room.check_open()
    leave_all(room)
    processes = len(room.program.tree())
    grown, before = [], room.program.memory()
    for _ in range(12):
        for number in range(500):
            room.connect().reset()
            if number % 50 == 49:  # so that not too much is left to be done
                room.check_open()
                leave_all(room)
        room.patiently(lambda: len(room.program.tree()) <= processes + 2, every=0.1)
        now = room.program.memory()
        grown.append(now - before)
        before = now
        if grown[-1] < MIB:
            return
    if sum(grown) > 64 * MIB:
        raise Broken(f"after {500 * len(grown)} clients it has {sum(grown) // MIB} MiB more, and grows on")


@check(
    "leaving.keepalive",
    "A is in the room and silent. The system must look after it (SO_KEEPALIVE), since a machine may vanish unseen.",
    needs=FRAMED,
    hint="Set SO_KEEPALIVE on each socket that accept returns (or on the listener, from which Linux inherits it).",
)
def keepalive(room):
    if not LINUX:
        raise NotHere("only Linux tells which timers run")
    room.pair()
    ours = {int(peer.name.rpartition(":")[2]) for peer in room.peers}

    def timers():
        return [
            row[5][:2]
            for row in socket_table()
            if int(row[1].rpartition(":")[2], 16) == room.program.port and int(row[2].rpartition(":")[2], 16) in ours
        ]

    if not room.patiently(lambda: timers() and all(timer == "02" for timer in timers()), 3, every=0.2):
        raise Broken("no keepalive timer runs for the server's side of the connection")


# ----------------------------------------------------------------------------------------------------------------------
# limits


@check(
    "limits.exact",
    "A sends messages of 4096 bytes, their newlines counted, at once and in pieces. B must get them whole.",
    needs=FRAMED,
    hint="A message has at most 4096 bytes with its newline, so 4095 without. A recv of 4096 bytes may end within it.",
)
def exact(room):
    speaker, listener = room.pair()
    text = "x" * 4095
    speaker.send(f"{text}\n{text}\nshort\n".encode())
    listener.expect_lines(speaker, [text, text, "short"])
    for part in (b"y", b"y" * 4000, b"y" * 94, b"\n"):
        speaker.send(part)
        time.sleep(0.02)
    listener.expect_lines(speaker, ["y" * 4095])


@check(
    "limits.long",
    "A says 'before', then a line of 4097 bytes. A must be told 'error: a message may be at most 4096 bytes' and "
    "disconnected; B must hear 'before', and nothing of the long line.",
    needs=(*FRAMED, "leaving.close", "leaving.end"),
    hint="Count what is in a client's buffer without a newline. Past 4096 bytes send that error, close the "
    "connection, and forget what is in the buffer.",
)
def long(room):
    speaker, listener = room.pair()
    speaker.send(b"before\n")
    listener.expect_lines(speaker, ["before"])
    # In two pieces, so that the server has read all of it when it closes, and no reset overtakes the error.
    speaker.send(b"z" * 3000)
    room.await_read(speaker)
    speaker.send(b"z" * 1096 + b"\n")
    if listener is not speaker and listener.receive(time.monotonic() + 0.3):
        raise Broken(
            "a line of 4097 bytes was delivered",
            "",
            b"",
            listener.gather(0.1),
            listener,
        )
    speaker.expect(TOO_LONG, f"{speaker} should have been told so")
    speaker.expect_end(f"{speaker} should have been disconnected after the error")


@check(
    "limits.tail",
    "A sends a line of 100,000 bytes, then short lines. Nothing of all that may be delivered, now or later.",
    needs=(*FRAMED, "limits.long", "leaving.close"),
    hint="After a line that is too long read nothing more from that client: its tail is no message either.",
)
def tail(room):
    speaker, listener = room.pair()
    speaker.offer(b"x" * 100_000 + b" tail\n")
    for _ in range(10):
        if not speaker.offer(b"more tail\nnext line\n"):
            break
        time.sleep(0.02)
    if listener is speaker:
        return
    (carol,) = room.join(1) if not room.echoes else (speaker,)
    carol.send(b"mark\n")
    listener.expect_lines(carol, ["mark"])


@check(
    "limits.endless",
    "A client sends 16 MiB without a newline. It must be disconnected long before that.",
    needs=(*FRAMED, "leaving.end", "leaving.reset"),
    hint="What has no newline is kept, and kept, until the memory is full: disconnect who sends more than 4096 bytes.",
)
def endless(room):
    room.check_open()
    leave_all(room)
    for data in (b"x" * 65536, b"\0" * 65536):
        peer = room.connect()
        all(peer.offer(data) for _ in range(256))
        limit = time.monotonic() + 3  # some close at leisure, and read meanwhile what they throw away
        while peer.receive(limit, True):
            pass
        if not peer.ended:
            raise Broken("a client sent 16 MiB of one line, and is not disconnected")
        peer.reset()
    room.check_open()


@check(
    "limits.room",
    "With a limit of 256 descriptors (ulimit -n) 300 clients come. Those who find no room must be told 'error: the "
    "room is full' and disconnected; those inside talk on; nothing spins; and when somebody leaves, the next one is "
    "let in.",
    needs=(*FRAMED, "leaving.close", "leaving.reset", "leaving.descriptors", "log.idle"),
    hint="Count the clients, and keep some descriptors back: accept who finds no room, send the error, and close.",
    echoes=False,
)
def full(room):
    room.start(nofile=256)
    peers = []
    for _ in range(300):
        peers.append(room.connect())
    waiting = room.unaccepted()
    while waiting and room.patiently(lambda most=waiting: room.unaccepted() < most, 3, every=0.1):
        waiting = room.unaccepted()  # it is still letting them in
    if not LINUX:
        time.sleep(3)
    time.sleep(0.4)
    inside = [peer for peer in peers if open_(peer)]
    refused = [peer for peer in peers if peer.ended]
    if not room.program.running:
        raise Broken("with more clients than descriptors it ended")
    if len(inside) < 64:
        raise Broken(f"with {len(inside)} clients the room is full; 64 at least should find place")
    speaker, *others = inside
    for peer in inside:
        peer.unread.clear()
    if not refused:
        room.check_idle(
            "300 clients are connected, which is more than it has descriptors for, and nobody is refused",
            "Watching a listener whose clients cannot be accepted spins: refuse them, or look away for a while.",
        )
        raise Broken("300 clients are connected, which is more than it has descriptors for, and nobody is refused")
    if not any(FULL in bytes(peer.unread) for peer in refused):
        raise Broken("nobody was told that the room is full", "", FULL, bytes(refused[0].unread), refused[0])
    room.speak_to(speaker, others)
    room.check_idle("with a full room", "A listener that is ready and cannot be accepted from must not spin.")
    for peer in refused:
        peer.reset()
    for leaver in others[:5]:
        leaver.close()

    def finds_place():
        newcomer = room.connect()
        newcomer.offer(b"is there place for me?\n")
        if speaker.hears(newcomer.line("is there place for me?"), 0.5):
            return newcomer
        newcomer.reset()
        return None

    if not room.patiently(finds_place, every=0.1):
        raise Broken(
            "five have left the full room, and no newcomer is let in", "Who has left makes room for another one."
        )


def open_(peer):
    while peer.receive(time.monotonic() + 0.001):
        pass
    return not peer.ended


# ----------------------------------------------------------------------------------------------------------------------
# latency

ROUNDS, MOST_ROUNDS, ENOUGH = 20, 60, 8
LATE = 0.025  # seconds; who waits for an acknowledgement waits for about 0.04
AT_ONCE = 0.012  # seconds within which the system has not yet acknowledged the first line


def delays(room):
    """How long a first and a second short line after a pause take, in seconds, while the listener's system acknowledges
    as late as it may: lists.

    On a busy machine many of them take long. But who waits for an acknowledgement does so each time, and so in the
    quickest rounds as well. A second line tells something only if it was sent before the first was acknowledged.
    """
    if not hasattr(socket, "TCP_QUICKACK"):
        raise NotHere("only Linux lets a client acknowledge late")
    speaker, listener = room.pair()
    first, second, limit = [], [], time.monotonic() + 15
    for number in range(MOST_ROUNDS):
        if (number >= ROUNDS and len(second) >= ENOUGH) or time.monotonic() > limit:
            break
        took, lost = [], []
        for _ in "first", "second":
            listener.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            before, then = room.program.starved(), time.monotonic()
            speaker.send(b"short\n")
            listener.expect_lines(speaker, ["short"])
            took.append(time.monotonic() - then)
            lost.append(room.program.lost_since(before) if took[-1] > LATE else 0.0)
        if number >= 6:  # at first a system acknowledges at once
            first.append(took[0] - lost[0])
            if took[0] < AT_ONCE:
                second.append(took[1] - lost[1])
        time.sleep(0.06)  # until all is acknowledged
    return first, second


def quick(delays):
    """What the quicker ones of the delays take, in seconds."""
    return sorted(delays)[len(delays) // 4]


@check(
    "latency.first",
    "A sends a short line after a pause; again and again. B, whose system acknowledges late, must get it at once.",
    needs=FRAMED,
    hint="The prefix and the text go out in two writes, and the second waits for the acknowledgement of the first: "
    "put the line together, and send it with one call. And set TCP_NODELAY.",
    echoes=False,
)
def first_line(room):
    first, room.second = delays(room)
    if sorted(first)[2] > LATE:
        raise Broken(f"it takes {sorted(first)[2] * 1000:.0f} ms and more until a first line is heard")


@check(
    "latency.second",
    "A sends two short lines, the second when the first has been heard. B must get the second at once, and not some "
    "40 ms later.",
    needs=(*FRAMED, "latency.first"),
    hint="Set TCP_NODELAY on each socket that accept returns: without it (Nagle's algorithm) a second small segment "
    "waits until the first is acknowledged.",
    echoes=False,
)
def second_line(room):
    if len(room.second) < ENOUGH:
        raise NotHere("this machine is too busy to tell")
    if quick(room.second) > LATE:
        raise Broken(f"typically {quick(room.second) * 1000:.0f} ms pass until a second line is heard")


# ----------------------------------------------------------------------------------------------------------------------
# log: idle and log


@check(
    "log.idle",
    "Nobody is there; then silent clients are, one with half a line. The server may use no CPU all that time.",
    hint="It must wait in a call that blocks (accept, recv, select, poll), for all there is, and without a time-out. "
    "Who asks whether sockets are writable is always answered yes: ask only while bytes are unsent.",
)
def idle(room):
    room.check_idle("with nobody there")
    for number in range(4):
        peer = room.connect()
        if number % 2:
            peer.offer(b"half a line")
    room.check_idle("with silent clients")


@check(
    "log.rest",
    "Clients talk, and leave in all ways. Afterwards the server may use no CPU.",
    needs=(*FRAMED, "log.idle", "leaving.reset"),
    hint="An empty recv is the end of the stream: who ignores it is told of it again at once, for ever.",
)
def rest(room):
    speaker, listener = room.pair()
    speaker.send(b"hello\n")
    listener.expect_lines(speaker, ["hello"])
    for number in range(6):
        peer = room.connect()
        peer.offer(b"half a line" if number % 2 else b"\n")
        (peer.finish, peer.close, peer.reset)[number % 3]()
    room.check_idle("after clients have left")


def awaited(room, pattern, seconds=PATIENCE):
    return room.patiently(lambda: re.search(pattern, room.program.output, re.MULTILINE), seconds)


@check(
    "log.listening",
    "Its output goes into a pipe. There 'listening on 127.0.0.1:PORT' must be seen at once, and not when it ends.",
)
def listening(room):
    port = room.program.port
    pattern = rf"listening on \S+:{port}\b"
    if room.patiently(lambda: re.search(pattern, room.program.beginning), 3.0):
        return
    before = room.program.output
    room.program.signal(signal.SIGTERM)
    wait_until(lambda: not room.program.running, GRACE)
    wanted = f"listening on 127.0.0.1:{port}\n".encode()
    if re.search(pattern, room.program.output):
        raise Broken(
            "it says where it listens only when it ends",
            "!Flush what you write: into a pipe or a file it is kept in a buffer (print(..., flush=True), fflush, or "
            "use standard error).",
        )
    if not before.strip():
        raise Broken(
            "it says nothing at all",
            "!Say on standard error where you listen, and who comes and goes. What you print has to be flushed.",
            wanted,
            b"",
        )
    raise Broken(
        "its first line does not say where it listens",
        "!The line ends with 'listening on HOST:PORT', with the real port.",
        wanted,
        before.encode()[:100],
    )


@check(
    "log.people",
    "A comes, B comes, B leaves. The log must have 'HOST:PORT joined, 1 online', 'joined, 2 online', 'left, 1 "
    "online', each on a line of its own.",
    needs=("log.listening", "broadcast.words", "leaving.end"),
    hint="A line each on standard error: 12:03:04 127.0.0.1:52344 joined, 3 online. Flush it.",
)
def people(room):
    room.start()
    a = room.connect()
    steps = [(rf"{re.escape(a.name)} joined, 1 online$", f"{a.name} joined, 1 online")]
    for pattern, line in steps:
        if not awaited(room, pattern):
            raise Broken("a line of the log is missing", "", line.encode(), room.program.output.encode()[-100:])
    b = a
    if not room.echoes:
        b = room.connect()
        if not awaited(room, rf"{re.escape(b.name)} joined, 2 online$"):
            raise Broken(
                "a line of the log is missing",
                "",
                f"{b.name} joined, 2 online".encode(),
                room.program.output.encode()[-100:],
            )
    b.finish()
    count = 0 if room.echoes else 1
    if not awaited(room, rf"{re.escape(b.name)} left, {count} online$"):
        raise Broken(
            "a line of the log is missing",
            "",
            f"{b.name} left, {count} online".encode(),
            room.program.output.encode()[-100:],
        )


@check(
    "log.secret",
    "A says 'my secret'. The log may not have it.",
    needs=FRAMED,
    hint="What clients say is private: log who came and left, and nothing that was said.",
)
def secret(room):
    word = f"secret-{secrets.token_hex(4)}"
    speaker, listener = room.pair()
    speaker.send(f"my {word}\n".encode())
    listener.expect_lines(speaker, [f"my {word}"])
    time.sleep(0.1)
    output = room.program.output
    if word in output:
        line = next(line for line in output.splitlines() if word in line)
        raise Broken("what a client said is in the log", "", None, line.encode())


@check(
    "log.closed",
    "It is started with its output closed, so that nothing can be logged. It must serve as ever.",
    needs=FRAMED,
    hint="A log that cannot be written is no reason to end: ignore the error.",
)
def closed(room):
    try:
        room.start(output="closed")
    except CannotStart as error:
        raise Broken(f"with its output closed {error}") from None
    room.check_open()


# ----------------------------------------------------------------------------------------------------------------------
# slow

CHUNK = [f"{number:04} " + "x" * 1000 for number in range(32)]  # 32 KiB when said
STALL = 3.0  # seconds that nobody may be held up
HOW_MANY = (
    "What the socket did not take must wait, and go out before anything else: send returns how many bytes it took, "
    "which may be fewer than you gave it. Keep the rest."
)
PATIENT = 8.0  # with threads: five, and some for a busy machine


@check(
    "slow.stuck",
    "C stops reading. A says 16 MiB to the room. B must hear all of it without a stop, and C must be dropped, since "
    "more than 1 MiB waits for it. In what C got there may be no gap.",
    needs=(*FRAMED, "leaving.close", "leaving.end"),
    echoes=False,
)
def stuck(room):
    a, b = room.join(2)
    (c,) = room.join(1, receive_buffer=4096)
    c.letter, c.deaf = "C", True
    data = "".join(f"{text}\n" for text in CHUNK).encode()
    wanted = b"".join(map(a.line, CHUNK))
    allowed = PATIENT if room.like == "thread_per_client" else STALL
    begun, before = time.monotonic(), {}
    for number in range(512):
        if number % 8 == 0:
            before = room.program.starved()
        then = time.monotonic()
        a.send(data)
        b.expect(
            wanted,
            f"while C did not read {b} did not hear what A said",
            "Do not wait for one client while you send to it: a send that blocks holds all up. Make the socket "
            "non-blocking, keep what it does not take, and send that when it can be written to; or give each client "
            "a queue, and a thread that sends from it.",
        )
        seconds = time.monotonic() - then
        if seconds > allowed and seconds - room.program.lost_since(before) > allowed:
            raise Broken(
                f"the room was held up for {seconds:.1f} seconds by C, which did not read",
                "Do not wait for one client while you send to it. (A thread for each that gives a client up after "
                "five seconds is allowed to: then say --like thread_per_client.)",
            )
        if time.monotonic() - begun > 120:
            raise NotHere("it took longer than two minutes to say 16 MiB")
    said = wanted * 512
    check_got(room, c, said)


def check_got(room, c, said):
    """What a slow reader gets now: the beginning of what was said, and then the end; not all of it, and no gap."""
    got = bytearray()
    while len(got) <= len(said) and (data := c.read_some(1 << 20, 3.0)):
        got += data
    if not said.startswith(got):
        where = next((at for at in range(0, len(got), 4096) if got[at : at + 4096] != said[at : at + 4096]), 0)
        raise Broken(
            f"in what C got there is a gap, or something twice, after some {where} bytes",
            HOW_MANY,
            said[where : where + 4096],
            bytes(got[where : where + 4096]),
        )
    if len(got) == len(said):
        raise Broken(
            f"C got all of the {len(said) // MIB} MiB in the end: all of it was kept, and nobody dropped C",
            "Bound what you keep for a client: past 1 MiB of unsent bytes drop it.",
        )
    if not c.ended:
        raise Broken(
            f"C got {len(got)} bytes, then nothing, and is still connected: something was lost on the way",
            "A client that is too slow gets every byte or is cut off: never a gap. Drop it past 1 MiB of unsent bytes.",
        )


@check(
    "slow.slowly",
    "C reads slowly: a little at once, with pauses, and never has much to read. C must get every byte, in order.",
    needs=(*FRAMED, "slow.stuck"),
    hint="A client that is merely slow is no reason to drop it, or a part of what it is to be sent: keep what the "
    "socket does not take, up to 1 MiB, and ask for writability meanwhile.",
    echoes=False,
)
def slowly(room):
    a, b = room.join(2)
    (c,) = room.join(1, receive_buffer=4096)
    c.letter, c.deaf = "C", True
    data, wanted = "".join(f"{text}\n" for text in CHUNK).encode(), b"".join(map(a.line, CHUNK))
    said, got, all_said = bytearray(), bytearray(), threading.Event()

    def say():
        a.send(data)
        b.expect(wanted)
        said.extend(wanted)

    def read():
        with contextlib.suppress(OSError):
            while not (all_said.is_set() and len(got) >= len(said)) and (some := c.read_some(16384, PATIENCE)):
                got.extend(some)
                time.sleep(0.002)

    # Until the system's buffers are full, and the rest waits in the server. (Who waits in a send gives C up meanwhile.)
    while LINUX and room.like != "thread_per_client" and len(said) - room.queued(c) < 300_000 and len(said) < 20 * MIB:
        say()
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    for _ in range(8 if said else 24):
        say()
    all_said.set()
    reader.join()
    if got != said:
        place = next((at for at, (x, y) in enumerate(zip(got, said, strict=False)) if x != y), len(got))
        ended = f", then {c.ended}" if c.ended else ""
        hint = "" if c.ended else HOW_MANY
        raise Broken(f"C got {len(got)} bytes of {len(said)}{ended}; they part after {place}", hint)


@check(
    "slow.rest",
    "C does not read, and much waits for it. With nothing else to do the server may use no CPU.",
    needs=(*FRAMED, "slow.stuck", "log.idle"),
    hint="A socket that takes nothing is no reason to try again and again: wait until it is writable.",
    echoes=False,
)
def rest_with_stuck(room):
    a, b = room.join(2)
    (c,) = room.join(1, receive_buffer=4096)
    c.deaf = True
    data, wanted = "".join(f"{text}\n" for text in CHUNK).encode(), b"".join(map(a.line, CHUNK))
    for _ in range(90):
        a.send(data)
        b.expect(wanted)
    room.check_idle("while bytes wait for a client that does not read")


# ----------------------------------------------------------------------------------------------------------------------
# fairness

FLOOD = b" \n" * 32768  # blank lines: work for the server, but no messages, so nobody can be outrun by them


class Flood:
    """A client that sends as fast as it can, from a thread, until it is told to stop."""

    def __init__(self, room, data=FLOOD):
        self.peer, self.data, self.running = room.connect(), data, True
        self.peer.deaf = True
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while self.running and self.peer.offer(self.data):
            pass

    def stop(self):
        self.running = False
        self.peer.finish()  # ends a send that waits
        self.thread.join()


@check(
    "fairness.turns",
    "Three clients send blank lines as fast as they can. Meanwhile A and B talk, and must hear each other.",
    needs=(*FRAMED, "framing.blank"),
    hint="Read from a client once, 4096 bytes at most, and then look after the others: who reads until nothing is "
    "left never comes to the end of a flood.",
    echoes=False,
)
def turns(room):
    a, b = room.join(2)
    floods = [Flood(room) for _ in range(3)]
    try:
        for number in range(5):
            a.send(f"ping {number}\n".encode())
            b.expect_lines(a, [f"ping {number}"])
            b.send(f"pong {number}\n".encode())
            a.expect_lines(b, [f"pong {number}"])
    finally:
        for flood in floods:
            flood.stop()


@check(
    "fairness.flood",
    "A client sends messages as fast as it can for a second. Who does not keep up may be dropped, but afterwards the "
    "room must be open, and quiet.",
    needs=(*FRAMED, "slow.stuck", "leaving.reset", "leaving.pipe", "log.rest"),
    hint="What waits for each client needs a bound, and so does what waits between your threads.",
    echoes=False,
)
def flood(room):
    (a,) = room.join(1)
    flood = Flood(room, b"flood " * 100 + b"\n")
    limit = time.monotonic() + 1.0
    while time.monotonic() < limit and a.read_some(1 << 16, 1.0):
        pass
    flood.stop()
    for peer in list(room.peers):
        peer.reset()
    room.check_idle("after a flood", work=5.0)  # it may have much to tell still, also to who comes meanwhile
    room.check_open()
