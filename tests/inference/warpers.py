"""What sampling makes of a distribution, in plain NumPy: the definitions of transformers, by sorting."""

import numpy as np


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def warped(
    logits: np.ndarray,
    *,
    seen: np.ndarray | None = None,
    repetition_penalty: float = 1.0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> np.ndarray:
    """Return the probabilities from which an id is drawn."""
    scores = logits.astype(np.float64)
    if seen is not None:
        scores = np.where(
            seen, np.where(scores < 0, scores * repetition_penalty, scores / repetition_penalty), scores
        )
    scores = scores / temperature
    if top_k:
        scores = np.where(scores < np.sort(scores)[-top_k], -np.inf, scores)
    if top_p < 1:
        falling = np.argsort(-scores)
        cumulative = np.cumsum(softmax(scores)[falling])
        needed = int((cumulative < top_p).sum()) + 1
        scores[falling[needed:]] = -np.inf
    shares = softmax(scores)
    return softmax(np.where(shares < min_p * shares.max(), -np.inf, scores))
