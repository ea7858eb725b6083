"""A run that is stopped in every way, and goes on as if it had not been."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.core.files import read_jsonl
from ringworld.training.loop import train
from ringworld.training.metrics import METRICS_FILE, TIMED
from tests.training.meshes import mesh_of
from tests.training.tiny_run import MODEL, stage, training, write_data

ROOT = Path(__file__).parents[2]


class Runs:
    """Starts the program of `tiny_run.py` on one folder of data, with one cache of compiled programs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, write_data(folder / "data")
        self.told = ""
        self.environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(ROOT / "src"),
        }

    def start(
        self, name: str, *options: str, devices: int = 2, data: Path | None = None
    ) -> subprocess.Popen[str]:
        program = [sys.executable, "-m", "tests.training.tiny_run"]
        command = [*program, data or self.data, self.folder / name, str(devices), *options]
        return subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=self.environment, stderr=subprocess.PIPE, text=True
        )

    def finish(self, name: str, *options: str, devices: int = 2, data: Path | None = None) -> tuple[int, str]:
        process = self.start(name, *options, devices=devices, data=data)
        message = process.communicate(timeout=300)[1]
        return process.returncode, message

    def stop(self, name: str, *options: str, number: signal.Signals, at_step: int) -> tuple[int, str]:
        """Start, and send a signal when the metrics have reached a step."""
        process = self.start(name, *options)
        while process.poll() is None and max(self.steps(name), default=0) < at_step:
            time.sleep(0.01)
        process.send_signal(number)
        message = process.communicate(timeout=300)[1]
        return process.returncode, message

    def rows(self, name: str) -> list[dict[str, Any]]:
        rows = read_jsonl(self.folder / name / METRICS_FILE)
        return [{key: value for key, value in row.items() if key not in TIMED} for row in rows]

    def steps(self, name: str) -> list[int]:
        return [row["step"] for row in self.rows(name)]

    def hooks(self, name: str) -> list[str]:
        return (self.folder / name / "hooks.txt").read_text().splitlines()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("runs"))
    code, runs.told = runs.finish("whole")
    assert code == 0, runs.told
    return runs


def test_a_whole_run_logs_every_step_and_calls_its_hook_round_each_stage(runs: Runs):
    assert runs.steps("whole") == list(range(1, 81))
    assert runs.hooks("whole") == ["before short", "after short", "after long"]
    assert [row["stage"] for row in runs.rows("whole")] == ["short"] * 40 + ["long"] * 40


def test_a_run_that_is_killed_and_interrupted_ends_as_the_whole_one(runs: Runs):
    killed = runs.stop("stopped", number=signal.SIGKILL, at_step=10)
    assert killed[0] == -signal.SIGKILL
    assert 10 <= runs.steps("stopped")[-1] < 40

    died = runs.finish("stopped", "--die-after", "short")
    assert died[0] == -signal.SIGKILL
    assert runs.steps("stopped") == list(range(1, 41))

    interrupted, message = runs.stop("stopped", number=signal.SIGINT, at_step=45)
    assert interrupted == 1
    last = runs.steps("stopped")[-1]
    assert f"SIGINT after step {last}, saved: the same command goes on" in message

    terminated, message = runs.stop("stopped", number=signal.SIGTERM, at_step=last + 5)
    assert terminated == 1
    assert "SIGTERM after step" in message

    assert runs.finish("stopped")[0] == 0
    assert runs.rows("stopped") == runs.rows("whole")
    assert runs.hooks("stopped") == ["before short", "after short", "after short", "after long"]


def test_rows_that_are_far_apart_add_up_to_the_same_after_a_kill(runs: Runs):
    """A row is written every 6 steps, a checkpoint every 7: the kill falls between the two."""
    sparse = ("--log-every", "6")
    killed = runs.stop("sparse", *sparse, number=signal.SIGKILL, at_step=12)
    assert killed[0] == -signal.SIGKILL
    assert runs.finish("sparse", *sparse)[0] == 0
    assert runs.steps("sparse") == [*range(6, 40, 6), 40, *range(42, 80, 6), 80]
    for of_stage in ("short", "long"):
        every, some = (
            [row for row in runs.rows(name) if row["stage"] == of_stage] for name in ("whole", "sparse")
        )
        for column in ("steps", "tokens", "examples"):
            assert sum(row[column] for row in some) == sum(row[column] for row in every), column
        assert sum(row["steps"] for row in some) == 40
        losses = {row["step"]: row["loss"] for row in every}
        assert {row["step"]: row["loss"] for row in some}.items() <= losses.items()
        means = [sum(row["ring_efficiency"] * row["steps"] for row in rows) / 40 for rows in (every, some)]
        assert means[0] == pytest.approx(means[1])


def test_examples_that_no_row_of_a_stage_holds_are_told(runs: Runs):
    assert "train short: left out, longer than 32 tokens: 1 video\n" in runs.told
    assert "train long: left out" not in runs.told


def test_a_run_goes_on_where_the_devices_are_others(runs: Runs):
    runs.stop("moved", number=signal.SIGINT, at_step=45)
    assert runs.finish("moved", devices=1)[0] == 0
    got, expected = ([row["loss"] for row in runs.rows(name)] for name in ("moved", "whole"))
    # AdamW divides by the size of a gradient, so that 35 updates spread the rounding of small ones.
    np.testing.assert_allclose(got, expected, rtol=2e-3)


def test_a_finished_run_only_calls_its_last_hook_again(runs: Runs):
    runs.finish("whole")
    assert runs.steps("whole") == list(range(1, 81))
    assert runs.hooks("whole")[3:] == ["after long"]


def test_rows_that_were_doubled_are_refused(runs: Runs):
    shutil.copytree(runs.folder / "whole", runs.folder / "doubled")
    path = runs.folder / "doubled" / METRICS_FILE
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*rows[:9], *rows[8:]]))
    code, message = runs.finish("doubled")
    assert code == 1
    assert f"{METRICS_FILE}: got a row of steps 9 to 9 after step 9" in message


def test_other_data_are_refused_where_a_stage_has_just_ended(runs: Runs, tmp_path: Path):
    """There no state of a loader tells them apart: the next stage begins one of its own."""
    died = runs.finish("other", "--die-after", "short")
    assert died[0] == -signal.SIGKILL
    other = write_data(tmp_path / "data", seed=1)
    before = runs.rows("other")
    code, message = runs.finish("other", data=other)
    assert code == 1
    assert "another data, expected a new folder" in message
    assert runs.rows("other") == before


def test_nothing_is_said_to_be_claimed_in_a_folder_of_another_run(runs: Runs):
    said = []
    with pytest.raises(InputError, match="another seed"):
        train(
            training(seed=1),
            MODEL,
            data_dir=runs.data,
            out=runs.folder / "whole",
            mesh=mesh_of(ring=2),
            on_claim=lambda: said.append("claimed"),
        )
    assert not said


def test_a_mesh_that_does_not_fit_is_refused_before_anything_is_compiled(tmp_path: Path):
    with pytest.raises(InputError, match="sequence length"):
        train(
            training(stages=(stage(context_tokens=33),)),
            MODEL,
            data_dir=tmp_path,
            out=tmp_path / "out",
            mesh=mesh_of(ring=2),
        )
