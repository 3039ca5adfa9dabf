"""Written to the file that CHAT_STATE names: what a program that has run in a console should have left as it was."""

import gc
import json
import logging
import os
import re
import signal
import sys
import threading


def descriptors():
    links = map(os.readlink, filter(os.path.exists, map("/dev/fd/{}".format, range(3, 200))))
    links = [re.sub("/dev/pts/.*", "the terminal", link) for link in links]  # 3.13's console opens it anew
    return sorted(link for link in links if "libffi" not in link)  # ctypes' library may keep its own file open


def state_of_the_interpreter():
    gc.collect()
    try:
        children = os.waitpid(-1, os.WNOHANG) != (0, 0) or "some"
    except ChildProcessError:
        children = "none"
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    wakeup = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakeup)
    return {
        "handlers": {str(number): str(signal.getsignal(number)) for number in sorted(signal.valid_signals())},
        "mask": sorted(map(int, mask)),
        "wake-up": wakeup,
        "timer": signal.getitimer(signal.ITIMER_REAL)[0],
        "log": [list(map(str, logging.root.handlers)), logging.root.level, logging.raiseExceptions],
        "threads": sorted(str(thread.name) for thread in threading.enumerate()),
        "children": children,
        "descriptors": descriptors() if sys.platform == "linux" else [],
        "blocking": [os.get_blocking(number) for number in range(3)],
        "streams": [str(sys.stdin), str(sys.stdout), str(sys.stderr)],
        "excepthooks": [str(sys.excepthook), str(threading.excepthook), str(sys.unraisablehook)],
        "umask": os.umask(0o22),
    }


with open(os.environ["CHAT_STATE"], "w") as file:
    json.dump(state_of_the_interpreter(), file)
