"""The asyncio model as it is, on uvloop instead of the standard library's event loop.

python bench/others/uvloop_chat.py 9669
"""

import asyncio
import runpy
import sys
from pathlib import Path

import uvloop

server = Path(__file__).resolve().parents[2] / "asyncio_based" / "server.py"
asyncio.events.new_event_loop = uvloop.new_event_loop  # what asyncio.run asks for a loop, on every version
sys.argv[0] = str(server)
runpy.run_path(str(server), run_name="__main__")
