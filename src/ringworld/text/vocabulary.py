"""The one id space: text ids, then vision codes, then end-of-frame and end-of-vision."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Int32

from ringworld.core.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """Who owns which id.

    With `text_size=100, codes=8, codes_per_frame=2`: ids 0-99 are text, 100-107 are codes 0-7, 108 ends a
    frame that another follows, 109 ends the last frame.
    """

    text_size: int
    """Number of text ids; rounding it up leaves unused ids between text and codes."""
    codes: int
    """Size of the frame tokenizer's codebook."""
    codes_per_frame: int
    """Codes of one frame, in raster order."""

    @property
    def code_offset(self) -> int:
        """Id of code 0, the first id that is not text."""
        return self.text_size

    @property
    def eof(self) -> int:
        """Id that ends a frame which another frame follows."""
        return self.code_offset + self.codes

    @property
    def eov(self) -> int:
        """Id that ends the last frame of an image or video."""
        return self.eof + 1

    @property
    def vision_size(self) -> int:
        """Number of vision ids: the codes and the two ends."""
        return self.codes + 2

    @property
    def size(self) -> int:
        """Number of ids of both modalities."""
        return self.text_size + self.vision_size

    @property
    def frame_tokens(self) -> int:
        """Tokens that one frame takes: its codes and its end."""
        return self.codes_per_frame + 1

    def is_vision(self, ids: Int[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
        """Say which ids are codes or frame ends."""
        return ids >= self.text_size

    def encode_frames(self, codes: Int[np.ndarray, "frames codes"]) -> Int32[np.ndarray, " tokens"]:
        """Turn codes of consecutive frames into ids (LWM's layout).

        Two frames of two codes, with the vocabulary of the class's example:

            [[3, 0], [7, 1]]  ->  103 100 108 107 101 109
        """
        assert codes.ndim == 2 and len(codes) and codes.shape[1] == self.codes_per_frame, codes.shape
        assert codes.min() >= 0 and codes.max() < self.codes, "a code outside the codebook"
        ids = np.full((len(codes), self.frame_tokens), self.eof, np.int32)
        ids[:, :-1] = codes + self.text_size
        ids[-1, -1] = self.eov
        return ids.reshape(-1)

    def decode_frames(self, ids: Int[np.ndarray, " tokens"]) -> Int32[np.ndarray, "frames codes"]:
        """Turn ids of whole frames back into codes; the inverse of `encode_frames`.

        Raises:
            InputError: the ids are not whole frames with ends where they belong.
        """
        whole = ids[: len(ids) // self.frame_tokens * self.frame_tokens]
        frames = whole.reshape(-1, self.frame_tokens)
        codes, ends = frames[:, :-1] - self.code_offset, frames[:, -1].tolist()
        is_code = (codes >= 0) & (codes < self.codes)
        expected_ends = [self.eof] * (len(frames) - 1) + [self.eov]
        if len(whole) != len(ids) or not is_code.all() or ends != expected_ends:
            raise InputError(
                what="vision tokens",
                got=f"{len(ids)} ids that do not form whole frames",
                expected=f"frames of {self.codes_per_frame} codes with their ends, {self.eof} and {self.eov}",
                remedy="Generate with the grammar of this vocabulary.",
            )
        return codes.astype(np.int32)
