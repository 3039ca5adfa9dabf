"""Run a program for which the kernel answers to one system call with an error, or by killing it (seccomp(2)).

    python sandbox.py kill 425 PROGRAM ...      or an error's number instead of kill

It is written for Linux on x86_64 and aarch64.
"""

import ctypes
import os
import platform
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
RET_KILL_PROCESS, RET_ERRNO, RET_ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF: load a word, compare, return
NUMBER, ARCHITECTURE = 0, 4  # where they stand in what the filter gets
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}[platform.machine()]

action, number, *command = sys.argv[1:]
verdict = RET_KILL_PROCESS if action == "kill" else RET_ERRNO | int(action)
# An instruction is its code, how many to skip if the comparison holds, how many if not, and a number.
program = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_IF_EQUAL, 0, 3, AUDIT_ARCH),
        (LOAD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 0, 1, int(number)),
        (RETURN, 0, 0, verdict),
        (RETURN, 0, 0, RET_ALLOW),
    ]
)


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


prctl = ctypes.CDLL(None, use_errno=True).prctl
prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
structure = Program(len(program) // 8, program)
for arguments in (
    (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
    (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(structure), 0, 0),
):
    if prctl(*arguments) < 0:
        sys.exit(f"{sys.argv[0]}: no sandbox can be had here: {os.strerror(ctypes.get_errno())}")
os.execv(command[0], command)
