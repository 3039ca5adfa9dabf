"""Run a program that may be wrong or hostile, and let nothing of it stay behind: `python guard.py OPTIONS`, JSON.

Whoever starts this holds two pipes. Each line written to the first, `state` or `kill`, is answered with a line of JSON
in the second. When the first pipe ends, because its writer has ended in whatever way, all that was started is killed,
and the scratch directory is removed.

On Linux this process is a subreaper (prctl(2)): a descendant whose parent has ended becomes its child, also one with a
session of its own, so that a daemon cannot get away. Elsewhere what is in the program's process group, or descends
from it while its parents live, is found.
"""

import base64
import collections
import contextlib
import ctypes
import json
import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LIBC = ctypes.CDLL(None)
LINUX = sys.platform == "linux"
HEAD, TAIL = 4 << 10, 64 << 10  # bytes of the output that are kept: its beginning and its end
EVERY = 0.2  # seconds between two looks at memory and processes
MIB = 1 << 20


def processes():
    """All processes: pid, parent's pid, process group, bytes in memory. Elsewhere than on Linux, ps tells."""
    if not LINUX:
        table = subprocess.run(["ps", "-axo", "pid=,ppid=,pgid=,rss="], capture_output=True, text=True).stdout
        return [(*map(int, row[:3]), int(row[3]) * 1024) for row in map(str.split, table.splitlines()) if len(row) == 4]
    found, page = [], os.sysconf("SC_PAGE_SIZE")
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{name}/stat", "rb") as file:
                stat = file.read().rpartition(b") ")[2].split()
                if stat[0] not in (b"Z", b"X"):
                    found.append((int(name), int(stat[1]), int(stat[2]), int(stat[21]) * page))
    return found


def descendants(root, group=None, surely=False, most=sys.maxsize):
    """What descends from a process, or is in the group: a dictionary of pid and bytes in memory.

    The kernel's own lists of children are quick to read, and may lack one while others end. `surely`: all processes
    are looked through. `most`: of more than so many it is enough to know some.
    """
    found = {}
    if LINUX and not surely and (quick := listed_below(root, most)) is not None:
        page = os.sysconf("SC_PAGE_SIZE")
        for pid in quick:
            with contextlib.suppress(OSError, ValueError, IndexError), open(f"/proc/{pid}/stat", "rb") as file:
                stat = file.read().rpartition(b") ")[2].split()
                if stat[0] not in (b"Z", b"X"):
                    found[pid] = int(stat[21]) * page
        return found
    children = collections.defaultdict(list)
    for pid, parent, its_group, memory in processes():
        children[parent].append((pid, memory))
        if group is not None and its_group == group:
            found[pid] = memory
    below = [root]
    while below:
        for pid, memory in children.pop(below.pop(), ()):
            found[pid] = memory
            below.append(pid)
    found.pop(os.getpid(), None)
    return found


def listed_below(root, most=sys.maxsize):
    """The pids below a process, by the kernel's lists of children (proc(5)); None where it has none. `most`: not many
    more than so many are listed."""
    found, below = [], [root]
    while below and len(found) <= most:
        pid = below.pop()
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    listed = [int(word) for word in file.read().split()]
                found += listed
                below += listed
        except FileNotFoundError:
            if pid == root:
                return None  # this kernel was built without them
        except OSError:
            pass  # it has ended
    return found


def own_memory(pids):
    """Bytes of memory of these processes, where pages that several of them share count once (Linux' PSS)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    return total


class Guard:
    """The program that was started, and what is known of it."""

    def __init__(self, options):
        self.options = options
        self.head, self.tail, self.count = b"", b"", 0
        self.pid = self.status = None
        self.over = self.error = ""
        self.most = 0
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        self.pipe = reading
        output = writing
        if options.get("output") == "closed":
            output = os.open(os.devnull, os.O_RDONLY)  # every write fails, as to a closed descriptor
        user, more = options.get("user"), {}
        if user is not None:
            more = {"user": user, "group": options["group"], "extra_groups": []}
        try:
            child = subprocess.Popen(
                options["command"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=options["cwd"],
                env=options["env"],
                start_new_session=True,
                preexec_fn=self.prepare,
                **more,
            )
            self.pid = child.pid
            child.returncode = 0  # it is this guard that waits for it
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.error = getattr(error, "strerror", None) or str(error)
        os.close(writing)

    def prepare(self):
        """In the child, before the program is there. None of this outlives it."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)  # nohup, or a shell's background, may have had them ignored
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if LINUX:  # should it end its guard, the system ends it
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (512 * MIB, 512 * MIB))  # of a file, shared memory included
        nofile = self.options.get("nofile")
        if nofile:  # both: Java and Node raise the soft one to the hard one
            resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))
        if self.options.get("user") is not None:  # a bound for each user, so of use only where the user is its own
            threads = self.options["processes"] * 4 + 4096
            resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads))

    def read(self):
        """Take what the program has written, so that it never waits for us, and keep the beginning and the end."""
        for _ in range(64):
            try:
                data = os.read(self.pipe, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            self.count += len(data)
            room = HEAD - len(self.head)
            self.head += data[:room]
            self.tail = (self.tail + data)[-TAIL:]
        return True

    def reap(self):
        """Take the status of each child that has ended, orphans that became ours included."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self.pid:
                    self.status = os.waitstatus_to_exitcode(status)

    def tree(self, surely=False, most=sys.maxsize):
        return descendants(os.getpid(), None if LINUX else self.pid, surely, most)

    def watch(self):
        """Kill it all if it takes more than it may."""
        tree = self.tree(most=self.options["processes"])
        memory = sum(tree.values())
        if memory > self.options["memory"] and LINUX:
            memory = own_memory(tree)
        self.most = max(self.most, memory)
        if memory > self.options["memory"]:
            self.over = f"{memory // MIB} MiB of memory, and may take {self.options['memory'] // MIB}"
        elif len(tree) > self.options["processes"]:
            self.over = f"more than {self.options['processes']} processes, which is what it may take"
        if self.over:
            self.kill()

    def kill(self):
        """End the program and all that descends from it.

        A group of processes is ended at one blow: who makes processes faster than they can be counted, a fork bomb,
        makes them in its own group. What is in other ones is stopped first, so that it cannot make more.
        """
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if self.group_is_its_own():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)
            self.reap()
            if not (tree := self.tree() or self.tree(surely=True)):
                break
            for number in (signal.SIGSTOP, signal.SIGKILL):
                for pid in tree:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
            time.sleep(0.002)
        self.reap()

    def group_is_its_own(self):
        """Whether the group that was made for the program is still that one: its number may be used anew."""
        if self.pid is None or self.status is None:
            return self.pid is not None
        for pid in self.tree(most=100):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(pid) == self.pid:
                    return True
        return False

    def state(self):
        self.read()
        self.reap()
        return {
            "pid": self.pid,
            "status": self.status,
            "error": self.error,
            "over": self.over,
            "most": self.most,
            "count": self.count,
            "head": base64.b64encode(self.head).decode(),
            "tail": base64.b64encode(self.tail).decode(),
        }

    def run(self):
        """Answer until the pipe ends."""
        waiting, looked = [0, self.pipe], 0.0
        while True:
            readable, _, _ = select.select(waiting, [], [], EVERY)
            if self.pipe in readable and not self.read():
                waiting.remove(self.pipe)
            self.reap()
            if time.monotonic() - looked > EVERY:
                self.watch()
                looked = time.monotonic()
            if 0 in readable:
                words = os.read(0, 4096)
                if not words:
                    return
                if words.strip() == b"kill":
                    self.kill()
                os.write(1, json.dumps(self.state()).encode() + b"\n")


def main():
    options = json.loads(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of the pipe is what ends this
    if LINUX:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    guard = Guard(options)
    with contextlib.suppress(OSError):  # root alone may
        os.setpriority(os.PRIO_PROCESS, 0, -10)  # so that it gets its turn among thousands that it is to end
    try:
        guard.run()
    except (BrokenPipeError, ConnectionError):
        pass
    finally:
        guard.kill()
        if options.get("remove"):
            shutil.rmtree(options["remove"], ignore_errors=True)


if __name__ == "__main__":
    main()
