"""What stands in for a frame tokenizer where all else is measured."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Brightness:
    """A frame tokenizer without weights: the code of a square patch is its brightness, from 0 to 63."""

    patches: int
    """Along a side of the frame."""
    patch_pixels: int
    """Along a side of a patch."""

    @property
    def resolution(self) -> int:
        """Side of a frame in pixels."""
        return self.patches * self.patch_pixels

    @property
    def fingerprint(self) -> str:
        """What changes with the codes."""
        return f"brightness of {self.patches} times {self.patches}"

    def encode(self, frames: np.ndarray) -> np.ndarray:
        """Return the codes of each frame, row by row."""
        cut = (len(frames), self.patches, self.patch_pixels, self.patches, self.patch_pixels, 3)
        brightness = frames.reshape(cut).mean(axis=(2, 4, 5))
        return (brightness // 4).astype(np.int32).reshape(len(frames), self.patches**2)
