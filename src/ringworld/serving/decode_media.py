"""Decode a picture or a film in a separate process, with limits on time and memory and no files to write.

Run as a module by `decoder`: the request as JSON in the first argument; on stdout a line of JSON with the
number of frames, or with why the file is refused, and then the frames as RGB bytes. Where it takes more
memory than it may, the exit code says so. It ends when stdin does, and so with the server, too.
"""

import errno
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ringworld.core.errors import InputError
from ringworld.vision.config import MediaLimits
from ringworld.vision.media import media_format, read_image
from ringworld.vision.sampling import read_spread

OUT_OF_MEMORY = 3
"""Exit code."""


def read(request: dict[str, Any]) -> np.ndarray:
    """Return the frames of a file, [frames, side, side, 3]; what is inside decides what it is, not its name.

    Raises:
        InputError: it cannot be read, is above a limit, or is not of the kind that is wanted.
    """
    path, resolution, kind = Path(request["path"]), request["resolution"], request["kind"]
    limits = MediaLimits(frame_pixels=request["pixels"], duration_seconds=request["duration_seconds"])
    if (media_format(path) if kind == "any" else kind) == "image":
        return read_image(path, resolution=resolution, limits=limits)[None]
    return read_spread(
        path,
        most_frames=request["most_frames"],
        frames_per_second=request["frames_per_second"],
        resolution=resolution,
        limits=limits,
    )


def _limit(*, memory_bytes: int, cpu_seconds: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: the caller's timeout alone
        return
    for kind, most, hard in (
        (resource.RLIMIT_AS, memory_bytes, memory_bytes),
        # At the soft limit comes a signal of its own, at the hard one that of any other end.
        (resource.RLIMIT_CPU, cpu_seconds, cpu_seconds + 1),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        try:
            resource.setrlimit(kind, (most, hard))
        except (ValueError, OSError):  # a system that has no such limit, or a lower one
            continue


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether it is that, or came of it: what lacks memory looks damaged to those who read it."""
    while error is not None:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
            return True
        error = error.__context__
    return False


def _end_with_stdin() -> None:
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


def main() -> None:
    """Answer one request."""
    request = json.loads(sys.argv[1])
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    _limit(memory_bytes=request["memory_bytes"], cpu_seconds=request["cpu_seconds"])
    out = sys.stdout.buffer
    try:
        frames = read(request)
    except (InputError, MemoryError) as error:
        if _is_out_of_memory(error):
            os._exit(OUT_OF_MEMORY)
        assert isinstance(error, InputError)
        refused = {"problem": error.problem, "remedy": error.remedy, "field": error.field}
        out.write(json.dumps(refused).encode() + b"\n")
        return
    out.write(json.dumps({"frames": len(frames)}).encode() + b"\n")
    out.write(np.ascontiguousarray(frames).tobytes())


if __name__ == "__main__":
    main()
