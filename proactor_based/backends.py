"""Which proactor: the one that works everywhere, or the one over io_uring, where that can be had."""

import os
import signal
import subprocess
import sys

from proactor import SelectorProactor

PATIENCE = 10  # seconds in which a trial of io_uring must be done

# A program that has one operation done by io_uring, and then prints a word.
TRIAL = """
import sys
sys.path.insert(0, sys.argv[1])
try:
    from uring import UringProactor
    proactor = UringProactor()
    proactor.cancel()  # sends a byte, for which a recv is pending
    proactor.run()
    proactor.close()
except (ImportError, OSError) as error:
    sys.exit(str(error))
print("done")
"""


def create_proactor(backend="selectors"):
    """Return a proactor over "selectors" or "io_uring". An ImportError or OSError tells why it cannot be had."""
    if backend == "selectors":
        return SelectorProactor()
    try_io_uring()
    from uring import UringProactor

    return UringProactor()


def try_io_uring():
    """Raise OSError unless another process could use io_uring. A sandbox may kill who tries it, or never answer."""
    command = [sys.executable, "-I", "-c", TRIAL, os.path.dirname(os.path.abspath(__file__))]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", errors="replace", timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"a trial of it was not done in {PATIENCE} seconds") from None
    # The status alone does not tell: where SIGCHLD is ignored, it is lost, and Python takes it for 0.
    if done.stdout.strip() == "done":
        return
    if done.returncode < 0:
        raise OSError(f"a trial of it was killed by {signal.Signals(-done.returncode).name}")
    raise OSError(done.stderr.strip().rpartition("\n")[2] or "a trial of it ended without a word")
