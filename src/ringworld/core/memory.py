"""How much memory the process needs."""

import re
import resource
import sys
from pathlib import Path


def peak_memory_bytes() -> int:
    """Return the most main memory that this process ever held.

    Linux tells it in `/proc`; what `getrusage` tells there begins with what the parent process held.
    Elsewhere `getrusage` is right: in KiB, but on macOS in bytes.
    """
    if sys.platform == "linux":
        peak = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
        if peak:
            return int(peak[1]) * 1024
    peak_units = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak_units if sys.platform == "darwin" else peak_units * 1024
