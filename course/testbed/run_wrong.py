"""Run a wrong server with tests/wrong_servers/base.py in its reach: `python run_wrong.py WRONG.py PORT`."""

import runpy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tests" / "wrong_servers"))
runpy.run_path(sys.argv.pop(1), run_name="__main__")
