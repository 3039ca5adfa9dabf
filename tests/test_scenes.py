"""scenes.py: each scene, played anew, says what its recording says; and what it says is what its caption says."""

import copy
import json
import signal
import sys

import psutil
import pytest
from harness import BrokenPromise, wait_until
from promises import ROOT

LESSONS = ROOT / "lessons"
SCENES_PY = LESSONS / "scenes.py"

sys.path.insert(0, str(LESSONS))
import draw  # noqa: E402
import scenes  # noqa: E402

PAGES = {  # of each page the pictures that it must show: the model at work, and its failure
    "blocking": ("blocking_pieces", "blocking_two"),
    "blocking/two_way": ("two_way_turns", "two_way_unseen"),
    "thread_per_client": ("thread_per_client_room", "thread_per_client_deaf"),
    "select_based": ("select_based_room", "select_based_full"),
    "poll_based": ("poll_based_room", "poll_based_silent"),
    "asyncio_based": ("asyncio_based_room", "asyncio_based_asleep"),
    "epoll_based": ("epoll_based_silent", "epoll_based_told"),
    "proactor_based": ("proactor_based_halves", "proactor_based_late"),
    "process_per_client": ("process_per_client_room", "process_per_client_hang"),
}
EVERY_SCENE = pytest.mark.parametrize("scene", scenes.SCENES, ids=lambda scene: scene.name)


def kept(scene):
    return draw.load(scenes.RECORDINGS / f"{scene.name}.json")


# What is committed.


def test_each_scene_has_its_recording():
    names = [scene.name for scene in scenes.SCENES]
    assert sorted(names) == sorted(path.stem for path in scenes.RECORDINGS.iterdir())
    assert len(set(names)) == len(names)


@EVERY_SCENE
def test_a_recording_says_what_its_caption_says(scene):
    recording = kept(scene)
    assert scene.untrue(recording) == []
    assert (recording["title"], recording["caption"]) == (scene.title, scene.caption)
    assert recording["machine"] and recording["system"] and recording["python"]


def test_recordings_are_small():
    assert sum(path.stat().st_size for path in scenes.RECORDINGS.iterdir()) < 400_000


@pytest.mark.parametrize("folder", PAGES)
def test_a_page_shows_its_two_pictures(folder):
    """The model at work comes before what the model cannot do, its failure after that; in words, their captions."""
    page = " ".join((ROOT / folder / "README.md").read_text().split())
    up = "../" * (folder.count("/") + 1)
    captions = {scene.name: scene.caption for scene in scenes.SCENES}
    work, failure = (page.find(f"![{captions[name]}]({up}lessons/pictures/{name}.svg)") for name in PAGES[folder])
    assert -1 < work < page.index("## What it cannot do") < failure


# What is played.


@pytest.mark.long
@EVERY_SCENE
def test_a_scene_that_is_played_anew_says_the_same(run, scene):
    if scene.linux and sys.platform != "linux":
        pytest.skip("this scene can be played on Linux alone")
    process = run([sys.executable, SCENES_PY, "--check", scene.name])
    status = process.wait(8 * 60)
    if status:
        raise BrokenPromise(process.log)
    assert process.log == f"{scene.name}: the same\n"


def test_a_scene_that_is_recorded(run, scratch):
    """In a copy of the folder: the recording and its picture are written, and are what they are said to be."""
    folder = scratch / "chat"
    for name in "lessons", "blocking":
        (folder / name).mkdir(parents=True)
        for path in (ROOT / name).glob("*.py"):
            (folder / name / path.name).write_text(path.read_text())
    (folder / "lessons/watched").mkdir()
    for path in (LESSONS / "watched").glob("*.py"):
        (folder / "lessons/watched" / path.name).write_text(path.read_text())
    process = run([sys.executable, folder / "lessons/scenes.py", "blocking_two"])
    assert process.wait() == 0, process.log
    assert process.log == "blocking_two: recorded and drawn\n"
    text = (folder / "lessons/recordings/blocking_two.json").read_text()
    recording = json.loads(text)
    assert text == json.dumps(recording, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert scenes.story(recording) == scenes.story(kept(scenes.SCENES[1]))
    draw.check(recording)
    assert (folder / "lessons/pictures/blocking_two.svg").read_text() == draw.draw(recording)


# What is noticed.


def blocking_two():
    (scene,) = (scene for scene in scenes.SCENES if scene.name == "blocking_two")
    return scene, kept(scene)


def test_a_claim_that_does_not_hold():
    """Bob is not read before ana has left; a recording in which he is says something else."""
    scene, recording = blocking_two()
    early = copy.deepcopy(recording)
    (message,) = (message for message in early["messages"] if message["text"] == "two")
    message["at"] = 0
    assert scene.untrue(early)
    silent = copy.deepcopy(recording)
    silent["clients"] = [event for event in silent["clients"] if event["text"] != "two"]
    assert scene.untrue(silent)


def test_a_story_knows_no_times_and_no_addresses():
    _, recording = blocking_two()
    other = json.loads(json.dumps(recording))
    for key in "spans", "messages", "clients", "log":
        for event in other[key]:
            for moment in {"start", "end", "at"} & set(event):
                event[moment] *= 3
    addresses = sorted(other["people"])
    other = json.loads(json.dumps(other).replace(addresses[0], "127.0.0.1:1").replace(addresses[1], "127.0.0.1:2"))
    assert scenes.story(other) == scenes.story(recording)


@pytest.mark.parametrize(
    "change",
    [
        lambda recording: recording["spans"].pop(0),
        lambda recording: recording["spans"][0].update(state="send"),
        lambda recording: recording["messages"].pop(0),
        lambda recording: recording["messages"][0].update(text="once"),
        lambda recording: recording["messages"][0].update(way="out"),
        lambda recording: recording["lanes"][0].update(name="SideThread"),
    ],
    ids=["a wait is missing", "another wait", "a message is missing", "other words", "another way", "another lane"],
)
def test_a_story_that_has_changed(change):
    _, recording = blocking_two()
    other = copy.deepcopy(recording)
    change(other)
    assert scenes.story(other) != scenes.story(recording)


def test_what_comes_again_and_again_is_there_once():
    assert scenes.squeezed(list("aaab")) == ["a", "b"]
    assert scenes.squeezed(list("xababaczzcz")) == ["x", "a", "b", "a", "c", "z"]
    assert scenes.squeezed(list("abcdabcd")) == list("abcd")
    assert scenes.squeezed(list("abc")) == list("abc")


# The program.


def test_the_scenes_are_listed(run):
    process = run([sys.executable, SCENES_PY])
    assert process.wait() == 0
    lines = process.log.splitlines()
    assert [line.split()[0] for line in lines] == [scene.name for scene in scenes.SCENES]
    assert all(line.endswith(scene.title) for line, scene in zip(lines, scenes.SCENES, strict=True))


def test_a_scene_that_is_not_there(run):
    process = run([sys.executable, SCENES_PY, "--check", "hamlet"])
    assert process.wait() == 2
    assert "no scene is called hamlet" in process.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_scene_that_is_ended_leaves_nothing(run, scratch, number):
    """Ctrl-C, and a kill of its group. Of that only the system can tell the server, which has a group of its own."""
    if number == signal.SIGKILL and sys.platform != "linux":
        pytest.skip("only Linux tells a process that its parent was killed")
    process = run([sys.executable, SCENES_PY, "--check", "process_per_client_hang"], env={"TMPDIR": str(scratch)})
    scene = psutil.Process(process.pid)
    started = wait_until(lambda: len(found := scene.children(recursive=True)) >= 5 and found)
    assert started, process.log
    process.signal_group(number)
    assert process.wait() == (130 if number == signal.SIGINT else -number), process.log
    assert process.log == ""
    assert wait_until(lambda: not psutil.wait_procs(started, 0)[1]), started


def test_a_server_that_has_changed(run, scratch):
    """The recording is not the same any more, and a line says so: here the server sleeps after each answer."""
    folder = scratch / "chat"
    for name in "lessons", "lessons/watched", "lessons/recordings", "blocking":
        (folder / name).mkdir(parents=True, exist_ok=True)
        for path in (ROOT / name).glob("*.py*" if name != "lessons/recordings" else "blocking_two.json"):
            if path.is_file():
                (folder / name / path.name).write_text(path.read_text())
    server = folder / "blocking/server.py"
    text = server.read_text()
    old = "            client.sock.sendall(data)\n"
    assert text.count(old) == 1
    server.write_text(text.replace(old, old + "            time.sleep(0.01)\n"))
    process = run([sys.executable, folder / "lessons/scenes.py", "--check", "blocking_two"])
    assert process.wait() == 1
    assert "blocking_two: MainThread did not do the same: then receive, " in process.log
    assert process.log.count("\n") == 1
