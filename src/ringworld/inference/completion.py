"""What a model wrote, and how likely a text is."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32, Int32


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Completion:
    """What a model wrote after a prompt."""

    text: str
    """Without the stop string that ended it, if one did."""
    tokens: Int32[np.ndarray, " tokens"]
    """Up to the one that completed the stop string, or without the one that ended the text."""
    logprobs: Float32[np.ndarray, " tokens"]
    """Of each token in nats, before temperature and all else that sampling changes."""
    finish: Literal["stop", "length"]
    """`stop`: at an end or a stop string; `length`: cut at the most tokens that were asked for."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextScore:
    """How likely a text is."""

    token_nats: Float32[np.ndarray, " tokens"]
    """Negative log-likelihood of each token after those before it; the first follows `<s>`."""

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.token_nats)

    @property
    def mean_nats(self) -> float:
        """Mean over the tokens; `exp` of it is the perplexity."""
        return float(self.token_nats.mean(dtype=np.float64))
