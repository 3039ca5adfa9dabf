"""What `check.py` does: stages, one after the other, for one program. See course/README.md."""

import argparse
import json
import resource
import shlex
import sys
import time
import tomllib
from pathlib import Path

from course.program import CannotStart, Limits, Program, check_program, words_of
from course.room import Room
from course.stages import STAGES
from course.verdict import BROKEN, NOT_TESTED, PASSED, Course, Lines, Stage, show_output

ROOT = Path(__file__).resolve().parent.parent
LIKE = ["", "blocking", "thread_per_client", "select_based", "poll_based", "asyncio_based", "epoll_based"]
LIKE += ["process_per_client", "proactor_based"]


def arguments(given):
    parser = argparse.ArgumentParser(
        prog="check.py",
        description="Hold your chat server to the contract, stage by stage, and say what to mend next.",
        epilog='Examples: python check.py ./my_server; python check.py "java -cp build Server {port}"; '
        "python check.py --stage 3 my_server.py. The pages: course/README.md.",
    )
    parser.add_argument("command", nargs="?", help="your program; its last argument, or {port}, is the port")
    parser.add_argument("--stage", help="test this stage alone: a number or a name")
    parser.add_argument("--from", dest="start", metavar="STAGE", help="begin with this stage")
    parser.add_argument("--to", metavar="STAGE", help="end with this stage")
    parser.add_argument("--all", action="store_true", help="go on in a stage after its first failure")
    parser.add_argument("--list", action="store_true", help="list the stages and their checks, and test nothing")
    parser.add_argument("--like", default="", choices=LIKE, metavar="MODEL", help="expect no more than of this model")
    parser.add_argument("--memory", type=positive, default=1024, metavar="MIB", help="MiB it may take (1024)")
    parser.add_argument("--processes", type=positive, default=1000, metavar="N", help="processes it may take (1000)")
    parser.add_argument("--time", type=positive, default=170, metavar="SECONDS", help="for all stages together (170)")
    parser.add_argument("--json", metavar="FILE", help="write the results there, too")
    args = parser.parse_args(given)
    if not args.command and not args.list:
        parser.error("say which program: python check.py ./my_server")
    for option in ("stage", "start", "to"):
        text = getattr(args, option)
        if text is not None:
            numbers = {str(number): number for number in range(1, len(STAGES) + 1)}
            numbers |= {stage.name: number for number, stage in enumerate(STAGES, 1)}
            if text not in numbers:
                parser.error(f"no stage is called {text}: they are 1 to {len(STAGES)}, or {', '.join(names())}")
            setattr(args, option, numbers[text])
    if args.stage and (args.start or args.to):
        parser.error("--stage tests one stage alone, and goes with neither --from nor --to")
    if args.start and args.to and args.start > args.to:
        parser.error("the stage of --from comes after that of --to")
    return args


def positive(text):
    number = int(text)
    if number <= 0:
        raise ValueError
    return number


def names():
    return [stage.name for stage in STAGES]


def exercise_of(command):
    """What the exercise says in which a program lies: a dictionary, empty if it lies in none."""
    path = Path(command if Path(command).exists() else next(iter(command.split()), ""))
    for folder in path.resolve().parents:
        file = folder / "exercise.toml"
        if file.is_file():
            import course.exercises.checks  # noqa: F401 (more checks, for exercises alone)

            with open(file, "rb") as toml:
                return tomllib.load(toml)
        if folder == ROOT:
            break
    return {}


def stages_for(like, only=None):
    """The stages, without what such a model does not promise; or those with these names, and of others the checks with
    these names."""
    echoes = like == "blocking"
    stages = []
    for stage in STAGES:
        wanted = [check for check in stage.checks if only is None or {stage.name, check.name} & {*only}]
        checks = [check for check in wanted if not (echoes and check.room)]
        if checks:
            stages.append(Stage(stage.name, stage.title, stage.why, stage.page, checks))
        else:
            stages.append(None)
    return stages


def launch(words, limits, cwd=None):
    """Start the program for the first time. Returns it and the seconds it took; CannotStart says why it cannot be."""
    check_program(words)
    program = Program(words, limits, cwd=cwd)
    try:
        seconds = program.await_listening()
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            if not program.running:
                program.check_no_daemon()
                raise CannotStart(
                    f"it listened, and does not stay: {program.how_it_ended()}", "Serve until a signal comes."
                )
            time.sleep(0.02)
        return program, seconds
    except CannotStart as error:
        error.output = program.output
        program.close()
        raise
    except BaseException:
        program.close()
        raise


def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def examine(command, limits, like="", only=None, numbers=None, every=False, budget=170, tell=print, cwd=None, **more):
    """Test a program: all stages, or those with these `numbers`; `more` is for Course. Returns a dictionary: `fatal`
    (why it cannot be run, or ""), and for each stage its verdict, its reason, its hint, and the verdict of each
    check."""
    many_descriptors()
    report = {"command": command, "fatal": "", "hint": "", "stages": [], "seconds": 0.0}
    begun = time.monotonic()
    stages = stages_for(like, only)
    numbers = numbers or [number for number, stage in enumerate(stages, 1) if stage]
    try:
        words = words_of(command) if isinstance(command, str) else list(command)
        program, seconds = launch(words, limits, cwd)
    except CannotStart as error:
        report |= {"fatal": str(error), "hint": error.hint}
        lines = Lines(tell, 20)
        lines.add(f"Your program cannot be tested: {error}.")
        if output := getattr(error, "output", ""):
            show_output(lines, output, "  ")
        if error.hint:
            lines.wrap(error.hint, "  Hint: ")
        lines.add("Nothing else was tested.")
        for stage in filter(None, stages):
            checks = {check.name: {"verdict": NOT_TESTED, "because": "it cannot be run"} for check in stage.checks}
            report["stages"].append(
                {"name": stage.name, "verdict": NOT_TESTED, "because": "it cannot be run", "hint": "", "checks": checks}
            )
        return report
    room = Room(words, limits, echoes=like == "blocking", like=like, first=program, cwd=cwd)
    room.started = seconds
    try:
        course = Course(room, [stage for stage in stages if stage], every, budget, tell, **more)
        for number in numbers:
            stage = stages[number - 1]
            if not stage:
                continue
            verdict = course.run_stage(number, stage)
            results = {check.name: course.results[check.name] for check in stage.checks}
            broken = next((result for result in results.values() if result.verdict == BROKEN), None)
            report["stages"].append(
                {
                    "name": stage.name,
                    "number": number,
                    "verdict": verdict,
                    "because": course.verdict_of(stage)[1].strip(" ()"),
                    "what": broken.broken.what if broken else "",
                    "hint": (broken.broken.hint or broken.check.hint).removeprefix("!") if broken else "",
                    "seconds": round(sum(result.seconds for result in results.values()), 2),
                    "checks": {
                        name: {
                            "verdict": result.verdict,
                            "because": result.because,
                            "what": result.broken.what if result.broken else "",
                            "seconds": round(result.seconds, 2),
                        }
                        for name, result in results.items()
                    },
                }
            )
    finally:
        room.end()
    report |= {"seconds": round(time.monotonic() - begun, 1), "files": sorted(room.files)[:20], "memory": room.most}
    return report


def summary(report, tell):
    tell("")
    for stage in report["stages"]:
        because = f"  ({stage['because']})" if stage["because"] else ""
        checks = stage["checks"].values()
        share = f"{sum(check['verdict'] == PASSED for check in checks)}/{len(checks)}"
        tell(f"{stage['number']:3} {stage['name']:10} {stage['verdict']:10} {share:>6}{because}")
    if report["files"]:
        tell(f"It left files in its working directory, which was a scratch directory: {', '.join(report['files'][:8])}")
    broken = [stage for stage in report["stages"] if stage["verdict"] == BROKEN]
    if broken:
        tell(f"Mend stage {broken[0]['number']} first: {broken[0]['what']}.")
        tell(f"Then: python check.py --stage {broken[0]['number']} {shlex.quote(report['command'])}")
    elif all(stage["verdict"] == PASSED for stage in report["stages"]):
        tell(f"All is kept ({report['seconds']:.0f} seconds).")
    else:
        tell("Nothing is broken, and not all could be tested.")


def main(given=None):
    args = arguments(given)
    sys.stdout.reconfigure(line_buffering=True)  # also in a pipe each line is seen when it is said
    if args.list:
        for number, stage in enumerate(STAGES, 1):
            print(f"{number:3} {stage.name:10} {stage.title}")
            for check in stage.checks:
                print(f"      {check.name:22} {check.tells}")
        return 0
    exercise = exercise_of(args.command)
    like = args.like or exercise.get("like", "")
    only = exercise.get("stages")
    numbers = None
    if args.stage:
        numbers, only = [args.stage], None
    elif args.start or args.to:
        numbers, only = list(range(args.start or 1, (args.to or len(STAGES)) + 1)), None
    if exercise and only:
        print(f"This is the exercise {exercise['name']!r}; it is held to: {', '.join(only)}.")
    limits = Limits(memory=args.memory << 20, processes=args.processes)
    report = examine(args.command, limits, like, only, numbers, args.all, args.time)
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=1))
    if report["fatal"]:
        return 1
    summary(report, print)
    return 0 if all(stage["verdict"] == PASSED for stage in report["stages"]) else 1
