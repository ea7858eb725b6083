import resource
import subprocess
import sys
from types import SimpleNamespace

import pytest

from ringworld.core.memory import peak_memory_bytes


def test_the_peak_counts_what_was_held_and_nothing_else():
    program = (
        "from ringworld.core.memory import peak_memory_bytes\n"
        "before = peak_memory_bytes()\n"
        "held = bytearray(b'x') * 2**28\n"
        "del held\n"
        "print(peak_memory_bytes() - before)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert 0.9 * 2**28 < int(ran.stdout) < 1.5 * 2**28


@pytest.mark.parametrize(("platform", "peak_bytes"), [("freebsd14", 3 * 2**30), ("darwin", 3 * 2**20)])
def test_the_unit_of_getrusage_is_that_of_the_system(platform, peak_bytes, monkeypatch):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3 * 2**20))
    assert peak_memory_bytes() == peak_bytes
