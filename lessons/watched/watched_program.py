"""What watch.py puts into the program that it watches: it tells through a pipe who waits in what, from when to when.

The calls that wait are wrapped, one by one: methods of sockets, locks and queues, select and its like, sleep, and what
reads and writes descriptors. `sys.setprofile` would see them all without that. But it sees no results, so that nobody
would know what recv brought, and it slows down every call of the program, not only those that wait.

What is told are records, tuples that begin with one of these words:

    lane, LANE, time, name, kind, process       there is a new lane
    name, LANE, name, kind                      it is called otherwise
    died, LANE, time                            its thread or task has ended
    gone, process, time                         the process has ended, and all of its lanes
    wait, LANE, time, state, call, what         it begins to wait
    went, LANE, time                            it goes on
    step, LANE, time, loop's LANE               the loop has a task run
    rest, LANE, time, loop's LANE, state, what  the task gives way
    ready, LANE, time                           what a task has awaited is there
    came, LANE, time, peer, bytes, text         what was received
    sent, LANE, time, peer, bytes, text         what was sent
    line, LANE, time, text                      a line of the log
    lost, number, process, time                 so many records could not be told, as nobody read them

Times are those of `time.monotonic_ns`, which is the same for all processes of a machine.
"""

import atexit
import builtins
import fcntl
import functools
import io
import itertools
import linecache
import marshal
import os
import queue
import re
import resource
import select
import selectors
import signal
import socket
import stat
import struct
import sys
import threading
import time
import weakref

MOST_TEXT = 80  # characters of what is said and of what is waited for
MOST_LINE = 400  # bytes of a line of the log
HIGHEST = 4096  # the pipe's descriptor is below this, and above all that the program gets: it is to notice nothing
SIZE = struct.Struct("=H")  # goes before each record
LASTING = "lane", "name", "died", "gone"
MOST_OWED = 1000  # records
PATIENCE = 5  # seconds that the end may take, if something could not be told
LIBRARY = os.path.dirname(os.__file__) + os.sep
HERE = os.path.dirname(__file__) + os.sep
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")

now = time.monotonic_ns
ident = threading.get_ident
write, fstat = os.write, os.fstat
pid_of, poll = os.getpid, select.poll

lanes = {}  # a thread's ident: the lane in which it is now, that of a task or a loop included
numbers = itertools.count(1)
processes = itertools.count(2)
pipe = identity = None  # the descriptor, and which file that must be: the program may have closed it, and got it anew
lost = 0  # records
owed = []  # records that could not be told, and without which later ones could not be understood


def tell(*records):
    """Write records into the pipe; if it is full, count them as lost. It never waits, and never raises an OSError."""
    global lost, pipe
    if pipe is None:
        return
    if lost or owed:
        records = *([("lost", lost, pid_of(), now())] if lost else []), *owed, *records
    parts = [SIZE.pack(len(record)) + record for record in map(marshal.dumps, records)]
    whole = b"".join(parts)
    written = 0
    try:
        status = fstat(pipe)
        if (status.st_dev, status.st_ino) != identity:
            raise BrokenPipeError
        # As short as this it is written as a whole or not at all, whoever else writes.
        if len(whole) <= select.PIPE_BUF:
            parts = [whole] if whole else []
        for part in parts:
            write(pipe, part)
            written += 1
        if lost or owed:
            lost, owed[:] = 0, []
    except BlockingIOError:
        rest = [record for record in records[written:] if record[0] != "lost"]
        owed[:] = [record for record in rest if record[0] in LASTING][:MOST_OWED]
        lost = len(rest) - len(owed) + (0 if written else lost)
    except OSError:
        pipe = None  # nobody watches any more


def farewell():
    """At the end of the program tell what could not be told so far. Now it may take a moment, but not for ever."""
    if pipe is not None and (lost or owed):
        poller = poll()
        poller.register(pipe, select.POLLOUT)
        poller.poll(PATIENCE * 1000)
        tell()


def harmless(otherwise):
    """Have a function that only describes things return this, rather than harm the program with an error."""

    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **options):
            try:
                return function(*args, **options)
            except Exception:  # the things are the program's, and may do anything when they are looked at
                return otherwise

        return wrapper

    return decorate


def lane():
    """Return the lane of what runs now."""
    # current_thread() would make one up for a thread that was begun without the module.
    return lanes.get(ident()) or thread_lane(getattr(threading._active.get(ident()), "name", "thread"))


def new_lane(name, kind):
    """Return a new lane, that is told of."""
    number = pid_of() << 24 | next(numbers)
    tell(("lane", number, now(), name, kind, pid_of()))
    return number


def thread_lane(name):
    """Begin the lane of this thread."""
    lanes[ident()] = new_lane(name, "thread")
    return lanes[ident()]


def safe(text):
    """Return text in one line that is safe to print, not longer than MOST_TEXT characters."""
    text = UNPRINTABLE.sub(" / ", text.strip("\r\n\t \0"))
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 1] + "…"


# Peers

peers = weakref.WeakKeyDictionary()  # socket: its peer. One that was reset has none any more


def address_name(address):
    """Return an address as HOST:PORT, or as what it is."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, number = address[:2]
        return f"[{host}]:{number}" if ":" in str(host) else f"{host}:{number}"
    return os.fsdecode(address) if isinstance(address, (str, bytes)) else ""


def peer_of(sock):
    """Return the address of a socket's other end, or "" if it has none."""
    name = peers.get(sock)
    if name is None:
        try:
            name = address_name(sock.getpeername())
        except OSError:
            return ""
        peers[sock] = name
    return name


def other_end(sock, preposition):
    """Return whom something is received from or sent to, for `what`."""
    pair = sock.family not in (socket.AF_INET, socket.AF_INET6)
    return f" {preposition} {peer_of(sock) or ('a socket pair' if pair else 'somebody who has gone')}"


@harmless("")
def peer_among(values):
    """Return the address of the first one that has a peer, or of which an attribute has one, or ""."""
    for value in values:
        attributes = getattr(value, "__dict__", None)
        for thing in (value, *(list(attributes.values())[:50] if type(attributes) is dict else ())):
            if isinstance(thing, socket.socket):
                name = peer_of(thing)
            elif type(thing).__name__ in ("StreamWriter", "StreamReader") or type(thing).__name__.endswith("Transport"):
                name = transport_peer(thing)
            else:
                continue
            if name and name != value:
                return name
    return ""


def transport_peer(thing):
    """Return the address of a stream's or a transport's other end, or ""."""
    transport = getattr(thing, "_transport", None) if type(thing).__name__ == "StreamReader" else thing
    try:
        return address_name(transport.get_extra_info("peername"))
    except (AttributeError, OSError):
        return ""


def titled(name, values):
    """Return a function's name with the peer that is among its arguments: attend(127.0.0.1:52344)."""
    peer = peer_among(values)
    return f"{name}({peer})" if peer else name


# Waiting


class Waiting:
    """Tells that the lane waits, while the block runs: `with Waiting("sleep", "sleep", "sleep of 1 second")`."""

    __slots__ = "after", "lane", "record"

    def __init__(self, state, call, what):
        self.lane, self.after = lane(), ()
        self.record = state, call, safe(what)

    def __enter__(self):
        tell(("wait", self.lane, now(), *self.record))
        return self

    def __exit__(self, *_):
        tell(("went", self.lane, now()), *self.after)


@harmless(())
def moved(way, sock, data, size):
    """Return the record of bytes that came or were sent, as a tuple that is empty if there is nothing to tell."""
    if not size or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return ()
    with memoryview(data) as view, view.cast("B") as flat:  # or nobody could change the length of a bytearray
        start = bytes(flat[: min(size, 4 * MOST_TEXT)])
    is_tls = start[0] in range(20, 24) and start[1:2] == b"\x03"  # each of its records begins with kind and version
    text = "(encrypted)" if is_tls else safe(start.decode(errors="replace"))
    return ((way, lane(), now(), peer_of(sock), size, text),)


class Wrapped:
    """In the place of a function of C. A function of Python in the body of a class would become a method there."""

    def __init__(self, function):
        self.function = function
        functools.update_wrapper(self, function)

    def __repr__(self):
        return repr(self.function)


def wrap(module, name, kind):
    """Put a Wrapped in the place of a module's function, if there is one."""
    if hasattr(module, name):
        setattr(module, name, kind(getattr(module, name)))


# Sockets

DONT_WAIT = getattr(socket, "MSG_DONTWAIT", 0)


def watch_sockets():
    """Wrap the methods of sockets. A call that cannot wait is told of only by what it brought or took."""
    base = socket.socket.__mro__[1]

    def method(name):
        def decorate(function):
            original = getattr(base, name)
            wrapper = functools.wraps(original)(
                lambda self, *args, **options: function(original, self, *args, **options)
            )
            setattr(socket.socket, name, wrapper)

        return decorate

    def flags_of(args, options, place):
        return options.get("flags", args[place] if len(args) > place else 0)

    def waits(sock, flags):
        return sock.gettimeout() != 0 and not flags & DONT_WAIT

    for name in ("recv", "recvfrom"):

        @method(name)
        def receive(original, self, *args, name=name, **options):
            flags = flags_of(args, options, 1)

            def told(result):
                data = result[0] if name == "recvfrom" else result
                return () if flags & socket.MSG_PEEK else moved("came", self, data, len(data))

            if not waits(self, flags):
                result = original(self, *args, **options)
                tell(*told(result))
                return result
            with Waiting("receive", name, "recv" + other_end(self, "from")) as waiting:
                result = original(self, *args, **options)
                waiting.after = told(result)
                return result

    for name in ("recv_into", "recvfrom_into"):

        @method(name)
        def receive_into(original, self, buffer, *args, name=name, **options):
            flags = flags_of(args, options, 1)

            def told(result):
                size = result[0] if name == "recvfrom_into" else result
                return () if flags & socket.MSG_PEEK else moved("came", self, buffer, size)

            if not waits(self, flags):
                result = original(self, buffer, *args, **options)
                tell(*told(result))
                return result
            with Waiting("receive", name, "recv" + other_end(self, "from")) as waiting:
                result = original(self, buffer, *args, **options)
                waiting.after = told(result)
                return result

    for name in ("send", "sendall"):

        @method(name)
        def send(original, self, data, *args, name=name):
            def told(result):
                return moved("sent", self, data, memoryview(data).nbytes if result is None else result)

            if not waits(self, args[0] if args else 0):
                result = original(self, data, *args)
                tell(*told(result))
                return result
            with Waiting("send", name, name + other_end(self, "to")) as waiting:
                result = original(self, data, *args)
                waiting.after = told(result)
                return result

    @method("sendmsg")
    def sendmsg(original, self, buffers, *args):
        buffers = list(buffers)

        def told(result):
            start = b""
            for buffer in buffers:  # asyncio hands over all that is unsent
                if len(start) < 4 * MOST_TEXT:
                    start += bytes(memoryview(buffer).cast("B")[: 4 * MOST_TEXT])
            return moved("sent", self, start[:result], result)

        if not waits(self, args[1] if len(args) > 1 else 0):
            result = original(self, buffers, *args)
            tell(*told(result))
            return result
        with Waiting("send", "sendmsg", "sendmsg" + other_end(self, "to")) as waiting:
            result = original(self, buffers, *args)
            waiting.after = told(result)
            return result

    @method("_accept")
    def accept(original, self):
        if not waits(self, 0):
            return original(self)
        with Waiting("accept", "accept", "accept of a client"):
            return original(self)

    @method("connect")
    def connect(original, self, address):
        if not waits(self, 0):
            return original(self, address)
        with Waiting("other", "connect", f"connect to {address_name(address)}"):
            return original(self, address)


# select and its like


def count_of(number, what="socket"):
    """Return a number of things: 1 socket, 2 sockets."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def number_of(thing):
    """Return a descriptor's number."""
    return thing if isinstance(thing, int) else thing.fileno()


@functools.cache
def is_proactors(code):
    """Return whether a function is a method of a proactor: it waits for completions then, by whatever call."""
    return "proactor" in code.co_qualname.partition(".")[0].lower()


def state_of_wait(frame):
    """Return the state of a wait for readiness. A proactor's wait is for completions, whatever is below."""
    while frame and frame.f_globals.get("__name__") == "selectors":
        frame = frame.f_back
    return "completion" if frame and is_proactors(frame.f_code) else "readiness"


class Select(Wrapped):
    """select.select."""

    def __call__(self, *args):
        lists = [things if hasattr(things, "__len__") else list(things) for things in args[:3]]
        args = *lists, *args[3:]
        if args[3:] and args[3] is not None and args[3] <= 0:
            return self.function(*args)
        what = f"select of {count_of(sum(map(len, lists)))}"
        with Waiting(state_of_wait(sys._getframe(1)), "select", what):
            return self.function(*args)


class Poller:
    """What poll and epoll objects have in common. They are types of C that cannot be derived from."""

    def __init__(self, *args, **options):
        watch_asyncio()
        self._poller, self._known = self._make(*args, **options), set()

    def register(self, fd, *args, **options):
        self._poller.register(fd, *args, **options)
        self._known.add(number_of(fd))

    def modify(self, *args, **options):
        return self._poller.modify(*args, **options)

    def unregister(self, fd):
        self._known.discard(number_of(fd))
        return self._poller.unregister(fd)

    def poll(self, *args, **options):
        timeout = options.get("timeout", args[0] if args else None)
        if timeout == 0:
            return self._poller.poll(*args, **options)
        what = f"{self._name} of {count_of(len(self._known))}"
        with Waiting(state_of_wait(sys._getframe(1)), self._call, what):
            return self._poller.poll(*args, **options)


def watch_selects():
    """Wrap select, poll, epoll and kqueue, before anything else takes them out of their module."""
    wrap(select, "select", Select)
    if hasattr(select, "poll"):

        class Poll(Poller):
            _make, _name, _call = staticmethod(select.poll), "poll", "poll"

        Poll.__name__ = Poll.__qualname__ = "poll"
        select.poll = Poll

    if hasattr(select, "epoll"):

        class Epoll(Poller):
            _make, _name, _call = staticmethod(select.epoll), "epoll", "epoll_wait"

            @classmethod
            def fromfd(cls, fd):
                self = cls.__new__(cls)
                self._poller, self._known = cls._make.fromfd(fd), set()
                return self

            @property
            def closed(self):
                return self._poller.closed

            def fileno(self):
                return self._poller.fileno()

            def close(self):
                self._poller.close()

            def __enter__(self):
                self._poller.__enter__()
                return self

            def __exit__(self, *_):
                self.close()

        Epoll.__name__ = Epoll.__qualname__ = "epoll"
        select.epoll = Epoll

    if hasattr(select, "kqueue"):

        class Kqueue:
            _make = staticmethod(select.kqueue)

            def __init__(self):
                watch_asyncio()
                self._queue, self._known = self._make(), set()

            @classmethod
            def fromfd(cls, fd):
                self = cls.__new__(cls)
                self._queue, self._known = cls._make.fromfd(fd), set()
                return self

            @property
            def closed(self):
                return self._queue.closed

            def fileno(self):
                return self._queue.fileno()

            def close(self):
                self._queue.close()

            def control(self, changes, most, timeout=None):
                changes = None if changes is None else list(changes)
                for change in changes or ():
                    known = self._known.add if change.flags & select.KQ_EV_ADD else self._known.discard
                    known((change.ident, change.filter))
                if not most or timeout == 0:
                    return self._queue.control(changes, most, timeout)
                what = f"kqueue of {count_of(len({ident for ident, _ in self._known}))}"
                with Waiting(state_of_wait(sys._getframe(1)), "kevent", what):
                    return self._queue.control(changes, most, timeout)

        Kqueue.__name__ = Kqueue.__qualname__ = "kqueue"
        select.kqueue = Kqueue

    # This module has taken them already.
    for name, call in (("SelectSelector", "select"), ("PollSelector", "poll"), ("EpollSelector", "epoll")):
        selector = getattr(selectors, name, None)
        if selector and call == "select":
            selector._select = select.select
        elif selector:
            selector._selector_cls = getattr(select, call)


# io_uring

IO_URING_ENTER = 426  # the number of the system call, on most processors


class Syscall:
    """The function syscall of the C library, as ctypes gives it: by that alone a program of Python has io_uring."""

    def __init__(self, function):
        object.__setattr__(self, "function", function)

    def __getattr__(self, name):
        return getattr(self.function, name)

    def __setattr__(self, name, value):
        setattr(self.function, name, value)

    def __call__(self, *args):
        if len(args) < 4 or args[0] != IO_URING_ENTER or not args[3]:
            return self.function(*args)
        with Waiting("completion", "io_uring_enter", f"io_uring for {count_of(args[3], 'operation')}"):
            return self.function(*args)


def watch_io_uring():
    """Wrap that function wherever a library is asked for it, as soon as the program has loaded one by ctypes.

    To import ctypes for the program would be seen: its libffi keeps a descriptor open.
    """
    original = None

    @harmless(None)
    def hook(event, _):
        nonlocal original
        if event != "ctypes.dlopen" or original:
            return
        library = sys.modules["ctypes"].CDLL
        original = library.__getitem__

        @functools.wraps(original)
        def __getitem__(self, name):
            function = original(self, name)
            return Syscall(function) if name == "syscall" else function

        library.__getitem__ = __getitem__

    sys.addaudithook(hook)


# Locks and queues


@harmless("")
def name_of(thing, frame):
    """Return the name under which a function knows a thing, or ""."""
    me = frame.f_locals.get("self")
    for known in (frame.f_locals, getattr(me, "__dict__", {}), frame.f_globals):
        for key, value in list(known.items()):  # another thread may change it meanwhile
            if value is thing:
                return key
    return ""


@harmless(("lock", "acquire", "a lock"))
def waits_for(lock, frame):
    """Return state, call and what of a wait for a lock; or None, if it is the inner affair of a library's thing."""
    calls = []
    while frame and frame.f_globals.get("__name__") in ("threading", "queue"):
        if frame.f_code.co_qualname in ("Thread.run", "Thread._bootstrap_inner"):
            break
        if "self" in frame.f_locals:
            calls.append((frame.f_code.co_qualname, frame.f_locals["self"]))
        frame = frame.f_back
    if not frame:
        return None
    name, thing = calls[-1] if calls else ("", lock)
    known = name_of(thing, frame)
    kind, _, call = name.partition(".")
    is_inner = not (calls and calls[0][0] == "Condition.wait")
    if isinstance(thing, queue.Queue):
        if is_inner:
            return None
        doing = {"get": "get from", "put": "put into"}.get(call, f"{call} of")
        return "queue", call, f"{doing} the queue {known}"
    if isinstance(thing, (threading.Event, threading.Semaphore, threading.Barrier)):
        return None if is_inner else ("lock", call, f"wait for the {kind.lower()} {known}")
    if isinstance(thing, threading.Condition):
        if is_inner:
            return "lock", "acquire", f"the lock of {known}"
        if frame.f_globals.get("__name__", "").startswith("concurrent.futures"):
            return "lock", "wait", "wait for a future"
        return "lock", "wait", f"wait on the condition {known}"
    if isinstance(thing, threading.Thread):
        return None
    if frame.f_globals.get("__name__") == "logging":
        return "lock", "acquire", "the lock of the log"
    return "lock", "acquire", f"the lock {known}"


class Lock:
    """threading.Lock, which cannot be derived from. A lock that is free is taken without a word."""

    __slots__ = "__weakref__", "_lock", "locked", "release"
    _make = staticmethod(threading.Lock)

    def __init__(self):
        self._lock = self._make()
        self.release, self.locked = self._lock.release, self._lock.locked

    def acquire(self, blocking=True, timeout=-1):
        if self._lock.acquire(False):
            return True
        if not blocking:
            return self._lock.acquire(blocking, timeout)
        waits = waits_for(self, sys._getframe(1))
        if not waits:
            return self._lock.acquire(blocking, timeout)
        with Waiting(*waits):
            return self._lock.acquire(blocking, timeout)

    __enter__ = acquire

    def __exit__(self, *_):
        self.release()

    def _at_fork_reinit(self):
        self._lock._at_fork_reinit()

    def __repr__(self):
        return repr(self._lock)


class RLock(type(threading.RLock())):
    """threading.RLock."""

    def acquire(self, blocking=True, timeout=-1):
        if super().acquire(False):
            return True
        if not blocking:
            return super().acquire(blocking, timeout)
        waits = waits_for(self, sys._getframe(1))
        if not waits:
            return super().acquire(blocking, timeout)
        with Waiting(*waits):
            return super().acquire(blocking, timeout)

    __enter__ = acquire


class SimpleQueue(queue.SimpleQueue):
    """queue.SimpleQueue, which is of C and has no lock to be seen."""

    def get(self, block=True, timeout=None):
        try:
            return super().get(False)
        except queue.Empty:
            if not block:
                raise
        with Waiting("queue", "get", f"get from the queue {name_of(self, sys._getframe(1))}"):
            return super().get(True, timeout)


def watch_threads():
    """Wrap locks and queues, and give each thread a lane."""
    threading.Lock = threading._allocate_lock = Lock
    threading.RLock = RLock
    queue.SimpleQueue = SimpleQueue
    bootstrap, join = threading.Thread._bootstrap_inner, threading.Thread.join

    def _bootstrap_inner(self):
        name = getattr(getattr(self, "_target", None), "__name__", "_")
        # That of a library is no name to be read; and a class with a run() of its own has none.
        name = self.name if name.startswith("_") else titled(name, (*self._args, *self._kwargs.values()))
        number = thread_lane(f"thread {name}")
        try:
            bootstrap(self)
        finally:
            tell(("died", number, now()))
            lanes.pop(ident(), None)

    def _join(self, timeout=None):
        if not self.is_alive() or self is threading.current_thread():
            return join(self, timeout)
        with Waiting("child", "join", f"join of {self.name}"):
            return join(self, timeout)

    threading.Thread._bootstrap_inner = functools.wraps(bootstrap)(_bootstrap_inner)
    threading.Thread.join = functools.wraps(join)(_join)


# Sleep, descriptors, children


class Sleep(Wrapped):
    """time.sleep."""

    def __call__(self, seconds):
        with Waiting("sleep", "sleep", f"sleep of {seconds:g} s" if isinstance(seconds, (int, float)) else "sleep"):
            return self.function(seconds)


def kind_of(fd):
    """Return what a descriptor belongs to, if using it may wait: "socket", "pipe" or "terminal"; else ""."""
    try:
        mode = fstat(fd).st_mode
        if not os.get_blocking(fd):
            return ""
    except (OSError, TypeError):
        return ""
    if stat.S_ISSOCK(mode):
        return "socket"
    if stat.S_ISFIFO(mode):
        return "pipe"
    return "terminal" if stat.S_ISCHR(mode) and os.isatty(fd) else ""


READS = {
    "socket": ("receive", "read from a socket"),
    "pipe": ("input", "read from a pipe"),
    "terminal": ("input", "read from the keyboard"),
}


class Read(Wrapped):
    """os.read and os.readv."""

    def __call__(self, fd, *args):
        kind = kind_of(fd)
        if not kind:
            return self.function(fd, *args)
        state, what = READS[kind]
        with Waiting(state, self.__name__, what):
            return self.function(fd, *args)


class Write(Wrapped):
    """os.write. What is written to a terminal is not told of: it waits there only if somebody has stopped it."""

    def __call__(self, fd, data):
        kind = kind_of(fd)
        if fd == pipe or kind not in ("socket", "pipe"):
            return self.function(fd, data)
        with Waiting("send", "write", f"write into a {kind}"):
            return self.function(fd, data)


class Wait(Wrapped):
    """os.wait and its like."""

    def __call__(self, *args):
        if self.__name__ == "wait":
            child, flags = -1, 0
        elif self.__name__ == "wait3":
            child, flags = -1, args[0] if args else 0
        else:
            child, flags = args[0], args[1] if len(args) > 1 else 0
        if flags & os.WNOHANG:
            result = self.function(*args)
        else:
            what = f"{self.__name__} for {'a child' if child <= 0 else f'process {child}'}"
            with Waiting("child", self.__name__, what):
                result = self.function(*args)
        if result[0] > 0:
            tell(("gone", result[0], now()))
        return result


class Exit(Wrapped):
    """os._exit."""

    def __call__(self, *args, **options):
        tell(("gone", pid_of(), now()))
        return self.function(*args, **options)


class ForSignal(Wrapped):
    """signal.pause and its like."""

    def __call__(self, *args, **options):
        with Waiting("other", self.__name__, f"{self.__name__} for a signal"):
            return self.function(*args, **options)


class Input(Wrapped):
    """The function input."""

    def __call__(self, *args):
        with Waiting("input", "input", "input from the keyboard"):
            return self.function(*args)


class Keyboard(io.FileIO):
    """Below sys.stdin: its reads are done in C and are seen nowhere else."""

    def readinto(self, buffer):
        kind = kind_of(self.fileno())
        if not kind:
            return super().readinto(buffer)
        state, what = READS[kind]
        with Waiting(state, "read", what):
            return super().readinto(buffer)


class Log(io.FileIO):
    """Below sys.stderr: each line is told with its time."""

    rest = b""

    def write(self, data):
        when, size = now(), super().write(data)
        *lines, self.rest = (self.rest + bytes(data)[: size or 0]).split(b"\n")
        self.rest = self.rest[-4096:]
        for line in lines:
            tell(("line", lane(), when, line[:MOST_LINE].decode(errors="replace")))
        return size


def watch_files():
    """Wrap what waits for descriptors and children."""
    wrap(time, "sleep", Sleep)
    for name in ("read", "readv"):
        wrap(os, name, Read)
    wrap(os, "write", Write)
    for name in ("wait", "wait3", "wait4", "waitpid"):
        wrap(os, name, Wait)
    wrap(os, "_exit", Exit)
    for name in ("pause", "sigwait", "sigwaitinfo"):
        wrap(signal, name, ForSignal)
    wrap(builtins, "input", Input)
    if sys.stderr is not None:
        raw = Log(sys.stderr.fileno(), "w", closefd=False)
        raw.name = "<stderr>"
        errors = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=sys.stderr.encoding,
            errors=sys.stderr.errors,
            newline="\n",
            line_buffering=True,
            write_through=sys.stderr.write_through,
        )
        errors.mode = "w"
        sys.stderr = sys.__stderr__ = errors
    if sys.stdin is not None:
        raw = Keyboard(sys.stdin.fileno(), "r", closefd=False)
        raw.name = "<stdin>"
        keys = io.TextIOWrapper(io.BufferedReader(raw), encoding=sys.stdin.encoding, errors=sys.stdin.errors)
        keys.mode = "r"
        sys.stdin = sys.__stdin__ = keys


def watch_forks():
    """Give each child process a lane."""
    born = None

    def before():
        nonlocal born
        frame, process = sys._getframe(1), None
        peer = peer_among(frame.f_locals.values())
        for _ in range(5):  # multiprocessing forks some calls below its Process
            process = process or frame.f_locals.get("process_obj")
            frame = frame.f_back
            if process or not frame:
                break
        if process:
            peer = peer_among(getattr(process, "_args", ())) or getattr(process, "name", "")
        born = f"process {next(processes)} ({peer or 'child'})"
        main = main_lane()
        if main:
            tell(("name", main, "process 1 (parent)", "process"))

    def in_child():
        global lost
        lost, owed[:] = 0, []  # the parent tells of these
        lanes.clear()
        lanes[ident()] = new_lane(born, "process")

    os.register_at_fork(before=before, after_in_child=in_child)


first_lane = []  # of the program's first process, and its process; the number of a child's is another


def main_lane():
    """Return the lane of the first process's first thread, in that process."""
    return first_lane[0] if first_lane[1] == pid_of() else None


# asyncio

asyncio_is_watched = False


@harmless(None)
def watch_asyncio():
    """Wrap asyncio's loop as soon as there is one: a loop makes a selector, which comes here."""
    global asyncio_is_watched
    events, base = sys.modules.get("asyncio.events"), sys.modules.get("asyncio.base_events")
    if asyncio_is_watched or not hasattr(base, "BaseEventLoop") or not hasattr(events, "Handle"):
        return
    asyncio_is_watched = True
    tasks_module = sys.modules["asyncio.tasks"]
    tasks = weakref.WeakKeyDictionary()  # task: its lane
    loops = weakref.WeakKeyDictionary()  # loop: its lane
    ready = set()  # lanes of tasks that could go on
    handle_run = events.Handle._run
    call_soon, run_forever, close = map(vars(base.BaseEventLoop).get, ("_call_soon", "run_forever", "close"))
    kinds = tasks_module.Task, tasks_module._PyTask
    steps = "task_wakeup", "_Task__step", "_Task__wakeup", "__step", "__wakeup"

    def task_of(callback):
        """Return the task of which this callback is a step, or None."""
        task = getattr(callback, "__self__", None)
        if isinstance(task, kinds) and (
            type(callback).__name__ == "TaskStepMethWrapper" or getattr(callback, "__name__", "") in steps
        ):
            return task
        return None

    def loop_lane(loop):
        number = loops.get(loop)
        if number is None:
            number = loops[loop] = new_lane("event loop", "loop")
        return number

    def task_lane(task):
        """Return a task's lane, or None if it is one of the library's own: what such a one does is the loop's work."""
        if task not in tasks:
            coroutine = task.get_coro()
            frame = frame_of(coroutine)
            name = getattr(coroutine, "__name__", None) or task.get_name()
            inner = frame and frame.f_code.co_filename.startswith(LIBRARY) and name.startswith(("_", "shutdown_"))
            title = titled(name, frame.f_locals.values() if frame else ())
            tasks[task] = None if inner else new_lane(f"task {title}", "task")
        return tasks[task]

    def _call_soon(self, callback, args, context):
        handle = call_soon(self, callback, args, context)
        loop_lane(self)
        task = task_of(callback)
        number = task and task_lane(task)
        if number:
            ready.add(number)
            if lanes.get(ident()) != number:
                tell(("ready", number, now()))
        return handle

    def _run(self):
        task = task_of(self._callback)
        number = task and task_lane(task)
        if not number:
            return handle_run(self)
        me = ident()
        loop = lanes.get(me) or lane()
        ready.discard(number)
        lanes[me] = number
        tell(("step", number, now(), loop))
        try:
            handle_run(self)
        finally:
            lanes[me] = loop
            when = now()
            if task.done():
                tell(("rest", number, when, loop, "", ""), ("died", number, when))
            elif number in ready:
                tell(("rest", number, when, loop, "ready", "its turn in the loop"))
            else:
                tell(("rest", number, when, loop, "await", awaited(task)))
        return None

    def _run_forever(self):
        me = ident()
        outer = lane()
        with Waiting("other", "run_forever", "its event loop"):
            lanes[me] = loop_lane(self)
            try:
                run_forever(self)
            finally:
                lanes[me] = outer

    def _close(self):
        close(self)
        number = loops.pop(self, None)
        if number:
            tell(("died", number, now()))

    events.Handle._run = functools.wraps(handle_run)(_run)
    base.BaseEventLoop._call_soon = functools.wraps(call_soon)(_call_soon)
    base.BaseEventLoop.run_forever = functools.wraps(run_forever)(_run_forever)
    base.BaseEventLoop.close = functools.wraps(close)(_close)


def frame_of(coroutine):
    """Return the frame of a coroutine or generator, or None."""
    for name in ("cr_frame", "gi_frame", "ag_frame"):
        if frame := getattr(coroutine, name, None):
            return frame
    return None


@harmless("await")
def awaited(task):
    """Return what a task awaits, in the words of the program's own source: await client.reader.read."""
    frames, coroutine = [], task.get_coro()
    while coroutine is not None and len(frames) < 50:
        if frame := frame_of(coroutine):
            frames.append(frame)
        following = None
        for name in ("cr_await", "gi_yieldfrom", "ag_await"):
            following = following if following is not None else getattr(coroutine, name, None)
        coroutine = following
    if not frames:
        return "await"
    own = [index for index, frame in enumerate(frames) if not frame.f_code.co_filename.startswith((LIBRARY, "<frozen"))]
    last = own[-1] if own else 0
    peer = peer_among([value for frame in frames[last + 1 :] for value in frame.f_locals.values()])
    text = await_text(frames[last].f_code, frames[last].f_lasti)
    return safe(f"{text} ({peer})" if peer else text)


@functools.cache
def await_text(code, instruction):
    """Return the source of what a function awaits at an instruction, without the arguments."""
    positions = next(itertools.islice(code.co_positions(), instruction // 2, None), (None,) * 4)
    line, last, start, end = positions
    source = linecache.getline(code.co_filename, line or 0)
    if not source.strip():
        return f"await in {code.co_name}"
    if start is not None and end is not None:
        data = source.encode()
        part = (data[start:end] if last == line else data[start:]).decode(errors="replace")
        if part.startswith("await"):
            return re.split(r"[(\[]", part.strip())[0]
    return source.strip().rstrip(":").partition("#")[0].strip()


# The whole


def hide_frames():
    """Have a traceback show the program's own frames alone."""
    original, original_of_threads = sys.excepthook, threading.excepthook

    @harmless(None)
    def hide(error):
        errors, seen = [error], []
        while errors:
            if (one := errors.pop()) is None or any(one is other for other in seen):
                continue
            seen.append(one)
            errors += one.__cause__, one.__context__
            frame = one.__traceback__
            while frame:
                while frame.tb_next and frame.tb_next.tb_frame.f_code.co_filename.startswith(HERE):
                    frame.tb_next = frame.tb_next.tb_next
                frame = frame.tb_next

    def hook(kind, error, traceback):
        hide(error)
        original(kind, error, traceback)

    def hook_of_threads(args):
        hide(args.exc_value)
        original_of_threads(args)

    sys.excepthook, threading.excepthook = hook, hook_of_threads


def begin(descriptor):
    """Tell of this program from now on, through the pipe's descriptor, which is moved out of the way."""
    global pipe, identity
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = HIGHEST if limit == resource.RLIM_INFINITY else min(limit, HIGHEST)
    pipe = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, most - 1)
    os.close(descriptor)
    status = os.fstat(pipe)
    identity = status.st_dev, status.st_ino
    watch_selects()
    if sys.platform == "linux":
        watch_io_uring()
    watch_sockets()
    watch_files()
    watch_forks()
    watch_threads()
    hide_frames()
    atexit.register(farewell)
    first_lane[:] = thread_lane("MainThread"), pid_of()
