"""The options whose value may be the name of a folder or a file. pyproject.toml has pytest load this first.

pytest takes a word after an option that it does not know (yet) for a path. If that exists, it looks for conftest.py
there, and not in tests/, where the other options are.
"""

import sys

if sys.platform == "win32":
    sys.exit(
        "The servers and their tests use what Windows lacks. In WSL they run as on Linux: see the end of README.md."
    )


def pytest_addoption(parser):
    group = parser.getgroup("chat", "teaching chat")
    group.addoption("--server-cmd", help='test this server instead: "./my_server {port}"')
    group.addoption("--like", help="expect no more of it than of this model: --like thread_per_client")
