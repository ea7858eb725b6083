"""Training of a frame tokenizer, from frames to a folder that `FrameTokenizer.load` reads."""

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import UInt8

from ringworld.core.checkpoint import Checkpoints
from ringworld.core.config import to_json
from ringworld.core.errors import InputError
from ringworld.core.files import append_jsonl, claim_folder, keep_jsonl, write_json_atomic
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.progress import Progress
from ringworld.core.ranges import check_finite
from ringworld.core.sharding import spec
from ringworld.vision.config import FrameTokenizerConfig, FrameTrainingConfig
from ringworld.vision.frame_tokenizer import FrameTokenizer
from ringworld.vision.quality import codebook_perplexity, codebook_usage, psnr
from ringworld.vision.train_step import TokenizerState, init_state, train_step

RUN_IDENTITY_FILE = "training.json"
METRICS_FILE, REPORT_FILE, CHECKPOINTS = "metrics.jsonl", "report.json", "checkpoints"


@dataclass(frozen=True, kw_only=True)
class FrameTokenizerReport:
    """What training came to, measured on the held-out frames.

    Attributes:
        psnr_db: mean over frames, 8-bit pixels.
        codebook_usage: fraction of the codebook that occurs.
        codebook_perplexity: exponential of the entropy of the codes.
        steps: optimizer steps.
        seconds: time that training took, compilation included, without steps that a killed run lost.
    """

    psnr_db: float
    codebook_usage: float
    codebook_perplexity: float
    steps: int
    seconds: float


def train_frame_tokenizer(
    frames: UInt8[np.ndarray, "frames side side 3"],
    held_out: UInt8[np.ndarray, "held_out side side 3"],
    *,
    config: FrameTokenizerConfig,
    training: FrameTrainingConfig,
    out: Path,
) -> FrameTokenizerReport:
    """Train on `frames`, measure on `held_out` and save; go on from the last checkpoint if there is one.

    The folder `out` gets `model.safetensors`, `config.json`, `report.json`, `metrics.jsonl` (losses by step),
    `training.json` (what is trained) and `checkpoints`. A run that was killed ends with the same weights and
    metrics as one that was not.

    Raises:
        InputError: the frames have another side than `config.resolution`, there are none, `out` holds the
            run of another configuration, or a loss is not finite.
    """
    _refuse_frames(frames, held_out, config)
    run = {"config": to_json(config), "training": to_json(training)}
    claim_folder(out / RUN_IDENTITY_FILE, run, holds="a frame tokenizer of another configuration")
    checkpoints = Checkpoints(out / CHECKPOINTS)
    try:
        state, seconds = _steps(frames, config=config, training=training, out=out, checkpoints=checkpoints)
    finally:
        checkpoints.close()
    tokenizer = FrameTokenizer(config, jax.device_put(state.autoencoder, jax.devices()[0]))
    tokenizer.save(out)
    codes = tokenizer.encode(held_out)
    report = FrameTokenizerReport(
        # Two equal frames have no finite ratio; 100 dB is already beyond 8-bit rounding.
        psnr_db=float(np.minimum(psnr(held_out, tokenizer.decode(codes)), 100.0).mean()),
        codebook_usage=codebook_usage(codes, codebook_size=config.codebook_size),
        codebook_perplexity=codebook_perplexity(codes),
        steps=training.steps,
        seconds=seconds,
    )
    write_json_atomic(out / REPORT_FILE, to_json(report))
    return report


def _steps(
    frames: np.ndarray,
    *,
    config: FrameTokenizerConfig,
    training: FrameTrainingConfig,
    out: Path,
    checkpoints: Checkpoints,
) -> tuple[TokenizerState, float]:
    """Run all steps that the newest checkpoint has not, and return the last state and the seconds of all."""
    state, first_step, seconds = _begin(config, training, out, checkpoints)
    everywhere, apart = _shardings(training.batch_frames)
    state = jax.device_put(state, everywhere)
    began = time.monotonic()
    with Progress("frame tokenizer", total=training.steps, unit="steps", done=first_step) as progress:
        for step in range(first_step, training.steps):
            batch = jax.device_put(frames[_batch_indices(len(frames), step, training)], apart)
            state, metrics = train_step(state, batch, step, config=config, training=training)
            done = step + 1
            logs, saves = (
                done % every == 0 or done == training.steps
                for every in (training.log_every_steps, training.checkpoint_every_steps)
            )
            if not (logs or saves):
                continue
            row = {name: value.item() for name, value in asdict(metrics).items()}
            check_finite(row, where=f"step {done} of the frame tokenizer")
            if logs:
                append_jsonl(out / METRICS_FILE, {"step": done} | row)
                progress.update(done, reconstruction=row["reconstruction"])
            if saves:
                taken = seconds + time.monotonic() - began
                checkpoints.save(done, jax.tree.leaves(state), {"seconds": taken})
    return state, seconds + time.monotonic() - began


def _begin(
    config: FrameTokenizerConfig, training: FrameTrainingConfig, out: Path, checkpoints: Checkpoints
) -> tuple[TokenizerState, int, float]:
    state = init_state(config, training)
    leaves, structure = jax.tree.flatten(state)
    restored = checkpoints.restore(leaves)
    done = restored.step if restored else 0
    keep_jsonl(out / METRICS_FILE, lambda row: row["step"] <= done)
    if restored is None:
        return state, 0, 0.0
    return jax.tree.unflatten(structure, restored.tree), done, restored.meta["seconds"]


def _shardings(batch_frames: int) -> tuple[NamedSharding, NamedSharding]:
    """Return where weights lie (whole on every device) and a batch (cut over as many as divide it)."""
    count = math.gcd(jax.device_count(), batch_frames)
    # Inferred, since the codebook gathers and scatters latents of every device.
    mesh = make_mesh(MeshConfig(data=count), devices=jax.devices()[:count], shardings="inferred")
    return NamedSharding(mesh, spec()), NamedSharding(mesh, spec("batch"))


def _batch_indices(frames: int, step: int, training: FrameTrainingConfig) -> np.ndarray:
    """Draw the frames of one step from seed and step alone, so that a run can go on anywhere."""
    return np.random.default_rng((training.seed, step)).integers(0, frames, training.batch_frames)


def _refuse_frames(frames: np.ndarray, held_out: np.ndarray, config: FrameTokenizerConfig) -> None:
    for name, some in (("training frames", frames), ("held-out frames", held_out)):
        if not len(some) or some.shape[1] != config.resolution:
            raise InputError(
                what=name,
                got=f"{len(some)} of {some.shape[1]} px",
                expected=f"one or more of {config.resolution} px",
                remedy="Prepare the data again for this frame tokenizer.",
            )
