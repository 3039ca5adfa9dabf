"""Python imports this before the program that `watch.py` starts: its folder is in PYTHONPATH then."""

import os
import sys

folder = os.path.dirname(__file__)
sys.path.remove(folder)
sys.path_importer_cache.pop(folder, None)
# The program is to find its environment as it would be, and so are the programs that it starts.
descriptor = int(os.environ.pop("CHAT_WATCH_DESCRIPTOR"))
if "CHAT_WATCH_PYTHONPATH" in os.environ:
    os.environ["PYTHONPATH"] = os.environ.pop("CHAT_WATCH_PYTHONPATH")
else:
    del os.environ["PYTHONPATH"]

sys.path.insert(0, folder)
try:
    import watched_program
finally:
    sys.path.remove(folder)
    sys.path_importer_cache.pop(folder, None)

# The system, or the virtual environment, may have a sitecustomize of its own.
this = sys.modules.pop("sitecustomize")
try:
    import sitecustomize  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "sitecustomize":
        raise
    sys.modules["sitecustomize"] = this  # Python looks for it, once this has run
watched_program.begin(descriptor)
