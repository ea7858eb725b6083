"""The time of a part is the sum over its calls, whichever way they end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ringworld.core.errors import InputError
from ringworld.quickstart.phases import Phases

PROGRAM = """
import sys, time
from pathlib import Path
from ringworld.quickstart.phases import Phases

folder, leaves = map(Path, sys.argv[1:])
with Phases(folder)("training", leaves=leaves):
    while True:
        time.sleep(0.01)
        (leaves / "work").write_text("x")
"""


def spend(folder: Path, leaves: Path, seconds: float) -> float:
    phases = Phases(folder)
    with phases("training", leaves=leaves):
        time.sleep(seconds)
    return phases.done()[0].seconds


@pytest.fixture
def leaves(tmp_path: Path) -> Path:
    leaves = tmp_path / "train"
    leaves.mkdir()
    (leaves / "old").write_text("of another day")
    os.utime(leaves / "old", (1e9, 1e9))
    return leaves


def test_a_finished_part_keeps_its_time(tmp_path, leaves):
    first = spend(tmp_path / "phases", leaves, 0.2)
    assert first >= 0.2
    assert spend(tmp_path / "phases", leaves, 0.2) == first


def test_a_call_that_fails_counts(tmp_path, leaves):
    with pytest.raises(KeyboardInterrupt), Phases(tmp_path / "phases")("training", leaves=leaves):
        time.sleep(0.2)
        raise KeyboardInterrupt
    assert spend(tmp_path / "phases", leaves, 0.1) >= 0.3


def test_a_call_that_is_killed_counts(tmp_path, leaves):
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / "phases"), str(leaves)])
    work = leaves / "work"
    while not work.exists():
        assert process.poll() is None
        time.sleep(0.01)
    began = work.stat().st_mtime
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    worked = work.stat().st_mtime - began
    assert worked > 0
    assert spend(tmp_path / "phases", leaves, 0.1) >= worked + 0.1


@pytest.mark.parametrize("damage", ["[]", "{", '{"seconds": 1}'])
def test_a_damaged_time_is_named_with_its_remedy(damage, tmp_path, leaves):
    (tmp_path / "phases").mkdir()
    (tmp_path / "phases" / "training.json").write_text(damage)
    with pytest.raises(InputError) as refused:
        spend(tmp_path / "phases", leaves, 0)
    assert refused.value.path == tmp_path / "phases" / "training.json"
    assert refused.value.remedy


@pytest.mark.parametrize(("last_file", "counted"), [(60, 40), (1000, 0)])
def test_a_killed_call_counts_up_to_its_last_file(last_file, counted, tmp_path, leaves):
    """It began 100 seconds ago, after 2 of other calls; its newest file is `last_file` seconds old."""
    now = time.time()
    os.utime(leaves / "old", (now - last_file, now - last_file))
    (tmp_path / "phases").mkdir()
    killed = {"seconds": 2.0, "began": now - 100, "finished": False}
    (tmp_path / "phases" / "training.json").write_text(json.dumps(killed))
    seconds = spend(tmp_path / "phases", leaves, 0.1)
    assert 2 + counted + 0.1 <= seconds < 2 + counted + 30
