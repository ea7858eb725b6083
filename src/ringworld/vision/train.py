"""Training of a frame tokenizer, from frames to a folder that `FrameTokenizer.load` reads."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import UInt8

from ringworld.core.checkpoint import Checkpoints
from ringworld.core.config import to_json
from ringworld.core.errors import InputError
from ringworld.core.files import read_jsonl, write_json_atomic
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import Origin, claim
from ringworld.core.sharding import spec
from ringworld.core.steps import CHECKPOINTS_FOLDER, Batch, RunFiles, check_rows, run_steps
from ringworld.vision.config import FrameTokenizerConfig, FrameTrainingConfig
from ringworld.vision.frame_tokenizer import FrameTokenizer
from ringworld.vision.quality import codebook_perplexity, codebook_usage, psnr
from ringworld.vision.train_step import TokenizerState, init_state, train_step

REPORT_FILE = "report.json"


@dataclass(frozen=True, kw_only=True)
class FrameTrainingReport:
    """What training came to, measured on the held-out frames.

    Attributes:
        psnr_db: mean over frames, 8-bit pixels.
        codebook_usage: fraction of the codebook that occurs.
        codebook_perplexity: exponential of the entropy of the codes.
        steps: optimizer steps.
        seconds: time that the steps took, compilation included; steps that a killed run lost do not count.
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
) -> FrameTrainingReport:
    """Train on `frames`, measure on `held_out` and save; resume from the last checkpoint if there is one.

    The folder `out` gets what `FrameTokenizer.save` writes, `report.json`, `metrics.jsonl` (losses by step),
    `origin.json` (what is trained) and `checkpoints`. A run that was killed and resumed ends with the same
    weights and losses as one that was not.

    Raises:
        InputError: the frames have another side than `config.resolution`, there are none, or `out` holds the
            run of another configuration.
        Diverged: a loss is not finite.
        Stopped: on SIGINT or SIGTERM, after the step was finished and saved.
    """
    _refuse_frames(frames, held_out, config)
    run = {"config": to_json(config), "training": to_json(training)}
    claim(out, Origin(kind="run", identity=run), results=f"{CHECKPOINTS_FOLDER}/*")
    with closing(Checkpoints(out / CHECKPOINTS_FOLDER)) as checkpoints:
        files = RunFiles(
            folder=out,
            checkpoints=checkpoints,
            log_every_steps=training.log_every_steps,
            checkpoint_every_steps=training.checkpoint_every_steps,
            check=check_rows,
        )
        state = _train(frames, config=config, training=training, files=files)
    tokenizer = FrameTokenizer(config, jax.device_put(state.autoencoder, jax.devices()[0]))
    tokenizer.save(out)
    codes = tokenizer.encode(held_out)
    report = FrameTrainingReport(
        # Two equal frames have no finite ratio; 100 dB is already beyond 8-bit rounding.
        psnr_db=float(np.minimum(psnr(held_out, tokenizer.decode(codes)), 100.0).mean()),
        codebook_usage=codebook_usage(codes, codebook_size=config.codebook_size),
        codebook_perplexity=codebook_perplexity(codes),
        steps=training.steps,
        seconds=sum(row["seconds"] for row in read_jsonl(files.metrics)),
    )
    write_json_atomic(out / REPORT_FILE, to_json(report))
    return report


def _train(
    frames: np.ndarray, *, config: FrameTokenizerConfig, training: FrameTrainingConfig, files: RunFiles
) -> TokenizerState:
    """Run all steps that the newest checkpoint has not."""
    # Cut over as many devices as divide a batch.
    count = math.gcd(jax.device_count(), training.batch_frames)
    # Inferred, since the codebook gathers and scatters latents of every device.
    mesh = make_mesh(MeshConfig(data=count), devices=jax.devices()[:count], shardings="inferred")
    apart = NamedSharding(mesh, spec("batch"))
    state = jax.device_put(init_state(config, training), NamedSharding(mesh, spec()))
    resumed = files.resume(state, begin=lambda: state)

    def batches() -> Iterator[Batch[tuple[jax.Array, int]]]:
        for step in range(resumed.step, training.steps):
            # From seed and step alone, so that a run can resume anywhere.
            random = np.random.default_rng((training.seed, step))
            batch = frames[random.integers(0, len(frames), training.batch_frames)]
            yield Batch(inputs=(jax.device_put(batch, apart), step))

    return run_steps(
        resumed,
        batches(),
        last=training.steps,
        files=files,
        update=lambda state, inputs: train_step(state, *inputs, config=config, training=training),
        row=lambda metrics, _: {name: loss.item() for name, loss in asdict(metrics).items()},
        title="frame tokenizer",
        total=training.steps,
        shown=("reconstruction",),
    )


def _refuse_frames(frames: np.ndarray, held_out: np.ndarray, config: FrameTokenizerConfig) -> None:
    for name, some in (("frames", frames), ("held_out", held_out)):
        if not len(some) or some.shape[1] != config.resolution:
            raise InputError(
                f"{name} holds {len(some)} frames of {some.shape[1]} px, but must hold one or more of "
                f"{config.resolution} px",
                field=name,
                value=some.shape,
                remedy="prepare the data again for this frame tokenizer",
            )
