"""The one id space: text ids, then vision codes, then end-of-frame and end-of-vision."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Int32

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_range


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """Who owns which id.

    With `text_size=100, codes=8, codes_per_frame=2`: ids 0-99 are text, 100-107 are codes 0-7, 108 ends a
    frame that another follows, 109 ends the last frame. With `text_size=100` alone, text is all there is.
    """

    text_size: int
    """Number of text ids; rounding it up leaves unused ids between text and codes."""
    codes: int = 0
    """Size of the frame tokenizer's codebook; 0 for text alone."""
    codes_per_frame: int = 0
    """Codes of one frame, in raster order; 0 for text alone."""

    def __post_init__(self) -> None:
        """Refuse sizes below zero, and codes without frames or frames without codes.

        Raises:
            InputError: a rule does not hold.
        """
        check_range(self, "text_size", least=1, of="vocabulary")
        check_range(self, "codes", "codes_per_frame", least=0, of="vocabulary")
        if bool(self.codes) != bool(self.codes_per_frame):
            raise InputError(
                f"{self.codes} codes do not go with {self.codes_per_frame} codes per frame",
                field="vocabulary.codes",
                value=self.codes,
                remedy="make both 0 for text alone, or both more",
            )

    @property
    def code_offset(self) -> int:
        """Id of code 0, the first id that is not text."""
        return self.text_size

    @property
    def eof(self) -> int:
        """Id that ends a frame which another frame follows."""
        assert self.codes, "a vocabulary of text alone has no frames"
        return self.code_offset + self.codes

    @property
    def eov(self) -> int:
        """Id that ends the last frame of an image or video."""
        return self.eof + 1

    @property
    def vision_size(self) -> int:
        """Number of vision ids: the codes and the two ends, or none."""
        return self.codes + 2 if self.codes else 0

    @property
    def size(self) -> int:
        """Number of ids of both modalities."""
        return self.text_size + self.vision_size

    @property
    def frame_tokens(self) -> int:
        """Tokens of one frame: its codes and its end, or none."""
        return self.codes_per_frame + 1 if self.codes else 0

    def is_vision(self, ids: Int[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
        """Return which ids are codes or frame ends."""
        return (ids >= self.text_size) & (self.codes > 0)

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
        assert self.codes, "a vocabulary of text alone has no frames"
        whole = ids[: len(ids) // self.frame_tokens * self.frame_tokens]
        frames = whole.reshape(-1, self.frame_tokens)
        codes, ends = frames[:, :-1] - self.code_offset, frames[:, -1].tolist()
        is_code = (codes >= 0) & (codes < self.codes)
        expected_ends = [self.eof] * (len(frames) - 1) + [self.eov]
        if len(whole) != len(ids) or not is_code.all() or ends != expected_ends:
            raise InputError(
                f"{len(ids)} ids do not form whole frames of {self.codes_per_frame} codes that end with "
                f"{self.eof} or, the last, with {self.eov}",
                field="ids",
                value=len(ids),
                remedy="generate with the grammar of this vocabulary",
            )
        return codes.astype(np.int32)
