"""Run one of tests/wrong_servers with the log that the contract asks for: `python logged.py WRONG.py PORT`.

Those servers say next to nothing, since the suite holds a student's server to no log. check.py does.
"""

import contextlib
import importlib
import runpy
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent.parent / "tests" / "wrong_servers"
sys.path.insert(0, str(TESTS))

base = importlib.import_module("base")


def say(text):
    with contextlib.suppress(OSError):
        print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


class Chat(base.Chat):
    """The correct server, which says who comes and goes."""

    def run(self):
        say("listening on {}:{}".format(*self.listener.getsockname()))
        super().run()
        say("bye")

    def accept(self):
        before = set(self.clients)
        super().accept()
        for sock in set(self.clients) - before:
            say(f"{self.clients[sock].name} joined, {len(self.clients)} online")

    def drop(self, client):
        here = client.sock in self.clients
        super().drop(client)
        if here:
            say(f"{client.name} left, {len(self.clients)} online")


base.Chat = Chat
if __name__ == "__main__":
    wrong = sys.argv.pop(1)
    if Path(wrong).name == "base.py":
        base.main(Chat)
    else:
        runpy.run_path(wrong, run_name="__main__")
