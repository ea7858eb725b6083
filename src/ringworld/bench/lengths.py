"""Workloads: the lengths of the documents that a packed sequence may be made of."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ringworld.attention.layouts import MOST_TOKENS
from ringworld.core.errors import InputError
from ringworld.core.ranges import check_number

Workload = Literal["one", "equal", "random", "lognormal", "book"]
_BOOK = 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class Packed:
    """One packed sequence: how long it is, and of how long documents."""

    seq: int = 1 << 20
    """Length of the packed sequence, in tokens."""
    lengths: Workload = "book"
    """One document; so many equal ones; so many, cut at random places; log-normal lengths until the sequence
    is full; or a book of 40% of it and log-normal lengths for the rest."""
    documents: int = 16
    """How many documents, of equal and of random lengths."""
    median_tokens: int = 2000
    """Median of log-normal lengths."""
    sigma: float = 1.5
    """Spread of log-normal lengths: the standard deviation of their logarithm."""
    seed: int = 0
    """The same seed gives the same lengths."""

    def draw(self) -> list[int]:
        """Return the length of each document; see `draw`."""
        return draw(
            self.lengths,
            seq=self.seq,
            seed=self.seed,
            documents=self.documents,
            median_tokens=self.median_tokens,
            sigma=self.sigma,
        )


def draw(
    workload: Workload,
    *,
    seq: int,
    seed: int,
    documents: int = 1,
    median_tokens: int = 2000,
    sigma: float = 1.5,
) -> list[int]:
    """Return lengths that fill a sequence.

    | workload | lengths |
    |---|---|
    | `one` | one document |
    | `equal` | `documents` that differ by one token at most |
    | `random` | `documents`, cut at random places |
    | `lognormal` | log-normal ones of a median and a spread, until the sequence is full |
    | `book` | a book of 40% of the sequence, and log-normal ones for the rest |

    Raises:
        InputError: a number is out of range, or a length is beyond all numbers.
    """
    check_number("seq", seq, least=1, most=MOST_TOKENS)
    check_number("seed", seed, least=0)
    if workload == "one":
        return [seq]
    if workload in ("equal", "random"):
        check_number("documents", documents, least=1, most=seq)
    if workload == "equal":
        return np.diff(np.arange(documents + 1) * seq // documents).tolist()
    generator = np.random.default_rng(seed)
    if workload == "random":
        cuts = generator.choice(seq - 1, size=documents - 1, replace=False) + 1
        return np.diff(np.sort(cuts), prepend=0, append=seq).tolist()
    check_number("median_tokens", median_tokens, least=1, most=MOST_TOKENS)
    check_number("sigma", sigma, least=0)
    book = [max(int(_BOOK * seq), 1)] if workload == "book" else []
    # A draw is a token at least, so these are enough.
    draws = generator.lognormal(np.log(median_tokens), sigma, size=seq)
    if not np.isfinite(draws).all():
        raise InputError(f"sigma is {sigma}, which makes lengths infinite", field="sigma", value=sigma)
    return book + until_full(draws, seq=seq - sum(book))


def until_full(draws: np.ndarray, *, seq: int) -> list[int]:
    """Return as many of these lengths as fill a sequence, the last one shortened; at least one token each.

    Example:
        Draws of 3.7, 0.2, 9 and 5 fill 10 tokens as 3, 1 and 6.
    """
    if not seq:
        return []
    ends = np.minimum(np.cumsum(np.clip(draws, 1, seq).astype(np.int64)), seq)
    return np.diff(ends[: np.searchsorted(ends, seq) + 1], prepend=0).tolist()
