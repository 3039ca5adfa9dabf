"""course/grade.py: a class is graded, whatever is in it; and the skeletons that are handed out begin as they should."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from xml.etree import ElementTree

import pytest
from harness import wait_until
from other_languages import program
from promises import ROOT
from test_check import alive, examine

__all__ = ["examine"]  # a fixture

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where a program listens, and so on")

TEMPLATE = ROOT / "course" / "template"
POINTS = "pass = 4\n[points]\nstart = 3\nbroadcast = 4\nframing = 5\n"
HOSTILE = """#!/bin/sh
# {mark}
(setsid sh -c 'sleep 1000; : {mark}' &)
(setsid sh -c 'trap "" TERM INT HUP; while :; do echo {mark} >> /tmp/{mark}; sleep 0.1; done' &)
while :; do echo noise noise noise; done
"""


@pytest.fixture
def place(reaper):
    """The directory for temporary files of who grades. Every user may enter it: as root, who is graded is another."""
    path = Path(tempfile.mkdtemp(prefix="chat-tests-"))
    path.chmod(0o711)
    reaper.directory(path)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def grade(run, scratch, place):
    """Grade the folder `class`: `grade("--jobs", "2")` gives the folder of the report, and what it wrote."""

    def grade(*options, status=0):
        process = grade.start(*options)
        assert process.wait(within=550) == status, process.log
        return scratch / "report", process.log

    def start(*options):
        options = [str(scratch / "class"), "--out", str(scratch / "report"), *options]
        return run([sys.executable, "course/grade.py", *options], cwd=ROOT, env={"TMPDIR": str(place)})

    grade.start = start
    (scratch / "class").mkdir()
    return grade


def hand_in(scratch, name, files, command=None):
    folder = scratch / "class" / name
    folder.mkdir()
    for file, text in files.items():
        (folder / file).write_text(text)
        (folder / file).chmod(0o755)
    if command:
        (folder / "command").write_text(f"# how it is started\n{command}\n")
    return folder


@pytest.mark.long
def test_a_class(grade, scratch):
    mark = f"mark{os.getpid()}"
    program("gcc"), program("make")
    shutil.copy(ROOT / "tests" / "programs" / "chat.c", scratch / "server.c")
    right = (scratch / "server.c").read_text()
    makefile = "server: server.c\n\tgcc -O1 -o server server.c\n"
    hand_in(scratch, "ana", {"server.c": right, "Makefile": makefile}, "make -s && ./server {port}")
    wrong = right.replace('"%s says: "', '"%s said: "')
    hand_in(scratch, '=bob "the" <b>', {"server.c": wrong, "Makefile": makefile}, "make -s && ./server {port}")
    hand_in(scratch, "carla", {"server.c": "int main(", "Makefile": makefile}, "make -s && ./server {port}")
    hand_in(scratch, "dora", {"notes.txt": "nothing"})
    emil = hand_in(scratch, "emil", {"server": HOSTILE.format(mark=mark)}, "./server")
    os.mkfifo(emil / "pipe")
    (emil / "link").symlink_to("/etc")
    (scratch / "points.toml").write_text(POINTS)
    report, log = grade("--jobs", "2", "--points", str(scratch / "points.toml"))
    rows = {row["student"]: row for row in csv.DictReader((report / "grades.csv").read_text().splitlines())}
    assert list(rows) == ['\'=bob "the" <b>', "ana", "carla", "dora", "emil"]
    assert float(rows["ana"]["points"]) == 12 and rows["ana"]["passed"] == "yes", log
    bob = rows['\'=bob "the" <b>']
    assert (float(bob["start"]), float(bob["broadcast"]), float(bob["framing"])) == (3, 0, 0), bob
    assert bob["passed"] == "no" and "other" in bob["first to mend"]
    assert "failed" in rows["carla"]["first to mend"] and float(rows["carla"]["points"]) == 0
    assert "nothing says how" in rows["dora"]["first to mend"]
    assert "listens nowhere" in rows["emil"]["first to mend"]

    page = (report / "students" / '=bob "the" <b>.html').read_text()
    assert "<b>.html" not in page and "&lt;b&gt;" in page and "said: hello" in page
    assert not re.search(r"(src|href)=.?http", page), "it is to need no other file"
    assert (report / "students" / "emil.html").stat().st_size < 100_000
    overview = (report / "index.html").read_text()
    assert overview.count("<tr>") == 7 and "<th>framing<th>" not in overview and "fairness" not in overview
    assert json.loads((report / "grades.json").read_text())["ana"]["total"] == 12
    suites = ElementTree.parse(report / "junit.xml").getroot()
    failures = {suite.get("name"): int(suite.get("failures")) for suite in suites}
    assert failures["ana"] == 0 and failures["carla"] == 1
    for suite in suites:  # what the schema of such files has to have
        assert {"name", "tests", "failures", "errors", "skipped", "time"} <= {*suite.keys()}
        assert int(suite.get("tests")) == len(suite.findall("testcase"))
    scope = json.loads((report / "gradescope" / "ana" / "results.json").read_text())
    assert scope["score"] == 12 and scope["tests"][0]["max_score"] == 3
    assert [test["status"] for test in scope["tests"]] == ["passed"] * 3 and scope["execution_time"] > 0

    assert wait_until(lambda: not alive(mark)), alive(mark)
    if os.geteuid() == 0:  # who is not has no other user for it, and nothing tells whose the file is
        assert not os.path.exists(f"/tmp/{mark}")
    elif os.path.exists(f"/tmp/{mark}"):
        os.unlink(f"/tmp/{mark}")

    # What has not changed is not graded again; what has is.
    before = (report / "grades.csv").read_text()
    (scratch / "class" / "dora" / "command").write_text("./none\n")
    _, log = grade("--jobs", "2", "--points", str(scratch / "points.toml"))
    assert log.count("as before") == 4 and "dora: no file is called" in log, log
    assert (report / "grades.csv").read_text() != before


TOO_MUCH = {
    "files": "head -c 40000000 /dev/zero > big",
    "files that have no name": "exec 3> big; rm big; head -c 40000000 /dev/zero >&3",
    "processes": "for number in 1 2 3 4 5 6; do for ten in 1 2 3 4 5 6; do setsid sleep 1000 & done; done",
}


@pytest.mark.parametrize("what", TOO_MUCH)
def test_who_takes_too_much_is_ended(grade, scratch, what):
    hand_in(scratch, "greedy", {"server": f"#!/bin/sh\n{TOO_MUCH[what]}\nsleep 1000\n"}, "./server")
    (scratch / "points.toml").write_text("[points]\nstart = 1\n")
    limits = ["--files", "20", "--processes", "20", "--points", str(scratch / "points.toml")]
    report, log = grade(*limits)
    told = (report / "grades.json").read_text()
    took = rf"\d+ MiB of {what.split()[0]}, and may take 20|more than 20 {what}"
    assert re.search(rf"it takes too much: ({took})", told), log


KILLER = """#!/bin/sh
kill -9 -1
kill -9 $PPID
sleep 1000
"""


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="who is not root might be killed himself")
def test_who_kills_all_that_he_may_kills_himself_alone(grade, scratch):
    hand_in(scratch, "killer", {"server": KILLER}, "./server")
    hand_in(scratch, "quiet", {"server": "#!/bin/sh\nsleep 2\necho I was let live\n"}, "./server")
    report, log = grade("--jobs", "2")
    assert "I was let live" in json.loads((report / "results" / "quiet.json").read_text())["text"], log
    killer = json.loads((report / "results" / "killer.json").read_text())
    assert "listens nowhere" in killer["fatal"] or "ended by SIGKILL" in killer["fatal"], log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_what_was_interrupted_leaves_nothing_and_goes_on(grade, scratch, place, number):
    mark = f"mark{os.getpid()}x{number}"
    hand_in(scratch, "ana", {}, "./none")
    endless = hand_in(scratch, "bob", {"server": f"#!/bin/sh\n(setsid sh -c 'sleep 1000; : {mark}' &)\nsleep 1000\n"})
    (endless / "command").write_text("./server\n")
    process = grade.start("--jobs", "1")
    assert wait_until(lambda: alive(mark)), process.log
    process.signal(number)
    assert process.wait() == (1 if number == signal.SIGINT else -number) and "Traceback" not in process.log, process.log
    assert wait_until(lambda: not alive(mark)), alive(mark)
    assert wait_until(lambda: not any(place.iterdir())), [*place.iterdir()]
    (endless / "command").write_text("./none\n")
    _, log = grade()
    assert "ana: as before" in log and "bob: no file is called" in log, log


def test_of_checks_that_measure_no_more_run_at_once_than_there_are_cores(scratch):
    sys.path.insert(0, str(ROOT))
    try:
        from course.grade import MEASURED, a_core
        from course.stages import STAGES
    finally:
        sys.path.remove(str(ROOT))
    checks = {check.name: check for stage in STAGES for check in stage.checks}
    assert {stage.name for stage in STAGES} | {*checks} >= MEASURED
    files = [scratch / "core0", scratch / "core1"]
    for file in files:
        file.touch()
    entered = threading.Event()

    def third():
        with a_core(checks["latency.first"], files):
            entered.set()

    thread = threading.Thread(target=third, daemon=True)
    with a_core(checks["slow.stuck"], files):
        with a_core(checks["leaving.memory"], files), a_core(checks["log.idle"], files):
            thread.start()
            assert not entered.wait(0.3)
        assert entered.wait(60)
    thread.join()


SPY = """#!/bin/sh
id -u; pwd; ls; env
cat {secret}
exit 1
"""


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root has other users for it")
def test_a_submission_runs_as_another_user_who_cannot_read_ours(grade, scratch, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "in the environment")
    secret = scratch / "secret"
    secret.write_text("in a file of ours")
    secret.chmod(0o600)
    hand_in(scratch, "spy", {"server": SPY.format(secret=secret)}, "./server")
    report, _ = grade("--jobs", "1")
    text = json.loads((report / "results" / "spy.json").read_text())["text"]
    assert "in a file of ours" not in text and "in the environment" not in text
    assert "Permission denied" in text and "PYTEST" not in text, text


@pytest.mark.parametrize(
    ("table", "says"),
    [("[points]\nflying = 3\n", "no stage is called flying"), ("[points]\nstart = -1\n", "no number"), ("x", "")],
)
def test_a_table_of_points_that_makes_no_sense(grade, scratch, table, says):
    (scratch / "points.toml").write_text(table)
    _, log = grade("--points", str(scratch / "points.toml"), status=2)
    assert says in log and "Traceback" not in log


def test_no_such_folder(run, scratch):
    process = run([sys.executable, "course/grade.py", str(scratch / "none"), "--out", str(scratch)], cwd=ROOT)
    assert process.wait() == 2 and "there is no folder" in process.log


# The skeletons


@pytest.mark.parametrize("language", ["python", "c", "javascript", "java"])
def test_a_skeleton_listens_and_relays_nothing(examine, scratch, language):
    folder = shutil.copytree(TEMPLATE / language, scratch / language)
    if language == "python":
        program("python3")
        command = f"{folder}/server.py"
    elif language == "c":
        program("gcc"), program("make")
        subprocess.run(["make", "-s", "-C", folder], check=True)
        command = f"{folder}/server"
    elif language == "javascript":
        program("node")
        command = f"{folder}/server.js"
    else:
        subprocess.run([program("javac"), folder / "Server.java"], check=True)
        command = f"java -cp {folder} Server {{port}}"
    report, log = examine(command, "--stage", "start")
    assert [stage["verdict"] for stage in report["stages"]] == ["passed"], log
    report, log = examine(command, "--stage", "broadcast")
    assert [stage["verdict"] for stage in report["stages"]] == ["BROKEN"], log


def test_the_command_of_the_template_is_understood(scratch):
    sys.path.insert(0, str(ROOT))
    try:
        from course.grade import command_of
    finally:
        sys.path.remove(str(ROOT))
    assert command_of(TEMPLATE, None) == ("", "python/server.py")
    assert command_of(scratch, "make -s && ./server {port}") == ("make -s", "./server {port}")
