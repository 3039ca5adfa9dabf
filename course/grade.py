"""Grade a class: python course/grade.py submissions/ --out report/

`submissions/` holds a folder for each student. The command that starts a server stands in a file `command` of the
folder, or is given as `--command "make -s && ./server {port}"`; what stands before the last `&&` is done once. The
points of the stages are in points.toml. LECTURERS.md tells how it is used, and what it is no protection against.

What was graded and has not changed is not graded again: after an interruption run the same line once more.
"""

import argparse
import contextlib
import csv
import fcntl
import hashlib
import html
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from course.main import LIKE, examine, positive
from course.program import CannotStart, Limits, Program, wait_until, words_of
from course.stages import STAGES
from course.verdict import PASSED

HERE = Path(__file__).resolve().parent
MOST_FILES = 200 << 20  # bytes of a submission
BUILDS = 120.0  # seconds for what comes before the last &&
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
USERS = range(61000, 62000)  # without a name: submissions run as one of them each, where we are root
EACH_CORE = 3  # submissions at once: for most of its time each of them waits
# What has a core for itself: checks that measure how long something takes, or use a processor for long.
MEASURED = {"latency", "slow", "fairness", "leaving.memory", "limits.room"}


def arguments(given):
    parser = argparse.ArgumentParser(prog="grade.py", description="Grade a class: a folder for each student.")
    parser.add_argument("submissions", type=Path, help="the folder that holds a folder for each student")
    parser.add_argument("--out", type=Path, required=True, help="where the report goes")
    parser.add_argument("--command", help="how each is started, where its folder has no file `command`")
    parser.add_argument("--points", type=Path, default=HERE / "points.toml", help="a table of points (points.toml)")
    parser.add_argument("--jobs", type=positive, default=EACH_CORE * CORES, help="how many at once (three a core)")
    parser.add_argument("--like", default="", choices=LIKE, metavar="MODEL", help="expect no more than of this model")
    parser.add_argument("--memory", type=positive, default=1024, metavar="MIB", help="MiB that each may take (1024)")
    parser.add_argument("--processes", type=positive, default=400, metavar="N", help="processes for each (400)")
    parser.add_argument("--files", type=positive, default=1024, metavar="MIB", help="MiB that each may write (1024)")
    parser.add_argument("--time", type=positive, default=170, metavar="SECONDS", help="for the stages of one (170)")
    parser.add_argument("--again", action="store_true", help="grade also what was graded and has not changed")
    parser.add_argument("--no-user", action="store_true", help="as root: do not run them as other users")
    args = parser.parse_args(given)
    if not args.submissions.is_dir():
        parser.error(f"there is no folder {args.submissions}")
    try:
        args.table = read_points(args.points)
    except (OSError, ValueError) as error:
        parser.error(f"{args.points}: {error}")
    return args


def read_points(path):
    """The table of points: a dictionary with `pass`, and `points` for each stage that it has: no other stage is tested.
    ValueError says what is wrong."""
    with open(path, "rb") as file:
        table = tomllib.load(file)
    points = table.get("points", {})
    names = [stage.name for stage in STAGES]
    if unknown := sorted(set(points) - set(names)):
        raise ValueError(f"no stage is called {', '.join(unknown)}; they are {', '.join(names)}")
    for name, value in [*points.items(), ("pass", table.get("pass", 0))]:
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise ValueError(f"{name} is no number of points: {value!r}")
    if not points:
        raise ValueError("it has no stage under [points]")
    return {"points": {name: points[name] for name in names if name in points}, "pass": table.get("pass", 0)}


# ----------------------------------------------------------------------------------------------------------------------
# One submission, in a process of its own


def command_of(folder, given):
    """How a submission is started: what is done once before, or "", and the command. CannotStart if nobody says."""
    file = folder / "command"
    text = given
    if file.is_file() and not file.is_symlink():
        lines = file.read_text(errors="replace")[:4000].splitlines()
        text = next((line for line in map(str.strip, lines) if line and not line.startswith("#")), given)
    elif not given and (folder / "server.py").is_file():
        text = "server.py"
    if not text:
        raise CannotStart("nothing says how it is started", "Write the command into a file called `command`.")
    before, _, command = text.rpartition("&&")
    return before.strip(), command.strip()


def copy(folder, target):
    """Copy a submission: files, folders and links alone, and not without bound."""
    size = 0
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            size += path.stat().st_size
    if size > MOST_FILES:
        raise CannotStart(f"the submission has {size >> 20} MiB, and may have {MOST_FILES >> 20}")

    def others(where, names):
        return [
            name
            for name in names
            if not any(check(os.path.join(where, name)) for check in (os.path.isfile, os.path.isdir, os.path.islink))
        ]

    try:
        shutil.copytree(folder, target, symlinks=True, ignore=others)
    except OSError as error:  # shutil.Error lists all that could not be copied
        raise CannotStart(f"the submission cannot be copied: {str(error)[:200]}") from None


def grade_one(job):
    """Grade one submission, in the folder job["root"]. `job` is a dictionary; what is returned is one, for JSON."""
    lines, begun = [], time.monotonic()
    where = Path(job["root"], "submission")
    with own_user(job["isolated"]) as user:
        limits = Limits(job["memory"] << 20, job["processes"], user, user, str(where), True, job["files"] << 20)
        try:
            copy(Path(job["folder"]), where)
            if user is not None:
                where.parent.chmod(0o711)
                for path in [where, *where.rglob("*")]:
                    os.chown(path, user, user, follow_symlinks=False)
            build, command = command_of(where, job["command"])
            if build:
                run_build(build, limits, where)
            words = words_of(command, str(where))
            numbers = [number for number, stage in enumerate(STAGES, 1) if stage.name in job["stages"]]
            how = {"numbers": numbers, "every": True, "budget": job["time"], "tell": lines.append, "cwd": str(where)}
            report = examine(words, limits, job["like"], turn=lambda check: a_core(check, job["cores"]), **how)
        except CannotStart as error:
            lines.append(f"It cannot be tested: {error}.")
            if output := getattr(error, "output", ""):
                lines += ["Its output ends with:", *(f"  | {line[:200]}" for line in output.splitlines()[-12:])]
            if error.hint:
                lines.append(f"Hint: {error.hint}")
            report = {"fatal": str(error), "hint": error.hint, "stages": [], "seconds": 0.0}
    report["seconds"] = round(time.monotonic() - begun, 1)
    report["stages"] = [stage for stage in report["stages"] if stage["name"] in job["stages"]]
    report["text"] = "\n".join(lines).replace(job["root"], "")
    return report


@contextlib.contextmanager
def own_user(isolated):
    """A user that nobody else uses, as whom a submission runs: its number, or None if it is to run as ourselves. In the
    end nothing of that user is left."""
    if not isolated:
        yield None
        return
    for user in USERS:
        # A name of the system's own, which is free again as soon as we have ended, however that is (unix(7)).
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0chat-grade-{user}")
            except OSError:
                continue
            end_user(user)
            try:
                yield user
            finally:
                end_user(user)
            return
    raise RuntimeError("no user is free for it")


@contextlib.contextmanager
def a_core(check, files):
    """Meanwhile a core is kept for this check, if it measures: one of the files is locked, and there are as many of
    them as cores. Other checks mostly wait, and go on beside it."""
    if not {check.name, check.stage} & MEASURED:
        yield
        return
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open(file, "rb")) for file in files]
        while not (ours := next(filter(locked, opened), None)):
            time.sleep(0.02)
        try:
            yield
        finally:
            fcntl.flock(ours, fcntl.LOCK_UN)


def locked(file):
    """Lock a file, if nobody else has; whether that was so."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def end_with_the_class():
    """End in good order when the other end of our standard input is closed: whoever started us has ended, or has had
    enough."""

    def watch():
        os.read(0, 1)
        os.kill(os.getpid(), signal.SIGTERM)

    def stop(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(1)

    signal.signal(signal.SIGTERM, stop)
    threading.Thread(target=watch, daemon=True).start()


def run_build(build, limits, where):
    """Do what is to be done once. CannotStart says that it failed."""
    program = Program(["sh", "-c", build], limits, cwd=str(where))
    try:
        wait_until(lambda: not program.running, BUILDS, every=0.05)
        state = program.ask()
        if state["over"]:
            why = f"it takes too much: {state['over']}"
        elif state["status"] is None:
            why = f"it was not done within {BUILDS:.0f} seconds"
        elif state["status"]:
            why = program.how_it_ended()
        else:
            return
        error = CannotStart(f"`{build}` failed: {why}")
        error.output = program.output
        raise error
    finally:
        program.close()


def end_user(user):
    """End all processes of a user that is ours to use, and remove what it left in the directory for such files."""
    # kill(2) with -1 ends all that it may, at once: what makes new processes all the time cannot get away.
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command, quiet = ["sh", "-c", "kill -9 -1"], subprocess.DEVNULL
        subprocess.run(command, user=user, group=user, extra_groups=[], stdin=quiet, stderr=quiet, cwd="/", timeout=30)
    for folder in {tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"}:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.stat(follow_symlinks=False).st_uid != user:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        os.unlink(entry.path)


# ----------------------------------------------------------------------------------------------------------------------
# The class


def digest(folder, args):
    """What tells whether a submission, or what is asked of it, has changed."""
    asked = (args.command, args.like, args.memory, args.processes, args.files, args.time, list(args.table["points"]))
    told = hashlib.sha256(repr(asked).encode())
    for path in sorted(folder.rglob("*")):
        told.update(os.fsencode(path.relative_to(folder)) + b"\0")
        if path.is_symlink():
            told.update(os.fsencode(os.readlink(path)))
        elif path.is_file() and path.stat().st_size <= MOST_FILES:
            with contextlib.suppress(OSError), open(path, "rb") as file:
                told.update(hashlib.file_digest(file, "sha256").digest())
    return told.hexdigest()


def marks(report, table):
    """The points of each stage, and their sum: each stage gives its share of checks that passed."""
    shares = {}
    for stage in report["stages"]:
        checks = stage["checks"].values()
        shares[stage["name"]] = sum(check["verdict"] == PASSED for check in checks) / max(1, len(checks))
    points = {name: round(most * shares.get(name, 0.0), 2) for name, most in table["points"].items()}
    return points, round(sum(points.values()), 2)


class Bar:
    """How far it has come: a bar on a terminal, a line each elsewhere."""

    def __init__(self, total):
        self.total, self.done, self.lock, self.begun = total, 0, threading.Lock(), time.monotonic()

    def step(self, name, what):
        with self.lock:
            self.done += 1
            left = (time.monotonic() - self.begun) / self.done * (self.total - self.done)
            if sys.stderr.isatty():
                full = 30 * self.done // max(1, self.total)
                bar = "#" * full + "." * (30 - full)
                end = "\n" if self.done == self.total else ""
                text = f"[{bar}] {self.done}/{self.total}, {left / 60:.0f} min left  {name[:30]}: {what}"
                print(f"\r\x1b[K{text[:110]}", end=end, file=sys.stderr, flush=True)
            else:
                print(f"{self.done}/{self.total} {name}: {what}", file=sys.stderr, flush=True)


def grade_class(args):
    """Grade all, and return the results by name."""
    folders = sorted(path for path in args.submissions.iterdir() if path.is_dir() and not path.name.startswith("."))
    kept = args.out / "results"
    kept.mkdir(parents=True, exist_ok=True)
    bar, results, running, over = Bar(len(folders)), {}, set(), threading.Event()
    asked = {"command": args.command, "like": args.like, "memory": args.memory, "processes": args.processes}
    asked |= {"files": args.files, "time": args.time, "isolated": isolates(args), "stages": list(args.table["points"])}

    def grade(folder, place, cores):
        file = kept / f"{short(folder.name)}.json"
        try:
            told = digest(folder, args)
        except OSError as error:
            told = f"unreadable: {error}"
        with contextlib.suppress(OSError, ValueError):
            before = json.loads(file.read_text())
            if before["digest"] == told and not args.again:
                results[folder.name] = before
                return bar.step(folder.name, "as before")
        root = tempfile.mkdtemp(dir=place)
        job = asked | {"folder": str(folder.resolve()), "root": root, "cores": cores}
        alive, ours = os.pipe()
        command = [sys.executable, __file__, "--one", json.dumps(job)]
        process = subprocess.Popen(command, stdin=alive, stdout=subprocess.PIPE, start_new_session=True)
        os.close(alive)
        ours = os.fdopen(ours, "wb", 0)  # when it is closed that process ends
        running.add(ours)
        if over.is_set():
            ours.close()
        try:
            came, _ = process.communicate(timeout=3 * args.time + BUILDS + 120)  # it may wait for a core
            report = json.loads(came)
        except (subprocess.TimeoutExpired, ValueError) as error:
            why = "it took too long" if isinstance(error, subprocess.TimeoutExpired) else "its grading has failed"
            report = {"fatal": why, "hint": "Tell your lecturer.", "stages": [], "seconds": 0.0, "text": why}
            told = ""  # so it is graded anew the next time
        finally:
            running.discard(ours)
            ours.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()  # each guard ends what it has started
                process.wait()
            process.stdout.close()
            shutil.rmtree(root, ignore_errors=True)
        if over.is_set():
            return None
        report["digest"] = told
        temporary = file.with_suffix(".new")
        temporary.write_text(json.dumps(report, indent=1))
        temporary.replace(file)
        results[folder.name] = report
        _, total = marks(report, args.table)
        return bar.step(folder.name, report["fatal"][:60] or f"{total:g} points")

    with folder_for_all() as place, ThreadPoolExecutor(args.jobs) as pool:
        cores = [f"{place}/core{number}" for number in range(CORES)]
        for core in cores:
            os.close(os.open(core, os.O_CREAT, 0o600))
        jobs = [pool.submit(grade, folder, place, cores) for folder in folders]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            over.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for ours in list(running):
                ours.close()
            raise
    return dict(sorted(results.items()))


def folder_for_all():
    """A temporary folder for what is graded. Other users may enter it, and see nothing of what is in it."""
    folder = tempfile.TemporaryDirectory(prefix="chat-grade-", ignore_cleanup_errors=True)
    os.chmod(folder.name, 0o711)
    return folder


def isolates(args):
    """Whether submissions run as other users."""
    return sys.platform == "linux" and os.geteuid() == 0 and not args.no_user


def short(name):
    """The name of a student's folder as that of a file: cut if the system would find it too long."""
    told = os.fsencode(name)
    return name if len(told) <= 200 else f"{name[:50]}-{hashlib.sha256(told).hexdigest()[:16]}"


# ----------------------------------------------------------------------------------------------------------------------
# The report

STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.2rem .5rem;text-align:left}td.n{text-align:right}
.passed{background:#d9f2d9}.BROKEN{background:#f8d4d4}.not{background:#eee}pre{background:#f4f4f4;padding:1rem;
overflow-x:auto;white-space:pre-wrap}"""


def page(title, body):
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )


def student_page(name, report, table):
    points, total = marks(report, table)
    most = sum(table["points"].values())
    rows = []
    for stage in report["stages"]:
        what = stage.get("what") or stage["because"]
        hint = f"<br>{html.escape(stage['hint'])}" if stage["hint"] else ""
        passed = sum(check["verdict"] == PASSED for check in stage["checks"].values())
        cells = [
            stage["name"],
            stage["verdict"],
            f"{passed} of {len(stage['checks'])}",
            f"{points[stage['name']]:g} of {table['points'][stage['name']]:g}",
            html.escape(what) + hint,
        ]
        rows.append(f'<tr class="{stage["verdict"].split()[0]}"><td>' + "<td>".join(cells))
    fatal = f"<p><b>It cannot be tested: {html.escape(report['fatal'])}.</b> {html.escape(report['hint'])}"
    head = "<tr><th>stage<th>verdict<th>checks<th>points<th>what is wrong"
    body = [
        f"<p>{total:g} of {most:g} points.{fatal if report['fatal'] else ''}",
        f"<table>{head}",
        *rows,
        f"</table>\n<h2>What was tested</h2><pre>{html.escape(report['text'])}</pre>",
    ]
    return page(name, "\n".join(body))


def overview(results, table):
    names = list(table["points"])
    head = "<tr><th>student<th>points<th>" + "<th>".join(names)
    rows = []
    for name, report in results.items():
        points, total = marks(report, table)
        verdicts = {stage["name"]: stage["verdict"] for stage in report["stages"]}
        cells = "".join(
            f'<td class="n {verdicts.get(stage, "not").split()[0]}" title="{verdicts.get(stage, "not tested")}">'
            f"{points[stage]:g}"
            for stage in names
        )
        link = f'<a href="students/{quote(os.fsencode(short(name)))}.html">{html.escape(name)}</a>'
        rows.append(f"<tr><td>{link}<td class=n>{total:g}{cells}")
    passes = [
        sum(
            stage["verdict"] == PASSED
            for report in results.values()
            for stage in report["stages"]
            if stage["name"] == name
        )
        for name in names
    ]
    rows.append(f"<tr><th>who passes<th>{len(results)}<th>" + "<th>".join(map(str, passes)))
    return page("The class", f"<table>{head}\n{chr(10).join(rows)}</table>")


def write(file, text):
    file.write_text(text, encoding="utf-8", errors="replace")  # a file's name may hold bytes that are no UTF-8


def safe_cell(text):
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def printable(text):
    """A text that XML may hold."""
    return "".join(c if c in "\t\n" or c.isprintable() else "\ufffd" for c in text)


def write_report(results, args):
    """CSV, JSON, JUnit's XML, a page a student, an overview, and Gradescope's results.json for each."""
    out, table = args.out, args.table
    names, most = list(table["points"]), sum(table["points"].values())
    (out / "students").mkdir(exist_ok=True)
    grades = {}
    suites = ElementTree.Element("testsuites")
    with open(out / "grades.csv", "w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(["student", "points", "of", "passed", *names, "first to mend"])
        for name, report in results.items():
            points, total = marks(report, table)
            first = report["fatal"] or next((s["what"] for s in report["stages"] if s["verdict"] == "BROKEN"), "")
            writer.writerow([safe_cell(name), total, most, "yes" if total >= table["pass"] else "no"]
                            + [points[stage] for stage in names] + [safe_cell(first)])  # fmt: skip
            grades[name] = {"points": points, "total": total, "of": most, "passed": total >= table["pass"]}
            grades[name] |= {"fatal": report["fatal"], "stages": report["stages"], "seconds": report["seconds"]}
            write(out / "students" / f"{short(name)}.html", student_page(name, report, table))
            folder = out / "gradescope" / short(name)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "results.json").write_text(json.dumps(gradescope(report, points, table), indent=1))
            add_suite(suites, name, report)
    (out / "grades.json").write_text(json.dumps(grades, indent=1))
    write(out / "index.html", overview(results, table))
    ElementTree.ElementTree(suites).write(out / "junit.xml", encoding="utf-8", xml_declaration=True)


def gradescope(report, points, table):
    """What Gradescope takes as results.json: https://gradescope-autograders.readthedocs.io/en/latest/specs/"""
    tests = []
    for stage in report["stages"]:
        most = table["points"][stage["name"]]
        words = [stage["verdict"], stage.get("what", ""), stage["because"], stage["hint"]]
        tests.append(
            {
                "name": stage["name"],
                "score": points[stage["name"]],
                "max_score": most,
                "status": "passed" if stage["verdict"] == PASSED else "failed",
                "output": "\n".join(filter(None, words)),
            }
        )
    output = "\n".join(filter(None, [report["fatal"], report["hint"]]))
    seconds = round(report["seconds"])
    return {"score": round(sum(points.values()), 2), "execution_time": seconds, "output": output, "tests": tests}


def add_suite(suites, name, report):
    """A student as a test suite, in the form that pytest --junit-xml writes and Jenkins reads."""
    suite = ElementTree.SubElement(suites, "testsuite", name=printable(name), time=f"{report['seconds']:.3f}")
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    if report["fatal"]:
        case = ElementTree.SubElement(suite, "testcase", classname=printable(name), name="can be tested")
        ElementTree.SubElement(case, "failure", message=printable(report["fatal"]))
        counts["tests"], counts["failures"] = 1, 1
    for stage in report["stages"]:
        for check, result in stage["checks"].items():
            case = ElementTree.SubElement(suite, "testcase", classname=printable(name), name=check)
            case.set("time", f"{result.get('seconds', 0):.3f}")
            counts["tests"] += 1
            if result["verdict"] == "BROKEN":
                ElementTree.SubElement(case, "failure", message=printable(result["what"]))
                counts["failures"] += 1
            elif result["verdict"] != PASSED:
                ElementTree.SubElement(case, "skipped", message=printable(result["because"]))
                counts["skipped"] += 1
    for key, value in counts.items():
        suite.set(key, str(value))


def main(given=None):
    given = sys.argv[1:] if given is None else given
    if given[:1] == ["--one"]:
        job, parent = json.loads(given[1]), os.getppid()
        end_with_the_class()
        try:
            json.dump(grade_one(job), sys.stdout)
        except SystemExit:
            if os.getppid() != parent:  # it was killed, and can remove nothing
                shutil.rmtree(Path(job["root"]).parent, ignore_errors=True)
            raise
        return 0
    args = arguments(given)
    if isolates(args):
        print(f"They run as users of their own, {USERS[0]} and up.", file=sys.stderr)
    else:
        print("They run as you: only root can have other users for them (see LECTURERS.md).", file=sys.stderr)
    results = grade_class(args)
    write_report(results, args)
    print(f"{len(results)} graded: {args.out}/index.html, grades.csv, grades.json, junit.xml, gradescope/")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same line again to go on")
