"""Frames to codes and back, with the weights of one trained frame tokenizer."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ringworld.core.config import read_as, to_json
from ringworld.core.errors import InputError
from ringworld.core.files import reading, write_bytes_atomic, write_json_atomic
from ringworld.vision.config import FrameTokenizerConfig
from ringworld.vision.vqgan import FrameAutoencoder

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class FrameTokenizer:
    """One frame tokenizer, ready for use on any number of frames.

    Attributes:
        config: its shapes.
        autoencoder: its weights.
    """

    def __init__(
        self, config: FrameTokenizerConfig, autoencoder: FrameAutoencoder, *, batch_frames: int = 32
    ) -> None:
        """Keep the weights; work goes in batches of `batch_frames`, the last one padded, to compile once."""
        self.config, self.autoencoder, self._batch_frames = config, autoencoder, batch_frames

    @staticmethod
    def load(directory: Path, *, batch_frames: int = 32) -> "FrameTokenizer":
        """Read what `save` wrote.

        Raises:
            InputError: a file is missing or does not hold what `config.json` says.
        """
        config = read_as(FrameTokenizerConfig, directory / CONFIG_FILE)
        weights = _load_weights(directory / WEIGHTS_FILE, config)
        return FrameTokenizer(config, weights, batch_frames=batch_frames)

    def save(self, directory: Path) -> None:
        """Write `model.safetensors` and `config.json`."""
        named = {name: np.asarray(leaf) for name, leaf in _named_leaves(self.autoencoder)}
        write_bytes_atomic(directory / WEIGHTS_FILE, save(named))
        write_json_atomic(directory / CONFIG_FILE, to_json(self.config))

    def encode(self, frames: UInt8[np.ndarray, "frames side side 3"]) -> Int32[np.ndarray, "frames codes"]:
        """Return the codes of each frame in row-major order.

        Raises:
            InputError: the frames have another side than the tokenizer's.
        """
        if frames.shape[1] != self.config.resolution:
            raise _mismatch("frames", f"{frames.shape[1]} px", f"{self.config.resolution} px", "Resize them.")
        return self._in_batches(functools.partial(_encode, config=self.config), frames)

    def decode(self, codes: Int32[np.ndarray, "frames codes"]) -> UInt8[np.ndarray, "frames side side 3"]:
        """Return the frames that the codes stand for.

        Raises:
            InputError: a row does not have the codes of one frame, or a code is not in the codebook.
        """
        size, per_frame = self.config.codebook_size, self.config.codes_per_frame
        if codes.shape[1] != per_frame or (codes.size and not 0 <= codes.min() <= codes.max() < size):
            raise _mismatch(
                "codes of frames",
                f"{codes.shape[1]} a frame",
                f"{per_frame} a frame, each from 0 to {size - 1}",
                "Give the codes that this frame tokenizer made.",
            )
        return self._in_batches(functools.partial(_decode, config=self.config), codes)

    def _in_batches(self, function: Callable[..., Array], rows: np.ndarray) -> np.ndarray:
        results = []
        # Without rows one batch of padding still runs, for the shape of nothing.
        for start in range(0, max(1, len(rows)), self._batch_frames):
            batch = rows[start : start + self._batch_frames]
            missing = self._batch_frames - len(batch)
            padded = np.concatenate([batch, np.zeros((missing, *rows.shape[1:]), rows.dtype)])
            results.append(np.asarray(function(self.autoencoder, padded))[: len(batch)])
        return np.concatenate(results)


def to_pixels(
    frames: UInt8[Array, "frames height width 3"], config: FrameTokenizerConfig
) -> Float[Array, "frames height width 3"]:
    """Bring bytes to the range that the network sees."""
    unit = frames.astype(jnp.float32) / 255
    return unit if config.pixel_range == "unit" else unit * 2 - 1


def to_bytes(
    pixels: Float[Array, "frames height width 3"], config: FrameTokenizerConfig
) -> UInt8[Array, "frames height width 3"]:
    """Bring what the network gives to bytes, clipped and rounded."""
    unit = pixels if config.pixel_range == "unit" else (pixels + 1) / 2
    return jnp.round(jnp.clip(unit, 0, 1) * 255).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnames="config")
def _encode(
    autoencoder: FrameAutoencoder, frames: UInt8[Array, "frames side side 3"], *, config: FrameTokenizerConfig
) -> Int32[Array, "frames codes"]:
    return autoencoder.encode(to_pixels(frames, config))


@functools.partial(jax.jit, static_argnames="config")
def _decode(
    autoencoder: FrameAutoencoder, codes: Int32[Array, "frames codes"], *, config: FrameTokenizerConfig
) -> UInt8[Array, "frames side side 3"]:
    return to_bytes(autoencoder.decode(codes), config)


def _named_leaves(autoencoder: FrameAutoencoder) -> list[tuple[str, Any]]:
    """Name each weight by its path, as in `encoder.levels.0.blocks.1.conv1.kernel`."""
    paths = jax.tree_util.tree_leaves_with_path(autoencoder)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), leaf) for path, leaf in paths]


def _load_weights(path: Path, config: FrameTokenizerConfig) -> FrameAutoencoder:
    # NumPy lacks the number types of some checkpoints: safetensors passes on its AttributeError.
    damage = (SafetensorError, AttributeError)
    remedy = "Copy it again or train again."
    with reading(path, expected="the weights of a frame tokenizer", damage=damage, remedy=remedy):
        stored = load_file(path)
    abstract = FrameAutoencoder.abstract(config)
    expected = {name: (leaf.shape, str(leaf.dtype)) for name, leaf in _named_leaves(abstract)}
    got = {name: (array.shape, str(array.dtype)) for name, array in stored.items()}
    if got != expected:
        differing = sorted(got.items() ^ expected.items())[:4]
        raise _mismatch(
            str(path),
            f"other tensors than config.json says, such as {differing}",
            f"{len(expected)} tensors",
            "Take both files from the same run.",
        )
    leaves = [jnp.asarray(stored[name]) for name in expected]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def _mismatch(what: str, got: str, expected: str, remedy: str) -> InputError:
    return InputError(what=what, got=got, expected=expected, remedy=remedy)
