"""Ids of frames to files that a browser shows, also while they are drawn."""

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ringworld.inference.prompts import Prompts
from ringworld.vision.write_media import write_video

_UNDRAWN = 128
"""Gray of what is not drawn yet."""


def frame_png(prompts: Prompts, ids: Sequence[int], *, index: int) -> bytes:
    """Return a frame of ids that are being drawn; the part of it that is not there yet is gray.

    Args:
        prompts: the tokenizers of the model that draws.
        ids: of frames, up to any token.
        index: of the frame; at least one code of it is there.

    Raises:
        InputError: the model has no frame tokenizer.
    """
    tokenizer, vocabulary = prompts.seeing(), prompts.vocabulary
    start = index * vocabulary.frame_tokens
    drawn = np.array(ids[start : start + vocabulary.codes_per_frame], np.int32) - vocabulary.code_offset
    missing = vocabulary.codes_per_frame - len(drawn)
    # The decoder needs all codes; it never shows what it makes of those that are repeated.
    codes = np.pad(drawn, (0, missing), mode="edge")
    frame = tokenizer.decode(codes[None])[0]
    if missing:
        side, pixels = tokenizer.config.codes_side, tokenizer.config.downsampling
        there = (np.arange(side**2) < len(drawn)).reshape(side, side)
        shown = there.repeat(pixels, axis=0).repeat(pixels, axis=1)
        frame = np.where(shown[..., None], frame, np.uint8(_UNDRAWN))
    return png(frame)


def png(frame: UInt8[np.ndarray, "side side 3"]) -> bytes:
    """Return a frame as a PNG."""
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame)).save(file, "PNG")
    return file.getvalue()


def mp4(frames: UInt8[np.ndarray, "frames side side 3"], *, frames_per_second: float) -> bytes:
    """Return frames as an H.264 MP4; see `write_video`."""
    with tempfile.TemporaryDirectory(prefix="ringworld-") as folder:
        path = Path(folder) / "video.mp4"
        write_video(path, frames, frames_per_second=frames_per_second)
        return path.read_bytes()
