"""What several jobs begin with: devices, and the tokenizers of an earlier job."""

from pathlib import Path

import jax
from jax.sharding import Mesh

from ringworld.core.config import RUN_FILE
from ringworld.core.errors import InputError
from ringworld.core.files import sha256_file
from ringworld.core.mesh import make_mesh, simulate_devices
from ringworld.data.store import ExampleStore
from ringworld.presets import RunConfig
from ringworld.text.tokenizer import TextTokenizer
from ringworld.vision.frame_tokenizer import WEIGHTS_FILE, FrameTokenizer

TEXT_FOLDER, FRAMES_FOLDER = "text", "frames"


def open_mesh(run: RunConfig, *, devices: int | None) -> tuple[RunConfig, Mesh]:
    """Return the run on the devices that are there, and the mesh over them.

    On a machine without an accelerator, as many CPU devices are simulated as the run asks for. With one, all
    its devices form the ring unless `devices` says how many.

    Raises:
        InputError: the axes of the mesh, the model or a context do not divide, or there are too few devices.
    """
    if devices is not None:
        run = run.on_devices(devices)
    simulate_devices(run.mesh.devices)
    if devices is None and jax.default_backend() != "cpu":
        run = run.on_devices(jax.device_count())
    return run, make_mesh(run.mesh, devices=jax.devices()[: run.mesh.devices])


def load_tokenizers(run: RunConfig, folder: Path) -> tuple[TextTokenizer, FrameTokenizer]:
    """Load what `ringworld train-tokenizer` wrote.

    Raises:
        InputError: one is missing, or does not fit the configuration.
    """
    text, frames = TextTokenizer.load(folder / TEXT_FOLDER), FrameTokenizer.load(folder / FRAMES_FOLDER)
    if text.size > run.model.text_vocab or frames.config != run.frames:
        raise InputError(
            what=str(folder),
            got=f"{text.size} text ids, frames of {frames.config.resolution} px",
            expected=f"at most {run.model.text_vocab} ids and the frame tokenizer of the configuration",
            remedy=f"Name other tokenizers, or use the configuration of these, {folder / RUN_FILE}.",
        )
    return text, frames


def frames_fingerprint(tokenizer: Path) -> str:
    """Return what changes when the weights of the frame tokenizer do."""
    return sha256_file(tokenizer / FRAMES_FOLDER / WEIGHTS_FILE)


def check_data(run: RunConfig, data: Path, *, text: TextTokenizer, tokenizer: Path) -> None:
    """Refuse prepared data that another vocabulary or other tokenizers made.

    Raises:
        InputError: the ids of `data` mean something else than those of `tokenizer`, or there is no data.
    """
    made_by = ExampleStore(data).dataset
    theirs = (made_by.vocabulary, made_by.text_tokenizer, made_by.frame_tokenizer)
    if theirs != (run.vocabulary, text.fingerprint, frames_fingerprint(tokenizer)):
        raise InputError(
            what=f"--data {data}",
            got="examples of other tokenizers or of another configuration",
            expected=f"examples that were prepared with --tokenizer {tokenizer}",
            remedy="Prepare them again, or name the tokenizer that they were made with.",
        )
