"""Programs that stand for peers, and a problem to give them."""

import shlex
import sys
from pathlib import Path
from typing import Any

from ringworld.bench.attention import COMPILED
from ringworld.bench.peers import Problem

OF_PEER: dict[str, Any] = {
    "name": "a peer",
    "seconds": 60.0,
    "peak_bytes": 2**40,
    "memory": COMPILED,
    "versions": {},
}
PROBLEM = Problem(
    seq=512, batch=1, heads=4, kv_heads=2, head=16, dtype="float32", backward=True, lengths=[128] * 4
)


def write_peer(folder: Path, last_line: str, *, first: str = "") -> str:
    """Return the command of a program that adds the problem that it gets to `asked.jsonl` in its folder.

    Args:
        folder: where it is.
        last_line: what it prints last.
        first: Python that it runs before that.
    """
    script = folder / f"peer{len(list(folder.iterdir()))}.py"
    script.write_text(
        "import sys, pathlib, subprocess, time\n"
        f"with pathlib.Path({str(folder / 'asked.jsonl')!r}).open('a') as stream:\n"
        "    stream.write(sys.argv[-1] + '\\n')\n"
        f"{first}\nprint('loading')\nprint({last_line!r})\n"
    )
    return shlex.join([sys.executable, str(script)])
