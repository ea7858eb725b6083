"""Frames to codes and back, with the weights of one trained frame tokenizer."""

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, UInt8

from ringworld.core.config import to_json
from ringworld.core.errors import InputError
from ringworld.vision.config import FrameTokenizerConfig, PixelRange
from ringworld.vision.vq_model import named_weights, read_vq_model, write_vq_model
from ringworld.vision.vqgan import FrameAutoencoder, Pixels

Frames = UInt8[np.ndarray, "frames side side 3"]
Codes = Int32[np.ndarray, "frames codes"]


class FrameTokenizer:
    """One frame tokenizer, its shapes and weights, ready for use on any number of frames."""

    def __init__(
        self, config: FrameTokenizerConfig, autoencoder: FrameAutoencoder, *, batch_frames: int = 32
    ) -> None:
        """Keep the weights; work goes in batches of `batch_frames`, the last one padded, to compile once."""
        self.config, self.autoencoder, self._batch_frames = config, autoencoder, batch_frames

    @staticmethod
    def load(
        directory: Path, *, resolution: int | None = None, pixel_range: PixelRange | None = None
    ) -> "FrameTokenizer":
        """Read what `save` wrote, or a `VQModel` of the same architecture that diffusers wrote.

        Args:
            directory: with `config.json` and `diffusion_pytorch_model.safetensors`.
            resolution: side of a frame in pixels; by default what `save` stored, which diffusers does not.
            pixel_range: what the network sees; likewise. aMUSEd's is `unit`.

        Raises:
            InputError: a file is missing or damaged, or does not hold such a model; all problems are listed.
        """
        return FrameTokenizer(*read_vq_model(directory, resolution=resolution, pixel_range=pixel_range))

    def save(self, directory: Path) -> None:
        """Write `config.json` and `diffusion_pytorch_model.safetensors`, a `VQModel` for diffusers."""
        write_vq_model(directory, self.config, self.autoencoder)

    @property
    def resolution(self) -> int:
        """Side of a frame in pixels."""
        return self.config.resolution

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the codes, shapes and weights; prepared data carries it."""
        digest = hashlib.sha256(json.dumps(to_json(self.config), sort_keys=True).encode())
        for name, leaf in named_weights(self.autoencoder).items():
            digest.update(name.encode())
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def encode(self, frames: Frames) -> Codes:
        """Return the codes of each frame in row-major order.

        Raises:
            InputError: the frames have another side than the tokenizer's.
        """
        if frames.shape[1] != self.resolution:
            raise InputError(
                f"frames of {frames.shape[1]} pixels do not fit a tokenizer of {self.resolution} pixels",
                field="frames",
                value=frames.shape,
                remedy="resize them",
            )
        return self._in_batches(_encode, frames)

    def decode(self, codes: Codes) -> Frames:
        """Return the frames that the codes stand for.

        Raises:
            InputError: a row does not have the codes of one frame, or a code is not in the codebook.
        """
        size, per_frame = self.config.codebook_size, self.config.codes_per_frame
        if codes.shape[1] != per_frame or (codes.size and not 0 <= codes.min() <= codes.max() < size):
            raise InputError(
                f"codes of shape {codes.shape} are not {per_frame} per frame, each from 0 to {size - 1}",
                field="codes",
                value=codes.shape,
                remedy="pass codes that this frame tokenizer made",
            )
        return self._in_batches(_decode, codes)

    def _in_batches(self, function: Callable[..., Array], rows: np.ndarray) -> np.ndarray:
        results = []
        # Without rows one batch of padding still runs, for the shape of nothing.
        for start in range(0, max(1, len(rows)), self._batch_frames):
            batch = rows[start : start + self._batch_frames]
            missing = self._batch_frames - len(batch)
            padded = np.concatenate([batch, np.zeros((missing, *rows.shape[1:]), rows.dtype)])
            results.append(np.asarray(function(self.autoencoder, padded, config=self.config))[: len(batch)])
        return np.concatenate(results)


def to_pixels(frames: UInt8[Array, "frames height width 3"], config: FrameTokenizerConfig) -> Pixels:
    """Bring bytes to the range that the network sees."""
    unit = frames.astype(jnp.float32) / 255
    return unit if config.pixel_range == "unit" else unit * 2 - 1


def to_bytes(pixels: Pixels, config: FrameTokenizerConfig) -> UInt8[Array, "frames height width 3"]:
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
