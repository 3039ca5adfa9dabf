"""Clean up after a test run, however it ends: `python reaper.py` with a pipe as standard input.

Each pytest process starts one of these in a session of its own, and tells it through the pipe what it
has begun: `+PID` for a process group, `-PID` when that group has gone, `d PATH` for a directory. When
pytest ends, whether it finished, was interrupted or killed with -9, the kernel closes the pipe, and what
was begun and is still there is ended here. So is what has made itself a session of its own, if it was
started in such a directory, or has its name in its environment.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time


class Reaper:
    """The writing end of the pipe, in the pytest process."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, "-S", __file__], stdin=subprocess.PIPE, start_new_session=True)

    def _tell(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def begin_group(self, pid):
        """A process group, by its leader's pid, that must not outlive pytest."""
        self._tell(f"+{pid}")

    def end_group(self, pid):
        """That group has gone; its number may be somebody else's from now on."""
        self._tell(f"-{pid}")

    def directory(self, path):
        """A directory that must not outlive pytest."""
        self._tell(f"d {path}")

    def close(self):
        """Have it all cleaned up, and wait for that."""
        self.process.stdin.close()
        self.process.wait()


def inhabitants(directories):
    """The processes that were started in one of the directories, or know of it from their environment (on Linux)."""
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as environment:
                known = os.readlink(f"/proc/{name}/cwd") + "/", os.fsdecode(environment.read())
                if any(f"{directory}/" in text for directory in directories for text in known):
                    yield int(name)


def main():
    """Remember what is begun; at the end of the pipe, end it."""
    groups, directories = set(), []
    for line in sys.stdin.buffer:
        kind, argument = line[:1], os.fsdecode(line[1:].strip())
        if kind == b"+":
            groups.add(int(argument))
        elif kind == b"-":
            groups.discard(int(argument))
        else:
            directories.append(argument)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    end = time.monotonic() + 5
    while (pids := list(inhabitants(directories))) and time.monotonic() < end:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
