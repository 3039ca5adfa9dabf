"""Run the checks of the stages, and tell each verdict so that a student knows what to mend."""

import contextlib
import re
import shutil
import signal
import textwrap
import time
from dataclasses import dataclass, field

from course.program import ENDED_ITS_GUARD, CannotStart
from course.room import Broken, NotHere

MOST_LINES = 60  # of a stage
WIDTH = 100
SHOWN = 64  # bytes of a literal around the difference
PASSED, BROKEN, NOT_TESTED = "passed", "BROKEN", "not tested"

DEATHS = (
    (ENDED_ITS_GUARD, "A server ends nobody but itself: to which process does it send a signal?"),
    (
        r"SIGPIPE",
        "It sent to a client that had gone, and the system's answer to that is SIGPIPE, which ends a program that "
        "does nothing about it. Ignore it once at the start, signal(SIGPIPE, SIG_IGN), or send with MSG_NOSIGNAL.",
    ),
    (r"SIGSEGV|SIGBUS|SIGABRT", "A memory fault: run it under gdb or valgrind, or build with -fsanitize=address."),
    (
        r"ConnectionResetError|ECONNRESET|Connection reset",
        "A client that leaves with a reset makes recv fail: catch the error for that client, and end it alone.",
    ),
    (
        r"BrokenPipeError|EPIPE|Broken pipe",
        "To send to a client that has gone fails: catch the error for that client, and end it alone.",
    ),
    (
        r"UnicodeDecodeError|invalid utf|MalformedInput",
        "Bytes that are no UTF-8 end it: decode so that they become U+FFFD (in Python errors='replace').",
    ),
    (
        r"Too many open files|EMFILE",
        "accept fails when no descriptor is left: refuse the newcomer, and go on with those who are there.",
    ),
    (
        r"RuntimeError: .* changed size|ConcurrentModification",
        "Who is in the room changed while it was walked through: walk through a copy, or hold a lock.",
    ),
    (
        r"OutOfMemory|MemoryError|bad_alloc|heap out of memory",
        "It ran out of memory: what it keeps for a client needs a bound.",
    ),
)


@dataclass
class Check:
    """One thing that is tested. `tells`: what is sent and what must come; `needs`: checks without which it says
    nothing; `room`: it takes two who hear each other. A hint that begins with `!` stays, also when the server ended."""

    name: str
    stage: str
    tells: str
    run: object
    needs: tuple = ()
    hint: str = ""
    room: bool = False


@dataclass
class Stage:
    """Some checks, in order. `why` it matters, and the `page` that explains it."""

    name: str
    title: str
    why: str
    page: str
    checks: list = field(default_factory=list)


@dataclass
class Result:
    check: Check
    verdict: str = NOT_TESTED
    because: str = ""
    broken: Broken | None = None
    sent: list = field(default_factory=list)
    sent_count: int = 0
    output: str = ""
    seconds: float = 0.0


def hint_of_death(how, output):
    """What to do about the end of a program, by how it ended and by the end of its output; "" if that is not known."""
    last = output[-3000:]
    for pattern, hint in DEATHS:
        if re.search(pattern, how) or re.search(pattern, last):
            return hint
    return ""


def said_already(check, broken):
    """Whether the end of the program is what the check is about, so that no more is to be said of it: `!` says so."""
    return (broken.hint or check.hint).startswith("!")


class OutOfTime(BaseException):
    """The time for all is over, in the middle of a check. (No handler of a check's own may catch it.)"""


def out_of_time(*_):
    raise OutOfTime


class Course:
    """Goes through stages, and remembers what each check said."""

    def __init__(self, room, stages, every=False, budget=170.0, tell=print, turn=contextlib.nullcontext):
        """`every`: go on in a stage after its first failure; `budget`: seconds for all; `tell`: prints a line; `turn`:
        what a check is run within, for one check. It may wait for others that are tested at the same time, and that
        does not count."""
        self.room, self.stages, self.every, self.tell = room, stages, every, tell
        self.results = {}
        self.deaths = {}  # what is to be done about an end of the program: the check that it was first seen in
        self.end, self.turn = time.monotonic() + budget, turn
        self.all_checks = {check.name: check for stage in stages for check in stage.checks}

    def why_not(self, check, ahead):
        """Why a check cannot be tested, or "". `ahead`: what is already known to be a reason."""
        if ahead:
            return ahead
        for name in check.needs:
            result = self.result_of(name)
            if result and result.verdict == BROKEN:
                return f"because of {name}"
            if result and result.verdict == NOT_TESTED and result.because:
                return result.because if result.because.startswith("because") else f"because of {name}"
        if time.monotonic() > self.end:
            return "because the time was over"
        return ""

    def result_of(self, name):
        """The result of a check that another one needs: it is tested now, without a word, if it was not before. None
        if no such check is made."""
        check = self.all_checks.get(name)
        if check and name not in self.results:
            because = self.why_not(check, "")
            self.results[name] = Result(check, because=because) if because else self.test(check)
        return self.results.get(name)

    def test(self, check):
        """Run one check when it is its turn, and return its result."""
        then = time.monotonic()
        with self.turn(check):
            self.end += time.monotonic() - then
            return self.test_now(check)

    def test_now(self, check):
        room, result, then = self.room, Result(check), time.monotonic()
        harmed = True
        before = signal.signal(signal.SIGALRM, out_of_time)
        signal.setitimer(signal.ITIMER_REAL, max(0.01, self.end - time.monotonic()))
        try:
            room.begin()
            check.run(room)
            if room.program and not room.program.running and not check.name.startswith("stopping"):
                raise Broken("the server has ended")
            result.verdict, harmed = PASSED, False
        except OutOfTime:
            result.because = "because the time was over"
        except NotHere as why:
            result.because, harmed = str(why), False
        except CannotStart as error:
            result.verdict, result.broken = BROKEN, Broken(f"it was started anew, and {error}", error.hint)
        except Broken as broken:
            result.verdict, result.broken = BROKEN, broken
            if room.program:
                result.output = room.program.output
                how = self.ended(room.program)
                if said_already(check, broken) and how != ENDED_ITS_GUARD:
                    how = ""
                if how:
                    broken.what += f"; {how}"
                if how and (hint := hint_of_death(how, result.output)):
                    broken.hint = hint
                    if (first := self.deaths.setdefault(hint, check.name)) != check.name:
                        result.verdict, result.broken, result.because = NOT_TESTED, None, f"because of {first}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            result.sent, result.sent_count = room.sent, room.sent_count
            room.finish(harmed)
            result.seconds = time.monotonic() - then
        return result

    @staticmethod
    def ended(program):
        """How the program ended, if it has; it may take a moment to die."""
        for _ in range(20):
            if not program.running:
                return program.how_it_ended()
            time.sleep(0.01)
        return ""

    def run_stage(self, number, stage):
        """Tell the stage, test it, and return its verdict."""
        lines = Lines(self.tell, MOST_LINES)
        lines.add(f"== Stage {number}: {stage.title}")
        lines.wrap(stage.why, "   ")
        lines.add(f"   Read: {stage.page}")
        stopped = ""
        for place, check in enumerate(stage.checks, 1):
            known = self.results.get(check.name)  # another stage may have needed it
            because = "" if known else self.why_not(check, stopped)
            if because:
                self.results[check.name] = Result(check, because=because)
                continue
            lines.wrap(check.tells, f"   {number}.{place} ")
            result = self.results[check.name] = known or self.test(check)
            if result.verdict == NOT_TESTED:
                lines.add(f"       not tested: {result.because}")
            elif result.verdict == PASSED:
                lines.add(f"       passed ({check.name})")
            else:
                lines.add(f"       BROKEN ({check.name})")
                explain(lines, result)
                if not self.every:
                    stopped = f"because of {check.name}"
        verdict, because = self.verdict_of(stage)
        passed = sum(self.results[check.name].verdict == PASSED for check in stage.checks)
        lines.last(
            f"   Stage {number}, {stage.name}: {verdict}{because}, {passed} of {len(stage.checks)} checks passed"
        )
        return verdict

    def verdict_of(self, stage):
        """The verdict of a stage, and its reason if it was not tested."""
        results = [self.results[check.name] for check in stage.checks if check.name in self.results]
        if any(result.verdict == BROKEN for result in results):
            return BROKEN, ""
        reasons = [result.because for result in results if result.verdict == NOT_TESTED]
        missing = [reason for reason in reasons if reason.startswith("because")]
        if missing:
            return NOT_TESTED, f" ({missing[0]})"
        if not results or len(reasons) == len(results):
            return NOT_TESTED, f" ({reasons[0]})" if reasons else ""
        return PASSED, ""


class Lines:
    """Prints, up to a number of lines; the last one is always told."""

    def __init__(self, tell, most):
        self.tell, self.left = tell, most - 2
        self.width = min(WIDTH, max(60, shutil.get_terminal_size((WIDTH, 24)).columns))

    def add(self, line):
        if self.left > 0:
            self.tell(line[:400])
        elif self.left == 0:
            self.tell("       (and more, which is left out)")
        self.left -= 1

    def wrap(self, text, start, more=None):
        following = " " * len(start) if more is None else more
        for line in textwrap.wrap(
            text, self.width, initial_indent=start, subsequent_indent=following, break_on_hyphens=False
        ):
            self.add(line)

    def last(self, line):
        self.tell(line)


def literal(data):
    return repr(bytes(data))


def shorten(data, most=SHOWN):
    """Bytes as a literal; of many, the beginning and the end."""
    if len(data) <= most:
        return literal(data)
    half = most // 2
    return f"{literal(data[:half])} ... {len(data) - 2 * half} bytes ... {literal(data[-half:])}"


def difference(expected, came):
    """Two literals one above the other and a mark below where they part: three strings, of a window around it."""
    where = next((at for at, (a, b) in enumerate(zip(expected, came, strict=False)) if a != b), None)
    if where is None:
        where = min(len(expected), len(came))
    start = max(0, where - SHOWN // 2) if where > SHOWN // 2 else 0
    cut = slice(start, start + SHOWN)
    before = f"(after {start} bytes) " if start else ""
    same = literal(expected[start:where])[2:-1]
    dots = [" ..." if len(data) > start + SHOWN else "" for data in (expected, came)]
    wanted, got = literal(expected[cut]), literal(came[cut])
    return before + wanted + dots[0], before + got + dots[1], " " * (len(before) + 2 + len(same)) + "^ here"


def explain(lines, result):
    """What was sent, what came, what was expected, the last lines of the output, and one hint."""
    broken = result.broken
    indent = "       "
    lines.wrap(f"{broken.what[0].upper()}{broken.what[1:]}.", indent)
    for letter, data in result.sent[-4:]:
        lines.add(f"{indent}{letter} sent:    {shorten(data)}")
    if result.sent_count > 4:
        lines.add(f"{indent}(before that, {result.sent_count - 4} more were sent)")
    if broken.expected is not None or broken.came is not None:
        expected, came = broken.expected or b"", broken.came or b""
        ended = f", then {broken.who.ended}" if broken.who is not None and broken.who.ended else ""
        if expected and came:
            wanted, got, mark = difference(expected, came)
        else:
            wanted, got, mark = (shorten(data) if data else "nothing" for data in (expected, came, b""))
            mark = ""
        lines.add(f"{indent}expected:  {wanted}")
        lines.add(f"{indent}came:      {got}{ended}")
        if mark:
            lines.add(f"{indent}           {mark}")
    show_output(lines, result.output, indent)
    if hint := broken.hint or result.check.hint:
        lines.wrap(hint.removeprefix("!"), f"{indent}Hint: ")


def show_output(lines, output, indent, most=6):
    """The last lines of a program's output. Control characters are shown, not done."""
    last = [line for line in output[-4000:].splitlines() if line.strip()][-most:]
    if not last:
        lines.add(f"{indent}its output: nothing")
        return
    lines.add(f"{indent}its output ends with:")
    for line in last:
        shown = "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in line)
        lines.add(f"{indent}  | {shown[:140]}{' ...' if len(shown) > 140 else ''}")
