"""See a program wait: who waits in which call, for whom, since when; live in the terminal, or recorded in a file.

    python watch.py PROGRAM ARGUMENTS...                        live, until Ctrl-C, which the program gets, too
    python watch.py --record FILE PROGRAM ARGUMENTS...          in FILE, as JSON; draw.py makes a picture of it

The program is a Python program, and not changed: `python watch.py poll_based/server.py 9669`. Its times are those of a
watched program. They are no measurement.
"""

import argparse
import collections
import contextlib
import ctypes
import fcntl
import json
import marshal
import os
import platform
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "watched")  # what goes into the program
PIPE_SIZE = 1 << 20  # bytes that the program may be ahead of us; Linux alone lets that be chosen
MOST_PARTS = 100  # read at once: a pipe gives as much as it has, or 64 KiB, and who writes fast fills it meanwhile
PERIOD = 0.05  # seconds between two looks into the pipe. Who waited in a read would be woken at each record
REDRAW = 0.25  # seconds between two pictures of the live view
LOG_LINES = 20  # of the log that are printed when the live view ends
MOST_SHOWN = 50_000  # waits of a lane that the live view keeps: some ten MB
MATCHING = 100  # characters by which a line of the log is known again
MOST_RECORDS = 1_000_000  # that are kept for a recording: some hundred MB
SIZE = struct.Struct("=H")
PASSED_ON = signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT
SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when its parent dies
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")
NO_MEASUREMENT = "times of a watched program are no measurement"


class Lane:
    """A thread, a task, an event loop or a process."""

    def __init__(self, name, kind, process, born, most=None):
        """`most`: how many waits and messages are kept, the latest."""
        self.name, self.kind, self.process = name, kind, process
        self.born, self.died = born, None
        self.open = []  # what it waits in: [start, state, call, what]; a signal's handler may wait in a wait
        self.spans = collections.deque(maxlen=most)  # what it waited in: (start, end, state, call, what)
        self.messages = collections.deque(maxlen=most)  # what it received and sent: (time, way, peer, bytes, text)

    def begin(self, when, *wait):
        """Note that it waits."""
        if self.open:
            self.spans.append((self.open[-1][0], when, *self.open[-1][1:]))
        self.open.append([when, *wait])

    def end(self, when):
        """Note that it goes on."""
        if self.open:
            start, *wait = self.open.pop()
            self.spans.append((start, when, *wait))
        if self.open:
            self.open[-1][0] = when

    def die(self, when):
        """Note that it has ended."""
        if self.died is None:
            self.died = when
            if self.open:
                start, *wait = self.open[-1]
                self.spans.append((start, when, *wait))
                self.open = []


class Story:
    """What the program told so far: the records of watched_program.py, put together. Times are in nanoseconds."""

    def __init__(self, most=None):
        """`most`: how many waits and messages of a lane are kept."""
        self.most = most
        self.start = time.monotonic_ns()  # until the program begins
        self.lanes = {}  # number: lane, in the order of their appearance
        self.log = []  # (time, line)
        self.lost = 0
        self.begun = False

    def add(self, word, *record):
        """Take in a record."""
        if word in ("lost", "gone"):
            return getattr(self, word + "_")(*record)
        number, *record = record
        if word == "lane":
            when, name, kind, process = record
            if not self.begun:
                self.begun, self.start = True, when
            if number in self.lanes:  # the system has used a process's number again
                self.lanes[object()] = self.lanes.pop(number)
            self.lanes[number] = Lane(name, kind, process, when, self.most)
        elif lane := self.lanes.get(number):
            getattr(self, word)(lane, *record)

    def lost_(self, number, process, when):
        self.lost += number
        for lane in self.lanes.values():  # nobody knows in what they wait now
            if lane.process == process:
                while lane.open:
                    lane.end(when)

    def gone_(self, process, when):
        for lane in self.lanes.values():
            if lane.process == process:
                lane.die(when)

    def name(self, lane, name, kind):
        lane.name, lane.kind = name, kind

    def died(self, lane, when):
        lane.die(when)

    def wait(self, lane, when, *wait):
        lane.begin(when, *wait)

    def went(self, lane, when):
        lane.end(when)

    def step(self, lane, when, loop):
        lane.end(when)
        if loop := self.lanes.get(loop):
            loop.begin(when, "other", "step", f"{lane.name} runs")

    def rest(self, lane, when, loop, state, what):
        if loop := self.lanes.get(loop):
            loop.end(when)
        if state:
            lane.begin(when, state, "await" if state == "await" else "", what)

    def ready(self, lane, when):
        lane.end(when)
        lane.begin(when, "ready", "", "its turn in the loop")

    def came(self, lane, when, *message):
        lane.messages.append((when, "in", *message))

    def sent(self, lane, when, *message):
        lane.messages.append((when, "out", *message))

    def line(self, lane, when, text):
        self.log.append((when, printable(text)))

    def end(self, when):
        """Note that the program has ended."""
        for lane in self.lanes.values():
            lane.die(when)

    def shown(self):
        """Return the lanes, without those of threads that did nothing but run an event loop, which has its own."""

        def waits(lane):
            return [call for *_, call, _ in lane.spans] + [call for *_, call, _ in lane.open]

        return [lane for lane in self.lanes.values() if set(waits(lane)) != {"run_forever"} or lane.messages]


def printable(line):
    """Return a line that is safe to print, and not too long."""
    return UNPRINTABLE.sub(" ", line.expandtabs().rstrip("\r\n"))[:200]


class Program:
    """The program, and what it tells."""

    def __init__(self, words, capture, live=False):
        """Start it. `capture`: its standard error comes to us; `live`: its output, too, and the terminal is ours."""
        self.status = None  # its exit status, once it has ended
        self.begun = time.monotonic_ns()
        self.records, self.line = b"", b""  # what was read and is not whole
        self.telling, ours = os.pipe()
        os.set_blocking(self.telling, False)
        os.set_blocking(ours, False)
        with contextlib.suppress(AttributeError, OSError):
            fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        # Signals are passed on, each once. So the program has a process group of its own, and the terminal's Ctrl-C
        # comes to one of us. The handlers only wake the loop.
        self.wakeup, self.waker = socket.socketpair()
        self.wakeup.setblocking(False)
        self.waker.setblocking(False)
        signal.set_wakeup_fd(self.waker.fileno(), warn_on_full_buffer=False)
        self.ignored = [number for number in PASSED_ON if signal.getsignal(number) == signal.SIG_IGN]
        self.suspended = False  # whether Ctrl-Z was pressed, where the terminal is ours
        for number in (*PASSED_ON, signal.SIGCHLD, *([signal.SIGTSTP] if live else [])):
            if number not in self.ignored:
                signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # else a tcsetpgrp from behind would stop us
        self.terminal = not live and os.isatty(0) and os.tcgetpgrp(0) == os.getpgrp()
        libc = ctypes.CDLL(None)

        def prepare():
            os.setpgid(0, 0)
            if self.terminal:
                os.tcsetpgrp(0, os.getpid())
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            if sys.platform == "linux":  # nobody is to be left behind when we are killed
                libc.prctl(SET_PDEATHSIG, signal.SIGTERM)

        env = {**os.environ, "CHAT_WATCH_DESCRIPTOR": str(ours)}
        if "PYTHONPATH" in env:
            env["CHAT_WATCH_PYTHONPATH"] = env["PYTHONPATH"]
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [FOLDER, env.get("PYTHONPATH")]))
        self.errors, errors = map(os.fdopen, os.pipe(), "rw") if capture else (None, None)
        self.popen = subprocess.Popen(
            [sys.executable, *words],
            env=env,
            pass_fds=[ours],
            stdin=subprocess.DEVNULL if live and os.isatty(0) else None,
            stdout=errors if live else None,
            stderr=errors if capture else None,
            preexec_fn=prepare,
        )
        os.close(ours)
        self.pid = self.popen.pid
        if capture:
            errors.close()
            os.set_blocking(self.errors.fileno(), False)

    def close(self):
        """Give back what this took, once the program has ended."""
        signal.set_wakeup_fd(-1)
        for end in (self.wakeup, self.waker, self.errors):
            if end:
                end.close()
        os.close(self.telling)

    def wait(self, seconds):
        """Wait so long, or until a signal comes or the program writes into its log; see to the signals."""
        ready, _, _ = select.select([self.wakeup, *filter(None, [self.errors])], [], [], seconds)
        if self.wakeup in ready:
            for number in self.wakeup.recv(4096):
                if number in PASSED_ON:
                    self.signal(number)
                elif number == signal.SIGTSTP:
                    self.suspended = True
        self.look()

    def signal(self, number):
        """Pass a signal on. SIGINT goes to its children, too, as it would from a terminal."""
        if self.status is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                (os.killpg if number == signal.SIGINT else os.kill)(self.pid, number)

    def look(self):
        """See whether it has ended or stopped."""
        if self.status is not None:
            return
        pid, status = os.waitpid(self.pid, os.WNOHANG | os.WUNTRACED)
        if not pid:
            return
        if os.WIFSTOPPED(status):
            if self.terminal:  # Ctrl-Z: stop with it, and let it go on when we do
                self.hand_over(self.pid, os.getpgrp())
                os.kill(os.getpid(), signal.SIGSTOP)
                self.hand_over(os.getpgrp(), self.pid)
                os.killpg(self.pid, signal.SIGCONT)
            return
        self.ended = time.monotonic_ns()
        self.status = self.popen.returncode = os.waitstatus_to_exitcode(status)
        if self.terminal:
            self.hand_over(self.pid, os.getpgrp())

    def hand_over(self, giver, taker):
        """Hand over the terminal from one of us to the other, if it has it: in the background neither has."""
        with contextlib.suppress(OSError):  # the terminal may be gone
            if os.tcgetpgrp(0) == giver:
                os.tcsetpgrp(0, taker)

    def read(self):
        """Return the records that it has told since the last time."""
        self.records += drain(self.telling)
        start, records = 0, []
        while len(self.records) >= start + SIZE.size:
            (size,) = SIZE.unpack_from(self.records, start)
            if len(self.records) < start + SIZE.size + size:
                break
            start += SIZE.size
            records.append(marshal.loads(self.records[start : start + size]))
            start += size
        self.records = self.records[start:]
        return records

    def read_log(self):
        """Return the lines that it has written to standard error since the last time, if we have it."""
        if not self.errors:
            return []
        self.line += drain(self.errors.fileno(), closed := [])
        if closed:
            self.errors.close()
            self.errors = None
        if (closed or self.status is not None) and self.line and not self.line.endswith(b"\n"):
            self.line += b"\n"
        *lines, self.line = self.line.split(b"\n")
        return [printable(line.decode(errors="replace")) for line in lines]


def drain(fd, closed=None):
    """Return what can be read at once, up to all of a pipe. To `closed` True is added if nothing more can come."""
    parts = []
    with contextlib.suppress(BlockingIOError):
        while len(parts) < MOST_PARTS and (part := os.read(fd, PIPE_SIZE)):
            parts.append(part)
        if closed is not None and len(parts) < MOST_PARTS:
            closed.append(True)
    return b"".join(parts)


def record(words, file, quiet):
    """Run a program to its end, write into a file what it waited in, and return its exit status."""
    records, lost, log = [], 0, []
    program = Program(words, capture=quiet)
    while program.status is None:
        program.wait(PERIOD)
        log += [(time.monotonic_ns(), line) for line in program.read_log()]
        for told in program.read():
            if len(records) < MOST_RECORDS:
                records.append(told)
            else:
                lost += 1
    log += [(program.ended, line) for line in program.read_log()]
    records += program.read()
    program.close()
    story = Story()
    story.start = program.begun
    for told in records:
        story.add(*told)
    story.lost += lost
    story.end(program.ended)
    told = collections.Counter(line[:MATCHING] for _, line in story.log)
    for when, line in log:  # what was not written by the program's own Python, and so not told of
        if told[line[:MATCHING]]:
            told[line[:MATCHING]] -= 1
        else:
            story.log.append((when, line))
    with replacing(file) as stream:
        json.dump(as_json(words, story, program.ended), stream, indent=1, sort_keys=True, ensure_ascii=False)
        stream.write("\n")
    if not story.begun:
        say("the program told nothing: is it run by a Python of its own?")
    if story.lost:
        say(f"{story.lost} records were lost: more happened than could be noted")
    if not quiet:
        spans = sum(len(lane.spans) for lane in story.shown())
        say(f"{spans} waits are in {file}; {NO_MEASUREMENT}")
    return program.status


def show(words):
    """Run a program to its end, show what it waits in, and return its exit status."""
    from live_view import View

    story, log = Story(MOST_SHOWN), collections.deque(maxlen=LOG_LINES)
    program = Program(words, capture=True, live=True)
    with View(story, " ".join(words)) as view:
        drawn = 0.0
        while program.status is None:
            program.wait(PERIOD)
            log += program.read_log()
            for told in program.read():
                story.add(*told)
            if time.monotonic() >= drawn + REDRAW:
                try:
                    view.draw(list(log))
                except OSError:  # the terminal has gone, and SIGHUP will come
                    break
                drawn = time.monotonic()
            if program.suspended:
                program.suspended = False
                view.hide()
                os.killpg(program.pid, signal.SIGSTOP)
                os.kill(os.getpid(), signal.SIGSTOP)
                os.killpg(program.pid, signal.SIGCONT)
                view.show()
    while program.status is None:
        program.wait(PERIOD)
    log += program.read_log()
    program.close()
    seconds = (program.ended - program.begun) / 1e9
    how = f"with status {program.status}" if program.status >= 0 else f"by {signal.Signals(-program.status).name}"
    with contextlib.suppress(OSError):  # the terminal has gone
        for line in log:
            print(line, file=sys.stderr)
        say(f"{words[0]} ended {how} after {seconds:.0f} seconds; {NO_MEASUREMENT}")
    return program.status


def why_not_live():
    """Return why the live view cannot be had, or ""."""
    if not (sys.stdout.isatty() and sys.stderr.isatty()):
        return "no terminal to show it in; --record FILE writes it into a file"
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown"):
        return "TERM says that this terminal can only print; --record FILE writes it into a file"
    try:
        import rich  # noqa: F401
    except ImportError:
        return "the live view needs the package rich: pip install rich; --record FILE does without"
    return ""


def as_json(words, story, ended):
    """Return what a story is in a file. Its times are microseconds since the start."""

    def at(when):  # a child that is left may go on telling after the program's end
        return min(max(0, when - story.start), ended - story.start) // 1000

    lanes = sorted(story.shown(), key=lambda lane: lane.born)
    spans, messages = [], []
    for index, lane in enumerate(lanes):
        for start, end, state, call, what in lane.spans:
            spans.append(
                {"lane": index, "start": at(start), "end": at(end), "state": state, "call": call, "what": what}
            )
        for when, way, peer, size, text in lane.messages:
            messages.append({"at": at(when), "lane": index, "way": way, "peer": peer, "bytes": size, "text": text})
    return {
        "version": 1,
        "command": words,
        "machine": platform.machine(),
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "took": at(ended),
        "title": "",
        "caption": "",
        "lanes": [
            {"name": lane.name, "kind": lane.kind, "born": at(lane.born), "died": at(lane.died)} for lane in lanes
        ],
        "spans": sorted(spans, key=lambda span: (span["start"], span["end"])),
        "messages": sorted(messages, key=lambda message: message["at"]),
        "log": [{"at": at(when), "line": line} for when, line in sorted(story.log, key=lambda entry: entry[0])],
        "people": {},
        **({"lost": story.lost} if story.lost else {}),
    }


@contextlib.contextmanager
def replacing(path):
    """Give a stream; what is written into it is in the file as soon as the block ends, and never in part."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=os.path.dirname(os.path.abspath(path)), prefix=".", delete=False
    ) as stream:
        try:
            yield stream
            os.chmod(stream.name, 0o644)
            os.replace(stream.name, path)
        except BaseException:
            os.unlink(stream.name)
            raise


def say(text):
    """Tell whoever started this, in one line."""
    if sys.stderr:
        print(f"watch.py: {text}", file=sys.stderr, flush=True)


def main():
    """Read the arguments, and watch."""
    parser = argparse.ArgumentParser(prog="watch.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--record", metavar="FILE", help="write what happened into this file, as JSON")
    parser.add_argument("--quiet", action="store_true", help="with --record: show nothing of its standard error")
    parser.add_argument("program", metavar="PROGRAM", help="a Python program")
    parser.add_argument("args", metavar="ARGUMENTS", nargs=argparse.REMAINDER, help="what it is started with")
    args = parser.parse_args()
    if args.quiet and not args.record:
        parser.error("--quiet goes with --record")
    if not os.path.exists(args.program):
        sys.exit(f"watch.py: no program is called {args.program}")
    words = [args.program, *args.args]
    if args.record:
        try:
            with tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(args.record))):
                pass
            if os.path.isdir(args.record):
                raise IsADirectoryError("it is a directory")
        except OSError as error:
            sys.exit(f"watch.py: cannot write {args.record}: {error.strerror or error}")
        status = record(words, args.record, args.quiet)
    elif why := why_not_live():
        sys.exit(f"watch.py: {why}")
    else:
        status = show(words)
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
