"""One document, one captioned video, one conversation: token ids, and which of them carry loss."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32

Cut = Literal["tokens", "frames", "never"]
"""Where an example may be cut that is longer than a context.

| cut | where | each piece |
|---|---|---|
| tokens | between any two tokens | is an example of its own; each cut costs one target |
| frames | between frames | shows consecutive frames, in the words of the whole |
| never | nowhere | an answer without its document would teach the model to invent one |
"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Example:
    """Token ids and which of them carry loss, with where they come from."""

    tokens: Int32[np.ndarray, " tokens"]
    loss: Bool[np.ndarray, " tokens"]
    """True where the token is a target."""
    kind: str
    """Name of the recipe that made it."""
    source: str
    """Path of the file relative to the folder it was found in, and what `Sample.key` adds to it."""
    dataset: str = ""
    """Name of the folder."""
    start_token: int = 0
    """Index of the first token within the whole document, or within all frames of the video."""
    cut: Cut = "never"
    """Where it may be cut."""

    def __len__(self) -> int:
        return len(self.tokens)

    def part(self, *, start: int, stop: int) -> "Example":
        """Return the tokens from `start` up to `stop` (or to the end) as an example of their own."""
        return replace(
            self,
            tokens=self.tokens[start:stop],
            loss=self.loss[start:stop],
            start_token=self.start_token + start,
        )
