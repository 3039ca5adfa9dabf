"""The lessons' site in a real browser: as files, without a network, by keyboard, on a phone."""

import re
from urllib.parse import quote

import harness
import pytest
from test_site import built, steps  # noqa: F401
from test_web_page import browser, expect  # noqa: F401

PHONE, DESK = {"width": 360, "height": 740}, {"width": 1440, "height": 900}


@pytest.fixture
def look(browser, built):  # noqa: F811
    """Open a page of the site as a file, in a window of its own. All must have behaved in the end."""
    opened = []

    def open_page(page, **options):
        context = browser.new_context(offline=True, **{"viewport": DESK, **options})
        context.set_default_timeout(harness.DEADLINE * 1000)
        tab = context.new_page()
        complaints = []
        tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        inside = f"file://{quote(str(built))}/"
        tab.on(
            "request",
            lambda request: request.url.startswith((inside, "data:")) or complaints.append(f"asks for {request.url}"),
        )
        opened.append((tab, complaints))
        tab.goto(f"{inside}{page}")
        return tab

    yield open_page
    for tab, _ in opened:
        tab.context.close()
    for _, complaints in opened:
        assert complaints == []


def wide(tab):
    """By how many pixels the page is wider than the window."""
    return tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_no_page_complains_asks_elsewhere_or_is_wider_than_a_phone(look, built):  # noqa: F811
    pages = [
        path for path in sorted(built.rglob("*.html")) if "compare" not in path.parts and "tests" not in path.parts
    ]
    pages += sorted((built / "compare/client").iterdir())[:2] + [built / "compare/index.html"]
    tab = look("index.html", viewport=PHONE)
    for path in pages:
        tab.goto(f"file://{quote(str(path))}")
        assert wide(tab) == 0, path


SERVER = "steps/poll_based--asyncio_based/server.html"


def test_from_hunk_to_hunk_by_keyboard(look):
    tab = look(SERVER)
    status = tab.get_by_role("status")
    shown = tab.locator("section.hunk:visible")
    names = [hunk.get_attribute("id") for hunk in shown.all()]
    assert names[:2] == ["header", "ChatServer.__init__"]
    for number, name in enumerate(names, 1):
        tab.keyboard.press("j")
        expect(tab.locator(f'[id="{name}"]')).to_be_focused()
        expect(status).to_contain_text(f"Hunk {number} of {len(names)}: {name}, ")
        assert tab.url.endswith(f"#{name}")
        expect(tab.locator(f'[id="{name}"] .head')).to_be_in_viewport()
    tab.keyboard.press("j")
    expect(status).to_have_text("This is the last hunk")
    tab.keyboard.press("k")
    expect(tab.locator(f'[id="{names[-2]}"]')).to_be_focused()
    tab.get_by_text("Keys", exact=True).click()
    tab.get_by_label("These keys are on").uncheck()
    tab.locator("h1").click()
    before = tab.url
    tab.keyboard.press("k")
    tab.keyboard.press("1")
    expect(tab.get_by_role("button", name="Hide old")).to_have_attribute("aria-pressed", "false")
    assert tab.url == before


def test_sides_and_views(look):
    tab = look(SERVER)
    row = tab.locator('[id="ChatServer.accept"] .changed').first
    old, new = row.locator(".old"), row.locator(".new")

    def beside():
        one, other = old.bounding_box(), new.bounding_box()
        return one["y"] == other["y"] and one["x"] < other["x"]

    assert beside()
    tab.get_by_role("button", name="Unified").click()
    assert not beside() and old.bounding_box()["x"] == new.bounding_box()["x"]
    # Of a run of lines all old ones come before the new ones.
    places = tab.evaluate(
        """[...document.querySelectorAll('[id="ChatServer.run"] .differs')].map(run => [".old", ".new"].map(side =>
           [...run.querySelectorAll(`.row:is(.changed, .replaced) ${side}`)].map(e => e.getBoundingClientRect().top)
        )).filter(([a, b]) => a.length).every(([a, b]) => Math.max(...a) < Math.min(...b))"""
    )
    assert places
    tab.keyboard.press("1")
    expect(old).to_be_hidden()
    expect(new).to_be_visible()
    tab.keyboard.press("2")
    expect(old).to_be_visible()
    expect(new).to_be_hidden()
    tab.keyboard.press("2")
    tab.keyboard.press("v")
    assert beside()
    # What the reader chose holds on the next page.
    tab.get_by_role("button", name="Unified").click()
    tab.get_by_role("link", name="sketch.py", exact=True).click()
    expect(tab.get_by_role("button", name="Unified")).to_have_attribute("aria-pressed", "true")


def test_the_model_and_all(look):
    tab = look(SERVER)
    below = tab.locator("#main")
    expect(below).to_be_hidden()
    tab.keyboard.press("m")
    expect(below).to_be_visible()
    tab.keyboard.press("m")
    tab.get_by_role("button", name="Show what is below the banner").click()
    expect(below).to_be_visible()
    # A link to a hunk shows it, and to one that is folded opens it.
    tab = look(SERVER + "#main")
    expect(tab.locator("#main")).to_be_visible()
    tab = look(SERVER + "#name_of")
    expect(tab.locator("#name_of .row").first).to_be_visible()


def test_what_is_marked_in_a_difference(look):
    tab = look(SERVER)
    accept = tab.locator('[id="ChatServer.accept"]')
    expect(accept.locator(".new mark", has_text="await asyncio")).to_be_visible()
    indented = accept.locator(".indent").filter(has_text="OSError, MemoryError")
    expect(indented.locator(".old")).to_be_visible()
    expect(indented.locator(".new")).to_be_visible()
    fold = tab.locator('details[id="Client"]')
    expect(fold.locator("summary")).to_have_text(re.compile(r"Client unchanged, \d+ lines"))
    expect(fold.locator(".row").first).to_be_hidden()
    fold.locator("summary").click()
    expect(fold.locator(".row").first).to_be_visible()


def test_all_is_there_without_a_script(look):
    tab = look(SERVER, java_script_enabled=False)
    expect(tab.locator("#main .row").first).to_be_visible()
    expect(tab.get_by_role("group", name="How the difference is shown")).to_be_hidden()
    tab = look("compare/index.html", java_script_enabled=False)
    expect(tab.get_by_role("link", name="blocking and thread_per_client").first).to_be_visible()


@pytest.mark.parametrize("how", ["pointer", "focus"])
def test_a_word_of_the_glossary(look, how):
    tab = look("index.html")
    word, tip = tab.get_by_role("link", name="socket").first, tab.get_by_role("tooltip")

    def come():
        word.hover() if how == "pointer" else word.focus()

    come()
    expect(tip).to_contain_text("A socket")
    assert tab.locator(f"#{word.get_attribute('aria-describedby')}").count() == 1
    tab.keyboard.press("Escape")
    expect(tip).to_have_count(0)
    tab.mouse.move(0, 0)
    tab.get_by_role("link", name="Search").focus()
    come()
    if how == "pointer":  # which may go onto what has come up
        tip.hover()
        tab.wait_for_timeout(600)  # longer than it stays when the pointer is nowhere
        expect(tip).to_be_visible()
        tab.mouse.move(0, 0)
    else:
        tab.get_by_role("link", name="Search").focus()
    expect(tip).to_have_count(0)
    word.click()
    assert tab.url.endswith("GLOSSARY.html#socket")


def test_the_search(look):
    tab = look("search.html")
    field, found = tab.get_by_role("searchbox"), tab.get_by_role("status")
    expect(field).to_be_focused()
    field.fill("slow read")
    expect(found).to_have_text(re.compile(r"^\d+ found(, the first 50)?$"))
    first = tab.locator("#ui-results a").first
    expect(first).to_have_text("slow reader")
    first.click()
    assert tab.url.endswith("GLOSSARY.html#slow-reader")
    tab.go_back()
    expect(field).to_have_value("slow read")
    field.fill("<b>no such words</b>")
    expect(found).to_have_text("0 found")


def test_any_two_versions_are_compared(look):
    tab = look("compare/index.html")
    form = tab.get_by_role("form", name="server.py")
    form.get_by_label("One").select_option("features/web")
    form.get_by_label("The other").select_option("blocking")
    form.get_by_role("button", name="Compare").click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("blocking and features/web: server.py")
    tab.go_back()
    form.get_by_label("One").select_option("blocking")
    form.get_by_label("The other").select_option("blocking")
    form.get_by_role("button", name="Compare").click()
    expect(form.get_by_role("alert")).to_have_text("These are the same version. Choose another one.")


def test_links_of_pages_lead_to_code_and_diffs(look):
    tab = look("index.html")
    tab.get_by_role("link", name="diff -u select_based/server.py poll_based/server.py").first.click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("select_based to poll_based: server.py")
    tab.get_by_role("link", name="poll_based/server.py").click()
    expect(tab.get_by_role("heading", level=1)).to_have_text("poll_based/server.py")
    tab.get_by_role("link", name="line 40", exact=True).click()
    expect(tab.locator("#L40")).to_be_in_viewport()
    assert tab.url.endswith("#L40")


def test_the_course_has_every_step(look, built):  # noqa: F811
    tab = look("course.html")
    for step in steps.steps():
        expect(tab.locator("h3", has_text=step.new).first).to_be_attached()
    expect(tab.get_by_role("heading", level=2)).to_have_count(4)
    text = (built / "course.html").read_text()
    assert text.count("Three things to try</h4>") == len(steps.versions()["server.py"])
    tab.emulate_media(media="print")
    expect(tab.locator(".top")).to_be_hidden()
    expect(tab.locator("section.hunk").first).to_be_visible()


def test_the_first_stop_of_the_keyboard_skips_to_the_content(look):
    for page in "index.html", SERVER, "poll_based/server.py.html":
        tab = look(page)
        tab.keyboard.press("Tab")
        skip = tab.get_by_role("link", name="Skip to the content")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport()
        tab.keyboard.press("Enter")
        expect(tab.get_by_role("main")).to_be_focused()


def test_a_phone(look):
    tab = look(SERVER, viewport=PHONE)
    expect(tab.get_by_role("button", name="Unified")).to_have_attribute("aria-pressed", "true")
    lines, note = (tab.locator(f'[id="ChatServer.run"] {part}') for part in (".lines", ".note"))
    assert note.bounding_box()["y"] >= lines.bounding_box()["y"] + lines.bounding_box()["height"]
    assert lines.evaluate("part => part.scrollWidth > part.clientWidth")  # it scrolls by itself
    tab = look("index.html", viewport=PHONE)
    menu = tab.get_by_role("navigation", name="Pages")
    expect(menu).to_be_hidden()
    tab.get_by_text("Pages", exact=True).click()
    expect(menu).to_be_visible()
    assert wide(tab) == 0
