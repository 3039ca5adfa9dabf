"""What a server is made to meet: calls that fail, a signal at the worst moment.

Python loads a module of this name before any program, and finds this one with its folder in PYTHONPATH. The variable
CHAT_INJECT (JSON) says what is to happen:

    {"fail": ["socket.socket.accept"], "while": "PATH"}   these fail while the file names an error: ENOBUFS
    {"fail": ["socket.socket.accept"], "errors": [...]}   they fail with these errors, once with each of them
    {"poor": "PATH"}                                      while the file exists, memory is lacking for a client's name
    {"tell late": 0.5}                                    a send that fails says so only after so many seconds
    {"deny": {"accept4": "EPERM"}}                        the kernel itself fails these, for ever (seccomp)
    {"record": "PATH", "stop at": 2}                      what recv gives is written down; when a process calls it the
                                                          second time, it has the server sent SIGTERM
    {"stall": "PATH"}                                     while the file exists SQLite does nothing, as on a disk that
                                                          does not answer; who waits writes a line to PATH-waiting
    {"spy": "PATH", "hold": "PATH"}                       passwords that are hashed, and hashes that are compared, are
                                                          written down; hashing waits while the second file exists
    {"cheap": true}                                       a password is hashed in no time
"""

import errno
import functools
import importlib
import json
import os
import signal
import sys
import time
import weakref

NUMBERS = {  # of the system's calls, on x86_64 and on aarch64
    "accept": (43, 202),
    "accept4": (288, 242),
    "bind": (49, 200),
    "clone": (56, 220),
    "clone3": (435, 435),
    "epoll_create1": (291, 20),
    "eventfd2": (290, 19),
    "fork": (57, None),
    "io_uring_setup": (425, 425),
    "listen": (50, 201),
    "memfd_create": (319, 279),
    "setsockopt": (54, 208),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "vfork": (58, None),
}


def error_called(name):
    if hasattr(errno, name):
        number = getattr(errno, name)
        return OSError(number, os.strerror(number))
    return {"MemoryError": MemoryError(), "RuntimeError": RuntimeError("can't start new thread")}[name]


def failing(original, plan):
    """The call, but that it fails as planned."""

    def call(*args, **kwargs):
        if plan.get("errors"):
            raise error_called(plan["errors"].pop(0))
        if os.path.exists(plan.get("while", "")):
            with open(plan["while"]) as file:
                raise error_called(file.read())
        return original(*args, **kwargs)

    return call


def fail(plan):
    for place in plan["fail"]:
        module, *path, name = place.split(".")
        owner = importlib.import_module(module)
        for part in path:
            owner = getattr(owner, part)
        setattr(owner, name, failing(getattr(owner, name), plan))


def tell_late(seconds):
    """Have a thread that is told of a failure lose the processor before it can say so to the others."""
    import socket

    send = socket.socket.send

    def send_it(self, *args):
        try:
            return send(self, *args)
        except ConnectionResetError:
            time.sleep(seconds)
            raise

    socket.socket.send = send_it


def deny(calls):
    """Have the kernel fail these calls: a filter for seccomp(2), two instructions for each call."""
    import ctypes
    import struct

    column = {"x86_64": 0, "aarch64": 1}[os.uname().machine]
    code = struct.pack("HBBI", 0x20, 0, 0, 0)  # load the call's number
    for name, error in calls.items():
        if NUMBERS[name][column] is not None:
            code += struct.pack("HBBI", 0x15, 0, 1, NUMBERS[name][column])  # if it is not this one, skip the next
            code += struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | getattr(errno, error))  # return the error
    code = ctypes.create_string_buffer(code + struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000))  # allow it
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", (len(code) - 1) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, filter_mode, program, 0, 0):
        sys.exit(f"no seccomp: {os.strerror(ctypes.get_errno())}")


def record(plan):
    """Write down what is received, and stop the server once a process has received so often."""
    import socket

    server, names, count = os.getpid(), weakref.WeakKeyDictionary(), {}
    accept, recv = socket.socket.accept, socket.socket.recv
    log = os.open(plan["record"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def accept_it(self):
        sock, (host, port) = accept(self)
        names[sock] = f"{host}:{port}"
        return sock, (host, port)

    def recv_it(self, *args):
        data = recv(self, *args)
        if self in names and data:
            os.write(log, json.dumps([names[self], data.decode()]).encode() + b"\n")
            count[os.getpid()] = count.get(os.getpid(), 0) + 1
            if count[os.getpid()] == plan["stop at"]:
                os.kill(server, signal.SIGTERM)
        return data

    socket.socket.accept, socket.socket.recv = accept_it, recv_it


def poor(plan):
    import socket

    class Address(tuple):
        def __getitem__(self, place):
            if os.path.exists(plan["poor"]):
                raise MemoryError
            return super().__getitem__(place)

    accept = socket.socket.accept

    def accept_it(self):
        sock, address = accept(self)
        return sock, Address(address)

    socket.socket.accept = accept_it


def stall(plan):
    import sqlite3
    import threading

    def stalling(call):
        def wait_and_call(self, *args):
            if os.path.exists(plan["stall"]):
                with open(f"{plan['stall']}-waiting", "a") as file:
                    file.write(f"{threading.current_thread().name}\n")
            while os.path.exists(plan["stall"]):
                time.sleep(0.01)
            return call(self, *args)

        return wait_and_call

    calls = ["execute", "executemany", "executescript", "commit"]
    kind = type(
        "Connection", (sqlite3.Connection,), {name: stalling(getattr(sqlite3.Connection, name)) for name in calls}
    )
    sqlite3.connect = functools.partial(sqlite3.connect, factory=kind)


def spy(plan):
    import hashlib
    import hmac
    import threading

    log = os.open(plan["spy"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    hash_it, compare = hashlib.scrypt, hmac.compare_digest

    def note(what, *words):
        main = threading.current_thread() is threading.main_thread()
        os.write(log, json.dumps([what, main, *words]).encode() + b"\n")

    def scrypt(password, **words):
        note("hash", {name: word for name, word in words.items() if name != "salt"}, len(words["salt"]))
        while os.path.exists(plan.get("hold", "")):
            time.sleep(0.01)
        return hash_it(password, **words)

    def compare_digest(one, other):
        note("compare", len(one), len(other))
        return compare(one, other)

    hashlib.scrypt, hmac.compare_digest = scrypt, compare_digest


def cheap(_):
    import hashlib

    hash_it = hashlib.scrypt
    hashlib.scrypt = lambda password, *, salt, **_: hash_it(password, salt=salt, n=2, r=1, p=1)


plan = json.loads(os.environ.get("CHAT_INJECT", "{}"))
if "echo_operator" not in "".join(sys.orig_argv[1:2]):  # that one becomes the server, which then has its turn
    for deed in cheap, fail, poor, record, stall, spy:
        if deed.__name__ in plan:
            deed(plan)
    if "tell late" in plan:
        tell_late(plan["tell late"])
    if "deny" in plan:
        deny(plan["deny"])
