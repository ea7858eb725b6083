"""The frame tokenizer on what it cannot remember: held-out frames unlike any that it was trained on."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from ringworld.vision.frame_tokenizer import FrameTokenizer
from ringworld.vision.quality import psnr

RESEMBLING_DB = 30.0
"""Far above what another pose of a shape reaches (19 dB), and below what video compression takes (45 dB)."""
_COMPARED_PIXELS, _CHUNK = 32, 256
_MOST_DB = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class UnlikeFrames:
    """Held-out frames that no frame trained on resembles: what tells learning from remembering."""

    threshold_db: float
    """Frames resemble each other whose PSNR, at 32 px at most, reaches this."""
    frames: int
    psnr_db: float | None
    """Mean PSNR of what the frame tokenizer makes of them; None without any."""
    nearest_db: float | None
    """Mean PSNR of the most similar frame trained on, in place of the frame tokenizer."""


def judge_unlike(
    tokenizer: FrameTokenizer,
    held_out: UInt8[np.ndarray, "frames side side 3"],
    *,
    trained_on: UInt8[np.ndarray, "trained side side 3"],
) -> UnlikeFrames:
    """Measure the frame tokenizer on held-out frames that no frame trained on resembles.

    Files that are held out may show what files trained on show too: the same stage, the same logo, in the toy
    world the same shape at the same place. On such frames a good PSNR may be memory.
    """
    nearest = nearest_psnr(held_out, trained_on)
    unlike = held_out[nearest < RESEMBLING_DB]
    if not len(unlike):
        return UnlikeFrames(threshold_db=RESEMBLING_DB, frames=0, psnr_db=None, nearest_db=None)
    made = psnr(unlike, tokenizer.decode(tokenizer.encode(unlike)))
    return UnlikeFrames(
        threshold_db=RESEMBLING_DB,
        frames=len(unlike),
        psnr_db=float(np.minimum(made, _MOST_DB).mean()),
        nearest_db=float(nearest[nearest < RESEMBLING_DB].mean()),
    )


def nearest_psnr(
    frames: UInt8[np.ndarray, "frames side side 3"], others: UInt8[np.ndarray, "others side side 3"]
) -> Float[np.ndarray, " frames"]:
    """Return how near the most similar of `others` comes to each frame: PSNR in dB, at 32 px at most."""
    small, others_small = _shrunk(frames), _shrunk(others)
    norms = np.square(others_small).sum(1)
    errors = [
        (np.square(part).sum(1)[:, None] + norms - 2 * part @ others_small.T).min(1)
        for part in np.split(small, range(_CHUNK, len(small), _CHUNK))
    ]
    # Differences of large sums: what should be 0 may come out below.
    mean_square = np.concatenate(errors) / small.shape[1]
    return -10 * np.log10(np.maximum(mean_square, 10 ** (-_MOST_DB / 10)))


def _shrunk(frames: UInt8[np.ndarray, "frames side side 3"]) -> Float[np.ndarray, "frames values"]:
    """Return frames as rows of at most 32 x 32 x 3 values from 0 to 1, each the mean of a square."""
    count, side = frames.shape[:2]
    square = max(1, side // _COMPARED_PIXELS)
    kept = side // square
    frames = frames[:, : kept * square, : kept * square]
    squares = frames.reshape(count, kept, square, kept, square, 3).mean(axis=(2, 4), dtype=np.float32)
    return squares.reshape(count, -1) / np.float32(255)
