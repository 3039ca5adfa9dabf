"""The page of features/web/ in a real browser: Debian's Chromium, driven by Playwright.

What a person does and sees is tested against the real server. What a server says rarely or never, and when, the test
says itself: then it is the server (`stage`).
"""

import base64
import contextlib
import functools
import hashlib
import http
import itertools
import os
import queue
import re
import shutil
import tempfile
import threading
from pathlib import Path

import harness
import pytest
import websockets.exceptions
import websockets.sync.server
from harness import BrokenPromise
from promises import ROOT

PAGE = ROOT / "features" / "web" / "page.html"
CHROMIUM = "/usr/bin/chromium"
TABS = pytest.StashKey()
TIME = r"\[\d{4}-\d\d-\d\d \d\d:\d\d\] "
NO_CONNECTION = "WebSocket connection to "  # how the browser's own complaint begins, which no page can prevent
CONTRAST = 4.5  # of text with its background, at least: WCAG 2, 1.4.3

# Playwright keeps every page visible, and says so to the page. So a test says that it is hidden.
HIDING = "Object.defineProperty(document, 'hidden', {get: () => Boolean(window.isHiddenNow)})"
HIDE = "hidden => { window.isHiddenNow = hidden; document.dispatchEvent(new Event('visibilitychange')); }"


@functools.cache
def sync_api():
    """Playwright: imported when it is needed, as that takes long. Where there is no wheel of it pip has left it out."""
    return pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


def expect(what):
    """What Playwright expects of a part of a page, for which it waits."""
    return sync_api().expect(what)


def policy(page):
    """The header Content-Security-Policy for the page, from the rules of the browsers."""
    hashes = [
        base64.b64encode(hashlib.sha256(re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[0].encode()).digest())
        for tag in ("script", "style")
    ]
    return (
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ).format(*(digest.decode() for digest in hashes))


class Photographer:
    """Takes a picture of each tab of a test that fails, and names it in the failure."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = yield
        tabs = item.stash.get(TABS, [])
        if report.failed and call.when == "call" and tabs:
            folder = Path(tempfile.mkdtemp(prefix="chat-screenshots-"))
            for number, tab in enumerate(tabs, 1):
                path = folder / f"{number}.png"
                with contextlib.suppress(sync_api().Error):  # it may have crashed
                    tab.page.screenshot(path=path, timeout=5000)
                    report.sections.append((f"what {tab} showed", f"{path}\n{tab.describe()}"))
        return report


@pytest.fixture(scope="module")
def browser(request):
    """The one browser of this worker: started when it is needed, which takes a second or two."""
    if not shutil.which(CHROMIUM):
        if os.environ.get("CHAT_ALL_PROGRAMS"):
            raise BrokenPromise(f"{CHROMIUM} is not installed, and CHAT_ALL_PROGRAMS is set")
        pytest.skip(f"{CHROMIUM} is not installed")
    photographer = Photographer()
    request.config.pluginmanager.register(photographer)
    sync_api().expect.set_options(timeout=harness.DEADLINE * 1000)
    with sync_api().sync_playwright() as playwright:
        # Chromium's sandbox refuses to work for root, and needs what a container may not have.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
    request.config.pluginmanager.unregister(photographer)


@pytest.fixture
def browse(request, browser):
    """Open a page in a window of its own: `browse(url)` gives a Tab. All of them must have behaved in the end."""
    tabs = request.node.stash.setdefault(TABS, [])

    def open_tab(url, clock=False, **options):
        context = browser.new_context(ignore_https_errors=True, **options)
        context.set_default_timeout(harness.DEADLINE * 1000)
        context.add_init_script(HIDING)
        tabs.append(Tab(context.new_page(), url))
        if clock:  # it stands still, but for what the test lets pass
            tabs[-1].page.clock.install(time=0)
            tabs[-1].page.clock.pause_at(1000)
        tabs[-1].open()
        return tabs[-1]

    yield open_tab
    for tab in tabs:
        tab.page.context.close()
    for tab in tabs:
        tab.check()


class Tab:
    """The page in a window of the browser, and what a person does there."""

    def __init__(self, page, url):
        self.page, self.url, self.name = page, url, "somebody"
        self.complaints, self.requests = [], []
        self.may_lose = False  # its connection, of which the browser complains
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.log, self.lines = page.get_by_role("log"), page.get_by_role("log").locator("p")
        self.state, self.error = page.get_by_role("status"), page.get_by_role("alert")
        self.name_field = page.get_by_label("Your name", exact=True)
        self.password_field = page.get_by_label("Password", exact=True)
        self.message = page.get_by_label("Message", exact=True)
        self.people = page.get_by_role("listitem")
        self.newest = page.get_by_role("button", name="↓")

    def __str__(self):
        return f"{self.name} at {self.url}"

    def open(self):
        self.answer = self.page.goto(self.url)

    def come_in(self, name, password=None):
        """Give a name, and a password if it is asked for, and be in the room."""
        self.give_name(name)
        if password is not None:
            self.give_password(password)
        expect(self.message).to_be_focused()
        return self

    def give_name(self, name):
        self.name = name
        self.name_field.fill(name)
        self.name_field.press("Enter")

    def give_password(self, password):
        self.password_field.fill(password)
        self.password_field.press("Enter")

    def say(self, text):
        self.message.fill(text)
        self.message.press("Enter")

    def expect_log(self, *lines):
        """Wait until these are the lines of the log, all of them. `old(line)` is one of the history."""
        expect(self.lines).to_have_text(list(lines))

    def expect_last(self, *lines):
        """Wait until these are the last lines of the log."""
        for place, line in enumerate(reversed(lines), 1):
            expect(self.lines.nth(-place)).to_have_text(line)

    def hide(self, hidden):
        """Let the page believe that another tab is in front of it, or no longer."""
        self.page.evaluate(HIDE, hidden)

    def scroll(self, top):
        """Scroll the log, and wait until the page has noticed."""
        self.log.evaluate(
            "(log, top) => new Promise(done => { log.addEventListener('scroll', () => done(), {once: true});"
            " log.scrollTop = top; })",
            top,
        )

    def place(self):
        """How far the log is scrolled down, and how far from the end that is."""
        return self.log.evaluate("log => [log.scrollTop, log.scrollHeight - log.clientHeight - log.scrollTop]")

    def describe(self):
        return "\n".join([*self.complaints, *self.requests, *self.lines.all_text_contents()[-20:]])

    def check(self):
        """Fail if the browser had to complain of the page, or if the page asked for anything but itself."""
        complaints = [
            complaint
            for complaint in self.complaints
            if not (self.may_lose and complaint.startswith(f"error: {NO_CONNECTION}"))
        ]
        chat = self.url.replace("http", "ws", 1) + "chat"
        others = [url for url in self.requests if url not in (self.url, chat)]
        if complaints or others:
            raise BrokenPromise("\n".join([str(self), *complaints, *others]))


def old(line):
    """A line of the history."""
    return re.compile(f"^{TIME}{re.escape(line)}$")


class Stage:
    """The test as the server: it gives the page, lets it connect, and says what the test says."""

    def __init__(self, page):
        self.page = page
        self.visits, self.arrivals = [], queue.Queue()
        self.open()

    def open(self, port=0):
        """Listen. A second time it is on the same port."""
        self.closing = False
        self.server = websockets.sync.server.serve(self._attend, "127.0.0.1", port, process_request=self._give)
        self.port = self.server.socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def _give(self, connection, request):
        if request.path == "/chat":
            return None
        if request.path != "/":
            return connection.respond(http.HTTPStatus.NOT_FOUND, "")
        response = connection.respond(http.HTTPStatus.OK, self.page)
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "text/html; charset=utf-8"
        response.headers["Content-Security-Policy"] = policy(self.page)
        return response

    def _attend(self, connection):
        visit = Visit(connection)
        self.visits.append(visit)
        self.arrivals.put(visit)
        if not self.closing:  # or close() may have missed this one
            visit.over.wait()  # the connection is closed at the end of this

    def accept(self):
        """The next connection of the page."""
        try:
            return self.arrivals.get(timeout=harness.DEADLINE)
        except queue.Empty:
            raise BrokenPromise("the page makes no connection") from None

    def welcome(self, name, *lines):
        """Let the next one in, who must say this name, and tell it the lines."""
        visit = self.accept()
        visit.say("your name?")
        visit.expect(name)
        visit.say(*(lines or [f"* you are {name}; nobody else is here"]))
        return visit

    def close(self):
        """Close all connections, and listen no more."""
        self.closing = True
        for visit in self.visits:
            visit.over.set()
        self.server.shutdown()
        self.thread.join()


class Visit:
    """One connection of the page to the stage."""

    def __init__(self, connection):
        self.connection, self.over = connection, threading.Event()

    def say(self, *lines):
        """Send the lines, in one message."""
        self.connection.send("".join(f"{line}\n" for line in lines))

    def expect(self, text):
        """Wait for the next message, which must be this."""
        assert self.connection.recv(timeout=harness.DEADLINE) == text

    def expect_closed(self):
        """Wait until the page has ended the connection."""
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            self.connection.recv(timeout=harness.DEADLINE)

    def close(self):
        self.connection.close()
        self.over.set()


@pytest.fixture
def stage():
    with contextlib.closing(Stage(PAGE.read_text())) as stage:
        yield stage


@pytest.fixture
def chat(serve):
    """The real server; `chat.url` is where its page is."""
    server = serve("web")
    server.url = server.await_log(r"web page on (\S+)$")[1]
    return server


# ---- With the real server


def test_two_browsers_and_a_terminal_are_in_one_room(chat, browse):
    ana = browse(chat.url).come_in("ana")
    ana.expect_log("* you are ana; nobody else is here")
    tom = chat.enter("tom")
    assert tom.welcome == "* you are tom; also here: ana\n"
    ana.say("hello")
    tom.expect(b"ana says: hello\n")
    bob = browse(chat.url).come_in("bob")
    tom.expect(b"* bob joined\n")
    bob.expect_log("* you are bob; also here: ana, tom", old("ana says: hello"))
    expect(bob.people).to_have_text(["ana", "bob (you)", "tom"])

    tom.send(b"hello from a terminal\n")
    bob.expect_last("tom says: hello from a terminal")
    ana.expect_last("tom says: hello from a terminal")
    bob.say("//me: that is how a line begins with a slash")
    bob.say("/me waves")
    tom.expect(b"bob says: /me: that is how a line begins with a slash\n~ bob waves\n")
    bob.say("/pm ana a secret")
    ana.expect_last("bob whispers: a secret")
    bob.expect_last("* you whisper to ana: a secret")
    ana.say("/nick anna")
    tom.expect(b"* ana is now anna\n")
    bob.expect_last("* ana is now anna")
    bob.say("/foo")
    bob.expect_last("error: there is no /foo; /help lists what there is")
    tom.close()
    bob.expect_log(
        "* you are bob; also here: ana, tom",
        old("ana says: hello"),
        "tom says: hello from a terminal",
        "bob says: /me: that is how a line begins with a slash",
        "~ bob waves",
        "* you whisper to ana: a secret",
        "* ana is now anna",
        "error: there is no /foo; /help lists what there is",
        "* tom left",
    )
    ana.expect_log(
        "* you are ana; nobody else is here",
        "* tom joined",
        "ana says: hello",
        "* bob joined",
        "tom says: hello from a terminal",
        "bob says: /me: that is how a line begins with a slash",
        "~ bob waves",
        "bob whispers: a secret",
        "* ana is now anna",
        "* tom left",
    )
    expect(ana.people).to_have_text(["anna (you)", "bob"])
    expect(ana.state).to_have_text("You are anna")


def test_the_page_comes_with_its_policy(chat, browse):
    tab = browse(chat.url)
    assert tab.answer.headers["content-security-policy"] == policy(PAGE.read_text())
    expect(tab.page.locator("link")).to_have_attribute("href", "data:,")  # or browsers with a window ask for an icon
    assert tab.page.content().count("<script") == tab.page.content().count("<style") == 1


@pytest.mark.parametrize("name", ["", "<b>ana</b>", "<script>alert(1)</script>", "a" * 21, "1st", "a b"])
def test_a_name_that_is_refused(chat, browse, name):
    tab = browse(chat.url)
    tab.give_name(name)
    expect(tab.error).to_have_text("error: a name has 1 to 20 letters, digits, - and _, and begins with a letter")
    expect(tab.name_field).to_have_value(name)
    tab.come_in("ana")
    expect(tab.error).to_have_text("")
    expect(tab.state).to_have_text("You are ana")


def test_a_name_that_is_taken(chat, browse):
    tom = chat.enter("tom")
    tab = browse(chat.url)
    tab.give_name("TOM")
    expect(tab.error).to_have_text("error: TOM is taken")
    tab.come_in("tim")
    tom.expect(b"* tim joined\n")


def test_a_page_that_is_reloaded_comes_back_by_itself(chat, browse):
    tom = chat.enter("tom")
    ana = browse(chat.url).come_in("ana")
    ana.say("hello")
    tom.expect(b"* ana joined\nana says: hello\n")
    ana.page.reload()
    tom.expect(b"* ana left\n* ana joined\n")
    ana.expect_log("* you are ana; also here: tom", old("ana says: hello"))
    expect(ana.message).to_be_focused()
    ana.say("it is me again")
    tom.expect(b"ana says: it is me again\n")


@pytest.mark.parametrize("kind", ["killed", "stopped"])
def test_the_server_is_started_again(serve, browse, scratch, kind):
    """The page comes back with its name, knows what was said meanwhile, and has kept what was typed."""
    history = ("--history", scratch / "history.db")
    first = serve("web", *history)
    url = first.await_log(r"web page on (\S+)$")[1]
    ana = browse(url).come_in("ana")
    ana.may_lose = True
    ana.say("one")
    tom = first.enter("tom")
    tom.send(b"two\n")
    ana.expect_last("tom says: two")
    ana.message.fill("half of what I mea")
    (first.kill if kind == "killed" else lambda: first.signal(harness.signal.SIGTERM))()
    expect(ana.state).to_contain_text("Disconnected, and trying to come back.")
    ana.message.press("Enter")
    expect(ana.error).to_have_text("error: there is no connection; nothing was sent")
    first.wait()

    again = serve("web", *history, "--web", url.rstrip("/").rpartition(":")[2], port=first.port)
    tom = again.enter("tom")
    tom.send(b"three\n")
    expect(ana.state).to_have_text("You are ana")
    for line in ("ana says: one", "tom says: two", "tom says: three"):
        expect(ana.lines.filter(has_text=line)).to_have_count(1)
    expect(ana.message).to_have_value("half of what I mea")
    expect(ana.error).to_have_text("")
    ana.message.press("Enter")
    tom.read_until(b"ana says: half of what I mea\n")
    expect(ana.message).to_have_value("")


def test_a_password_is_typed_in_a_password_field(chat, browse):
    ana = browse(chat.url).come_in("ana")
    ana.message.press_sequentially("/register ")
    expect(ana.message).to_have_attribute("type", "password")
    ana.message.press_sequentially("open-sesame")
    expect(ana.message).to_have_value("/register open-sesame")
    ana.message.press("Enter")
    ana.expect_log(
        "* you are ana; nobody else is here",
        "* ana is yours now: its password is asked at the door",
    )
    expect(ana.message).to_have_attribute("type", "text")

    ana.page.reload()
    expect(ana.password_field).to_be_focused()
    expect(ana.password_field).to_have_attribute("type", "password")
    ana.give_password("close-sesame")
    expect(ana.error).to_have_text("error: wrong password")
    expect(ana.password_field).to_be_focused()
    expect(ana.password_field).to_have_value("")
    ana.give_password("open-sesame")
    expect(ana.message).to_be_focused()
    assert ana.page.evaluate("history.state") == {"name": "ana"}
    assert ana.page.context.storage_state() == {"cookies": [], "origins": []}
    assert "sesame" not in ana.page.content()


@pytest.mark.parametrize("typed", ["/password very secret", "/NICK bob very secret", "/register  secret"])
def test_a_password_in_a_command_is_not_shown(stage, browse, typed):
    tab, visit = enter(stage, browse)
    tab.message.press_sequentially(typed)
    expect(tab.message).to_have_attribute("type", "password")
    tab.message.press("Enter")
    visit.expect(typed)
    tab.say("hello")
    visit.expect("hello")
    tab.expect_log("* you are ana; nobody else is here", "ana says: hello")


def test_a_message_that_is_too_long_is_not_sent(chat, browse):
    tom = chat.enter("tom")
    ana = browse(chat.url).come_in("ana")
    tom.expect(b"* ana joined\n")
    for text in ("x" * 4096, "\N{SNOWMAN}" * 1366):  # and a newline; each snowman is three bytes
        ana.say(text)
        expect(ana.error).to_have_text(
            f"error: a message may be at most 4096 bytes; this one has {len(text.encode()) + 1}"
        )
        expect(ana.message).to_have_value(text)
    for text in ("x" * 4095, "\N{SNOWMAN}" * 1365):
        ana.say(text)
        tom.expect(f"ana says: {text}\n".encode())
    expect(ana.error).to_have_text("")
    expect(ana.lines).to_have_count(3)


MARKUP = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<b>bold</b> &amp; &lt;b&gt;",
    "<svg/onload=alert(1)>",
    "javascript:alert(1) https://elsewhere.example/",
    "</p></div><style>* { display: none }</style>",
    "{{7*7}} ${7*7} `${alert(1)}`",
    "__proto__ constructor",
    "\u05d0\u05d1 \u0627\u0644 123",
]


def test_markup_that_somebody_says_is_text(chat, browse):
    tom = chat.enter("tom")
    ana = browse(chat.url).come_in("ana")
    for text in MARKUP:
        tom.send(f"{text}\n/me {text}\n/pm ana {text}\n".encode())
    ana.expect_last(f"tom whispers: {MARKUP[-1]}")
    check_text(
        ana, [line for text in MARKUP for line in (f"tom says: {text}", f"~ tom {text}", f"tom whispers: {text}")]
    )
    ana.say(MARKUP[0])
    ana.expect_last(f"ana says: {MARKUP[0]}")
    ana.page.reload()
    ana.expect_last(old(f"ana says: {MARKUP[0]}"))
    check_elements(ana)


def check_elements(tab):
    """Fail if there are elements that the page does not make of what is said."""
    made = tab.page.locator("main *").evaluate_all("all => [...new Set(all.map(one => one.tagName))].sort()")
    expected = {"BDI", "BUTTON", "DETAILS", "DIV", "LI", "P", "SUMMARY", "TIME", "UL"}
    assert set(made) <= expected, made


def check_text(tab, lines):
    """Fail unless these are lines of the log, letter for letter."""
    check_elements(tab)
    shown = tab.lines.all_text_contents()
    assert [line for line in lines if line not in shown] == []


# ---- On the stage


def enter(stage, browse, *lines, name="ana", **options):
    """A page in the room, which was told these lines there, and its connection."""
    tab = browse(stage.url, **options)
    tab.give_name(name)
    visit = stage.welcome(name, *lines)
    expect(tab.message).to_be_focused()
    return tab, visit


def lose(tab, visit):
    """Have the connection end, and wait until the page knows."""
    tab.may_lose = True
    visit.close()
    expect(tab.state).to_contain_text("Disconnected, and trying to come back.")


def await_attempts(tab, count):
    """Wait until so many attempts to come back have failed, or are planned."""
    assert harness.wait_until(lambda: tab.page.evaluate("attempts") == count)


def connections(tab):
    """How many connections the page has asked for."""
    return sum(url.startswith("ws") for url in tab.requests)


NAMES = [
    "<script>alert(1)</script>",
    "<img/src=x/onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "\"'><b>",
    "&lt;b&gt;",
    "\u202eana",
    "\u05d0\u05d1",
    "__proto__",
]


def meet(stage, tab):
    """Have the page hear all kinds of lines, with names of which no real server would let one in, and check it."""
    tab.give_name("ana")
    names = ", ".join(NAMES)
    visit = stage.welcome("ana", f"* you are ana; also here: {names}")
    lines = [f"* you are ana; also here: {names}"]
    for name, text in itertools.zip_longest(NAMES, MARKUP, fillvalue="bob"):
        lines += [
            f"{name} says: {text}",
            f"~ {name} {text}",
            f"{name} whispers: {text}",
            f"* you whisper to {name}: {text}",
            f"* {name} left",
            f"* {name} joined",
            f"error: there is no {text}",
            f"[2026-11-25 12:03] {name} says: {text}",
            f"[2026-11-25 12:03] ~ {name} {text}",
        ]
    lines.append("bob says: that was all")
    visit.say(*lines[1:])
    tab.expect_last(lines[-1])
    check_text(tab, lines)
    assert tab.lines.count() == len(lines)
    here = tab.people.all_text_contents()
    assert sorted(here) == sorted(["ana (you)", "bob", *NAMES])


def test_markup_in_names_is_text(stage, browse):
    meet(stage, browse(stage.url))


def test_a_page_that_takes_markup_is_noticed(stage, browse):
    """The test above is worth something: it fails for a page with the usual mistake."""
    stage.page = stage.page.replace("made.textContent = text", "made.innerHTML = text")
    tab = browse(stage.url)
    with pytest.raises(AssertionError):
        meet(stage, tab)
    with pytest.raises(BrokenPromise, match="violates the following Content Security Policy directive"):
        tab.check()
    tab.complaints.clear()
    tab.requests.clear()


def test_letters_from_right_to_left_turn_nothing_else_around(stage, browse):
    tab, visit = enter(stage, browse)
    visit.say("~ \u05d0\u05d1 \u05d2\u05d3", "bob says: \u202e123")
    tab.expect_last("~ \u05d0\u05d1 \u05d2\u05d3", "bob says: \u202e123")
    for place in (1, 2):
        name, text = (tab.lines.nth(place).locator("bdi").nth(part).bounding_box() for part in (0, 1))
        assert name["x"] + name["width"] <= text["x"]


def test_what_one_says_is_shown_as_the_others_see_it(stage, browse):
    """The server removes characters that would play tricks on a terminal, and so does the page."""
    tab, visit = enter(stage, browse)
    tab.say("one\u202etwo\u0085 \u2066three\tfour")
    visit.expect("onetwo three\tfour")
    tab.expect_last("ana says: onetwo three\tfour")
    check_text(tab, ["ana says: onetwo three\tfour"])


def test_a_page_without_a_server_says_so(stage, browse):
    tab = browse(stage.url)
    tab.may_lose = True
    stage.close()
    tab.give_name("ana")
    expect(tab.error).to_have_text("error: the server cannot be reached")
    stage.open(stage.port)
    tab.give_name("ana")
    stage.welcome("ana")
    expect(tab.message).to_be_focused()
    expect(tab.error).to_have_text("")


def test_a_person_at_the_door_has_all_the_time_there_is(stage, browse):
    """The server has not. An answer that comes late makes a new connection."""
    tab = browse(stage.url)
    tab.give_name("ana")
    visit = stage.accept()
    visit.say("your name?")
    visit.expect("ana")
    visit.say("error: ana is taken", "your name?")
    expect(tab.error).to_have_text("error: ana is taken")
    visit.say("error: no name within 30 seconds")
    visit.close()
    tab.name_field.fill("root")
    expect(tab.error).to_have_text("error: ana is taken")
    tab.name_field.press("Enter")
    visit = stage.accept()
    visit.say("your name?")
    visit.expect("root")
    visit.say("password?")
    expect(tab.password_field).to_be_focused()
    expect(tab.error).to_have_text("")
    visit.say("error: no name within 30 seconds")
    visit.close()
    tab.give_password("open-sesame")
    visit = stage.accept()
    visit.say("your name?")
    visit.expect("root")
    visit.say("password?")
    visit.expect("open-sesame")
    visit.say("* you are root; nobody else is here")
    expect(tab.message).to_be_focused()


def test_another_name_when_a_password_is_asked_for(stage, browse):
    tab = browse(stage.url)
    tab.give_name("bob")
    visit = stage.welcome("bob", "error: bob is taken", "your name?")
    expect(tab.error).to_have_text("error: bob is taken")
    tab.give_name("root")
    visit.expect("root")
    visit.say("password?")
    expect(tab.password_field).to_be_focused()
    expect(tab.error).to_have_text("")
    tab.password_field.press("Enter")  # no guess: nothing was typed
    tab.give_name("ana")
    visit.expect_closed()
    stage.welcome("ana")
    expect(tab.message).to_be_focused()


CATCHING_UP = {
    "nothing new": (["bob: 1", "bob: 2"], ["bob: 1", "bob: 2"], []),
    "something new": (["bob: 1", "bob: 2"], ["bob: 1", "bob: 2", "bob: 3", "eve: 4"], ["bob: 3", "eve: 4"]),
    "the server lost the last": (["bob: 1", "bob: 2"], ["bob: 1", "bob: 3"], ["bob: 3"]),
    "the same once more": (["bob: 1", "bob: yes"], ["bob: 1", "bob: yes", "bob: yes"], ["bob: yes"]),
    "the same twice more": (["bob: yes"], ["bob: yes", "bob: yes", "bob: yes"], ["bob: yes", "bob: yes"]),
    "our own in another order": (["ana: 1", "bob: 2"], ["bob: 2", "ana: 1", "bob: 3"], ["bob: 3"]),
    "our own last": (["bob: 1", "ana: 2"], ["bob: 1", "ana: 2"], []),
    "our own got lost": (["bob: 1", "ana: 2"], ["bob: 1", "bob: 3"], ["bob: 3"]),
    "our own alone": (["ana: 1", "ana: 2"], ["ana: 1", "ana: 2", "bob: 3"], ["bob: 3"]),
    "an action": (["~ana: 1", "~bob: 2"], ["~ana: 1", "~bob: 2", "~bob: 3"], ["~bob: 3"]),
    "an action like a whisper": (["~bob: whispers: 1"], ["~bob: whispers: 1", "bob: 2"], ["bob: 2"]),
    "longer than the history": ([f"bob: {n}" for n in range(50)], [f"bob: {n}" for n in range(31, 51)], ["bob: 50"]),
}


def spoken(line):
    """`bob says: 1` of "bob: 1", and `~ bob 1` of "~bob: 1"."""
    name, _, text = line.partition(": ")
    return f"~ {name[1:]} {text}" if name.startswith("~") else f"{name} says: {text}"


@pytest.mark.parametrize("case", CATCHING_UP)
def test_what_is_shown_already_is_not_shown_twice(stage, browse, case):
    before, told, new = CATCHING_UP[case]
    tab, visit = enter(stage, browse)
    shown = ["* you are ana; nobody else is here"]
    for line in before:
        if "ana" in line:
            typed = line.partition(": ")[2] if line.startswith("ana") else f"/me {line.partition(': ')[2]}"
            tab.say(typed)
            visit.expect(typed)
        else:
            visit.say(spoken(line))
            tab.expect_last(spoken(line))
        shown.append(spoken(line))
    tab.expect_log(*shown)
    lose(tab, visit)
    tab.hide(False)
    stage.welcome(
        "ana",
        "* you are ana; also here: bob",
        *history(*map(spoken, told)),
        "* eve joined",
    )
    tab.expect_log(
        *shown,
        "* the connection is lost",
        "* you are ana; also here: bob",
        *(old(spoken(line)) for line in new),
        "* eve joined",
    )


def history(*lines):
    """Lines as the history tells them."""
    return [f"[2026-11-25 12:03] {line}" for line in lines]


def test_a_gap_is_told(stage, browse):
    """The history after a welcome has twenty lines: if all of them are new, there may be more."""
    tab, visit = enter(stage, browse, "* you are ana; also here: bob", *history("bob says: 5"))
    before = [f"eve says: {number}" for number in range(20)]
    visit.say(*before)
    tab.expect_last(before[-1])
    lose(tab, visit)
    tab.hide(False)
    missed = [f"bob says: {number}" for number in range(5, 25)]  # of which one was said before, but long ago
    stage.welcome("ana", "* you are ana; also here: bob", *history(*missed))
    tab.expect_log(
        "* you are ana; also here: bob",
        old("bob says: 5"),
        *before,
        "* the connection is lost",
        "* you are ana; also here: bob",
        "* lines may be missing here: /history 200 shows what there is",
        *map(old, missed),
    )


def test_what_is_asked_for_is_shown_again(stage, browse):
    """And it does not count as heard: nor do whispers, which are in no history."""
    heard = ["bob says: 1", "bob says: 2"]
    tab, visit = enter(stage, browse, "* you are ana; also here: bob", *history(*heard))
    tab.say("/search 0")
    found = [f"eve says: 0.{number}" for number in range(20)]
    visit.say(*history(*found), *(f"bob whispers: {number}" for number in range(20)))
    tab.expect_last("bob whispers: 19")
    lose(tab, visit)
    tab.hide(False)
    visit = stage.welcome("ana", "* you are ana; also here: bob", *history(*heard))
    tab.expect_last("* the connection is lost", "* you are ana; also here: bob")
    tab.say("/history 1")
    visit.say(*history(heard[-1]))
    tab.expect_last("* you are ana; also here: bob", old(heard[-1]))


def test_it_comes_back_after_longer_and_longer_pauses(stage, browse):
    tab, visit = enter(stage, browse, clock=True)
    tab.may_lose = True
    stage.close()
    for count, pause in enumerate([1, 2, 4, 8, 15, 15], 1):
        await_attempts(tab, count)
        tab.page.clock.run_for(1000 * pause - 1)
        assert connections(tab) == count
        tab.page.clock.run_for(1)
    await_attempts(tab, 7)
    assert connections(tab) == 7
    stage.open(stage.port)
    tab.page.clock.run_for(15000)
    visit = stage.welcome("ana")
    expect(tab.state).to_have_text("You are ana")
    lose(tab, visit)
    tab.page.clock.run_for(1000)  # the next loss begins with a short pause again
    stage.welcome("ana")
    expect(tab.state).to_have_text("You are ana")


@pytest.mark.parametrize("event", ["online", "visible"])
def test_it_comes_back_at_once_when_there_is_reason_to_hope(stage, browse, event):
    tab, visit = enter(stage, browse, clock=True)
    if event == "visible":
        tab.hide(True)
    lose(tab, visit)
    if event == "visible":
        tab.hide(False)
    else:
        tab.page.context.set_offline(True)
        tab.page.context.set_offline(False)
    visit = stage.welcome("ana")  # the clock stands still
    expect(tab.state).to_have_text("You are ana")
    tab.page.clock.run_for(60000)
    tab.say("hello")  # there is this connection alone
    visit.expect("hello")
    assert connections(tab) == 2


def test_the_lost_connection_may_still_have_the_name(stage, browse):
    tab, visit = enter(stage, browse, clock=True)
    tab.page.clock.run_for(100_000)
    lose(tab, visit)
    for pause in (1, 2):
        tab.page.clock.run_for(1000 * pause)
        visit = stage.welcome("ana", "error: ana is taken", "your name?")
        visit.expect_closed()
        expect(tab.state).to_have_text("Disconnected, and trying to come back. error: ana is taken")
    await_attempts(tab, 3)
    tab.page.clock.run_for(4000)
    visit = stage.welcome("ana")
    expect(tab.state).to_have_text("You are ana")
    lose(tab, visit)
    tab.page.clock.run_for(60000)  # for so long it is not: somebody else has taken it
    visit = stage.welcome("ana", "error: ana is taken", "your name?")
    expect(tab.error).to_have_text("error: ana is taken")
    expect(tab.name_field).to_be_focused()
    tab.give_name("anna")
    visit.expect("anna")


def test_a_name_that_is_taken_while_the_page_is_reloaded(stage, browse):
    """So it is in a copy of the tab, too, which browsers give the same state."""
    tab, _ = enter(stage, browse)
    tab.page.reload()
    stage.welcome("ana", "error: ana is taken", "your name?").expect_closed()
    expect(tab.state).to_have_text("Disconnected, and trying to come back. error: ana is taken")
    tab.give_name("anna")  # without waiting for that
    stage.welcome("anna")
    expect(tab.state).to_have_text("You are anna")


@pytest.mark.parametrize("why", ["quit", "idle"])
def test_who_left_does_not_come_back_by_itself(stage, browse, why):
    tab, visit = enter(stage, browse, clock=True)
    error = ""
    if why == "quit":
        tab.say("/QUIT ")
        visit.expect("/QUIT ")
    else:
        error = "error: nothing heard for 60 minutes"
        visit.say(error)
    visit.close()
    expect(tab.name_field).to_be_focused()
    expect(tab.error).to_have_text(error)
    expect(tab.state).to_have_text("")
    expect(tab.page.get_by_text("1 here")).to_be_hidden()
    tab.page.clock.run_for(60000)
    tab.hide(True)
    tab.hide(False)
    assert connections(tab) == 1
    tab.page.reload()
    expect(tab.name_field).to_be_focused()
    assert connections(tab) == 1
    tab.give_name("ana")
    stage.welcome("ana")
    expect(tab.message).to_be_focused()


def fill(stage, browse, count, **options):
    """A page in the room, with so many lines that the log is as long."""
    tab, visit = enter(stage, browse, **options)
    visit.say(*(f"bob says: {number}" for number in range(count)))
    tab.expect_last(f"bob says: {count - 1}")
    return tab, visit


def test_unread_lines_are_counted_in_the_title(stage, browse):
    tab, visit = fill(stage, browse, 100)
    expect(tab.page).to_have_title("Chat")
    tab.hide(True)
    visit.say(
        "bob says: 1",
        "~ bob waves",
        "bob whispers: psst",
        "* eve joined",
        "error: no",
        "[2026-11-25 12:03] bob says: 0",
    )
    expect(tab.page).to_have_title("(4) Chat")
    visit.say("bob says: 2")
    expect(tab.page).to_have_title("(5) Chat")
    tab.hide(False)
    expect(tab.page).to_have_title("Chat")

    tab.scroll(0)
    expect(tab.newest).to_have_text("Newest ↓")
    visit.say("bob says: 3", "bob says: 4")
    expect(tab.page).to_have_title("(2) Chat")
    expect(tab.newest).to_have_text("2 new ↓")
    tab.hide(True)
    tab.hide(False)  # to look at the page is not to look at its end
    expect(tab.page).to_have_title("(2) Chat")
    tab.newest.click()
    expect(tab.page).to_have_title("Chat")
    expect(tab.newest).to_be_hidden()
    expect(tab.message).to_be_focused()
    assert tab.place()[1] < 1

    tab.scroll(0)
    visit.say("bob says: 5")
    expect(tab.page).to_have_title("(1) Chat")
    tab.scroll(1_000_000)
    expect(tab.page).to_have_title("Chat")


IN_VIEW = """log => {
    const top = log.getBoundingClientRect().top;
    const line = [...log.children].find(line => line.getBoundingClientRect().bottom > top);
    return [line.textContent, Math.round(line.getBoundingClientRect().top - top)];
}"""


def test_who_scrolls_up_keeps_the_place(stage, browse):
    tab, visit = fill(stage, browse, 999)
    assert tab.place()[1] < 1
    tab.scroll(tab.place()[0] - 3000)
    in_view = tab.log.evaluate(IN_VIEW)
    for number in range(3):  # then the oldest lines go
        visit.say(*(f"bob says: and {number}.{more}" for more in range(100)))
        tab.expect_last(f"bob says: and {number}.99")
        assert tab.log.evaluate(IN_VIEW) == in_view
    expect(tab.lines).to_have_count(1000)
    expect(tab.newest).to_have_text("300 new ↓")
    tab.say("I am here")  # who speaks wants to see what comes
    assert tab.place()[1] < 1


def test_the_newest_line_stays_in_view(stage, browse):
    tab, visit = fill(stage, browse, 1500)
    expect(tab.lines).to_have_count(1000)
    assert tab.place()[1] < 1
    visit.say("bob says: " + "a long line " * 300)
    expect(tab.log).to_contain_text("a long line")
    assert tab.place()[1] < 1
    tab.page.set_viewport_size({"width": 500, "height": 300})  # as when a phone's keyboard comes
    assert harness.wait_until(lambda: tab.place()[1] < 1)
    expect(tab.newest).to_be_hidden()
    tab.page.set_viewport_size({"width": 900, "height": 800})
    assert harness.wait_until(lambda: tab.place()[1] < 1)
    expect(tab.newest).to_be_hidden()


def test_who_is_here(stage, browse):
    tab, visit = enter(stage, browse, "* you are ana; also here: bob, eve")
    expect(tab.people).to_have_text(["ana (you)", "bob", "eve"])
    expect(tab.page.get_by_text("3 here")).to_be_visible()
    visit.say("* zoe joined", "* bob left", "* eve is now adam")
    expect(tab.people).to_have_text(["adam", "ana (you)", "zoe"])
    visit.say(
        "* ana is now anna", "* you whisper to zoe: bob joined", "zoe says: * bob joined", "zoe whispers: * zoe left"
    )
    expect(tab.people).to_have_text(["adam", "anna (you)", "zoe"])
    expect(tab.state).to_have_text("You are anna")
    tab.say("it is me")
    tab.expect_last("anna says: it is me")
    visit.close()  # and comes back with that name
    stage.welcome("anna", "* you are anna; also here: zoe")
    expect(tab.people).to_have_text(["anna (you)", "zoe"])


def talk(stage, tab):
    """Have the page show each kind of line, a long text, a long word, and many people."""
    tab.give_name("ana")
    names = [f"{letter}{'W' * 19}" for letter in "BCDEFGHIJK"]
    visit = stage.welcome("ana", f"* you are ana; also here: {', '.join(names)}")
    visit.say(
        "[2026-11-25 12:03] bob says: hello",
        "[2026-11-25 12:04] ~ bob waves",
        f"{names[0]} says: {'W' * 500}",
        f"{names[1]} says: {'some words ' * 50}",
        "~ bob waves",
        "bob whispers: psst",
        "* you whisper to bob: psst",
        "* bob joined",
        "error: it is /pm NAME TEXT",
        "bob says: \u05d0\u05d1 \u0627\u0644 123",
        "bob says: Z\u0324\u0353\u032e" + "\u0353" * 100,
    )
    tab.expect_last("bob says: Z\u0324\u0353\u032e" + "\u0353" * 100)
    return visit


@pytest.mark.parametrize("size", [(320, 480), (360, 300), (768, 1024), (1600, 900)], ids=str)
def test_nothing_is_wider_than_the_screen(stage, browse, size):
    width, height = size
    viewport = {"width": width, "height": height}
    tab = browse(stage.url, viewport=viewport, is_mobile=width < 1000, has_touch=width < 1000)
    for _ in range(2):  # at the door, and in the room
        wide = tab.page.evaluate(
            "[document.documentElement, ...document.querySelectorAll('body, main, #log, #log p, #people')]"
            ".filter(one => one.scrollWidth > one.clientWidth).map(one => one.tagName)"
        )
        assert wide == []
        assert tab.page.evaluate("document.documentElement.scrollHeight <= innerHeight")
        for field in tab.page.locator("input:visible, button:visible, summary:visible").all():
            box = field.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, box
            assert box["y"] >= 0 and box["y"] + box["height"] <= height, box
        if tab.name == "somebody":
            talk(stage, tab)
    assert tab.log.bounding_box()["height"] > height / 4
    assert tab.log.bounding_box()["width"] > min(width, 900) * 0.7
    sizes = tab.page.locator("input").evaluate_all("all => all.map(one => parseFloat(getComputedStyle(one).fontSize))")
    assert min(sizes) >= 16  # a phone would zoom in on a smaller one


COLOURS = """() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgb = colour => {
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const behind = one => {
        const colour = getComputedStyle(one).backgroundColor;
        return colour === "rgba(0, 0, 0, 0)" ? behind(one.parentElement) : colour;
    };
    const texts = [...document.body.querySelectorAll("*")].filter(one =>
        one.checkVisibility() && (one.tagName === "INPUT" || [...one.childNodes].some(node => node.data?.trim())));
    return texts.map(one => [one.textContent, rgb(getComputedStyle(one).color), rgb(behind(one))]);
}"""


def contrast(one, other):
    """The contrast of two colours, by the formula of WCAG 2."""

    def luminance(colour):
        red, green, blue = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
            for part in (part / 255 for part in colour)
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_its_background(stage, browse, scheme):
    tab = browse(stage.url, color_scheme=scheme)
    visit = talk(stage, tab)
    visit.say(*(f"{chr(97 + number // 26)}{chr(97 + number % 26)} says: hello" for number in range(400)))
    tab.expect_last("pj says: hello")
    tab.scroll(0)
    lose(tab, visit)
    tab.say("hello")
    expect(tab.error).not_to_have_text("")
    texts = tab.page.evaluate(COLOURS)
    faint = [text for text in texts if contrast(*text[1:]) < CONTRAST]
    assert faint == []
    assert len({tuple(colour) for text, colour, _ in texts if len(text) == 2}) > 100, "names have colours of their own"
    dark = sum(texts[0][2]) < 3 * 128
    assert dark == (scheme == "dark")


LOOK = """line => {
    const look = getComputedStyle(line);
    return look.fontStyle + look.fontWeight + look.borderLeftStyle;
}"""


def test_kinds_of_lines_differ_without_colours(stage, browse):
    tab = browse(stage.url)
    visit = talk(stage, tab)
    visit.say("bob says: * eve joined", "bob says: error: no", "bob says: [2026-11-25 12:03] eve says: no")
    tab.expect_last("bob says: [2026-11-25 12:03] eve says: no")
    for line in tab.lines.all_text_contents():
        assert re.match(rf"\* |error: |({TIME})?(~ \S+ |\S+ (says|whispers): )", line), line
    for line in tab.lines.filter(has_text=re.compile("^bob says: ")).all():  # it cannot be taken for another kind
        assert line.get_attribute("class") == ""
    looks = {kind: tab.page.locator(f"#log .{kind}").first.evaluate(LOOK) for kind in ("action", "whisper", "error")}
    assert len({"normal400none", *looks.values()}) == 4


FOCUS = """() => {
    const one = document.activeElement, look = getComputedStyle(one);
    return [one.id || one.tagName, look.outlineStyle !== "none" && parseFloat(look.outlineWidth) >= 2];
}"""


def test_by_keyboard_alone(stage, browse):
    tab = browse(stage.url)
    keyboard = tab.page.keyboard
    keyboard.type("root")
    keyboard.press("Enter")
    visit = stage.welcome("root", "password?")
    expect(tab.password_field).to_be_focused()
    keyboard.type("open-sesame")
    keyboard.press("Enter")
    visit.expect("open-sesame")
    visit.say("* you are root; also here: bob", *(f"bob says: {number}" for number in range(100)))
    tab.expect_last("bob says: 99")
    keyboard.type("hello")
    keyboard.press("Enter")
    visit.expect("hello")

    order = []
    for _ in range(5):
        keyboard.press("Tab")
        order.append(tab.page.evaluate(FOCUS))
    assert [name for name, _ in order] == ["BUTTON", "BODY", "log", "how-many", "message"]
    assert [visible for name, visible in order if name != "BODY"] == [True] * 4
    expect(tab.people.first).to_be_visible()
    keyboard.press("Shift+Tab")
    keyboard.press("Enter")
    expect(tab.people.first).to_be_hidden()
    keyboard.press("Shift+Tab")
    keyboard.press("Home")
    expect(tab.newest).to_be_visible()
    assert harness.wait_until(lambda: tab.place()[0] == 0)
    keyboard.press("Tab")
    expect(tab.newest).to_be_focused()
    keyboard.press("Enter")
    expect(tab.message).to_be_focused()
    expect(tab.newest).to_be_hidden()


def test_what_a_screen_reader_is_told(stage, browse):
    tab = browse(stage.url)
    expect(tab.page.locator("body")).to_match_aria_snapshot("""
        - banner:
          - heading "Chat" [level=1]
          - status
        - contentinfo:
          - alert
          - text: Your name
          - textbox "Your name"
          - button "Come in"
    """)
    tab.give_name("ana")
    stage.welcome("ana", "* you are ana; also here: bob", "bob says: hello")
    tab.expect_last("bob says: hello")
    expect(tab.page.locator("body")).to_match_aria_snapshot("""
        - banner:
          - heading "Chat" [level=1]
          - status: You are ana
        - main:
          - log "Messages":
            - paragraph: "* you are ana; also here: bob"
            - paragraph: "bob says: hello"
          - group:
            - text: 2 here
            - list "Who is here":
              - listitem: ana (you)
              - listitem: bob
        - contentinfo:
          - alert
          - text: Message
          - textbox "Message"
          - button "Send"
          - paragraph: /help lists the commands
    """)
    expect(tab.log).to_have_attribute("aria-live", "polite")
    expect(tab.log).to_have_attribute("tabindex", "0")  # some browsers let no key scroll it otherwise
    expect(tab.message).to_have_accessible_description("/help lists the commands")
    expect(tab.page.locator("html")).to_have_attribute("lang", "en")


def test_what_is_typed_stays_when_the_connection_is_lost(stage, browse):
    tab, visit = fill(stage, browse, 3)
    tab.message.fill("typed")
    lose(tab, visit)
    tab.message.press("Enter")
    expect(tab.error).to_have_text("error: there is no connection; nothing was sent")
    visit = stage.welcome("ana")
    expect(tab.state).to_have_text("You are ana")
    expect(tab.message).to_have_value("typed")
    expect(tab.error).to_have_text("")
    tab.message.press("Enter")
    visit.expect("typed")


def test_a_name_and_a_password_in_one(stage, browse):
    """After a wrong password both can be typed. One that nobody asked for is forgotten."""
    tab = browse(stage.url)
    tab.give_name("root")
    visit = stage.welcome("root", "password?")
    for guess in ("first-guess", "second-guess"):
        tab.give_password(guess)
        if guess == "second-guess":
            visit.expect("root")
            visit.say("password?")
        visit.expect(guess)
        visit.say("error: wrong password", "your name?")
        expect(tab.error).to_have_text("error: wrong password")
        expect(tab.password_field).to_be_focused()
    tab.name_field.fill("ana")
    tab.give_password("third-guess")
    visit.expect("ana")
    visit.say("* you are ana; nobody else is here")
    expect(tab.message).to_be_focused()
    lose(tab, visit)
    visit = stage.welcome("ana", "password?")
    expect(tab.password_field).to_be_focused()
    tab.give_password("sesame")
    visit.expect("sesame")


def test_a_password_is_asked_for_again_when_it_comes_back(stage, browse):
    tab = browse(stage.url)
    tab.give_name("root")
    visit = stage.welcome("root", "password?")
    tab.give_password("open-sesame")
    visit.expect("open-sesame")
    visit.say("* you are root; nobody else is here")
    expect(tab.message).to_be_focused()
    tab.message.fill("typed")
    lose(tab, visit)
    visit = stage.welcome("root", "password?")
    expect(tab.password_field).to_be_focused()
    expect(tab.password_field).to_have_value("")
    visit.close()  # as after thirty seconds
    assert harness.wait_until(lambda: tab.page.evaluate("socket") is None)
    tab.hide(True)
    tab.hide(False)
    assert tab.page.evaluate("socket") is None  # it waits for a person
    tab.give_password("open-sesame")
    visit = stage.welcome("root", "password?")
    visit.expect("open-sesame")
    visit.say("* you are root; nobody else is here")
    expect(tab.message).to_be_focused()
    expect(tab.message).to_have_value("typed")
    assert connections(tab) == 3
