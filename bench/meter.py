"""What a server and its children use, read from /proc (Linux)."""

import contextlib
import os
import signal
import time

TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds


def ended(returncode):
    """How a process ended, in words, or "" if all was well. One that a signal ended has mostly said nothing itself."""
    if not returncode:
        return ""
    if returncode > 0:
        return f"it ended with status {returncode}"
    try:
        return f"it was ended by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"it was ended by signal {-returncode}"


def proc(path):
    """A file of /proc, to be read: whatever bytes some program has chosen for its name must not end the measuring."""
    return open(f"/proc/{path}", encoding="utf-8", errors="replace")


def machine_cpu():
    """Seconds for which the cores of this machine have been busy, all together."""
    with proc("stat") as file:
        user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK


class ServerMeter:
    def __init__(self, pid):
        self.pid = pid
        self.highest = 0

    def alive(self):
        """Not gone, and not a zombie that waits to be collected."""
        try:
            with proc(f"{self.pid}/stat") as file:
                return file.read().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    def family(self):
        """The server and all its descendants, the server first."""
        parents = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    with proc(f"{name}/stat") as file:
                        parents.setdefault(int(file.read().rpartition(")")[2].split()[1]), []).append(int(name))
                except (OSError, ProcessLookupError):
                    pass
        family = [self.pid]
        for pid in family:
            family += parents.get(pid, [])
        return family

    def cpu(self):
        """Seconds of user and system time; children that have ended count in ticks."""
        total = 0.0
        for pid in self.family():
            try:
                total += time.clock_gettime(~pid << 3 | 2)  # the CPU clock of a process: see clock_getcpuclockid(3)
                with proc(f"{pid}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
                total += (int(fields[13]) + int(fields[14])) * TICK
            except OSError:
                pass
        return total

    def first_thread(self):
        """Seconds for which the server's first thread has run: with coroutines, the event loop without its helpers."""
        try:
            with proc(f"{self.pid}/task/{self.pid}/schedstat") as file:  # the first number is in nanoseconds
                return int(file.read().split()[0]) / 1e9
        except (OSError, IndexError):
            return 0.0

    def memory(self):
        """Bytes in RAM; what processes share counts once (PSS), the kernel's socket buffers do not."""
        total = 0
        for pid in self.family():
            try:
                with proc(f"{pid}/smaps_rollup") as file:
                    total += next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
            except (OSError, StopIteration):
                pass
        self.highest = max(self.highest, total)
        return total

    def peak(self):
        """The high-water mark of a single process; the highest of the samples where there are children."""
        self.memory()
        if len(self.family()) == 1:
            try:
                with proc(f"{self.pid}/status") as file:
                    return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
            except (OSError, StopIteration):
                pass
        return self.highest

    def tasks(self):
        """Threads and processes."""
        threads, family = 0, self.family()
        for pid in family:
            with contextlib.suppress(OSError):
                threads += len(os.listdir(f"/proc/{pid}/task"))
        return threads, len(family)
