"""The proactor library: the same tests for what is emulated over readiness and for io_uring."""

import contextlib
import errno
import functools
import gc
import os
import platform
import resource
import select
import selectors
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback

import promises
import psutil
import pytest
from harness import wait_until
from promises import ROOT

sys.path.insert(0, str(ROOT / "proactor_based"))

import backends
from proactor import SelectorProactor

pytestmark = pytest.mark.timeout(30)

FOLDER = ROOT / "proactor_based"
MANY = bytes(range(256)) * 80_000  # more than the buffers of two sockets hold


@functools.cache
def why_no_io_uring():
    """Why it cannot be had, or "". It is another process that tries: no test may take pytest itself down."""
    try:
        backends.try_io_uring()
    except OSError as error:
        return str(error)
    return ""


def create_uring_proactor():
    if why_no_io_uring():
        pytest.skip(f"io_uring: {why_no_io_uring()}")
    from uring import UringProactor

    return UringProactor()


BACKENDS = {
    "selectors": SelectorProactor,
    "select": lambda: SelectorProactor(selectors.SelectSelector()),
    "io_uring": create_uring_proactor,
}


@pytest.fixture(params=BACKENDS)
def proactor(request):
    with contextlib.closing(BACKENDS[request.param]()) as proactor:
        yield proactor


@pytest.fixture
def pair():
    """A function that makes a socket for the proactor, and its peer, which the test reads and writes."""
    with contextlib.ExitStack() as stack:

        def pair():
            ours, peer = map(stack.enter_context, socket.socketpair())
            peer.settimeout(10)
            return ours, peer

        yield pair


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


class Recorder:
    """A handler that keeps what it is told, and may do something about it."""

    def __init__(self, proactor, then=lambda *_: None):
        self.proactor, self.then = proactor, then
        self.reports = []

    def __call__(self, sock, name, result):
        self.reports.append((sock, name, result))
        self.then(sock, name, result)

    @property
    def results(self):
        return [result for _, _, result in self.reports]

    def after(self, count):
        """Have turns until there are so many reports; return them all."""
        while len(self.reports) < count:
            self.proactor.turn()
        return self.reports

    def nothing_more(self):
        """Have turns for a moment in which nothing is to be reported."""
        count = len(self.reports)
        run_for(self.proactor, 0.05)
        assert len(self.reports) == count


def run_for(proactor, seconds):
    """Run, and be cancelled from another thread."""
    timer = threading.Timer(seconds, proactor.cancel)
    timer.start()
    proactor.run()
    timer.join()


def descriptors():
    """How many we hold, less those that only wait for the collector: of tests before, say."""
    gc.collect()
    return len(os.listdir("/dev/fd"))


# The operations


def test_recv(proactor, pair):
    ours, peer = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    proactor.recv(ours, 3)
    peer.send(b"hello")
    assert seen.after(1) == [(ours, "recv", b"hel")]
    seen.nothing_more()
    proactor.recv(ours, 100)
    assert seen.after(2)[1:] == [(ours, "recv", b"lo")]


def test_recv_of_what_came_before_it_was_asked_for(proactor, pair):
    ours, peer = pair()
    peer.send(b"hello")
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    seen.nothing_more()
    proactor.recv(ours, 100)
    assert seen.after(1) == [(ours, "recv", b"hello")]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_accept(proactor, host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError as error:
        pytest.skip(f"{host}: {error}")
    seen = Recorder(proactor)
    with listener, socket.socket(family) as client, socket.socket(family) as another:
        proactor.register(listener, seen)
        proactor.accept(listener)
        for caller in (client, another):
            caller.connect(listener.getsockname())
            [(_, name, (sock, address))] = seen.after(1)
            with sock:
                assert (name, address) == ("accept", caller.getsockname())
                assert not os.get_inheritable(sock.fileno())
                sock.send(b"welcome")
            assert caller.recv(100) == b"welcome"
            seen.reports.clear()
            proactor.accept(listener)
        proactor.remove(listener)


def test_send(proactor, pair):
    ours, peer = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    proactor.send(ours, memoryview(b"hello"))
    assert seen.after(1) == [(ours, "send", 5)]
    assert peer.recv(100) == b"hello"


def test_send_of_nothing(proactor, pair):
    ours, _ = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    proactor.send(ours, b"")
    assert seen.after(1) == [(ours, "send", 0)]


def test_partial_sends(proactor, pair):
    """The result tells how many bytes went out. Who sends the rest, from there on, sends all of it once."""
    ours, peer = pair()
    rest, received = memoryview(MANY), bytearray()

    def send_the_rest(sock, name, count):
        nonlocal rest
        rest = rest[count:]
        if rest:
            proactor.send(ours, rest)

    def read():
        while len(received) < len(MANY):
            received.extend(peer.recv(100_000))

    seen = Recorder(proactor, send_the_rest)
    proactor.register(ours, seen)
    proactor.send(ours, rest)
    seen.after(1)
    assert 0 < seen.results[0] < len(MANY)
    reader = threading.Thread(target=read)
    reader.start()
    while rest:
        proactor.turn()
    reader.join()
    assert received == MANY
    assert sum(seen.results) == len(MANY)


def fill(proactor, sock, seen):
    """Send until a send stays pending; return how many bytes have gone."""
    while True:
        count = len(seen.reports)
        proactor.send(sock, MANY)
        run_for(proactor, 0.05)
        if len(seen.reports) == count:
            return sum(seen.results)


def test_a_send_waits_until_there_is_room(proactor, pair):
    ours, peer = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    gone = fill(proactor, ours, seen)
    seen.nothing_more()
    count = len(seen.reports)
    while gone:
        gone -= len(peer.recv(gone))
    [*_, (_, name, result)] = seen.after(count + 1)
    assert (name, len(peer.recv(result, socket.MSG_WAITALL))) == ("send", result)


def test_recv_while_a_send_is_pending(proactor, pair):
    """The two directions do not wait for each other."""
    ours, peer = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    fill(proactor, ours, seen)
    proactor.recv(ours, 100)
    peer.send(b"hello")
    assert seen.after(len(seen.reports) + 1)[-1] == (ours, "recv", b"hello")


def test_what_cannot_be_asked_for_does_no_harm(proactor, pair):
    """It raises, there and then; the socket can be removed all the same."""
    ours, peer = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    with pytest.raises(TypeError):
        proactor.send(ours, "text")
    proactor.recv(ours, 100)
    peer.send(b"hello")
    assert seen.after(1) == [(ours, "recv", b"hello")]
    proactor.remove(ours)


def test_one_at_a_time_in_each_direction(proactor, pair):
    ours, peer = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    proactor.recv(ours, 1)
    with pytest.raises(RuntimeError, match="recv is pending"):
        proactor.recv(ours, 1)
    # It is pending until it is reported, also if it is done.
    proactor.send(ours, b"x")
    with pytest.raises(RuntimeError, match="send is pending"):
        proactor.send(ours, b"y")
    seen.after(1)
    proactor.send(ours, b"z")
    seen.after(2)
    assert peer.recv(100) == b"xz"


# Ends


def test_end_of_stream(proactor, pair):
    ours, peer = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    proactor.recv(ours, 100)
    peer.send(b"bye")
    peer.shutdown(socket.SHUT_WR)
    seen.after(1)
    for count in (2, 3):  # as often as one asks
        proactor.recv(ours, 100)
        seen.after(count)
    assert seen.results == [b"bye", b"", b""]
    proactor.send(ours, b"bye, bye")  # the other direction still works
    seen.after(4)
    assert peer.recv(100) == b"bye, bye"


def test_reset(proactor, listener):
    client = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    proactor.recv(ours, 100)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert isinstance(seen.after(1)[0][2], ConnectionResetError)
    proactor.send(ours, b"x")  # the error is a result like any other, also here
    assert isinstance(seen.after(2)[1][2], BrokenPipeError)
    proactor.remove(ours)
    ours.close()


def test_a_send_that_fails_leaves_the_recv_alone(proactor, listener):
    """Who says its last words and closes is heard: they are there still, after what is sent to it has failed."""
    words = b"".join(b"%d %s\n" % (number, b"x" * 1000) for number in range(40))
    client = socket.create_connection(listener.getsockname(), timeout=10)
    ours, _ = listener.accept()
    received, failures, ends = bytearray(), [], []

    def complete(sock, name, result):
        if name == "send":
            if isinstance(result, OSError):
                failures.append(result)
            if len(failures) < 2:
                proactor.send(sock, b"hello")
        elif isinstance(result, OSError) or result == b"":
            ends.append(result)
            proactor.cancel()
        else:
            received.extend(result)
            proactor.recv(sock, 100)  # so little that the sends fail long before the end

    proactor.register(ours, complete)
    proactor.recv(ours, 100)
    proactor.send(ours, b"hello")
    client.sendall(words)
    client.close()
    while not ends:
        proactor.run()
    assert received == words
    assert len(failures) == 2
    assert isinstance(failures[0], (BrokenPipeError, ConnectionResetError))
    proactor.remove(ours)
    ours.close()


def test_a_send_that_fails_while_a_recv_waits(proactor, pair):
    ours, peer = pair()
    peer.shutdown(socket.SHUT_RD)
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    proactor.recv(ours, 100)
    run_for(proactor, 0.05)
    proactor.send(ours, b"x")
    assert isinstance(seen.after(1)[0][2], BrokenPipeError)
    assert cpu_of(seen.nothing_more) < 0.04
    peer.send(b"hello")
    assert seen.after(2)[1] == (ours, "recv", b"hello")


# What cannot be had


def test_lack_of_memory_is_a_result(proactor, pair):
    ours, peer = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    peer.send(b"hello")
    proactor.recv(ours, 1 << 50)
    error = seen.after(1)[0][2]
    assert isinstance(error, OSError) and error.errno == errno.ENOMEM
    proactor.recv(ours, 100)
    assert seen.after(2)[1] == (ours, "recv", b"hello")


def test_lack_of_descriptors_is_a_result(proactor, listener):
    seen = Recorder(proactor)
    proactor.register(listener, seen)
    with socket.create_connection(listener.getsockname()) as client:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.open("/dev/null", os.O_RDONLY)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            proactor.accept(listener)
            error = seen.after(1)[0][2]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert isinstance(error, OSError) and error.errno == errno.EMFILE
        proactor.accept(listener)  # who has come still waits to be accepted
        sock, address = seen.after(2)[1][2]
        sock.close()
        assert address == client.getsockname()


def test_what_the_selector_cannot_watch_is_a_result(pair):
    """The kernel bounds how much epoll may watch, for all programs of a user together."""

    class Full(selectors.SelectSelector):
        full = False

        def register(self, *arguments):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().register(*arguments)

    ours, peer = pair()
    selector = Full()
    with contextlib.closing(SelectorProactor(selector)) as proactor:
        seen = Recorder(proactor)
        proactor.register(ours, seen)
        selector.full = True
        proactor.recv(ours, 100)
        assert seen.after(1)[0][2].errno == errno.ENOSPC
        selector.full = False
        proactor.recv(ours, 100)
        peer.send(b"hello")
        assert seen.after(2)[1][2] == b"hello"


# Who is called, when, and in which order


def test_no_handler_is_called_from_inside_the_call_that_asks(proactor, pair):
    ours, peer = pair()
    peer.send(b"hello")
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    proactor.send(ours, b"hello")
    proactor.recv(ours, 100)
    assert seen.reports == []
    assert sorted(name for _, name, _ in seen.after(2)) == ["recv", "send"]


def test_sends_are_reported_in_the_order_in_which_they_were_asked_for(proactor, pair):
    pairs = [pair() for _ in range(20)]
    seen = Recorder(proactor)
    for ours, _ in pairs:
        proactor.register(ours, seen)
    order = pairs[::2] + pairs[1::2]
    for ours, _ in order:
        proactor.send(ours, b"x")
    seen.after(20)
    assert [sock for sock, _, _ in seen.reports] == [ours for ours, _ in order]


def test_all_that_is_done_is_reported_in_one_turn(proactor, pair):
    pairs = [pair() for _ in range(20)]
    seen = Recorder(proactor)
    for ours, peer in pairs:
        proactor.register(ours, seen)
        proactor.recv(ours, 100)
        peer.send(b"x")
    proactor.turn()
    assert seen.results == [b"x"] * 20


def test_what_a_handler_asks_for_is_reported_in_a_later_turn(proactor, pair):
    """So a client that floods has one recv a turn, and the others have theirs."""
    ours, _ = pair()
    seen = Recorder(proactor, lambda sock, name, result: proactor.send(sock, b"x"))
    proactor.register(ours, seen)
    proactor.send(ours, b"x")
    for count in range(1, 10):
        proactor.turn()
        assert len(seen.reports) == count


def test_what_a_handler_asks_for_is_reported_in_a_later_turn_whatever_the_others_do(proactor, pair):
    """Removing a socket cancels its operations in the kernel, which may carry others out meanwhile."""
    (talker, peer), (other, _), (removed, _) = (pair() for _ in range(3))
    peer.send(b"hello")

    def then(sock, name, result):
        if sock is talker and name == "send":
            proactor.recv(talker, 100)
        elif sock is other:
            proactor.remove(removed)

    seen = Recorder(proactor, then)
    for sock in (talker, other, removed):
        proactor.register(sock, seen)
    proactor.recv(removed, 100)
    proactor.send(talker, b"x")
    proactor.send(other, b"x")
    proactor.turn()
    assert [name for _, name, _ in seen.reports] == ["send", "send"]
    assert seen.after(3)[2] == (talker, "recv", b"hello")


def test_many_operations_in_one_turn(proactor, pair):
    """More than the queues of a ring have room for, those that are done at once and those that have to wait."""
    pairs = [pair() for _ in range(450)]  # select takes 1024 descriptors
    seen = Recorder(proactor)
    for ours, _ in pairs:
        proactor.register(ours, seen)
        proactor.recv(ours, 100)
    run_for(proactor, 0.05)
    for number, (ours, peer) in enumerate(pairs):
        proactor.send(ours, b"%d" % number)
        peer.send(b"%d" % number)
    proactor.turn()
    expected = [(ours, b"%d" % number) for number, (ours, _) in enumerate(pairs)]
    assert [(sock, name, result) for sock, name, result in seen.reports[:450]] == [
        (ours, "send", len(words)) for ours, words in expected
    ]
    # Selectors may tell in several turns what is ready: those that were made in the first one are all there.
    assert dict((sock, result) for sock, _, result in seen.after(900)[450:]) == dict(expected)
    for number, (_, peer) in enumerate(pairs):
        assert peer.recv(100) == b"%d" % number


def test_echo_does_not_touch_what_the_selector_watches(pair):
    """Asking again from the handler is free: else each recv would cost a call of the system more."""
    ours, peer = pair()
    with contextlib.closing(SelectorProactor()) as proactor:
        seen = Recorder(proactor, lambda sock, name, result: name == "recv" and echo(result))

        def echo(data):
            proactor.send(ours, data)
            proactor.recv(ours, 100)

        proactor.register(ours, seen)
        proactor.recv(ours, 100)
        calls = []
        proactor.watch = lambda *arguments: calls.append(arguments)
        for _ in range(10):
            peer.send(b"hello")
            seen.after(len(seen.reports) + 2)
            assert peer.recv(100) == b"hello"
        del proactor.watch
        assert calls == []


# Cancelling


def test_cancel_while_operations_are_pending(proactor, pair):
    """They stay pending: the next run() goes on with them."""
    ours, peer = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    gone = fill(proactor, ours, seen)
    proactor.recv(ours, 100)
    run_for(proactor, 0.05)
    seen.reports.clear()
    peer.send(b"hello")
    while gone:
        gone -= len(peer.recv(gone))
    run_for(proactor, 0.2)
    assert sorted(name for _, name, _ in seen.reports) == ["recv", "send"]
    assert b"hello" in seen.results


def test_cancel_before_run_counts(proactor):
    proactor.cancel()
    proactor.run()
    run_for(proactor, 0.05)  # once


def test_cancel_in_a_handler(proactor, pair):
    """It is the last that is called; what else is done is reported by the next run()."""
    pairs = [pair() for _ in range(3)]
    seen = Recorder(proactor, lambda *_: proactor.cancel())
    for ours, _ in pairs:
        proactor.register(ours, seen)
        proactor.send(ours, b"x")
    for count in (1, 2, 3):
        proactor.run()
        assert [sock for sock, _, _ in seen.reports] == [ours for ours, _ in pairs[:count]]
    seen.nothing_more()


def test_sends_are_reported_before_the_rest(proactor, pair):
    """Also if that has been waiting longer: who floods keeps nobody from sending."""
    pairs = [pair() for _ in range(3)]
    seen = Recorder(proactor, lambda sock, name, _: proactor.cancel())
    for ours, peer in pairs:
        proactor.register(ours, seen)
        proactor.recv(ours, 100)
        peer.send(b"hello")
    proactor.run()
    for ours, _ in pairs:
        proactor.send(ours, b"x")
    for _ in range(5):
        proactor.run()
    assert [name for _, name, _ in seen.reports] == ["recv", "send", "send", "send", "recv", "recv"]


def test_cancel_more_often_than_the_socket_holds(proactor):
    for _ in range(100_000):
        proactor.cancel()
    proactor.run()
    assert cpu_of(lambda: run_for(proactor, 0.2)) < 0.1


def test_cancel_from_a_signal(proactor):
    before = signal.signal(signal.SIGALRM, lambda *_: proactor.cancel())
    wakeup = signal.set_wakeup_fd(proactor.waker.fileno(), warn_on_full_buffer=False)
    try:
        for seconds in (0.1, 0.00001, 0.00003, 0.0001, 0.0003):
            signal.setitimer(signal.ITIMER_REAL, seconds)
            proactor.run()
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_comes_during_the_wait(proactor, pair):
    """Its handler is called then, and not when the wait is over; if it raises, turn() does, and goes on later."""
    ours, peer = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    proactor.recv(ours, 100)
    calls, timers = [], []

    def in_turn():
        frame = sys._current_frames()[threading.main_thread().ident]
        return any(frame.f_code.co_name == "turn" for frame, _ in traceback.walk_stack(frame))

    def signal_in_turn():
        assert wait_until(in_turn, within=20)
        time.sleep(0.1)  # so that it waits, most likely
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    def send_signal():  # to this thread, but not before it is in turn(), however slow the machine is
        timers.append(threading.Thread(target=signal_in_turn))
        timers[-1].start()

    def handler(*_):
        calls.append("call")
        if len(calls) < 3:
            send_signal()
        elif len(calls) == 3:
            peer.send(b"hello")
        else:
            raise ZeroDivisionError

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        send_signal()
        assert seen.after(1) == [(ours, "recv", b"hello")]
        assert len(calls) == 3
        proactor.recv(ours, 100)
        send_signal()
        with pytest.raises(ZeroDivisionError):
            proactor.turn()
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        for timer in timers:
            timer.join()
        signal.signal(signal.SIGUSR1, before)
    peer.send(b"again")
    assert seen.after(2)[1:] == [(ours, "recv", b"again")]


# Handlers that raise or remove


def test_handler_that_raises(proactor, pair):
    """turn() raises it, what else is done is reported in the next turn, and the socket stays registered."""
    pairs = [pair() for _ in range(5)]
    seen = Recorder(proactor, lambda sock, *_: 1 / (sock is not pairs[1][0]))
    for ours, _ in pairs:
        proactor.register(ours, seen)
        proactor.send(ours, b"x")
    with pytest.raises(ZeroDivisionError):
        proactor.run()
    assert len(seen.reports) == 2
    proactor.turn()
    assert [sock for sock, _, _ in seen.reports] == [ours for ours, _ in pairs]
    seen.nothing_more()
    proactor.recv(pairs[1][0], 100)
    pairs[1][1].send(b"hello")
    with pytest.raises(ZeroDivisionError):
        proactor.run()
    assert seen.results[-1] == b"hello"


def test_handler_that_removes_itself(proactor, pair):
    ours, peer = pair()
    seen = Recorder(proactor, lambda sock, *_: proactor.remove(sock))
    proactor.register(ours, seen)
    proactor.send(ours, b"x")
    proactor.recv(ours, 100)
    peer.send(b"y")
    seen.after(1)
    seen.nothing_more()
    with pytest.raises(KeyError):
        proactor.send(ours, b"x")
    ours.setblocking(True)
    ours.send(b"it is open")
    assert peer.recv(100) == b"xit is open"


def test_handler_that_removes_another_that_is_done(proactor, pair):
    pairs = [pair() for _ in range(2)]

    def remove_the_other(sock, *_):
        [other] = [ours for ours, _ in pairs if ours is not sock]
        proactor.remove(other)

    seen = Recorder(proactor, remove_the_other)
    for ours, peer in pairs:
        proactor.register(ours, seen)
        proactor.recv(ours, 100)
        peer.send(b"x")
    seen.after(1)
    seen.nothing_more()


def test_a_connection_that_is_accepted_for_nobody_is_closed(proactor):
    """Of two that are accepted in the same turn, the handler of the first removes the second one's listener."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]

        def remove_the_other(sock, *_):
            proactor.remove(listeners[sock is listeners[0]])

        seen = Recorder(proactor, remove_the_other)
        clients = {}
        for listener in listeners:
            proactor.register(listener, seen)
            proactor.accept(listener)
            clients[listener] = stack.enter_context(socket.create_connection(listener.getsockname(), timeout=10))
        [(listener, _, (sock, _))] = seen.after(1)
        seen.nothing_more()
        assert clients.pop(listener).getsockname() == sock.getpeername()
        sock.close()
        [client] = clients.values()
        assert client.recv(100) == b""


def test_remove_while_a_recv_is_pending(proactor, pair):
    """What comes later is for the next who reads."""
    ours, peer = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    proactor.recv(ours, 100)
    run_for(proactor, 0.05)
    proactor.remove(ours)
    peer.send(b"hello")
    seen.nothing_more()
    assert ours.recv(100) == b"hello"


@pytest.mark.parametrize("turns", [0, 1])
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no queue of errors")
def test_remove_while_a_recv_is_tried_again_and_again(proactor, pair, listener, turns):
    """A socket that has something in its queue of errors seems to be readable, and recv finds nothing."""
    with socket.create_connection(listener.getsockname()), listener.accept()[0] as ours:
        timestamping, of_sends, by_software = 37, 1 << 1, 1 << 4  # the time of each send goes into that queue
        ours.setsockopt(socket.SOL_SOCKET, timestamping, of_sends | by_software)
        ours.send(b"x")
        queue = select.poll()
        queue.register(ours, 0)
        assert queue.poll(10_000) == [(ours.fileno(), select.POLLERR)]
        seen, others = Recorder(proactor), Recorder(proactor)
        proactor.register(ours, seen)
        proactor.recv(ours, 100)
        another, _peer = pair()
        proactor.register(another, others)
        for _ in range(turns):
            proactor.send(another, b"x")
            others.after(len(others.reports) + 1)
        proactor.remove(ours)
        others.nothing_more()
        assert seen.reports == []


def test_register_again(proactor, pair):
    ours, peer = pair()
    seen, again = Recorder(proactor), Recorder(proactor)
    proactor.register(ours, seen)
    proactor.send(ours, b"x")
    proactor.recv(ours, 100)
    proactor.remove(ours)
    proactor.register(ours, again)
    proactor.recv(ours, 100)
    peer.send(b"hello")
    assert again.after(1) == [(ours, "recv", b"hello")]
    assert seen.reports == []


def test_the_next_socket_of_the_same_number(proactor, pair):
    """Nothing that was asked of a socket that is closed happens to the one that gets its descriptor."""
    seen = Recorder(proactor)
    ours, _peer = pair()
    number = ours.fileno()
    proactor.register(ours, seen)
    proactor.recv(ours, 100)
    fill(proactor, ours, seen)
    proactor.remove(ours)
    ours.close()
    seen.reports.clear()
    new, peer = pair()
    assert number in (new.fileno(), peer.fileno())
    peer.send(b"hello")
    new.send(b"hello")
    gc.collect()
    seen.nothing_more()
    assert (new.recv(100), peer.recv(100)) == (b"hello", b"hello")


def read_all(sock, kept):
    """What can be read at once, and until the end if the other end is closed."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while data := sock.recv(1 << 20):
            kept += data
    return kept


def test_last_words(proactor, pair):
    ours, peer = pair()
    proactor.register(ours, Recorder(proactor))
    proactor.recv(ours, 100)
    proactor.remove(ours, b"bye")
    assert peer.recv(100) == b"bye"


def test_last_words_after_a_send_that_is_done_and_not_reported(proactor, pair):
    """They begin with its bytes, of which those that went out are not sent again."""
    ours, peer = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)
    proactor.send(ours, b"hello ")
    proactor.remove(ours, b"hello bye")
    ours.close()
    assert read_all(peer, b"") == b"hello bye"


def test_last_words_while_a_send_is_pending(proactor, pair):
    """There is no room for them, or for some of them: what the peer gets has no gap and nothing twice."""
    for room in (0, 100_000):
        ours, peer = pair()
        seen = Recorder(proactor)
        proactor.register(ours, seen)
        sent = MANY[: fill(proactor, ours, seen) % len(MANY)]
        received = peer.recv(room, socket.MSG_WAITALL) if room else b""
        proactor.remove(ours, MANY)
        ours.close()
        received = read_all(peer, received)
        assert received[: len(sent)] == sent
        assert MANY.startswith(received[len(sent) :])


def test_last_words_to_who_has_gone(proactor, pair):
    ours, peer = pair()
    proactor.register(ours, Recorder(proactor))
    peer.close()
    proactor.remove(ours, b"bye")


# What it costs


def cpu_of(action):
    """The seconds of CPU that something takes."""
    before = time.process_time()
    action()
    return time.process_time() - before


def test_idle_uses_no_cpu(proactor, pair, listener):
    """With a recv and an accept that wait, a send that is stuck, bytes that nobody asks for, and one that has left."""
    waiting, stuck, unread, left = pair(), pair(), pair(), pair()
    seen = Recorder(proactor)
    for sock in (waiting[0], stuck[0], unread[0], left[0], listener):
        proactor.register(sock, seen)
    proactor.accept(listener)
    fill(proactor, stuck[0], seen)
    for ours in (waiting[0], stuck[0], unread[0], left[0]):
        proactor.recv(ours, 1)
    unread[1].send(b"12345")
    left[1].close()
    seen.reports.clear()
    seen.after(2)
    assert cpu_of(lambda: run_for(proactor, 1)) < 0.1
    assert len(seen.reports) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_descriptor_is_left(backend, pair):
    before = descriptors()
    proactor = BACKENDS[backend]()
    ours, peer = pair()
    proactor.register(ours, Recorder(proactor))
    proactor.recv(ours, 100)
    proactor.close()
    ours.close()
    peer.close()
    assert descriptors() == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_descriptor_is_left_of_one_that_could_not_be_made(backend):
    """Whichever descriptor it is that cannot be had."""
    BACKENDS[backend]().close()  # what is imported for it is imported now
    before = descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    failed = 0
    for limit in range(free, free + 10):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
            BACKENDS[backend]().close()
        except OSError as error:
            assert error.errno == errno.EMFILE
            failed += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert descriptors() == before, f"with {limit - free} that were free"
    assert failed > 1


def test_memory_and_descriptors_stay_flat(proactor, pair, listener):
    """Through operations that are done, that fail, and that are cancelled."""
    ours, peer = pair()
    seen = Recorder(proactor)
    proactor.register(ours, seen)

    def work(times):
        for _ in range(times):
            proactor.register(listener, seen)
            proactor.accept(listener)
            proactor.recv(ours, 100_000)
            with socket.create_connection(listener.getsockname(), timeout=10):
                seen.after(1)
                seen.results[0][0].close()
            for _ in range(10):
                proactor.send(ours, bytes(10_000))
                seen.after(2)
                peer.recv(10_000, socket.MSG_WAITALL)
                peer.send(b"x")
                seen.after(3)
                del seen.reports[1:]
                proactor.recv(ours, 100_000)
            proactor.accept(listener)
            proactor.remove(ours)
            proactor.remove(listener)
            proactor.register(ours, seen)
            seen.reports.clear()

    process = psutil.Process()
    work(100)
    memory, before = process.memory_full_info().uss, descriptors()
    work(500)
    assert descriptors() == before
    assert process.memory_full_info().uss - memory < 3_000_000  # what one of them keeps, times 500, is far more


def test_buffers_live_as_long_as_their_operations(proactor, pair):
    """The kernel writes into them and reads from them, whoever else has forgotten them."""
    pairs = [pair() for _ in range(50)]
    seen = Recorder(proactor)
    for number, (ours, _) in enumerate(pairs):
        proactor.register(ours, seen)
        proactor.recv(ours, 4096)
        proactor.send(ours, bytes([number]) * 10_000)
    gc.collect()
    trash = [bytearray(4096) for _ in range(1000)]
    seen.after(50)
    for number, (_, peer) in enumerate(pairs):
        assert peer.recv(10_000, socket.MSG_WAITALL) == bytes([number]) * 10_000
        peer.send(bytes([number]) * 4096)
    seen.after(100)
    assert sorted(seen.results[50:]) == [bytes([number]) * 4096 for number in range(50)]
    assert not any(map(any, trash))


# Where io_uring cannot be had

SERVER = [sys.executable, str(FOLDER / "server.py"), "0", "--backend", "io_uring"]
SETUP, ENTER = 425, 426
TRIED = "a trial of it "


def sandboxed(action, number, command):
    """Run a command for which a filter of the kernel's (seccomp) answers to a system call."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        pytest.skip("the sandbox is written for Linux on x86_64 and aarch64")
    wrapper = [sys.executable, str(ROOT / "tests/sandbox.py"), str(action), str(number)]
    return subprocess.run([*wrapper, *command], capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(
    ("action", "number", "reason"),
    [
        ("kill", SETUP, TRIED + "was killed by SIGSYS"),
        ("kill", ENTER, TRIED + "was killed by SIGSYS"),
        (errno.EPERM, SETUP, "[Errno 1] it is forbidden here, by kernel.io_uring_disabled or by a sandbox"),
        (errno.ENOSYS, SETUP, "[Errno 38] this kernel has no io_uring"),
        (errno.EINVAL, SETUP, "[Errno 22] it needs Linux 6.3 or later"),
        (errno.ENOMEM, SETUP, "[Errno 12] no memory for its queues (ulimit -l tells how much may be locked)"),
        (errno.EPERM, ENTER, "[Errno 1] Operation not permitted"),
    ],
)
def test_the_server_says_that_there_is_no_io_uring(action, number, reason):
    done = sandboxed(action, number, SERVER)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"server.py: cannot wait with io_uring: {reason}\n"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", TRIED + "was killed by SIGILL"),
        ("import time; print('done?', flush=True); time.sleep(60)", TRIED + "was not done in 1 seconds"),
        ("import sys; sys.exit(3)", TRIED + "ended without a word"),
        ("", TRIED + "ended without a word"),
        ("import sys; sys.modules['_ctypes'] = None\n" + backends.TRIAL, "import of _ctypes halted"),
        ("import sys; sys.platform = 'plan9'\n" + backends.TRIAL, "only Linux has it"),
    ],
    ids=["killed", "hangs", "fails", "says nothing", "no ctypes", "not Linux"],
)
def test_a_trial_that_fails(program, reason, monkeypatch):
    monkeypatch.setattr(backends, "TRIAL", program)
    monkeypatch.setattr(backends, "PATIENCE", 1 if "sleep" in program else 10)
    with pytest.raises(OSError) as raised:
        backends.create_proactor("io_uring")
    assert str(raised.value).startswith(reason)


USE = """
import gc, signal, sys, threading
sys.path.insert(0, sys.argv[1])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
ended = threading.Event()
thread = threading.Thread(target=ended.wait)
thread.start()
try:
    import backends
    backends.TRIAL = (sys.argv[3] + backends.TRIAL) if sys.argv[3:] else backends.TRIAL
    proactor = backends.create_proactor(sys.argv[2])
    proactor.cancel()
    proactor.run()
    proactor.close()
    del proactor
    gc.collect()
except OSError as error:
    print(error)
finally:
    ended.set()
"""


@pytest.mark.parametrize("backend", ["selectors", "io_uring"])
@pytest.mark.parametrize("options", ["-X dev -W error", "-I", "-P", "-OO", "-bb -W error -X warn_default_encoding"])
def test_it_works_with_every_option_of_python(backend, options):
    """In a process with threads, too, in which signals are ignored and blocked; and says nothing of its own."""
    if backend == "io_uring" and why_no_io_uring():
        pytest.skip(f"io_uring: {why_no_io_uring()}")
    command = [sys.executable, *options.split(), "-c", USE, str(FOLDER), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_trial_whose_status_is_lost():
    """Where SIGCHLD is ignored, nobody tells how a child has ended."""
    command = [sys.executable, "-c", USE, str(FOLDER), "io_uring", "import os; os.abort()\n"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, TRIED + "ended without a word\n", "")


KERNEL = """
import ctypes, os, sys
parameters = (ctypes.c_uint32 * 30)()
ring = ctypes.CDLL(None).syscall(425, 1, parameters)
sys.exit(ring < 0 or not parameters[5] & 1 << 13)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has it")
def test_io_uring_can_be_had_where_the_kernel_has_it():
    """Else a fault of ours would look like a machine without it, and all its tests would be skipped."""
    if subprocess.run([sys.executable, "-c", KERNEL]).returncode:
        pytest.skip("this kernel has no io_uring, or an old one, or forbids it")
    assert why_no_io_uring() == ""


def test_completions_for_which_the_queue_has_no_room():
    create_uring_proactor().close()
    from uring import ENTRIES, Ring

    with contextlib.closing(Ring()) as ring:
        for number in range(5 * ENTRIES):  # of completions there is room for twice as many
            if ring.queued() == ENTRIES:
                ring.enter()
            ring.put(number, 0, -1, 0, 0, 0)  # an operation that does nothing
        ring.enter(5 * ENTRIES)
        assert sorted(ring.take()) == [(number, 0) for number in range(5 * ENTRIES)]
        assert list(ring.take()) == []


def test_the_kernel_says_that_there_is_more_though_there_is_nothing():
    """What comes between two steps of its own it may take at once, and then say that it is still to be taken."""
    create_uring_proactor().close()
    from uring import SQ_TASKRUN, Ring

    with contextlib.closing(Ring()) as ring:
        for taken in [], [(1, 0)]:
            for number, _ in taken:
                ring.put(number, 0, -1, 0, 0, 0)
            ring.enter(len(taken))
            ring.numbers[ring.sq_flags] |= SQ_TASKRUN  # in its place: it does this rarely
            assert list(ring.take()) == taken


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "killed by SIGILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("import sys; sys.exit(3)", "failed without a word"),
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("pass", ""),
    ],
)
def test_a_model_whose_needs_fail_cannot_run(program, reason):
    missing = promises.Model("model", needs=program).missing
    assert missing.startswith(reason) and bool(missing) == bool(reason)
