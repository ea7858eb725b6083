"""Lengths of documents to measure with: what a packed sequence may be made of."""

import numpy as np

from ringworld.core.errors import InputError


def equal(documents: int, *, seq: int) -> list[int]:
    """Return lengths that differ by one token at most and fill a sequence."""
    _check_fits(documents, seq=seq)
    return np.diff(np.arange(documents + 1) * seq // documents).tolist()


def random_cuts(documents: int, *, seq: int, seed: int) -> list[int]:
    """Cut a sequence at random places into so many documents."""
    _check_fits(documents, seq=seq)
    cuts = np.random.default_rng(seed).choice(seq - 1, size=documents - 1, replace=False) + 1
    return np.diff(np.sort(cuts), prepend=0, append=seq).tolist()


def lognormal(
    *, seq: int, seed: int, book: float = 0.0, median_tokens: int = 2000, sigma: float = 1.5
) -> list[int]:
    """Draw log-normal lengths until they fill a sequence, after one document of the share `book` of it.

    Raises:
        InputError: a length is beyond all numbers.
    """
    first = [max(int(book * seq), 1)] if book else []
    # A draw is a token at least, so these are enough.
    draws = np.random.default_rng(seed).lognormal(np.log(median_tokens), sigma, size=seq)
    if not np.isfinite(draws).all():
        raise InputError(
            what="--sigma",
            got=str(sigma),
            expected="a spread with which no length is infinite",
            remedy="Choose a smaller one.",
        )
    return first + until_full(draws, seq=seq - sum(first))


def until_full(draws: np.ndarray, *, seq: int) -> list[int]:
    """Return as many of these lengths as fill a sequence, the last one shortened; at least one token each.

    Example:
        Draws of 3.7, 0.2, 9 and 5 fill 10 tokens as 3, 1 and 6.
    """
    if not seq:
        return []
    ends = np.minimum(np.cumsum(np.clip(draws, 1, seq).astype(np.int64)), seq)
    return np.diff(ends[: np.searchsorted(ends, seq) + 1], prepend=0).tolist()


def _check_fits(documents: int, *, seq: int) -> None:
    if not 1 <= documents <= seq:
        raise InputError(
            what="--documents",
            got=str(documents),
            expected=f"1 to {seq}, a token for each",
            remedy="Ask for fewer documents, or a longer sequence.",
        )
