"""Run a program that may be wrong or hostile, and let nothing of it stay behind: `python guard.py OPTIONS`, JSON.

Whoever starts this holds two pipes. Each line written to the first, `state` or `kill`, is answered with a line of JSON
in the second. When the first pipe ends, because its writer has ended in whatever way, all that was started is killed,
and the scratch directory is removed.

On Linux this process is a subreaper (prctl(2)): a descendant whose parent has ended becomes its child, also one with a
session of its own, so that a daemon cannot get away. Elsewhere what is in the program's process group, or descends
from it while its parents live, is found.

With the option `apart` it is also in namespaces of its own (pid_namespaces(7)), where the system lets us: it can signal
nothing but itself, and all of it ends at once. With the option `files` what it writes to the disk is bounded.
"""

import base64
import collections
import contextlib
import ctypes
import json
import os
import re
import resource
import select
import shutil
import signal
import stat
import subprocess
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LIBC = ctypes.CDLL(None)
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = 0x08000000, 0x10000000, 0x20000000
SHARED = ("/tmp", "/var/tmp", "/dev/shm")  # where every user may write
MOST_NAMES = 100_000  # files that it may have, if they are counted
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


def set_apart():
    """Let what we start from now on be in a pid namespace and an IPC namespace: the pid of its first process, or None
    where we may not have them. It can signal nobody outside, and when that first process is killed all the rest is.

    Who is not root has to be in a user namespace for it, as himself: some systems do not allow that.
    """
    user, group = os.geteuid(), os.getegid()
    if LIBC.unshare(CLONE_NEWPID | CLONE_NEWIPC | (CLONE_NEWUSER if user else 0)):
        return None
    if user:
        for name, words in ("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1"):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(words)
    if first := os.fork():
        return first
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Pids begin with 1 in each such namespace, and programs that name a file in /tmp after theirs would share it.
    with contextlib.suppress(OSError), open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(300 + int.from_bytes(os.urandom(2), "big") % 32000))
    os.closerange(0, 64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans become its children: nobody has to wait for them
    while True:
        signal.pause()


def kernel():
    """The version of the kernel: two numbers."""
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])


def blocks_below(folder):
    """Bytes of the disk, and the number of files, that are below a folder."""
    size = names = 0
    waiting = [folder]
    while waiting and names < MOST_NAMES:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    names += 1
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return size, names


def blocks_without_name(pids):
    """Bytes of the files that these processes have open and that have no name, or no longer."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    info = os.stat(f"/proc/{pid}/fd/{name}")
                    if stat.S_ISREG(info.st_mode) and not info.st_nlink:
                        found[info.st_dev, info.st_ino] = info.st_blocks * 512
    return sum(found.values())


class Guard:
    """The program that was started, and what is known of it."""

    def __init__(self, options):
        self.options = options
        self.head, self.tail, self.count = b"", b"", 0
        self.pid = self.status = None
        self.over = self.error = ""
        self.most = 0
        self.first = set_apart() if LINUX and options.get("apart") else None
        self.look_at_files = 0.0
        # What makes processes without end leaves little of the processor: who is to end it comes first, where he may.
        self.priority = os.getpriority(os.PRIO_PROCESS, 0)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, -20)
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
        os.setpriority(os.PRIO_PROCESS, 0, self.priority)
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
        if self.options.get("user") is not None or (self.first and os.geteuid() and kernel() >= (5, 14)):
            # A bound for each user, and since Linux 5.14 in each user namespace: one of them must be its own.
            threads = self.options["processes"] * 2 + 50
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
                elif pid == self.first:
                    self.first = None  # and the number may soon be another's

    def tree(self, surely=False, most=sys.maxsize):
        found = descendants(os.getpid(), None if LINUX else self.pid, surely, most)
        found.pop(self.first, None)
        return found

    def watch(self):
        """Kill it all if it takes more than it may."""
        tree = self.tree(most=self.options["processes"])
        memory = sum(tree.values())
        if len(tree) > self.options["processes"]:
            self.over = f"more than {self.options['processes']} processes, which is what it may take"
        elif memory > self.options["memory"] and LINUX:
            memory = own_memory(tree)
        self.most = max(self.most, memory)
        if memory > self.options["memory"] and not self.over:
            self.over = f"{memory // MIB} MiB of memory, and may take {self.options['memory'] // MIB}"
        elif not self.over and self.options.get("files") and time.monotonic() > self.look_at_files:
            then = time.monotonic()
            self.watch_files(tree)
            self.look_at_files = time.monotonic() + max(0.5, 20 * (time.monotonic() - then))
        if self.over:
            self.kill()

    def watch_files(self, tree):
        """Whether what it has written, where it may write, is too much."""
        size, names = blocks_without_name(tree), 0
        folders = [self.options["cwd"], self.options.get("remove")]
        for shared in SHARED if self.options.get("user") is not None else ():
            with contextlib.suppress(OSError), os.scandir(shared) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        info = entry.stat(follow_symlinks=False)
                        if info.st_uid == self.options["user"]:
                            size += info.st_blocks * 512
                            folders += [entry.path] if entry.is_dir(follow_symlinks=False) else []
        for folder in {*filter(None, folders)}:
            more, count = blocks_below(folder)
            size, names = size + more, names + count
        if size > self.options["files"]:
            self.over = f"{size // MIB} MiB of files, and may take {self.options['files'] // MIB}"
        elif names >= MOST_NAMES:
            self.over = f"{names} files, and may take {MOST_NAMES}"

    def kill(self):
        """End the program and all that descends from it.

        A group of processes is ended at one blow: who makes processes faster than they can be counted, a fork bomb,
        makes them in its own group. What is in other ones is stopped first, so that it cannot make more.
        """
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if self.first:
                with contextlib.suppress(ProcessLookupError):  # its status is not taken, so the pid is still its own
                    os.kill(self.first, signal.SIGKILL)
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
            "first": self.first,
            "count": self.count,
            "head": base64.b64encode(self.head).decode(),
            "tail": base64.b64encode(self.tail).decode(),
        }

    def run(self):
        """Answer until the pipe ends."""
        waiting, looked = [0, self.pipe], 0.0
        while True:
            before = self.count
            readable, _, _ = select.select(waiting, [], [], EVERY)
            if self.pipe in readable and not self.read():
                waiting.remove(self.pipe)
            if self.pipe in readable and self.count - before > 32 * 65536:
                time.sleep(0.02)  # who writes without end has to wait, and does not take the processor from others
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
