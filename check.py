#!/usr/bin/env python3
"""Hold your own chat server, in any language, to the contract, stage by stage: python check.py ./my_server

It needs CPython 3.11 or later and nothing else, no package and no virtual environment. course/README.md tells more.
"""

import os
import sys

if sys.version_info < (3, 11):  # noqa: UP036 (a student's may be older)
    sys.exit("check.py needs Python 3.11 or later; this is " + sys.version.split()[0])
if sys.platform == "win32":
    sys.exit("check.py does not run on Windows itself: use WSL (wsl --install), and run it there as on Linux")

from course.main import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # nobody reads on, as in `python check.py ./my_server | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
