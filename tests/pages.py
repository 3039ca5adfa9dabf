"""The pages are run: their console blocks are replayed, and what comes is compared with what is printed there.

    python tests/pages.py [PAGE...]            which pages (of all, if none is named) no longer say the truth
    python tests/pages.py --write [PAGE...]    write what came into them

The words behind ```console say what is done with a block:

    run                   it is played
    read because="..."    it is only read, and why

A page is one replay, from top to bottom, in a scratch copy of the repository; its words after `run`:

    in=server             the terminal (`main`); each is one bash, and a block goes on where the one before has ended
    stays                 the last command still runs when the block ends; otherwise the prompt must come
    types="Hello?|and"    these lines are not printed, but typed by a person, in this order
    secret="one|two"      these are typed, too, and must not be seen: one after each line `password?` of the block
    figures               each number stands for any other; figures=bytes,seconds: those before these words
    tail                  what came in this terminal since its last block is passed over
    needs=telnet,strace   left out where one is missing: a program, `linux`, `py:MODULE`, or `nofile:COUNT` descriptors

In a block `$ COMMAND` is typed at the prompt, with what belongs to it: lines after a backslash, of a heredoc, or that
begin with `> `. `^C`, `^D` or another control key at the beginning of a line is typed, and what follows on the line is
what comes. `...` alone on a line stands for any lines. All other lines must come as they are, but for times, dates with
a time, the ports of clients and the numbers of jobs; where a port on the page comes again, it must be the same
client's. The ports 9669, 8669 and 9000 to 9009 stand for free ones, PID for the process in the terminal `server`, /tmp
for a directory.

A block that readers do not see is in a comment:

    <!-- console run in=server stays
    $ python3 poll_based/server.py
    09:02:03 listening on 127.0.0.1:9669
    -->

The blocks of several terminals are played together after `<!-- play server, server: listening, client, ... -->`,
which takes the next block of each terminal that it names: `client` goes on up to the next line that is typed
there, and types it; `server: listening` waits for the line that has this text. In the end each goes on to its end.
"""

import argparse
import codecs
import contextlib
import functools
import importlib.util
import itertools
import os
import re
import secrets
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import harness
import psutil
from promises import ROOT
from reaper import Reaper

PROMPT = f"<{secrets.token_hex(8)}>"
LEFT_ALONE = {"python", "mermaid", "diff", "text", "c", "toml", "html"}
# What may follow `run`, and whether it has a value (None: as one likes).
OPTIONS = {"in": True, "types": True, "secret": True, "needs": True, "stays": False, "tail": False, "figures": None}
ASKED = "password?"  # after this line comes a secret
WIDEST = 100  # columns of prose
# Words of the glossary that are used in no other sense: each page links the first use.
PLAIN_WORDS = {
    "backlog",
    "backpressure",
    "content-security-policy",
    "coroutine",
    "edge-triggered",
    "end of stream",
    "event loop",
    "half-close",
    "keepalive",
    "level-triggered",
    "slow reader",
    "token bucket",
    "wake-up socket",
    "websocket",
}
HOME = "/home/you/chat"  # what the scratch copy is called where a program tells its path
MOST = 1 << 20  # characters that a terminal keeps; of a flood, the last
QUIET = 1.0  # seconds without a line after which a page that is written anew takes it that no more will come

FENCE = re.compile(r"( *)(`{3,})(.*)")
HEREDOC = re.compile(r"(?<!<)<<-?\s*(['\"]?)(\w+)\1")
CONTROL = re.compile(r"\^([A-Z\[\\\]])(.*)")
PORT = re.compile(r"\b(9669|8669|900\d)\b")
DEFAULTS = re.compile(rb"\b(9669|8669)\b")  # those that servers and clients take if none is named
PID = re.compile(r"(?<![\w$-])PID(?!\w)")
TIME = re.compile(r"\b\d\d:\d\d:\d\d\b")
DATE = re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d\b")
JOB = re.compile(r"^\[(\d+)\] \d+$")
JOB_STATE = re.compile(r"^\[\d+\][+-]? +\w.*")  # with as many spaces as this version of bash likes
ENDED = re.compile(r"^(Terminated|Killed|Hangup)(: \d+)?( {2,}.*)?$")  # of some versions with the command after it
CLIENT = re.compile(r"(?P<host>(?:127\.0\.0\.1|\[::1\]):|\('(?:127\.0\.0\.1|::1)', |htons\()(?P<port>\d+)\b")
NUMBER = r"\d+(?:[.,]\d+)*"


class Untrue(AssertionError):
    """The page says what is not so."""


class Misprint(Untrue):
    """The page cannot be replayed, as its marks make no sense."""


@dataclass
class Item:
    """What a block has: a line that is typed, one that comes, or a gap."""

    kind: str  # command, typed, secret, control, printed, prompt or gap
    text: str
    number: int  # of its first line on the page
    lines: list = field(default_factory=list)  # as they stand on the page
    joined: bool = False  # printed, on the line that a control key has begun

    @property
    def is_typed(self):
        return self.kind in ("command", "typed", "secret", "control")


@dataclass
class Block:
    """A fenced block, or a hidden one."""

    info: str
    number: int  # of its first line on the page, which is that of its info
    indent: str = ""
    hidden: bool = False
    lines: list = field(default_factory=list)
    options: dict = field(default_factory=dict)

    @property
    def language(self):
        return self.info.split(maxsplit=1)[0] if self.info.strip() else ""

    @property
    def terminal(self):
        return self.options.get("in", "main")

    @functools.cached_property
    def items(self):
        """Its lines, told apart."""
        items, number = [], self.number
        types, unseen = (
            deque(self.options[name].split("|") if name in self.options else ()) for name in ("types", "secret")
        )
        lines = deque(self.lines)

        def take():
            nonlocal number
            number += 1
            return lines.popleft()

        while lines:
            line = take()
            item = Item("printed", line, number, [line])
            items.append(item)
            if line.startswith("$ "):
                item.kind, item.text = "command", line[2:]
                ends = [end for _, end in HEREDOC.findall(line)]
                while lines and (ends or item.lines[-1].endswith("\\") or lines[0].startswith("> ")):
                    inside = bool(ends)
                    line = take()
                    item.lines.append(line)
                    item.text += "\n" + (line if inside else line.removeprefix("> "))
                    if inside and line.strip() == ends[0]:
                        ends.pop(0)
                    elif not inside:
                        ends = [end for _, end in HEREDOC.findall(line)]
                if ends:
                    raise Misprint(f"{item.number}: no line {ends[0]} ends what is typed here")
            elif line.rstrip() == "$":
                item.kind = "prompt"
            elif types and line == types[0]:
                item.kind = "typed"
                types.popleft()
            elif line.strip() == "...":
                item.kind = "gap"
            elif found := CONTROL.match(line):
                item.kind, item.text, item.lines = "control", chr(ord(found[1]) & 0x1F), [line[:2]]
                if found[2]:
                    items.append(Item("printed", found[2], number, [found[2]], joined=True))
            elif unseen and line == ASKED:
                items.append(Item("secret", unseen.popleft(), number))
        if types:
            raise Misprint(f"{self.number}: types={types[0]!r}, but the block has no such line there")
        if unseen:
            raise Misprint(f"{self.number}: secret={unseen[0]!r}, but the block has no line {ASKED} for it")
        return items


def options_of(block, words):
    options = {}
    for word in words:
        name, equal, value = word.partition("=")
        if name not in OPTIONS or OPTIONS[name] not in (None, bool(equal)) or (equal and not value):
            raise Misprint(f"{block.number}: console run {word}: there is no such thing")
        options[name] = value
    return options


@dataclass
class Play:
    """Blocks that are played together, and in which order."""

    number: int
    steps: list  # of (terminal, text or None)
    blocks: list = field(default_factory=list)


class Page:
    """A page as it is written: its blocks, and what can be seen wrong without running any."""

    def __init__(self, text):
        self.lines = text.split("\n")
        self.blocks, self.wrong = [], []
        self.prose = []  # (number, line) outside of blocks and comments of several lines
        self._comments = []  # (number, text) of `play`
        self._read()
        for block in self.blocks:
            try:
                self._mark(block)
            except Misprint as problem:
                self.wrong.append(str(problem))

    def _read(self):
        block, comment = None, None
        for number, line in enumerate(self.lines, 1):
            fence = FENCE.fullmatch(line)
            if block and not block.hidden:
                if fence and len(fence[2]) >= len(self._ticks) and not fence[3].strip():
                    block = None
                else:
                    block.lines.append(line[len(block.indent) :] if line.startswith(block.indent) else line.lstrip())
            elif block:
                if line.strip() == "-->":
                    block = None
                else:
                    block.lines.append(line)
            elif comment:
                comment[1] += " " + line
                if "-->" in line:
                    comment = self._end(comment)
            elif fence:
                self._ticks = fence[2]
                block = Block(fence[3].strip(), number, fence[1])
                self.blocks.append(block)
            elif line.startswith("<!-- console") and "-->" not in line:
                block = Block(line.removeprefix("<!-- ").strip(), number, hidden=True)
                self.blocks.append(block)
            elif line.startswith("<!--") and "-->" not in line:
                comment = [number, line]
            elif line.startswith("<!-- play"):
                self._end([number, line])
            else:
                self.prose.append((number, line))
        if block:
            self.wrong.append(f"{block.number}: this block does not end")
        if comment:
            self.wrong.append(f"{comment[0]}: this comment does not end")
        before = ""
        for number, line in self.prose:
            if line.startswith("    ") and line.strip() and not before.strip() and not self._in_list(number):
                self.wrong.append(f"{number}: a block that is indented cannot say whether it is run: use ```console")
            before = line

    def _in_list(self, number):
        """Whether what is indented there belongs to an item of a list."""
        for line in reversed(self.lines[: number - 1]):
            if line.strip() and not line.startswith(" "):
                return bool(re.match(r"([-*+]|\d+\.) ", line))
        return False

    def _end(self, comment):
        number, text = comment
        if found := re.fullmatch(r"<!-- play\s+(.*?)\s*-->\s*", text, re.DOTALL):
            self._comments.append((number, found[1]))
        return None

    def _mark(self, block):
        if block.language != "console":
            if block.language not in LEFT_ALONE:
                what = f"{block.language}: " if block.language else ""
                raise Misprint(f"{block.number}: {what}a block is marked: ```console run, ```console read because=...")
            return
        try:
            words = shlex.split(block.info)[1:]
        except ValueError as error:
            raise Misprint(f"{block.number}: {block.info}: {error}") from None
        if words[:1] == ["run"]:
            block.options = {"run": "", **options_of(block, words[1:])}
            assert block.items is not None
        elif words[:1] != ["read"]:
            raise Misprint(f"{block.number}: console is followed by run or read")
        elif len(words) != 2 or not words[1].partition("because=")[2].strip():
            raise Misprint(f'{block.number}: console read says why: because="..."')

    def plan(self):
        """The plays, and the blocks that are run by themselves, in order."""
        run = deque(block for block in self.blocks if "run" in block.options)
        comments, plan = deque(self._comments), []
        while run or comments:
            if run and not (comments and comments[0][0] < run[0].number):
                plan.append(run.popleft())
                continue
            number, text = comments.popleft()
            steps = [[part.strip() for part in step.split(":", 1)] for step in text.split(",")]
            play = Play(number, [(step[0], step[1] if len(step) > 1 else None) for step in steps])
            wanted = list(dict.fromkeys(name for name, _ in play.steps))
            while wanted:
                if not run or run[0].terminal not in wanted:
                    raise Misprint(f"{number}: this play has a block of {wanted[0]}, and it is not among the next")
                play.blocks.append(run.popleft())
                wanted.remove(play.blocks[-1].terminal)
            plan.append(play)
        return plan


def visible(line):
    """What is seen of a line of prose: no comments, and of links only their words."""
    return re.sub(r"\]\([^)]*\)", "]", re.sub(r"<!--.*?-->", "", line))


def too_wide(page):
    """The lines of prose that are not wrapped."""
    return [
        f"{number}: {len(visible(line).rstrip())} columns, and {WIDEST} are the most"
        for number, line in page.prose
        if len(visible(line).rstrip()) > WIDEST and not line.lstrip().startswith("|")
    ]


def without_code(page):
    """The prose as one text with its lines where they are on the page, and without what is code."""
    prose = dict(page.prose)
    text = "\n".join(prose.get(number, "") for number in range(1, len(page.lines) + 1))
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", lambda found: "\n" * found[0].count("\n"), text, flags=re.DOTALL)


def anchors(page):
    """Where a link into the page can lead: what GitHub calls its headings, and its own names."""
    found, counts = set(), {}
    for _, line in page.prose:
        found |= set(re.findall(r"<a (?:id|name)=[\"']([^\"']+)", line))
        if heading := re.fullmatch(r"#{1,6} +(.*?)[ #]*", line):
            words = re.sub(r"[`*]", "", re.sub(r"\]\([^)]*\)", "]", heading[1])).lower()
            slug = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
            count = counts[slug] = counts.get(slug, -1) + 1
            found.add(f"{slug}-{count}" if count else slug)
    return found


def dead_links(page, path, root=ROOT):
    """The links to files and headings that are not there."""
    dead, text = [], without_code(page)
    for found in re.finditer(r"\]\(([^)\s]+)|<(?:img|a) [^>]*(?:src|href)=[\"']([^\"']+)", text):
        link = found[1] or found[2]
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or not target.is_relative_to(root.resolve()):
            why = "nothing is there"
        elif not anchor:
            continue
        elif target.suffix == ".md" and anchor not in anchors(Page(target.read_text())):
            why = "the page is there, and has no such heading"
        elif target.suffix != ".md" and not re.fullmatch(r"L\d+(-L\d+)?", anchor):
            why = "this is no page, and has no headings"
        else:
            continue
        dead.append(f"{text.count(chr(10), 0, found.start()) + 1}: {link}: {why}")
    return dead


def unexplained(page, glossary):
    """The words of the glossary that come up without a link for the first time, of those that mean nothing else."""
    words = re.findall(r"^#{2,4} +(.+?) *$", glossary, re.MULTILINE)
    text = re.sub(r"^(#|\|).*", "", without_code(page), flags=re.MULTILINE)
    links = [found.span() for found in re.finditer(r"\[[^\]]*\]\([^)]*\)", text)]
    found = []
    for word in words:
        if word.lower() not in PLAIN_WORDS:
            continue
        use = re.search(rf"(?<![\w-]){re.escape(word)}s?(?![\w-])".replace(r"\ ", r"\s+"), text, re.IGNORECASE)
        if use and not any(start <= use.start() < end for start, end in links):
            line = text.count("\n", 0, use.start()) + 1
            found.append(f"{line}: {word!r} comes up for the first time, without a link to the glossary")
    return found


def missing(need):
    """Why what a block needs is not there, or ""."""
    kind, _, name = need.partition(":")
    if kind == "nofile" and name.isdigit():
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        enough = hard == resource.RLIM_INFINITY or hard >= int(name)
        return "" if enough else f"no more than {hard} descriptors may be had"
    if kind == "py" and name:
        return "" if importlib.util.find_spec(name) else f"{name} cannot be imported"
    if need == "linux":
        return "" if sys.platform == "linux" else "this is not Linux"
    beside = os.path.dirname(sys.executable)  # where packages put programs: PATH of the page has that, too
    if not shutil.which(need) and not shutil.which(need, path=beside):
        return f"{need} is not installed"
    if need == "nc":
        said = subprocess.run(["nc", "-h"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return "" if b"OpenBSD" in said.stdout else "nc is not OpenBSD's"
    return ""


class Names:
    """The ports of clients: those on the page, and those that came."""

    def __init__(self):
        self.came, self.here = {}, {}  # page -> what came, of the whole page; the reverse, of the block

    def same(self, expected, came, figures=None):
        """Whether the line came that is on the page; its ports are bound then."""
        pairs = [plain(line, figures) for line in (expected, came)]
        if pairs[0][0] != pairs[1][0]:
            return False
        new = list(zip(pairs[0][1], pairs[1][1], strict=True))
        bound, here = {**self.came}, {**self.here}
        for page, real in new:
            if bound.setdefault(page, real) != real or here.setdefault(real, page) != page:
                return False
        self.came, self.here = bound, here
        return True

    def on_page(self, line):
        """The line as the page would have it."""
        known = {real: page for page, real in self.came.items()} | self.here

        def replace(found):
            real = found["port"]
            if not PORT.fullmatch(real):
                page = known.get(real, real)
                self.came.setdefault(page, real)
                self.here.setdefault(real, page)
                return found["host"] + page
            return found[0]

        return CLIENT.sub(replace, line)


def plain(line, figures):
    """The line with placeholders, and the clients' ports that it has."""
    ports = []

    def replace(found):
        if PORT.fullmatch(found["port"]):
            return found[0]
        ports.append(found["port"])
        return found["host"] + "PORT"

    line = DATE.sub("YYYY-MM-DD HH:MM", TIME.sub("HH:MM:SS", CLIENT.sub(replace, line.rstrip())))
    line = JOB.sub(r"[\1] JOB", ENDED.sub(r"\1", line))
    line = JOB_STATE.sub(lambda found: " ".join(found[0].split()), line)
    if figures == "":
        line = re.sub(NUMBER, "#", line)
    elif figures:
        words = "|".join(map(re.escape, figures.split(",")))
        line = re.sub(rf"{NUMBER}(?=\s*(?:{words})\b)", "#", line)
    return (" ".join(line.split()) if figures is not None else line), ports


class Screen:
    """A terminal with a bash, and what has come on it."""

    def __init__(self, name, folder, replay):
        environment = {
            "HOME": str(folder),
            "PATH": os.pathsep.join(map(str, [*replay.path, os.environ.get("PATH", os.defpath)])),
            "TMPDIR": str(replay.temporary),
            "PS1": PROMPT,
            "PS2": "",
            "TERM": "dumb",
            "NO_COLOR": "1",
            "LC_ALL": "C.UTF-8",
            "HISTFILE": "",
        }
        settings = [f"{key}={value}" for key, value in environment.items()]
        # Of a control key a terminal throws away what was written and not read yet: no more (noflsh). And there is no
        # echo: what is typed is known, and where a program turns it on (telnet does), its lines are told apart.
        bash = ["/bin/sh", "-c", 'stty noflsh -echo && exec "$@"', "sh", shutil.which("bash")]
        self.child = harness.Terminal(
            [shutil.which("env"), "-i", *settings, *bash, "--noprofile", "--norc", "--noediting", "-i"],
            cwd=str(folder),
            echo=False,
            dimensions=(40, 100),
        )
        self.child.ptyproc.delayafterclose = 0
        self.fd, self.pid, self.name, self.replay = self.child.child_fd, self.child.pid, name, replay
        self.decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self.text, self.over, self.seen = "", False, deque(maxlen=8)
        self.at_prompt = False
        self.passing = False  # lines that are not on the page
        self.newline = False  # may come: the end of the line on which a control key was typed
        self.echoes = []  # may come: what was typed

    def type(self, text):
        """Type it. Returns whether the terminal shows what is typed, as some programs have it do."""
        echo, data = self.echoes_now(), text.encode()
        while data:
            data = data[os.write(self.fd, data) :]
        return echo or self.echoes_now()

    def echoes_now(self):
        return bool(termios.tcgetattr(self.fd)[3] & termios.ECHO)

    def read(self):
        """Take what is there; it may wait if nothing is."""
        try:
            data = os.read(self.fd, 1 << 16)
        except OSError:  # EIO: nobody has this terminal open any more
            data = b""
        self.text = (self.text + self.decoder.decode(data, final=not data))[-MOST:]
        self.over = not data

    def take(self):
        """The next line, or the prompt, as a pair of kind and text; None if neither has come."""
        line, newline, rest = self.text.partition("\n")
        before, prompt, after = line.partition(PROMPT)
        if prompt:
            self.text = prompt + after + newline + rest if before else after + newline + rest
            return ("line", self._known(before)) if before else ("prompt", "")
        if newline or (self.over and line):
            self.text = rest
            return ("line", self._known(line.rstrip("\r")))
        return ("end", "") if self.over else None

    def _known(self, line):
        line = self.replay.on_page(line)
        self.seen.append(line)
        return line

    def await_program(self, seconds, has_begun):
        """Wait until a program runs here that takes signals, and return whether one does."""

        def runs():
            group = self.foreground()
            if group is None or has_begun:
                return group
            with contextlib.suppress(psutil.Error):  # before it is the program, the new process is a second bash
                return psutil.Process(group).cmdline() != psutil.Process(self.pid).cmdline()
            return True

        return harness.wait_until(runs, seconds)

    def foreground(self):
        """The process id of the program that runs here, or None if none does."""
        group = os.tcgetpgrp(self.fd)
        return None if group == self.pid else group

    def session(self):
        """All processes that were started here."""
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError, psutil.Error):
                if os.getsid(pid) == self.pid and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                    found.append(pid)
        return found

    def end(self):
        """End everything that was started here, stopped jobs and those in the background too."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)  # so that it starts no more
        end = time.monotonic() + harness.DEADLINE
        while (others := [pid for pid in self.session() if pid != self.pid]) and time.monotonic() < end:
            for pid in others:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        self.child.end()


class Part:
    """A block that is being played."""

    def __init__(self, replay, block, screen):
        self.replay, self.block, self.screen = replay, block, screen
        self.items, self.out, self.last = deque(block.items), [], None
        self.figures = block.options.get("figures")
        if "tail" in block.options:
            screen.passing = True

    def where(self, item):
        number = item.number if item else self.block.number
        return f"{number} ({self.screen.name})"

    def untrue(self, item, expected, came):
        seen = "".join(f"\n    {line}" for line in self.screen.seen)
        before = f"\n  the last lines that came:{seen}" if seen else ""
        if plain(expected, self.figures)[0] == plain(came, self.figures)[0] and not self.screen.passing:
            before = "\n  (elsewhere on the page, these ports are not those of the same client)" + before
        return Untrue(f"{self.where(item)}:\n  expected: {expected}\n  came:     {came}{before}")

    def next(self, end):
        """The next line or prompt as a pair of kind and text, or the kind "nothing" where none has come in time."""
        return self.replay.next(self.screen, end) or ("nothing", "")

    def is_passed_over(self, line):
        """Whether a line may come that is not on the page."""
        screen = self.screen
        if line in screen.echoes:
            screen.echoes.remove(line)
        elif screen.newline and not line:
            screen.newline = False
        else:
            return screen.passing
        return True

    def ends_with_prompt(self):
        """Whether what is printed now ends with the prompt."""
        for item in self.items:
            if item.is_typed or item.kind == "prompt":
                return item.kind in ("command", "prompt")
        return "stays" not in self.block.options

    def expect(self, item):
        """Await a line of the page."""
        screen, end = self.screen, self.replay.deadline()
        while True:
            kind, line = event = self.next(end)
            if kind == "line" and self.replay.names.same(item.text, line, self.figures):
                screen.passing = screen.newline = False
                self.put(item)
                return
            if kind == "line" and self.is_passed_over(line):
                continue
            self.wrong(item, item.text, event, self.ends_with_prompt())
            while self.items and self.items[0].kind in ("printed", "gap"):
                self.items.popleft()
            return

    def prompt(self, item):
        """Await the prompt, with nothing before it; `item` is the last one, or the one for which it is needed."""
        screen, end = self.screen, self.replay.deadline()
        while not screen.at_prompt:
            kind, line = event = self.next(end)
            if kind == "prompt":
                screen.at_prompt = True
            elif kind != "line" or not self.is_passed_over(line):
                self.wrong(item, "the prompt, as the command ends", event, True)
        screen.passing = False

    def wrong(self, item, expected, event, to_the_prompt):
        """Something else has come. If the page is written anew, take that, and what comes after it."""
        kind, line = event
        came = {
            "line": line,
            "prompt": "the prompt, and nothing before it",
            "end": "the end of the terminal",
            "nothing": f"nothing, for {self.replay.patience:g} seconds",
        }[kind]
        seen = "".join(f"\n    {line}" for line in self.screen.seen)
        seen = f"\n  the last lines that came:{seen}" if seen else ""
        if kind == "line" and plain(expected, self.figures)[0] == plain(line, self.figures)[0]:
            seen = "\n  (elsewhere on the page these ports are not those of the same client)" + seen
        problem = Untrue(f"{self.where(item)}:\n  expected: {expected}\n  came:     {came}{seen}")
        if not self.replay.write or kind == "end" or (kind == "nothing" and to_the_prompt):
            raise problem
        self.replay.problems.append(item.number)
        self.screen.passing = False
        self.take(event, to_the_prompt, item.joined)
        if to_the_prompt and not self.screen.at_prompt:
            raise problem

    def take(self, event, to_the_prompt, joined=False):
        """Take what comes into what is written anew, up to the prompt, or until no more comes for a moment."""
        kind, line = event
        while kind == "line":
            line = self.replay.names.on_page(line)
            if joined:
                self.out[-1] += line
            else:
                self.out.append(line)
            joined = False
            kind, line = self.next(self.replay.deadline() if to_the_prompt else time.monotonic() + QUIET)
        self.screen.at_prompt = kind == "prompt"

    def put(self, item):
        if item.joined:
            self.out[-1] += item.text
        else:
            self.out += item.lines

    def play(self, item):
        """Type it, or await it."""
        screen, before, self.last = self.screen, self.last, item
        if item.kind == "printed":
            self.expect(item)
            return
        if item.kind == "gap":
            screen.passing = True
        elif item.kind in ("prompt", "command"):
            self.prompt(item)
        elif self.replay.write and not screen.passing:
            self.surplus(item)
        self.put(item)
        if item.kind == "command":
            screen.type(self.replay.real(item.text, self.where(item)) + "\n")
            screen.echoes, screen.newline, screen.at_prompt = [], False, False
        elif item.kind in ("typed", "secret"):
            self.replay.read(0)
            if screen.at_prompt or PROMPT in screen.text:
                raise Untrue(f"{self.where(item)}: nothing runs there into which {item.text!r} could be typed")
            # The question may be on the screen before what turns the echo off has come to the program.
            if item.kind == "secret" and not harness.wait_until(lambda: not screen.echoes_now(), self.replay.patience):
                raise Untrue(f"{self.where(item)}: {item.text!r} is a secret, and the terminal would show it")
            if screen.type(item.text + "\n") and item.kind == "typed":
                screen.echoes.append(item.text)
        elif item.kind == "control":
            # A program that has printed something is there; of another it must be seen that bash has started it.
            if not screen.await_program(self.replay.patience, before is not None and before.kind == "printed"):
                raise Untrue(f"{self.where(item)}: nothing runs there that {item.lines[0]} could be for")
            screen.type(item.text)
            screen.newline = not (self.items and self.items[0].joined)

    def surplus(self, item):
        """Take what comes before something is typed, and is not on the page."""
        kind, line = event = self.next(time.monotonic() + QUIET)
        while kind == "line" and self.is_passed_over(line):
            kind, line = event = self.next(time.monotonic() + QUIET)
        if kind == "line":
            self.replay.problems.append(item.number)
        self.take(event, False)

    def type_next(self, step):
        """Go on up to the next line that is typed, and type it."""
        while self.items:
            item = self.items.popleft()
            self.play(item)
            if item.is_typed:
                return
        raise Misprint(f"{step}: nothing is left there that would be typed in {self.screen.name}")

    def reach(self, text, step):
        """Go on until a line that has this text."""
        shown = itertools.takewhile(lambda item: not item.is_typed, self.items)
        numbers = [number for number, item in enumerate(shown) if item.kind == "printed" and text in item.text]
        if not numbers:
            raise Misprint(f"{step}: {self.screen.name} has no line with {text!r} there")
        left = len(self.items) - numbers[0] - 1
        while len(self.items) > left:
            self.play(self.items.popleft())

    def finish(self):
        """Go on to the end."""
        while self.items:
            self.play(self.items.popleft())
        if "stays" not in self.block.options:
            self.prompt(self.last)
        if self.replay.write:
            self.replay.written.append((self.block, self.out))


class Replay:
    """A page that is being replayed."""

    def __init__(self, page, scratch, root=ROOT, write=False, patience=None):
        self.page, self.write = page, write
        self.patience = patience or harness.DEADLINE  # seconds for whatever must come
        self.folder, self.temporary, self.programs = scratch / "chat", scratch / "tmp", scratch / "bin"
        self.names, self.screens = Names(), {}
        self.problems, self.written, self.left_out = [], [], {}
        self._ports, self._selector = {}, None
        self.temporary.mkdir()
        self.programs.mkdir()
        self._link(Path(sys.executable))
        self._copy(root)

    def _link(self, interpreter):
        """Make `python3` and `python` the interpreter that runs this."""
        names = ("python3", "python")
        if all(os.path.realpath(interpreter.with_name(name)) == os.path.realpath(interpreter) for name in names):
            self.path = [interpreter.parent]
            return
        self.path = [self.programs]
        for name in names:  # a link would not do: by its own path an interpreter finds its virtual environment
            (self.programs / name).write_text(f'#!/bin/sh\nexec {shlex.quote(str(interpreter))} "$@"\n')
            (self.programs / name).chmod(0o755)

    def _copy(self, root):
        """Copy the repository, in which the port that all have by default is one that is free."""
        shutil.copytree(
            root,
            self.folder,
            ignore=shutil.ignore_patterns(
                ".*", "__pycache__", "*.egg-info", "build", "venv", "chat-history.db*", "*.pem"
            ),
        )
        for path in self.folder.glob("**/*.py"):
            text = path.read_bytes()
            if DEFAULTS.search(text):
                path.write_bytes(DEFAULTS.sub(lambda found: self.port(found[0].decode()).encode(), text))

    def port(self, number):
        if number not in self._ports:
            self._ports[number] = str(harness.free_port())
        return self._ports[number]

    def real(self, command, where):
        """The command as it is typed."""
        command = PORT.sub(lambda found: self.port(found[0]), command)
        command = re.sub(r"(?<![\w./-])/tmp/", lambda _: f"{self.temporary}/", command)
        if PID.search(command):
            server = self.screens.get("server")
            pid = server and server.foreground()
            if not pid:
                raise Untrue(f"{where}: the command has PID, and nothing runs in a terminal `server`")
            command = PID.sub(str(pid), command)
        return command

    def on_page(self, line):
        """The line that came with ports and paths as a page has them."""
        for page, real in self._ports.items():
            line = re.sub(rf"\b{real}\b", page, line)
        return line.replace(str(self.temporary), "/tmp").replace(str(self.folder), HOME)

    def screen(self, name):
        if name not in self.screens:
            if not shutil.which("bash"):
                raise Untrue(f"{name}: bash is not installed")
            screen = self.screens[name] = Screen(name, self.folder, self)
            self._selector.register(screen.fd, selectors.EVENT_READ, screen)
            end = time.monotonic() + harness.DEADLINE
            while event := self.next(screen, end):  # bash may have something to say about the locale
                screen.at_prompt = event[0] == "prompt"
                if event[0] != "line":
                    break
            if not screen.at_prompt:
                raise Untrue(f"{name}: bash does not start")
            screen.seen.clear()
        return self.screens[name]

    def deadline(self):
        """Until when something must come that is awaited from now on."""
        return time.monotonic() + self.patience

    def next(self, screen, end):
        """The next line or prompt of a terminal, or None where none has come in time."""
        while not (event := screen.take()):
            if (left := end - time.monotonic()) < 0:
                return None
            self.read(left)
        return event

    def read(self, seconds):
        """Read all terminals, so that no program waits for that; wait until there is something."""
        for key, _ in self._selector.select(seconds):
            key.data.read()
            if key.data.over:
                self._selector.unregister(key.fd)

    def leave_out(self, block):
        """Whether something is missing that the block needs; it is noted then."""
        for need in block.options.get("needs", "").split(","):
            if need and (why := missing(need)):
                if need in ("telnet", "nc", "ncat", "socat") and os.environ.get("CHAT_ALL_PROGRAMS"):
                    raise Untrue(f"{block.number}: {why}, and CHAT_ALL_PROGRAMS is set")
                self.left_out.setdefault(why, []).append(block.number)
                return True
        return False

    def run(self):
        """Play all of it. The first thing that is not so is raised, if the page is not to be written anew."""
        if self.page.wrong:
            raise Misprint("\n".join(self.page.wrong))
        self._selector = selectors.DefaultSelector()
        try:
            for task in self.page.plan():
                self.names.here = {}
                blocks = [task] if isinstance(task, Block) else task.blocks
                if any([self.leave_out(block) for block in blocks]):
                    continue
                if isinstance(task, Block):
                    Part(self, task, self.screen(task.terminal)).finish()
                else:
                    self.play(task)
        finally:
            for screen in self.screens.values():
                screen.end()
            self._selector.close()

    def play(self, play):
        parts = {block.terminal: Part(self, block, self.screen(block.terminal)) for block in play.blocks}
        for number, (terminal, text) in enumerate(play.steps, 1):
            step = f"{play.number}, step {number}"
            if text is None:
                parts[terminal].type_next(step)
            else:
                parts[terminal].reach(text, step)
        for part in parts.values():
            part.finish()

    def text(self):
        """The page with what came."""
        lines = list(self.page.lines)
        for block, out in sorted(self.written, key=lambda pair: -pair[0].number):
            new = [(block.indent + line).rstrip() if line.strip() else "" for line in out]
            old = lines[block.number : block.number + len(block.lines)]
            if [line.rstrip() for line in old] != new:
                lines[block.number : block.number + len(block.lines)] = new
        return "\n".join(lines)


@contextlib.contextmanager
def located(name):
    """Put the page's name before what is wrong there."""
    try:
        yield
    except Untrue as problem:
        raise type(problem)(re.sub(r"^(?=\d)", f"{name}:", str(problem), flags=re.MULTILINE)) from None


def replay(path, scratch, root=ROOT, write=False, patience=None):
    """Replay a page, and write it anew if that is wanted and needed. Returns the replay."""
    text = path.read_text()
    with located(title(path, root)):
        played = Replay(Page(text), scratch, root, write, patience)
        played.run()
    if write and (new := played.text()) != text:
        path.write_text(new)
    return played


def title(path, root=ROOT):
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def pages(root=ROOT):
    """All pages of the repository."""
    folders = ("", "[!.]*/", "[!.]*/two_way/", "features/*/")
    found = [path for folder in folders for path in root.glob(f"{folder}*.md")]
    return sorted(path for path in found if path.relative_to(root).parts[0] not in ("build", "venv"))


def unsound(path, root=ROOT):
    """What is wrong with a page that can be seen without running any of it."""
    page = Page(path.read_text())
    return too_wide(page) + dead_links(page, path, root)


def report(path, write, reaper):
    """Replay a page, and say what is wrong with it. Returns whether anything is."""
    start, name = time.monotonic(), title(path)
    wrong = [f"{name}:{problem}" for problem in unsound(path)]
    with tempfile.TemporaryDirectory(prefix="chat-pages-", ignore_cleanup_errors=True) as scratch:
        reaper.directory(scratch)
        try:
            played = replay(path, Path(scratch), write=write)
        except Untrue as problem:
            wrong += [str(problem)]
        else:
            for why, numbers in played.left_out.items():
                print(f"{name}: left out, as {why}: the blocks of lines", *numbers)
            if played.problems:
                print(f"{name}: written anew; there came something else in line", *played.problems)
    print(*wrong, sep="\n", end="\n" * bool(wrong))
    if not wrong:
        print(f"{name}: {time.monotonic() - start:.1f} seconds")
    return bool(wrong)


def main():
    """Replay pages, and say which of them are wrong, or write them."""
    parser = argparse.ArgumentParser(description="Replay the console blocks of pages.")
    parser.add_argument("--write", action="store_true", help="write what came into the pages")
    parser.add_argument("pages", nargs="*", type=Path, metavar="PAGE", help="a page, such as poll_based/README.md")
    arguments = parser.parse_args()
    for path in arguments.pages:
        if not path.is_file():
            parser.error(f"{path} is no file")
    reaper = Reaper()
    try:
        wrong = [report(path.resolve(), arguments.write, reaper) for path in arguments.pages or pages()]
    finally:
        reaper.close()
    return int(any(wrong))


if __name__ == "__main__":
    sys.exit(main())
