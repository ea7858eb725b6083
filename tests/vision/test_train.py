"""A frame tokenizer of 8 pixels learns two colors, resumes after a kill, and refuses another run's folder."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ringworld.core.errors import Diverged, InputError, Stopped
from ringworld.core.files import read_jsonl
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.core.steps import METRICS_FILE
from ringworld.vision import train
from ringworld.vision.config import FrameTokenizerConfig, FrameTrainingConfig
from ringworld.vision.frame_tokenizer import FrameTokenizer
from ringworld.vision.train import train_frame_tokenizer
from ringworld.vision.train_step import init_state, train_step
from ringworld.vision.vq_model import WEIGHTS_FILE

CONFIG = FrameTokenizerConfig(
    resolution=8, channels=(8, 16), res_blocks=1, latent=4, codebook_size=16, groups=4
)
TRAINING = FrameTrainingConfig(
    steps=60,
    batch_frames=8,
    learning_rate=1e-2,
    warmup_steps=5,
    continuous_steps=10,
    adversarial_start_step=50,
    discriminator_hidden=4,
    checkpoint_every_steps=20,
    log_every_steps=5,
    codebook_decay=0.9,
)


def squares(count: int, *, seed: int) -> np.ndarray:
    """Frames with a bright square of one of two colors in a corner."""
    random = np.random.default_rng(seed)
    frames = np.full((count, 8, 8, 3), 20, np.uint8)
    for frame in frames:
        row, column = random.integers(0, 2, 2) * 4
        frame[row : row + 4, column : column + 4] = [(230, 40, 40), (40, 90, 230)][random.integers(2)]
    return frames


def losses(out: Path) -> list[dict[str, Any]]:
    """Return the rows without their times."""
    return [
        {name: value for name, value in row.items() if name != "seconds"}
        for row in read_jsonl(out / METRICS_FILE)
    ]


TRAIN, HELD_OUT = squares(32, seed=0), squares(8, seed=1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("tokenizer")
    return out, train_frame_tokenizer(TRAIN, HELD_OUT, config=CONFIG, training=TRAINING, out=out)


def test_it_learns_and_reports(trained):
    out, report = trained
    assert report.psnr_db > 20
    assert report.steps == 60 and report.seconds > 0
    codes = FrameTokenizer.load(out).encode(HELD_OUT)
    assert report.codebook_usage == len(np.unique(codes)) / 16
    rows = read_jsonl(out / METRICS_FILE)
    assert [row["step"] for row in rows] == list(range(5, 61, 5))
    assert rows[-1]["reconstruction"] < 0.3 * rows[0]["reconstruction"]


def test_the_discriminator_acts_from_its_step_on(trained):
    rows = read_jsonl(trained[0] / METRICS_FILE)
    assert all((row["balance"] > 0) == (row["step"] > 50) for row in rows)
    # Cut as the run cuts them, so that its compiled program serves.
    mesh = make_mesh(MeshConfig(data=8), shardings="inferred")
    frames = jax.device_put(TRAIN[:8], NamedSharding(mesh, spec("batch")))
    state = jax.device_put(init_state(CONFIG, TRAINING), NamedSharding(mesh, spec()))
    free, _ = train_step(state, frames, 49, config=CONFIG, training=TRAINING)
    judged, _ = train_step(state, frames, 50, config=CONFIG, training=TRAINING)
    kernels = [s.autoencoder.encoder.conv_in.kernel for s in (judged, free)]
    assert bool((kernels[0] != kernels[1]).any())
    assert bool((free.discriminator.conv_in.kernel == state.discriminator.conv_in.kernel).all())
    assert bool((judged.discriminator.conv_in.kernel != state.discriminator.conv_in.kernel).any())


def test_a_run_that_is_killed_and_asked_to_stop_ends_as_one_that_was_not(trained, tmp_path, monkeypatch):
    whole, report = trained
    kill_after = 33
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(os.path.dirname(__file__))!r})
import jax
jax.config.update("jax_num_cpu_devices", 8)
import test_train
from pathlib import Path
from ringworld.vision import train
step = train.train_step
def killed(state, frames, number, **options):
    if number == {kill_after}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(state, frames, number, **options)
train.train_step = killed
train.train_frame_tokenizer(test_train.TRAIN, test_train.HELD_OUT, config=test_train.CONFIG,
    training=test_train.TRAINING, out=Path({str(tmp_path)!r}))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert ran.returncode == -signal.SIGKILL, ran.stderr
    assert read_jsonl(tmp_path / METRICS_FILE)[-1]["step"] == 30

    def interrupted(state, frames, number, **options):
        if number == 42:
            signal.raise_signal(signal.SIGTERM)
        return train_step(state, frames, number, **options)

    monkeypatch.setattr(train, "train_step", interrupted)
    with pytest.raises(Stopped):
        train_frame_tokenizer(TRAIN, HELD_OUT, config=CONFIG, training=TRAINING, out=tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"40", "43"}
    monkeypatch.undo()
    resumed = train_frame_tokenizer(TRAIN, HELD_OUT, config=CONFIG, training=TRAINING, out=tmp_path)
    assert dataclasses.replace(resumed, seconds=0.0) == dataclasses.replace(report, seconds=0.0)
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == (whole / WEIGHTS_FILE).read_bytes()
    assert losses(tmp_path) == losses(whole)


def test_rows_that_were_lost_are_refused(trained, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(trained[0], out)
    rows = (out / METRICS_FILE).read_text().splitlines(keepends=True)
    (out / METRICS_FILE).write_text("".join(rows[:3] + rows[4:]))
    with pytest.raises(InputError) as refusal:
        train_frame_tokenizer(TRAIN, HELD_OUT, config=CONFIG, training=TRAINING, out=out)
    assert refusal.value.path == out / METRICS_FILE


def test_a_finished_run_is_only_measured_again(trained):
    out, report = trained
    before = (out / WEIGHTS_FILE).read_bytes()
    again = train_frame_tokenizer(TRAIN, HELD_OUT, config=CONFIG, training=TRAINING, out=out)
    assert (again.psnr_db, again.codebook_usage) == (report.psnr_db, report.codebook_usage)
    assert (out / WEIGHTS_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"training": dataclasses.replace(TRAINING, seed=7)}, "training.seed"),
        # Its weights have other shapes than those of the checkpoint, which is not read.
        ({"config": dataclasses.replace(CONFIG, latent=6)}, "config.latent"),
    ],
)
def test_another_run_does_not_take_over_a_folder(trained, other, named):
    out, _ = trained
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as refusal:
        train_frame_tokenizer(TRAIN, HELD_OUT, **({"config": CONFIG, "training": TRAINING} | other), out=out)
    assert (refusal.value.path, refusal.value.field) == (out, named)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_loss_that_is_not_a_number_stops_the_run_before_it_reaches_a_file(tmp_path):
    diverging = dataclasses.replace(TRAINING, learning_rate=1e30, log_every_steps=1, checkpoint_every_steps=1)
    with pytest.raises(Diverged) as end:
        train_frame_tokenizer(TRAIN, HELD_OUT, config=CONFIG, training=diverging, out=tmp_path)
    assert end.value.step == 2
    assert [row["step"] for row in read_jsonl(tmp_path / METRICS_FILE)] == [1]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_frames_of_another_size_are_refused(tmp_path):
    small = TRAIN[:, :4, :4]
    for frames, held_out, field in ((TRAIN, HELD_OUT[:0], "held_out"), (small, small, "frames")):
        with pytest.raises(InputError) as refusal:
            train_frame_tokenizer(frames, held_out, config=CONFIG, training=TRAINING, out=tmp_path)
        assert refusal.value.field == field
