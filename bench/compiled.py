"""C sources of the bench, compiled where there is a C compiler."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

BENCH = Path(__file__).resolve().parent


def compiled(name, *flags):
    """The path of what bench/NAME compiles to, made anew when it has changed; None without a C compiler."""
    source = BENCH / name
    compiler = shutil.which("cc")
    if not compiler:
        return None
    target = Path(tempfile.gettempdir()) / f"chat-bench-{os.getuid()}-{source.stem}-{source.stat().st_mtime_ns}"
    if not target.exists():
        half = f"{target}.{os.getpid()}"
        subprocess.run([compiler, "-O2", "-Wall", *flags, "-o", half, str(source)], check=True)
        os.replace(half, target)
    return target
