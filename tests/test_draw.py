"""draw.py: each picture is what its recording says, readable without colour; what is no recording gets one line."""

import copy
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from harness import DEADLINE
from promises import ROOT

LESSONS = ROOT / "lessons"
DRAW = LESSONS / "draw.py"
RECORDINGS = sorted((LESSONS / "recordings").glob("*.json"))
CHROMIUM = "/usr/bin/chromium"
SVG = "{http://www.w3.org/2000/svg}"
ANA, BOB, CARLA = (f"127.0.0.1:5000{number}" for number in range(1, 4))

sys.path.insert(0, str(LESSONS))
import draw  # noqa: E402


def lane(name, born=0, died=1000, kind="thread"):
    return {"name": name, "kind": kind, "born": born, "died": died}


def span(lane, start, end, state, what=""):
    return {"lane": lane, "start": start, "end": end, "state": state, "call": state, "what": what}


def message(at, lane, way, peer, text):
    return {"at": at, "lane": lane, "way": way, "peer": peer, "bytes": len(text), "text": text.strip()}


def made_up(**more):
    """A recording of a room of two threads; `more` is put in the place of what is in it."""
    return {
        "version": 1,
        "command": ["chat.py", "0"],
        "machine": "m",
        "system": "s",
        "python": "p",
        "took": 1000,
        "title": "",
        "caption": "",
        "lanes": [lane("one"), lane("two", born=100)],
        "spans": [span(0, 0, 300, "receive", f"recv from {ANA}"), span(1, 100, 600, "queue", "get")],
        "messages": [message(300, 0, "in", ANA, "hi\n"), message(650, 1, "out", BOB, f"{ANA} says: hi\n")],
        "log": [{"at": 100, "line": f"10:00:00 {BOB} joined, 2 online"}],
        "people": {ANA: "ana", BOB: "bob"},
        **more,
    }


@pytest.fixture
def drawn(scratch):
    """Draw a recording, or what stands in the place of one, with the program: gives what subprocess.run gives."""

    def run(recording, *options):
        path = scratch / "recording.json"
        path.write_bytes(recording if isinstance(recording, bytes) else json.dumps(recording).encode())
        command = [sys.executable, DRAW, path, *options]
        return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=DEADLINE)

    return run


def picture(recording):
    """What draw.py makes of a recording, parsed."""
    recording = copy.deepcopy(recording)
    draw.check(recording)
    return ElementTree.fromstring(draw.draw(recording))


def words(root):
    return [element.text for element in root.iter(f"{SVG}text")]


def of_class(root, name):
    return [element for element in root.iter() if name in element.get("class", "").split()]


# The pictures that are committed.


def test_each_recording_has_its_picture():
    names = {path.stem for path in RECORDINGS}
    assert names and names == {path.stem for path in (LESSONS / "pictures").iterdir()}


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_picture_is_what_its_recording_says(path, scratch):
    made = scratch / "made.svg"
    subprocess.run([sys.executable, DRAW, path, "-o", made], check=True, timeout=DEADLINE)
    assert made.read_bytes() == (LESSONS / "pictures" / f"{path.stem}.svg").read_bytes(), f"draw {path.stem} anew"


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_picture_can_be_read(path):
    """Well-formed, with a title and a description for who does not see it, all of it inside; nothing from elsewhere."""
    text = (LESSONS / "pictures" / f"{path.stem}.svg").read_text()
    root = ElementTree.fromstring(text)
    recording = json.loads(path.read_text())
    width, height = (float(part) for part in root.get("viewBox").split()[2:])
    assert root.find(f"{SVG}title").text == recording["title"] != ""
    assert root.find(f"{SVG}desc").text.startswith(recording["caption"]) and recording["caption"].endswith(".")
    assert {root.get("aria-labelledby")} == {"title desc"} and root.get("role") == "img"
    assert "prefers-color-scheme: dark" in root.find(f"{SVG}style").text
    assert re.findall(r"(?:https?:|href|@import)[^\"]*", text) == ["http://www.w3.org/2000/svg"]
    for element in root.iter():
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= float(element.get(name, 0)) <= width, ElementTree.tostring(element)
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= float(element.get(name, 0)) <= height, ElementTree.tostring(element)
    for state in {span["state"] for span in recording["spans"]}:
        assert draw.KINDS[state] in words(root), f"the legend does not explain {state}"


# Without colour.


def test_each_kind_of_waiting_has_a_pattern_of_its_own():
    assert set(draw.PATTERNS) == set(draw.KINDS)
    assert len(set(draw.PATTERNS.values())) == len(draw.KINDS) == len(set(draw.KINDS.values()))


GREYS = """async ({svg, places}) => {
    const image = new Image();
    image.src = "data:image/svg+xml;base64," + btoa(svg);
    await image.decode();
    const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
    context.drawImage(image, 0, 0);
    return places.map(([x, y]) => {
        const data = context.getImageData(x, y, 60, 20).data;
        const grey = i => 0.21 * data[i] + 0.72 * data[i + 1] + 0.07 * data[i + 2];
        return Array.from({length: 60 * 20}, (_, i) => grey(4 * i));
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_patterns_differ_on_the_screen(scheme):
    """Drawn in a browser, in shades of grey: any two kinds differ, and none looks like running."""
    if not shutil.which(CHROMIUM):
        assert not os.environ.get("CHAT_ALL_PROGRAMS"), f"{CHROMIUM} is not installed, and CHAT_ALL_PROGRAMS is set"
        pytest.skip(f"{CHROMIUM} is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    kinds = list(draw.KINDS)
    lanes = [lane("runs"), *(lane(kind, kind=kind) for kind in kinds)]
    root = picture(made_up(lanes=lanes, spans=[span(n, 0, 1000, kind) for n, kind in enumerate(kinds, 1)], messages=[]))
    places = [(400, float(edge.get("y")) + 2) for edge in of_class(root, "edge") if float(edge.get("x")) == draw.LEFT]
    assert len(places) == len(lanes)
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(color_scheme=scheme)
        looks = page.evaluate(GREYS, {"svg": ElementTree.tostring(root, encoding="unicode"), "places": places})
        browser.close()
    for (one, look), (other, look_too) in itertools.combinations(zip(["runs", *kinds], looks, strict=True), 2):
        apart = sum(abs(a - b) for a, b in zip(look, look_too, strict=True)) / len(look)
        assert apart > 8, f"{one} and {other} are {apart:.1f} shades of 255 apart"


# What is drawn.


def test_lanes_and_waits():
    root = picture(made_up())
    run, waits = (
        of_class(root, "run"),
        [e for e in root.iter(f"{SVG}rect") if e.get("fill", "").startswith("url(#wait")],
    )
    assert [e.get("fill") for e in waits] == [f"url(#wait-{kind})" for kind in ("receive", "queue") * 2]  # and legend
    first, second, *_ = run
    assert float(first.get("x")) == draw.LEFT < float(second.get("x"))
    assert float(waits[0].get("width")) == pytest.approx(0.3 * float(first.get("width")), abs=0.1)
    assert {"ana", "bob", "one", "two", "recv from ana", "get", "bob joined, 2 online", "hi"} <= set(words(root))


def test_a_message_goes_from_who_says_it_to_who_hears_it():
    """From ana to lane one, from there to lane two, and from there to bob."""
    root = picture(made_up())
    (inside,) = of_class(root, "inside")
    come, go = (arrow for arrow in of_class(root, "arrow") if arrow is not inside)
    assert come.get("x2") == inside.get("x1") and go.get("x1") == inside.get("x2")
    assert float(come.get("y1")) < float(come.get("y2")) < float(inside.get("y1")) < float(inside.get("y2"))
    assert float(go.get("y1")) > float(go.get("y2")) > float(come.get("y1"))


def test_words_that_are_not_read_yet_wait():
    """What the clients did is noted: two lines, said one after the other, are read at once, and late."""
    did = [
        {"at": 10, "peer": ANA, "does": "says", "bytes": 3, "text": "on"},
        {"at": 500, "peer": ANA, "does": "says", "bytes": 2, "text": "e"},
        {"at": 900, "peer": ANA, "does": "says", "bytes": 2, "text": "never read"},
    ]
    root = picture(made_up(clients=did, spans=[], messages=[message(800, 0, "in", ANA, "on\ne\n")], log=[]))
    first, second = of_class(root, "arrow")
    assert float(first.get("x1")) < float(second.get("x1")) < float(first.get("x2")) == float(second.get("x2"))


def test_equal_lanes_are_one():
    lanes = [lane("main")] + [lane(f"thread {number}") for number in range(1000)]
    spans = [span(number, 0, 900 + number % 7, "receive") for number in range(1, 1001)]
    root = picture(made_up(lanes=lanes, spans=spans, messages=[], log=[], people={}))
    assert {"main", "thread 0", "and 999 like it"} <= set(words(root)) and "thread 1" not in words(root)
    spans[500]["state"] = "send"
    root = picture(made_up(lanes=lanes, spans=spans, messages=[], log=[], people={}))
    assert {"thread 0", "and 998 like it", "thread 500"} <= set(words(root))


def test_a_long_silence_is_folded():
    """A second in which nothing happens takes no more room than one of ten, and the picture says how long it was."""
    roots = []
    for seconds in 1, 10:
        took = seconds * 10**6 + 1000
        waits = [span(0, 0, 300, "receive"), span(0, 400, took - 500, "send"), span(0, took - 400, took, "sleep")]
        roots.append(picture(made_up(took=took, lanes=[lane("one", died=took)], spans=waits, messages=[], log=[])))
        assert f"{seconds}.0 s" in words(roots[-1]) and of_class(roots[-1], "break")
    one, ten = ([e.get("width") for e in root.iter(f"{SVG}rect") if e.get("fill")] for root in roots)
    assert one == ten
    assert not of_class(picture(made_up()), "break")


@pytest.mark.parametrize("took, step", [(1000, "0.1"), (12_000, "2"), (40, "0.005")])
def test_the_scale_is_in_milliseconds(took, step):
    spans = [span(0, at * took // 20, at * took // 20 + took // 50, "send") for at in range(20)]
    root = picture(made_up(took=took, lanes=[lane("one", died=took)], spans=spans, messages=[], log=[]))
    shown = [text.removesuffix(" ms") for text in words(root) if re.fullmatch(r"[\d.]+ ms", text)]
    assert step in {f"{float(b) - float(a):.3f}".rstrip("0").rstrip(".") for a, b in itertools.pairwise(shown)}


def test_text_from_outside_is_text(drawn):
    """What somebody has said, and what a lane is called, is no markup, and nothing that XML cannot hold."""
    nasty = "<b>&\"'\x00\x1b\ufffe\ud800]]>"
    recording = made_up(title=nasty, lanes=[lane(nasty), lane("two")])
    recording["messages"][0]["text"] = nasty
    result = drawn(recording)
    assert result.returncode == 0, result.stderr
    shown = words(ElementTree.fromstring(result.stdout))
    assert shown.count("<b>&\"'?????]]>") == 0 and [text for text in shown if text.startswith("<b>&\"'??")]


def test_an_empty_recording_is_drawn(drawn):
    empty = {"version": 1, "took": 0, "lanes": [], "spans": [], "messages": [], "log": [], "people": {}}
    assert ElementTree.fromstring(drawn(empty).stdout).tag == f"{SVG}svg"


def test_the_same_bytes_again(drawn):
    """Also where sets and dictionaries would be in another order."""
    assert len({drawn(made_up()).stdout for _ in range(3)}) == 1


def test_a_picture_in_a_file(drawn, scratch):
    result = drawn(made_up(), "-o", scratch / "made.svg")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (scratch / "made.svg").read_text() == drawn(made_up()).stdout


# What cannot be drawn.


def changed(key, index, **more):
    """The recording with something else in one of its lists."""
    recording = made_up()
    recording[key][index].update(more)
    return recording


@pytest.mark.parametrize(
    "recording, complaint",
    [
        (b"", "no JSON: "),
        (b"{", "no JSON: "),
        (b"\xff\xfe", "no JSON: "),
        (b"[" * 100_000, "no JSON: "),
        ([], "no recording of watch.py"),
        ({}, "no recording of watch.py"),
        (made_up(version=2), "its version is 2, and this draw.py knows 1 alone"),
        (made_up(took="long"), "the recording has no took"),
        (made_up(took=-1), "the recording has no took"),
        (made_up(lanes={}), "its lanes are no list"),
        (made_up(people=[]), "its people is none"),
        (changed("lanes", 1, born=1001), "lane 1 dies before it is born"),
        (changed("lanes", 1, name=7), "lane 1 has a name that is no text"),
        (changed("spans", 0, lane=2), "span 0 is in a lane that is not there: 2"),
        (changed("spans", 0, state="dreaming"), "span 0 is in a state that nobody knows: 'dreaming'"),
        (changed("spans", 0, state=[]), "span 0 is in a state that nobody knows: []"),
        (changed("spans", 0, end=1001), "span 0 is outside of the life of its lane, one"),
        (changed("spans", 1, start=99), "span 1 is outside of the life of its lane, two"),
        (changed("spans", 1, start=601), "span 1 is outside of the life of its lane, two"),
        (changed("spans", 1, lane=0), "span 1 begins before the last one of its lane has ended"),
        (changed("spans", 1, start=1.5), "span 1 has no start"),
        (changed("messages", 1, way="up"), "message 1 has no way"),
        (changed("messages", 1, at=1001), "message 1 comes after the end"),
        (changed("log", 0, line=None), "log 0 has a line that is no text"),
        (made_up(clients=[{"at": 1, "peer": ANA, "does": "sings"}]), "client 0 has no does"),
    ],
)
def test_what_is_no_recording(drawn, recording, complaint):
    result = drawn(recording)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("draw.py: ") and result.stderr.count("\n") == 1
    assert f"recording.json: {complaint}" in result.stderr


def test_files_that_cannot_be_had(drawn, scratch):
    command = [sys.executable, DRAW, scratch / "none.json"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert (result.returncode, result.stderr) == (1, f"draw.py: {scratch}/none.json: No such file or directory\n")
    result = drawn(made_up(), "-o", scratch / "none" / "made.svg")
    assert (result.returncode, result.stderr) == (1, f"draw.py: {scratch}/none/made.svg: No such file or directory\n")
    command = [sys.executable, DRAW]
    assert subprocess.run(command, capture_output=True, timeout=DEADLINE).returncode == 2
