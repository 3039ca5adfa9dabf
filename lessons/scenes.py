"""Play small scenes with the servers, record what they wait for with watch.py, and draw that with draw.py.

    python scenes.py                 the scenes, a line each
    python scenes.py NAME...         play these anew: recordings/NAME.json and pictures/NAME.svg are written
    python scenes.py --all           play all of them anew
    python scenes.py --check [NAME...]   play them anew elsewhere: do the recordings still say the same?

Each scene is a server, unmodified, under `watch.py --record`, and a script of clients. What happens before the first
word of the script that matters is cut away, so that 0 ms is where the scene begins. Whether a recording says the same
as another is told by its story (see `story`): what happened, and in which order, never how long it took.
"""

import argparse
import bisect
import contextlib
import itertools
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import draw

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RECORDINGS, PICTURES = HERE / "recordings", HERE / "pictures"
DEADLINE = 60  # seconds for anything that must happen: the machine may be busy
REST = 0.05  # seconds between two acts, so that the one is over when the next begins
MOST = 1 << 16  # bytes that a client reads at once
TEXT = 80  # characters that are kept of what is said or heard
CROWD = 1000  # clients that say nothing
BUSY = 40  # of more spans in a row than these most are kept as one,
SHORT = 200_000  # if each takes less than these microseconds
KEPT = 48  # of what is sent to the crowd, so much is kept
LED = 200  # microseconds that are shown before the first thing that somebody does
OTHERS = "0.0.0.0:0"  # in the place of the addresses of all who have no name
OPERATOR = "operator"  # at the keyboard of two_way's server
LISTENING = re.compile(r"listening on 127\.0\.0\.1:(\d+)$")


class Failed(Exception):
    """A scene did not go as its script says; one line says where."""


class Client:
    """One who comes into the room, as the script says. What it does is noted with the time."""

    def __init__(self, stage, name, room):
        """Connect. `room`: bytes that the kernel is to keep for a client that does not read; None: as many as usual."""
        self.stage, self.name = stage, name
        self.sock = socket.socket()
        self.sock.settimeout(DEADLINE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if room:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        at = time.monotonic()
        self.sock.connect(("127.0.0.1", stage.port))
        self.peer = "{}:{}".format(*self.sock.getsockname())
        self.note("comes", at)

    def note(self, what, at, data=b""):
        text = data.decode(errors="replace").strip()
        text = "".join(letter if letter.isprintable() else " " for letter in text)[:TEXT]
        self.stage.did.append((at, {"peer": self.peer, "does": what, "bytes": len(data), "text": text}))

    def say(self, words):
        """Send words (a text) as they are. Whatever does not end with a newline is no line yet."""
        at = time.monotonic()
        self.sock.sendall(words.encode())
        self.note("says", at, words.encode())

    def hear(self, words):
        """Read until these words come."""
        heard = b""
        while words.encode() not in heard:
            try:
                data = self.sock.recv(MOST)
            except OSError as error:
                raise Failed(f"{self.name} did not hear {words!r}: {error}, after {heard[-200:]!r}") from None
            if not data:
                raise Failed(
                    f"{self.name} did not hear {words!r}, and the connection has ended, after {heard[-200:]!r}"
                )
            self.note("hears", time.monotonic(), data)
            heard += data

    def flood(self):
        """Say lines without end, in a thread of its own. Returns a function that ends it."""
        over = threading.Event()

        def speak():
            with contextlib.suppress(OSError):
                while not over.is_set():
                    self.say(("x" * 999 + "\n") * 4)

        thread = threading.Thread(target=speak, daemon=True)
        thread.start()

        def stop():
            over.set()
            thread.join(DEADLINE)

        return stop

    def drain(self):
        """Read all that comes, in a thread of its own, until the connection ends."""

        def read():
            with contextlib.suppress(OSError):
                while data := self.sock.recv(MOST):
                    self.note("hears", time.monotonic(), data)

        threading.Thread(target=read, daemon=True).start()

    def leave(self):
        at = time.monotonic()
        self.sock.close()
        self.note("leaves", at)


def children(pid):
    """The processes that a process has started, the youngest last."""
    found = subprocess.run(["pgrep", "-P", str(pid)], stdout=subprocess.PIPE, text=True).stdout
    return sorted(map(int, found.split()))


class Stage:
    """A server under watch.py, and those who come to it. A context manager: in the end all of it has ended."""

    def __init__(self, command, scratch):
        self.recorded = scratch / "recording.json"
        self.did, self.clients, self.people = [], [], {}
        self.began = self.over = None
        self.lines, self.seen, self.fresh = [], {}, threading.Condition()
        words = [sys.executable, str(HERE / "watch.py"), "--record", str(self.recorded), *command]
        self.process = subprocess.Popen(
            words,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # the log, and what is shown to an operator
            text=True,
            errors="replace",
        )
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.reader.start()

    def __enter__(self):
        try:
            self.port = int(self.await_log(LISTENING)[1])
            (self.program,) = children(self.process.pid)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for client in self.clients:
            client.sock.close()
        if self.process.poll() is None:  # the scene has failed
            self.process.terminate()  # watch.py passes that on to the server
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(DEADLINE / 6)
            self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.reader.join(1)

    def read_log(self):
        for line in self.process.stdout:
            with self.fresh:
                self.lines.append(line.rstrip("\n"))
                self.seen.setdefault(self.lines[-1], time.monotonic())
                self.fresh.notify_all()
        with self.fresh:
            self.lines.append(None)
            self.fresh.notify_all()

    def await_log(self, pattern):
        """Wait for a line of the log in which the regular expression is found, and return the match."""
        pattern, seen = re.compile(pattern), 0
        end = time.monotonic() + DEADLINE
        with self.fresh:
            while True:
                for line in self.lines[seen:]:
                    if line is None:
                        raise Failed(f"the server has ended: {[line for line in self.lines if line]}")
                    if found := pattern.search(line):
                        return found
                seen = len(self.lines)
                if not self.fresh.wait(end - time.monotonic()) and time.monotonic() >= end:
                    raise Failed(f"the log never had {pattern.pattern!r}: {self.lines[-5:]}")

    def come(self, name, joins=True, room=None):
        """Have somebody come; unless it will have to wait, until the log says that it has joined."""
        client = Client(self, name, room)
        self.clients.append(client)
        self.people[client.peer] = name
        if joins:
            self.await_log(re.escape(client.peer) + " joined")
        return client

    def stop_child(self):
        """Stop the process that serves the youngest client, as kill -STOP does. The server kills it after a while."""
        os.kill(children(self.program)[-1], signal.SIGSTOP)

    def crowd(self, count):
        """Have so many come who say nothing and have no names."""
        for _ in range(count):
            self.clients.append(Client(self, "", None))
            if len(self.clients) % 200 == 0:  # no more than the backlog holds
                self.await_log(re.escape(self.clients[-1].peer) + " joined")
        self.await_log(re.escape(self.clients[-1].peer) + " joined")

    def await_shown(self, words):
        """Wait until the operator can read these words."""
        self.await_log(f"^{re.escape(words)}$")
        self.did.append((self.seen[words], {"peer": OPERATOR, "does": "hears", "bytes": len(words) + 1, "text": words}))

    def type(self, line):
        """What the operator types."""
        self.people[OPERATOR] = OPERATOR
        self.did.append((time.monotonic(), {"peer": OPERATOR, "does": "says", "bytes": len(line) + 1, "text": line}))
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def rest(self, seconds=REST):
        """Nothing happens for a while. This is no waiting for something: it is to be seen in the picture."""
        self.quiet()
        time.sleep(seconds)

    def quiet(self):
        """Wait until all processes and threads of the program wait, and none has run for a moment."""
        if not Path("/proc/self/task").exists():
            time.sleep(10 * REST)  # nothing tells: this must do, elsewhere than on Linux
            return
        end, before = time.monotonic() + DEADLINE, None
        while (now := self.switches()) != before or "R" in now.values():
            if time.monotonic() > end:
                raise Failed("the server does not come to rest")
            before = now
            time.sleep(REST / 2)

    def switches(self):
        """Of each thread, by its path in /proc, how often it has begun to wait so far; "R" if it runs now."""
        found = {}
        for pid in [self.program, *children(self.program)]:
            for task in Path(f"/proc/{pid}/task").glob("*"):
                with contextlib.suppress(OSError):  # it may end meanwhile
                    state = (task / "stat").read_bytes().rpartition(b") ")[2][:1]
                    lines = (task / "status").read_text().splitlines()
                    found[task] = "R" if state == b"R" else [line for line in lines if "ctxt_switches" in line]
        return found

    def begin(self):
        """What was until now is not shown."""
        self.rest()
        self.began = time.monotonic()

    def end(self):
        """What comes from now on is not shown."""
        self.rest()
        self.over = time.monotonic()
        time.sleep(REST)

    def recording(self):
        """End the server as Ctrl-C does, and return what watch.py has recorded, with what the clients did."""
        os.kill(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise Failed("the server did not end") from None
        recording = draw.load(self.recorded)
        if recording.get("lost"):
            raise Failed(f"watch.py lost {recording['lost']} records")
        self.did.sort(key=lambda pair: pair[0])
        if OPERATOR in self.people:
            note_operator(recording, self.did)
        zero = self.zero(recording)
        recording["clients"] = [{"at": max(round((at - zero) * 1e6), 0), **event} for at, event in self.did]
        begin, over = (round((at - zero) * 1e6) for at in (self.began, self.over))
        acts = [event["at"] for event in recording["clients"] if event["at"] > begin]
        return cut(recording, max(begin, min(acts) - LED), over)

    def zero(self, recording):
        """The moment of our clock at which the recording begins.

        Nobody tells it. But a line of the log is seen after it was written, and what is said is read afterwards, and
        so on. Each such pair says that it was not after some moment, or not before one. Taken is the middle.
        """
        wakes, acts = defaultdict(set), defaultdict(list)  # of each lane: when its waits ended; when it did something
        for span in recording["spans"]:
            acts[span["lane"]].append(span["end"])
            if span["state"] in ("readiness", "completion"):
                wakes[span["lane"]].add(span["end"])
        for message in recording["messages"]:
            acts[message["lane"]].append(message["at"])
        for moments in acts.values():
            moments.sort()
        streams = defaultdict(list)  # what was said, read, sent and heard: moments and numbers of bytes
        for at, event in self.did:
            streams[event["peer"], event["does"]].append((at, event["bytes"]))
        for message in recording["messages"]:
            # A message is noted when it has been read or sent. It was not sent before what the lane did before. If that
            # was to wait until something is there, it was there when that had ended.
            moments = acts[message["lane"]]
            place = bisect.bisect_left(moments, message["at"])
            before = moments[place - 1] if place else 0
            at = before if message["way"] == "out" or before in wakes[message["lane"]] else message["at"]
            streams[message["peer"], message["way"]].append((at / 1e6, message["bytes"]))
        early, late = [], []
        for peer in self.people:
            early += [at - then for at, then in passed(streams[peer, "says"], streams[peer, "in"])]
            late += [then - at for at, then in passed(streams[peer, "out"], streams[peer, "hears"])]
        logged = {entry["line"]: entry["at"] / 1e6 for entry in reversed(recording["log"])}
        noticed = {tuple(line.split(" ")[1:3]): at for line, at in logged.items()}
        for at, event in self.did:
            for word in {"comes": ("joined,", "refused:"), "leaves": ("left,",)}.get(event["does"], ()):
                if (event["peer"], word) in noticed:
                    early.append(at - noticed[event["peer"], word])
        late += [at - logged[line] for line, at in self.seen.items() if line in logged]
        return (max(early) + min(late)) / 2


def passed(ins, outs):
    """Yield for each of what went into a stream its moment, and the moment at which the first byte of it came out.

    Both are lists of moments and numbers of bytes.
    """
    outs, out, total = iter(outs), 0, 0
    for at, size in ins:
        while out <= total:
            then, more = next(outs, (None, 0))
            if then is None:
                return
            out += more
        yield at, then
        total += size


def note_operator(recording, did):
    """Have what the operator reads and types be messages, too: watch.py sees calls for it, and not what it is."""
    mine = [event for _, event in did if event["peer"] == OPERATOR]
    typed, shown = ([event for event in mine if event["does"] == does] for does in ("says", "hears"))
    for span in sorted(recording["spans"], key=lambda span: span["end"]):
        way = "in" if span["state"] == "input" else "out" if span["what"] == "write into a pipe" else None
        events = typed if way == "in" else shown
        if way and events:
            event = events.pop(0)
            message = {"at": span["end"], "lane": span["lane"], "way": way, "peer": OPERATOR}
            recording["messages"].append({**message, "bytes": event["bytes"], "text": event["text"]})
    recording["messages"].sort(key=lambda message: message["at"])


# ----------------------------------------------------------------------------------------------------------------------
# A recording made short.
# ----------------------------------------------------------------------------------------------------------------------


def cut(recording, begin, over):
    """The recording from one moment to another, which are its 0 and its end then."""

    def at(moment):
        return min(max(moment, begin), over) - begin

    number, lanes = {}, []
    for index, lane in enumerate(recording["lanes"]):
        if lane["born"] < over and lane["died"] > begin:
            number[index] = len(lanes)
            lanes.append({**lane, "born": at(lane["born"]), "died": at(lane["died"])})
    spans = [
        {**span, "lane": number[span["lane"]], "start": at(span["start"]), "end": at(span["end"])}
        for span in recording["spans"]
        if span["start"] < over and span["end"] > begin
    ]
    short = {**recording, "took": over - begin, "lanes": lanes, "spans": spans}
    for key in "messages", "clients", "log":
        inside = [event for event in recording[key] if begin <= event["at"] < over]
        short[key] = [{**event, "at": at(event["at"])} for event in inside]
    for message in short["messages"]:
        message["lane"] = number[message["lane"]]
    return short


def slim(recording):
    """The recording without what nobody could see in a picture of it: see BUSY and KEPT.

    Of what is left out it says how often it was (`times`).
    """
    short, hidden = {**recording, "spans": [], "messages": [], "clients": []}, []
    log = [entry["at"] for entry in recording["log"]]
    for index in range(len(recording["lanes"])):
        for run in runs([span for span in recording["spans"] if span["lane"] == index], log):
            if len(run) > BUSY:
                middle = run[BUSY // 8 : -BUSY // 8]
                calls = ", ".join(sorted({span["call"] or span["state"] for span in middle}))
                many = {**middle[0], "end": middle[-1]["end"], "state": "repeated", "call": calls, "what": calls}
                run[BUSY // 8 : -BUSY // 8] = [{**many, "times": len(middle)}]
                hidden.append((index, many["start"], many["end"]))
            short["spans"] += run
    short["spans"].sort(key=lambda span: (span["start"], span["lane"]))
    for key, word in ("messages", "way"), ("clients", "does"):
        groups = defaultdict(list)
        for event in recording[key]:
            lane = event.get("lane")
            within = [
                number
                for number, (index, start, end) in enumerate(hidden)
                if lane in (None, index) and start <= event["at"] <= end
            ]
            groups[lane, event[word], event["peer"], *within[:1]].append(event)
        for name, group in groups.items():
            if name[2] == OTHERS:
                short[key] += group[:: -(-len(group) // KEPT)]
            elif len(name) > 3:
                short[key].append(many_in_one(group))
            elif len(group) > BUSY:
                few = BUSY // 8
                short[key] += [*group[:few], many_in_one(group[few:-few]), *group[-few:]]
            else:
                short[key] += group
        short[key].sort(key=lambda event: event["at"])
    return short


def many_in_one(events):
    """One event in the place of many, at the moment of the last of them."""
    return {**events[-1], "bytes": sum(event["bytes"] for event in events), "text": "", "times": len(events)}


def runs(spans, log):
    """Cut the spans of a lane: no run has a long one in it, or a long pause, or goes on past a line of the log."""
    found = []
    for span in spans:
        last = found[-1][-1] if found else None
        if (
            last
            and max(last["end"] - last["start"], span["end"] - span["start"], span["start"] - last["end"]) < SHORT
            and not any(last["start"] <= at <= span["start"] for at in log)
        ):
            found[-1].append(span)
        else:
            found.append([span])
    return found


def dump(recording):
    return json.dumps(recording, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


# ----------------------------------------------------------------------------------------------------------------------
# The plays.
# ----------------------------------------------------------------------------------------------------------------------


def pieces(stage):
    ana = stage.come("ana")
    stage.begin()
    for piece in "hel", "lo", "\n":
        ana.say(piece)
        stage.rest(0.1)
    ana.hear("says: hello\n")
    stage.end()


def two_clients(stage):
    ana = stage.come("ana")
    stage.begin()
    ana.say("one\n")
    ana.hear("says: one\n")
    stage.rest()
    bob = stage.come("bob", joins=False)
    bob.say("two\n")
    stage.rest(0.3)
    ana.leave()
    bob.hear("says: two\n")
    stage.end()


def turns(stage):
    ana = stage.come("ana")
    stage.begin()
    ana.say("are you there?\n")
    stage.await_shown("are you there?")
    stage.rest(0.2)
    stage.type("I am")
    ana.hear("I am\n")
    stage.end()


def out_of_turn(stage):
    ana = stage.come("ana")
    stage.begin()
    ana.say("one\n")
    stage.await_shown("one")
    ana.say("two\n")
    stage.rest(0.3)
    stage.type("first answer")
    ana.hear("first answer\n")
    stage.await_shown("two")
    stage.rest()
    stage.type("second answer")
    ana.hear("second answer\n")
    stage.end()


def room(stage):
    ana, bob, carla = (stage.come(name) for name in ("ana", "bob", "carla"))
    stage.begin()
    ana.say("hello\n")
    for other in bob, carla:
        other.hear("says: hello\n")
    stage.end()


def deaf(stage):
    dan = stage.come("dan", room=4096)
    ana, bob = (stage.come(name) for name in ("ana", "bob"))
    stage.begin()
    bob.drain()
    stop = ana.flood()
    stage.await_log(re.escape(dan.peer) + " dropped: too slow")
    stop()
    stage.end()


def full(stage):
    stage.crowd(CROWD)
    while True:  # how many descriptors are left depends on what else is open
        stage.clients.append(Client(stage, "", None))
        if stage.await_log(re.escape(stage.clients[-1].peer) + " (joined|refused)")[1] == "refused":
            break
    stage.clients[0].leave()
    stage.await_log(re.escape(stage.clients[0].peer) + " left")
    stage.begin()
    stage.come("ana")
    stage.rest()
    bob = stage.come("bob", joins=False)
    bob.hear("error: the room is full\n")
    stage.end()


def silent(stage):
    stage.crowd(CROWD)
    ana = stage.come("ana")
    stage.begin()
    ana.say((" " * 4095 + "\n") * 8)
    stage.rest(0.2)
    stage.end()


def all_told(stage):
    ana = stage.come("ana")
    stage.crowd(CROWD)
    bob = stage.come("bob")
    stage.begin()
    ana.say("hello\n")
    bob.hear("says: hello\n")
    stage.end()


def halves(stage):
    ana, bob = (stage.come(name) for name in ("ana", "bob"))
    stage.begin()
    ana.say("hello\n")
    bob.hear("says: hello\n")
    stage.end()


def hang(stage):
    ana, bob, carla = (stage.come(name) for name in ("ana", "bob", "carla"))
    stage.stop_child()
    stage.begin()
    ana.say("one\n")
    bob.hear("says: one\n")
    ana.say("two\n")
    bob.hear("says: two\n")
    stage.await_log(re.escape(carla.peer) + " dropped: killed")
    stage.end()


def asleep(stage):
    ana, bob, carla = (stage.come(name) for name in ("ana", "bob", "carla"))
    stage.begin()
    ana.say("sleep\n")
    stage.await_log("asleep")
    bob.say("hello\n")
    bob.hear("says: sleep\n")
    carla.hear("says: hello\n")
    ana.hear("says: hello\n")
    stage.end()


def late(stage):
    ana, bob, carla = (stage.come(name) for name in ("ana", "bob", "carla"))
    stage.begin()
    ana.say("one\n")
    stage.await_log("asleep")
    bob.say("two\n")
    bob.hear("says: one\n")
    carla.hear("says: two\n")
    ana.hear("says: two\n")
    stage.end()


@dataclass(frozen=True)
class Scene:
    """A server, what is played with it, and what is to be seen."""

    name: str
    folder: str  # where the server is
    play: Callable  # is given a Stage
    title: str
    caption: str  # one sentence
    claims: tuple  # what the caption says: events that must come in this order (see `events`)
    exact: bool = True  # whether each lane always does the same in the same order; if not, the claims alone must hold
    longest: tuple = ()  # pairs: a lane, and what it does for longer than anything else
    never: tuple = ()  # parts of what no lane may wait for
    changes: tuple = ()  # pairs: a text of the server, and what is put in its place
    told: str = ""  # what this makes of the server
    linux: bool = False  # whether it can be played on Linux alone

    def record(self):
        """Play it, and return the recording. Raises Failed."""
        with tempfile.TemporaryDirectory(prefix="chat-scene-") as scratch:
            program = f"{self.folder}/server.py"
            command = [program, self.told] if self.told else [program]
            if self.changes:
                copy = Path(scratch, self.folder)
                shutil.copytree(ROOT / self.folder, copy)
                text = (copy / "server.py").read_text()
                for old, new in self.changes:
                    if text.count(old) != 1:
                        raise Failed(f"{program} has no single {old!r} that could be changed")
                    text = text.replace(old, new)
                program = str(copy / "server.py")
                Path(program).write_text(text)
            with Stage([program, "0"], Path(scratch)) as stage:
                self.play(stage)
                recording = stage.recording()
        people = dict(stage.people)
        for event in recording["messages"] + recording["clients"]:
            if event["peer"] and event["peer"] not in people:
                event["peer"] = OTHERS
                people[OTHERS] = f"{CROWD:,} others"
        about = {"title": self.title, "caption": self.caption, "people": people, "command": command}
        recording = slim({**recording, **about})
        draw.check(recording)
        return recording

    def untrue(self, recording):
        """What the caption says and the recording does not, as a list of lines."""
        found, came = [], iter(events(recording))
        for claim in self.claims:
            if not any(event.startswith(claim) for event in came):
                found.append(f"there is no {claim!r}, or not in this order: {', '.join(map(repr, self.claims))}")
                break
        names = names_of(recording)
        whats = {names(span["what"]) for span in recording["spans"]}
        found += [f"something waits in {what!r}" for what in sorted(whats) if any(part in what for part in self.never)]
        for name, what in self.longest:
            spans = [span for span in recording["spans"] if names(recording["lanes"][span["lane"]]["name"]) == name]
            longest = max(spans, key=lambda span: span["end"] - span["start"], default={"what": "nothing"})
            if names(longest["what"]) != what:
                found.append(f"{name} is for longest in {names(longest['what'])!r}, not in {what!r}")
        return found


# ----------------------------------------------------------------------------------------------------------------------
# What a recording says, without times.
# ----------------------------------------------------------------------------------------------------------------------


def names_of(recording):
    """A function that puts people's names in the place of their addresses in a text."""
    return lambda text: draw.people_in(text, recording["people"])


def events(recording):
    """All that happens as texts, in its order.

    ana comes; ana says: hello; bob hears: ana says: hello; ana leaves; LANE receives from ana: hello; LANE sends to
    bob: ana says: hello; LANE: recv from ana (it begins to wait); LANE: recv from ana, over; log: ana joined, 1 online.
    """
    names, found = names_of(recording), []
    lanes = [lane["name"] for lane in recording["lanes"]]
    for span in recording["spans"]:
        what = f"{lanes[span['lane']]}: {span['what']}"
        found += [(span["start"], 3, what), (span["end"], 0, f"{what}, over")]
    for event in recording["messages"]:
        act = "receives from" if event["way"] == "in" else "sends to"
        found.append((event["at"], 2, f"{lanes[event['lane']]} {act} {event['peer']}: {event['text']}"))
    for event in recording["clients"]:
        words = f": {event['text']}" if event["does"] in ("says", "hears") else ""
        found.append(
            (event["at"], 4 if words and event["does"] == "hears" else 1, f"{event['peer']} {event['does']}{words}")
        )
    found += [(entry["at"], 2, f"log: {entry['line'].partition(' ')[2]}") for entry in recording["log"]]
    return [names(text) for *_, text in sorted(found)]


PASSING = {"lock", "ready", "step", "other", "repeated"}  # waits that are there or not, as it happens


def story(recording):
    """What each lane does, in its order: the states in which it waits and the messages; what comes again is there once.

    In which order one turn's messages go out is left out: asyncio's server has its clients in a set.
    """
    names, lanes = names_of(recording), []
    for index, lane in enumerate(recording["lanes"]):
        acts = [(span["start"], span["state"]) for span in recording["spans"] if span["lane"] == index]
        acts += [
            (message["at"], f"{message['way']} {names(message['peer'])}: {names(message['text'])}")
            for message in recording["messages"]
            if message["lane"] == index
        ]
        told = []
        for _, group in itertools.groupby(
            (act for _, act in sorted(acts) if act not in PASSING), key=lambda act: act.startswith("out ")
        ):
            group = list(group)
            told += sorted(set(group)) if group[0].startswith("out ") else group
        lanes.append((names(lane["name"]), squeezed(told)))
    return sorted(lanes)


def squeezed(acts):
    """Acts of which what is repeated at once, up to four acts long, is there once."""
    for length in range(1, 5):
        place = 0
        while place + 2 * length <= len(acts):
            if acts[place : place + length] == acts[place + length : place + 2 * length]:
                del acts[place : place + length]
            else:
                place += 1
    return acts


# ----------------------------------------------------------------------------------------------------------------------
# The scenes.
# ----------------------------------------------------------------------------------------------------------------------

ASLEEP = 2  # seconds
SLEEPS = f'logging.info("asleep")\n{{0}}__import__("time").sleep({ASLEEP})\n{{0}}'
ROOMS = {  # folder: its name, the lane that reads, the lane that sends, and the caption
    "thread_per_client": (
        "threads",
        "thread attend(ana)",
        "thread moderate",
        "Ana's thread waits in recv for her line and puts it into the queue; the moderator waits for that, and sends.",
    ),
    "select_based": (
        "select",
        "MainThread",
        "MainThread",
        "One thread waits in one call for all sockets; when ana has spoken it reads, tells the others, and waits.",
    ),
    "poll_based": (
        "poll",
        "MainThread",
        "MainThread",
        "One thread waits in one call for all sockets; when ana has spoken it reads, tells the others, and waits.",
    ),
    "asyncio_based": (
        "coroutines",
        "event loop",
        "task tell",
        "Each coroutine awaits its own, and the loop waits for all: it wakes ana's coroutine, then the one that tells.",
    ),
    "epoll_based": (
        "epoll",
        "MainThread",
        "MainThread",
        "One thread waits in one call for all sockets; when ana has spoken it reads, tells the others, and waits.",
    ),
    "proactor_based": (
        "a proactor",
        "MainThread",
        "MainThread",
        "One thread waits until an operation is done; ana's recv is, so that the others are told, and it waits again.",
    ),
    "process_per_client": (
        "processes",
        "process 2 (ana)",
        "process 3 (bob)",
        "Ana's child tells the parent, the parent tells all children, and each child sends to its own client.",
    ),
}
DEAF = {  # folder: its name, what is longest, and the caption
    "thread_per_client": (
        "threads",
        (("thread moderate", "send to dan"),),
        "The moderator waits in send for dan, who does not read, and for five seconds nobody hears anything.",
    ),
    "poll_based": (
        "poll",
        (),
        "Nobody waits for dan, who does not read: what he does not take is kept, until it is too much.",
    ),
    "asyncio_based": (
        "coroutines",
        (),
        "One task waits for dan, who does not read, and nobody else does; when too much is unsent he is dropped.",
    ),
    "process_per_client": (
        "processes",
        (),
        "Dan does not read, and that is the affair of his child alone: when too much is unsent, it ends.",
    ),
}


def rooms():
    for folder, (name, reads, sends, caption) in ROOMS.items():
        claims = ("ana says: hello", f"{reads} receives from ana: hello", f"{sends} sends to bob: ana says: hello")
        yield Scene(f"{folder}_room", folder, room, f"A line in a room of three, with {name}", caption, claims)


def deaf_ones():
    for folder, (name, longest, caption) in DEAF.items():
        claims = "ana says: xxxx", "log: dan dropped: too slow"
        title, never = f"A client that does not read, with {name}", () if longest else ("send to dan",)
        yield Scene(f"{folder}_deaf", folder, deaf, title, caption, claims, exact=False, longest=longest, never=never)


SCENES = [
    Scene(
        "blocking_pieces",
        "blocking",
        pieces,
        "A line that comes in three pieces, with blocking calls",
        "Each piece ends a recv, and only the one with the newline is answered: one recv is not one message.",
        (
            "ana says: hel",
            "MainThread receives from ana: hel",
            "ana says: lo",
            "MainThread receives from ana: lo",
            "MainThread receives from ana: ",
            "ana hears: ana says: hello",
        ),
    ),
    Scene(
        "blocking_two",
        "blocking",
        two_clients,
        "Two clients, with blocking calls",
        "Bob is connected and has spoken, but the server waits in recv for ana alone, until she leaves.",
        (
            "bob comes",
            "bob says: two",
            "ana leaves",
            "log: ana left",
            "log: bob joined",
            "MainThread receives from bob: two",
        ),
    ),
    Scene(
        "two_way_turns",
        "blocking/two_way",
        turns,
        "Two people take turns",
        "The server waits in one call at a time: for ana's line, then for the operator's, then for ana's again.",
        (
            "ana says: are you there?",
            "MainThread: read from a pipe",
            "operator says: I am",
            "MainThread: read from a pipe, over",
            "MainThread: recv from ana",
        ),
    ),
    Scene(
        "two_way_unseen",
        "blocking/two_way",
        out_of_turn,
        "What comes out of turn waits unseen",
        "Ana's second line is there all the time, and is read only when the operator has answered the first.",
        (
            "operator hears: one",
            "ana says: two",
            "operator says: first answer",
            "MainThread receives from operator: first",
            "MainThread receives from ana: two",
            "operator hears: two",
        ),
    ),
    *rooms(),
    *deaf_ones(),
    Scene(
        "select_based_full",
        "select_based",
        full,
        "One client too many for select",
        "Ana comes in, since somebody has left; bob is sent away, as select has no place for his descriptor.",
        (
            "ana comes",
            "log: ana joined",
            "bob comes",
            "log: bob refused: the room is full",
            "MainThread sends to bob: error: the room is full",
        ),
        linux=True,
    ),
    Scene(
        "poll_based_silent",
        "poll_based",
        silent,
        "A thousand silent clients, with poll",
        "Eight blank lines are eight turns, and in each of them poll looks at a thousand sockets that have nothing.",
        (
            "ana says: ",
            "MainThread: poll of 1003 sockets",
            "MainThread receives from ana: ",
            "MainThread: poll of 1003 sockets",
        ),
        linux=True,
    ),
    Scene(
        "epoll_based_silent",
        "epoll_based",
        silent,
        "A thousand silent clients, with epoll",
        "Eight blank lines are eight turns, and none of them looks at the thousand sockets that have nothing.",
        (
            "ana says: ",
            "MainThread: epoll of 1003 sockets",
            "MainThread receives from ana: ",
            "MainThread: epoll of 1003 sockets",
        ),
        linux=True,
    ),
    Scene(
        "epoll_based_told",
        "epoll_based",
        all_told,
        "A line that a thousand must hear, with epoll",
        "The wait ends at once, and then a thousand sends follow: bob, who came last, hears the line last.",
        (
            "ana says: hello",
            "MainThread sends to 1,000 others: ana says: hello",
            "MainThread sends to bob: ana says: hello",
        ),
        linux=True,
    ),
    Scene(
        "asyncio_based_asleep",
        "asyncio_based",
        asleep,
        "A coroutine that sleeps without await",
        "Ana's coroutine sleeps for two seconds without await: it has the only thread, and bob's line is not read.",
        (
            "log: asleep",
            "bob says: hello",
            "task attend(ana): sleep of 2 s, over",
            "event loop receives from bob: hello",
            "task tell sends to carla: bob says: hello",
        ),
        longest=(("task attend(ana)", "sleep of 2 s"),),
        changes=(
            (
                "            self.receive(client, data)\n",
                '            if b"sleep" in data:\n                '
                + SLEEPS.format(" " * 16).rstrip(" ")
                + "            self.receive(client, data)\n",
            ),
        ),
        told=f"with time.sleep({ASLEEP}) in attend",
    ),
    Scene(
        "proactor_based_halves",
        "proactor_based",
        halves,
        "Both halves of a completion",
        "A recv of ana was asked for long before it is done; as soon as it is done, the next is asked for.",
        (
            "ana says: hello",
            "log: recv of ana is done",
            "log: recv of ana is asked for",
            "log: send of bob is asked for",
            "log: send of bob is done",
        ),
        changes=(
            (
                "        client = self.clients[sock.fileno()]\n        if operation",
                "        client = self.clients[sock.fileno()]\n"
                '        logging.info("%s of %s is done", operation, client.name)\n        if operation',
            ),
            (
                "            self.proactor.recv(client.sock, MAX_MESSAGE)",
                '            logging.info("recv of %s is asked for", client.name)\n'
                "            self.proactor.recv(client.sock, MAX_MESSAGE)",
            ),
            (
                "            self.proactor.send(client.sock, data)",
                '            logging.info("send of %s is asked for", client.name)\n'
                "            self.proactor.send(client.sock, data)",
            ),
        ),
        told="that logs what it asks for",
    ),
    Scene(
        "proactor_based_late",
        "proactor_based",
        late,
        "One late call makes all late",
        "What is called for ana's line takes two seconds, so that bob's is read two seconds late and told after four.",
        (
            "ana says: one",
            "log: asleep",
            "bob says: two",
            "MainThread: sleep of 2 s, over",
            "MainThread receives from bob: two",
            "MainThread: sleep of 2 s, over",
            "MainThread sends to carla: bob says: two",
        ),
        longest=(("MainThread", "sleep of 2 s"),),
        changes=(
            ("        # Only the first line can", "        " + SLEEPS.format(" " * 8) + "# Only the first line can"),
        ),
        told=f"with time.sleep({ASLEEP}) in receive",
    ),
    Scene(
        "process_per_client_hang",
        "process_per_client",
        hang,
        "A child that hangs",
        "Carla's child is stopped and does not take ana's first line: nobody hears the second until it is killed.",
        (
            "ana says: one",
            "bob hears: ana says: one",
            "ana says: two",
            "process 2 (ana) receives from ana: two",
            "log: carla dropped: killed",
            "bob hears: ana says: two",
        ),
        exact=False,
        linux=True,
    ),
]


# ----------------------------------------------------------------------------------------------------------------------
# The program.
# ----------------------------------------------------------------------------------------------------------------------


def make(scene):
    """Play a scene, and write its recording and its picture."""
    recording = scene.record()
    if wrong := scene.untrue(recording):
        raise Failed(wrong[0])
    for folder, ending, text in (RECORDINGS, "json", dump(recording)), (PICTURES, "svg", draw.draw(recording)):
        folder.mkdir(exist_ok=True)
        (folder / f"{scene.name}.{ending}").write_text(text, encoding="utf-8")


def check(scene):
    """Play a scene anew, elsewhere. Raises Failed if its recording says something else, or its caption does."""
    try:
        kept = draw.load(RECORDINGS / f"{scene.name}.json")
    except OSError as error:
        raise Failed(f"{error.filename}: {error.strerror}") from None
    anew = scene.record()
    if wrong := scene.untrue(kept) + scene.untrue(anew):
        raise Failed(wrong[0])
    if scene.exact and (difference := [(old, new) for old, new in zip_lanes(story(kept), story(anew)) if old != new]):
        (lane, old), (_, new) = difference[0]
        raise Failed(f"{lane} did not do the same: then {', '.join(old)}; now {', '.join(new)}")


def zip_lanes(kept, anew):
    """Pairs of what a lane did, by its name, in two stories; of a lane that one of them has not, nothing."""
    kept, anew = dict(kept), dict(anew)
    return [((name, kept.get(name, [])), (name, anew.get(name, []))) for name in sorted({*kept, *anew})]


def main():
    parser = argparse.ArgumentParser(description="Play small scenes, record what the servers wait for, and draw it.")
    parser.add_argument("names", metavar="NAME", nargs="*", help="a scene; without any, they are listed")
    parser.add_argument("--all", action="store_true", help="play all of them anew")
    parser.add_argument("--check", action="store_true", help="play anew elsewhere, and compare (all, if none is named)")
    args = parser.parse_args()
    known = {scene.name: scene for scene in SCENES}
    for name in args.names:
        if name not in known:
            parser.error(f"no scene is called {name}; python scenes.py lists them")
    if not (args.names or args.all or args.check):
        for scene in SCENES:
            print(f"{scene.name:26} {scene.title}")
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * CROWD if most == resource.RLIM_INFINITY else min(most, 3 * CROWD)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))  # a thousand clients are ours, and the server's
    failed = False
    for scene in [known[name] for name in args.names] or SCENES:
        try:
            if scene.linux and sys.platform != "linux":
                raise Failed("it can be played on Linux alone")
            (check if args.check else make)(scene)
            print(f"{scene.name}: {'the same' if args.check else 'recorded and drawn'}", flush=True)
        except (Failed, draw.BadRecording, OSError) as error:
            failed = True
            print(f"scenes.py: {scene.name}: {error}", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # watch.py has got it, too, and ends the server
        sys.exit(128 + signal.SIGINT)
