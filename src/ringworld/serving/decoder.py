"""The process in which hostile bytes are decoded, as the server sees it."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from ringworld.core.errors import InputError
from ringworld.serving.config import ServingLimits
from ringworld.serving.deadline import Deadline
from ringworld.serving.decode_media import OUT_OF_MEMORY
from ringworld.serving.errors import ApiError

_LOG = logging.getLogger("ringworld.serving")
# Keys of the server stay with the server.
_PASSED_ON = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT")
_SHOWN_BYTES = 2000


def run_decoder(
    request: Mapping[str, object], *, limits: ServingLimits, name: str, field: str, deadline: Deadline
) -> bytes:
    """Return what `decode_media` writes.

    Args:
        request: what it is to read, and how.
        limits: of its time and memory, and of the file.
        name: of the file, in errors.
        field: of the HTTP request, which errors name.
        deadline: of the HTTP request.

    Raises:
        ApiError: it takes too much time, or too much memory.
        InputError: it ends with an error of its own.
        ClientDisconnect: nobody waits for it any more.
    """
    most_seconds, most_bytes = limits.max_decode_seconds, limits.max_decode_bytes
    slow = ApiError(
        400,
        f"{name} takes more than {most_seconds:g} s to decode; send a shorter one",
        param=field,
        code="decode_time_exceeded",
    )
    bounds = {
        "pixels": limits.max_pixels,
        "duration_seconds": limits.max_video_seconds,
        "memory_bytes": most_bytes,
        "cpu_seconds": max(1, round(most_seconds * (os.cpu_count() or 1))),
    }
    try:
        ran = _run({**request, **bounds}, seconds=most_seconds, deadline=deadline)
    except subprocess.TimeoutExpired:
        raise slow from None
    deadline.check()
    if sys.platform != "win32" and ran.returncode == -signal.SIGXCPU:
        raise slow
    if ran.returncode == OUT_OF_MEMORY or ran.returncode < 0:
        problem = f"{name} takes more than {most_bytes // 2**20} MiB to decode; send a smaller one"
        raise ApiError(400, problem, param=field, code="decode_memory_exceeded")
    if ran.returncode:
        _LOG.error("a decoder failed:\n%s", ran.stderr[-_SHOWN_BYTES:].decode(errors="replace"))
        problem = f"{name} ends its decoder with an error"
        raise InputError(problem, field=field, remedy="send it in another format")
    return ran.stdout


def _run(
    request: Mapping[str, object], *, seconds: float, deadline: Deadline
) -> subprocess.CompletedProcess[bytes]:
    """Run the process to its end, which comes soon where its stdin is closed."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as stdin, os.fdopen(writer, "wb") as held, deadline.ending(held.close):
        return subprocess.run(
            [sys.executable, "-P", "-m", "ringworld.serving.decode_media", json.dumps(request)],
            stdin=stdin,
            capture_output=True,
            timeout=seconds,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            start_new_session=True,  # a Ctrl-C is not for it
            check=False,
        )
