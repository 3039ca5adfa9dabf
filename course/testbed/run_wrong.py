"""Run a wrong server with tests/wrong_servers/base.py in its reach: `python run_wrong.py WRONG.py PORT`."""

import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, f"{ROOT}/tests/wrong_servers")
with open(sys.argv.pop(1)) as file:
    exec(compile(file.read(), file.name, "exec"))
