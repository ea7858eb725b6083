"""A run whose stages have different meshes: stopped in every way, it resumes as if it had not been."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from ringworld.core.checkpoint import Checkpoints
from ringworld.core.errors import Diverged, InputError, Stopped
from ringworld.core.files import read_jsonl
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import Origin
from ringworld.core.steps import CHECKPOINTS_FOLDER, METRICS_FILE
from ringworld.data.loader import PackedLoader
from ringworld.model.forward import Forward
from ringworld.model.world_model import WorldModel
from ringworld.training.config import GuardConfig, Stage
from ringworld.training.loop import train
from ringworld.training.metrics import TIMED
from ringworld.training.state import abstract_state
from ringworld.training.step import loss_and_gradient
from tests.training.meshes import mesh_of, model_on, on_devices, state_on
from tests.training.test_loss import ROUNDING
from tests.training.tiny_run import EXECUTION, MODEL, run, stage, training, write_data

ROOT = Path(__file__).parents[2]
SPARSE = ("--log-every", "6")
SUMMED, MEANS = ("steps", "tokens", "examples"), ("ring_efficiency", "drawn_examples", "drawn_tokens")
"""Columns of the steps since the row before; the others are of one step."""


class Runs:
    """Starts the program of `tiny_run.py` on one folder of data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, write_data(folder / "data")
        self.stderr = ""
        self.environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}

    def start(self, name: str, *options: str) -> subprocess.Popen[str]:
        program = [sys.executable, "-m", "tests.training.tiny_run"]
        command = [*program, self.data, self.folder / name, *options]
        return subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=self.environment, stderr=subprocess.PIPE, text=True
        )

    def finish(self, name: str, *options: str) -> tuple[int, str]:
        process = self.start(name, *options)
        message = process.communicate(timeout=300)[1]
        return process.returncode, message

    def stop(
        self, name: str, *options: str, number: signal.Signals, at_step: int, after_saves: int = 0
    ) -> tuple[int, str]:
        """Start, and send a signal when the metrics have reached a step and so many checkpoints are whole."""
        process, checkpoints = self.start(name, *options), self.folder / name / CHECKPOINTS_FOLDER
        while process.poll() is None and (
            max(self.steps(name), default=0) < at_step or len(list(checkpoints.glob("*[0-9]"))) < after_saves
        ):
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
    runs, said = Runs(tmp_path_factory.mktemp("runs")), io.StringIO()
    with contextlib.redirect_stderr(said):
        run(runs.data, runs.folder / "whole")
    runs.stderr = said.getvalue()
    return runs


def test_a_whole_run_logs_every_step_and_calls_its_hook_round_each_stage(runs: Runs):
    assert runs.steps("whole") == list(range(1, 81))
    assert runs.hooks("whole") == ["before short", "after short", "after long"]
    assert [row["stage"] for row in runs.rows("whole")] == ["short"] * 40 + ["long"] * 40


@pytest.fixture(scope="module")
def died(runs: Runs) -> Path:
    """A run killed in a stage, and again between its stages.

    A row is written every 6 steps, a checkpoint every 7: the first kill falls between the two.
    """
    killed = runs.stop("died", *SPARSE, number=signal.SIGKILL, at_step=12, after_saves=1)
    assert killed[0] == -signal.SIGKILL
    assert 12 <= runs.steps("died")[-1] < 40
    died = runs.finish("died", *SPARSE, "--die-after", "short")
    assert died[0] == -signal.SIGKILL
    assert runs.steps("died") == [*range(6, 40, 6), 40]
    return runs.folder / "died"


def test_a_run_that_is_killed_and_terminated_adds_up_to_the_whole_one(runs: Runs, died: Path):
    """The newest checkpoint, with which a stage ends, is damaged in between: the one before it is older."""
    stopped = shutil.copytree(died, runs.folder / "stopped")
    (stopped / CHECKPOINTS_FOLDER / "40" / "meta" / "metadata").write_bytes(b"{")
    terminated, message = runs.stop("stopped", *SPARSE, number=signal.SIGTERM, at_step=48)
    assert terminated == 1
    assert Stopped.__qualname__ in message
    assert [path.name for path in (stopped / f"{CHECKPOINTS_FOLDER}-damaged").iterdir()] == ["40-0"]
    run(runs.data, stopped, log_every=6)
    assert runs.hooks("stopped") == ["before short", "after short", "after short", "after long"]
    assert runs.steps("stopped") == [*range(6, 40, 6), 40, *range(42, 80, 6), 80]
    for of_stage in ("short", "long"):
        every, some = (
            [row for row in runs.rows(name) if row["stage"] == of_stage] for name in ("whole", "stopped")
        )
        for column in SUMMED:
            assert sum(row[column] for row in some) == sum(row[column] for row in every), column
        assert sum(row["steps"] for row in some) == 40
        whole = {row["step"]: row for row in every}
        for row in some:
            assert {name for name in row if row[name] != whole[row["step"]][name]} <= {*SUMMED, *MEANS}
        for of in ("examples", "tokens"):
            drawn = [Counter[str]() for _ in range(2)]
            for counter, rows in zip(drawn, (every, some)):
                for row in rows:
                    counter.update({name: round(n * row[of]) for name, n in row[f"drawn_{of}"].items()})
            assert drawn[0] == drawn[1] and drawn[0].total() == sum(row[of] for row in every)
        means = [sum(row["ring_efficiency"] * row["steps"] for row in rows) / 40 for rows in (every, some)]
        assert means[0] == pytest.approx(means[1])


def test_examples_that_no_row_of_a_stage_holds_are_reported(runs: Runs):
    (left_out,) = (line for line in runs.stderr.splitlines() if "video" in line)
    assert "short" in left_out and "1" in left_out


def test_stages_on_two_meshes_have_the_losses_of_one_device(runs: Runs):
    """The run moves to one device, where batches are in pieces, after a few steps, with equal weights."""
    interrupted, message = runs.stop("moved", number=signal.SIGINT, at_step=2)
    assert interrupted == 1
    at = runs.steps("moved")[-1]
    assert at < 40
    assert Stopped.__qualname__ in message
    run(runs.data, runs.folder / "moved", one_device=True)
    moved, whole = runs.rows("moved"), runs.rows("whole")
    assert moved[:at] == whole[:at]
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(moved[at][name], whole[at][name], rtol=ROUNDING)
    # AdamW divides by the size of a gradient, so that the other updates spread the rounding of small ones.
    np.testing.assert_allclose([row["loss"] for row in moved], [row["loss"] for row in whole], rtol=2e-3)


def test_a_finished_run_only_calls_its_last_hook_again(runs: Runs):
    run(runs.data, runs.folder / "whole")
    assert runs.steps("whole") == list(range(1, 81))
    assert runs.hooks("whole")[3:] == ["after long"]


def test_rows_that_were_doubled_are_refused(runs: Runs):
    shutil.copytree(runs.folder / "whole", runs.folder / "doubled")
    path = runs.folder / "doubled" / METRICS_FILE
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*rows[:9], *rows[8:]]))
    with pytest.raises(InputError) as refusal:
        run(runs.data, path.parent)
    assert refusal.value.path == path


def test_other_data_are_refused_where_a_stage_has_just_ended(died: Path, tmp_path: Path):
    """There no state of a loader tells them apart: the next stage begins one of its own."""
    before = (died / METRICS_FILE).read_bytes()
    with pytest.raises(InputError) as refusal:
        run(write_data(tmp_path / "data", seed=1), died)
    assert refusal.value.path == died
    assert (died / METRICS_FILE).read_bytes() == before


def test_a_stage_that_needs_more_devices_is_refused_before_the_folder_is_made(runs: Runs, tmp_path: Path):
    with pytest.raises(InputError) as refusal:
        train(
            training(second_mesh=MeshConfig(data=2, ring=8)),
            architecture=MODEL,
            execution=EXECUTION,
            data_dir=runs.data,
            out=tmp_path / "out",
            origin=Origin(kind="run"),
        )
    assert refusal.value.field == "mesh"
    assert not (tmp_path / "out").exists()


def test_what_would_be_offloaded_is_refused_where_devices_have_no_other_memory(runs: Runs, tmp_path: Path):
    with pytest.raises(InputError) as refusal:
        train(
            training(),
            architecture=MODEL,
            execution=replace(EXECUTION, remat="offload"),
            data_dir=runs.data,
            out=tmp_path / "out",
            origin=Origin(kind="run"),
        )
    assert refusal.value.field == "execution.remat"
    assert not (tmp_path / "out").exists()


def test_training_begins_from_given_weights_and_resumes_without_them(runs: Runs, tmp_path: Path):
    only = stage(steps=2, warmup_steps=0)
    config, reads = training(stages=(only,)), []

    def initial(mesh: Mesh) -> WorldModel:
        reads.append(mesh)
        return model_on(mesh)

    def killed(when: str, stage: Stage, model: WorldModel, mesh: Mesh) -> None:
        if when == "after":
            raise RuntimeError("killed")

    def begin(**options: Any) -> None:
        train(
            config,
            architecture=MODEL,
            execution=EXECUTION,
            data_dir=runs.data,
            out=tmp_path,
            initial=initial,
            origin=Origin(kind="run"),
            **options,
        )

    with pytest.raises(RuntimeError, match="killed"):
        begin(on_stage=killed)
    begin()
    assert len(reads) == 1
    rows = read_jsonl(tmp_path / METRICS_FILE)
    assert [row["step"] for row in rows] == [1, 2]

    sizes: dict[str, Any] = dict(context_tokens=only.context_tokens, batch_sequences=only.batch_sequences)
    loader = PackedLoader(
        runs.data,
        split="train",
        mixture=only.mixture,
        packing=config.packing,
        seed=config.seed,
        **sizes,
    )
    mesh, forward = reads[0], Forward.of(MODEL, EXECUTION, rope_base=only.rope_base)
    with jax.set_mesh(mesh):
        pieces = on_devices(next(iter(loader)), mesh)
        loss_of = jax.jit(lambda *args: loss_and_gradient(*args, config=config, forward=forward)[0].loss)
        loss = loss_of(state_on(mesh, config).params, pieces)
    np.testing.assert_allclose(rows[0]["loss"], loss, rtol=ROUNDING)


def test_a_stage_begins_with_its_own_moments_and_guard_and_a_run_that_diverges_names_the_step(
    runs: Runs, tmp_path: Path
):
    """The second stage breaks the weights by its first update, step 3, and the host looks at every third."""
    stages = (
        stage(steps=2, warmup_steps=0),
        stage("long", steps=6, warmup_steps=0, learning_rate=1e30, moments="reset"),
    )
    config = training(
        stages=stages,
        guard=GuardConfig(most_in_a_row=2),
        log_every_steps=3,
        checkpoint_every_steps=3,
    )
    with pytest.raises(Diverged) as ended:
        train(
            config,
            architecture=MODEL,
            execution=EXECUTION,
            data_dir=runs.data,
            out=tmp_path,
            origin=Origin(kind="run"),
        )
    assert (ended.value.name, ended.value.step, ended.value.in_a_row) == ("loss", 5, 2)
    assert [row["step"] for row in read_jsonl(tmp_path / METRICS_FILE)] == [2, 3]
    with closing(Checkpoints(tmp_path / CHECKPOINTS_FOLDER)) as checkpoints:
        state = checkpoints.restore(abstract_state(config, MODEL, mesh=mesh_of())).tree
    assert state.step == 3
    # Moments are over one update, as is the guard, and the schedule of learning rates over three.
    assert {int(leaf) for leaf in jax.tree.leaves(state.optimizer) if leaf.ndim == 0} == {1, 3}
    assert np.isfinite(state.guard.norms).sum() == 1
