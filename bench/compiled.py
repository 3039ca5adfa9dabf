"""C sources of the bench, compiled where there is a C compiler."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from meter import ended

BENCH = Path(__file__).resolve().parent


def compiled(name, *flags):
    """The path of what bench/NAME compiles to, made anew when it has changed; None without a C compiler.

    RuntimeError where there is one that cannot do it.
    """
    source = BENCH / name
    compiler = shutil.which("cc")
    if not compiler:
        return None
    target = Path(tempfile.gettempdir()) / f"chat-bench-{os.getuid()}-{source.stem}-{source.stat().st_mtime_ns}"
    if not target.exists():
        half = f"{target}.{os.getpid()}"
        command = [compiler, "-O2", "-Wall", *flags, "-o", half, str(source)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if done.returncode:
            said = done.stderr.decode(errors="replace").splitlines()
            why = next((line for line in said if "error" in line), ended(done.returncode))
            raise RuntimeError(f"cc cannot compile {name}: {why}")
        os.replace(half, target)
    return target
