"""What the programs of the bench have in common: arguments, files, and standard output.

To measure takes minutes, and to lose what was measured takes one character that a terminal does not know. So results
are written to their file first and shown afterwards, and what is shown can fail without anything else being lost.
"""

import argparse
import codecs
import contextlib
import os
import shutil
import stat
import sys
from pathlib import Path

PLAIN = {"–": "-", "µ": "u", "μ": "u", "≥": ">", "…": ".", "━": "-", "╸": "-", "╺": "-", "’": "'"}


def tell(program, message):
    """One line on standard error. Past Python's own buffer: what could not be written would fail again at the end."""
    with contextlib.suppress(OSError):
        os.write(2, f"bench/{program}: {' '.join(message.split())}\n".encode(errors="backslashreplace"))


def wrong(program, message):
    """The arguments make no sense."""
    tell(program, message)
    sys.exit(2)


class Arguments(argparse.ArgumentParser):
    """Says in one line what is wrong with them, without the usage before it."""

    def error(self, message):
        wrong(self.prog, message)


def between(low, high, kind=int):
    """For add_argument: a number from low to high."""

    def convert(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:  # nan is not between anything either
            raise argparse.ArgumentTypeError(f"wanted a number from {low:,} to {high:,}, got {text!r}")
        return value

    return convert


def more_plainly(error):
    """For encoding: a character of the same width that every terminal knows."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(character, "?") for character in error.object[error.start : error.end]), error.end


codecs.register_error("plain", more_plainly)


class Screen:
    """Standard output. What it cannot encode is written more plainly; once nobody takes it, the rest is dropped."""

    def __init__(self, program):
        self.program, self.otherwise = program, ""
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass  # a standard descriptor that was closed would become the number of some other file
        os.close(fd)
        self.gone = "" if sys.stdout else "standard output is closed"
        self.stream = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
        self.stream.reconfigure(errors="plain")
        sys.stdout = self

    def otherwise_tell(self, what):
        """What is told, once, on standard error if nothing can be shown: where the result is, say."""
        self.otherwise = what
        if self.gone:
            tell(self.program, f"{self.gone}; {what}")

    def write(self, text):
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError as error:
            # What is in the buffer is tried again at every flush, and when Python ends: let it go somewhere.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.stream.fileno())
            os.close(null)
            self.gone = f"nothing more can be shown ({error.strerror})"
            if self.otherwise:
                tell(self.program, f"{self.gone}; {self.otherwise}")
        return len(text)

    def __getattr__(self, name):
        return getattr(self.stream, name)


def save(path, content):
    """All of it or nothing: whoever is killed meanwhile leaves the old file as it was."""
    path = Path(os.path.realpath(path))  # a link stays a link
    half = path.parent / f".bench-{os.getpid()}"
    try:
        half.write_bytes(content)
        if path.exists():
            shutil.copymode(path, half)
        os.replace(half, path)
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            half.unlink()


def why_not_saved(path):
    """Why nothing could be saved there, or "": to be known before anything is measured."""
    path = Path(os.path.realpath(path))
    half = path.parent / f".bench-{os.getpid()}"
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(path).st_mode):
                return "it is there already and no plain file"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            half.write_bytes(b"\n")
        finally:
            with contextlib.suppress(OSError):
                half.unlink()
    except OSError as error:
        return error.strerror
    return ""
