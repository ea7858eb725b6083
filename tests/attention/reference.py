"""The oracle: attention and its gradients in NumPy float64, with a whole seq x seq mask. Tests only.

Written from the definition, sharing no code with what it checks.
"""

import numpy as np
from jaxtyping import Bool, Float64, Integer

Queries = Float64[np.ndarray, "batch q_seq heads head"]
Keys = Float64[np.ndarray, "batch kv_seq kv_heads head"]


def mask(
    q_order: Integer[np.ndarray, "batch q_seq"],
    q_first: Integer[np.ndarray, "batch q_seq"],
    k_order: Integer[np.ndarray, "batch kv_seq"],
) -> Bool[np.ndarray, "batch 1 q_seq kv_seq"]:
    """Return which keys each query sees: those with an order in [first, order]."""
    keys = k_order[:, None, None, :]
    return (q_first[:, None, :, None] <= keys) & (keys <= q_order[:, None, :, None])


def forward(
    q: Queries,
    k: Keys,
    v: Keys,
    *,
    q_order: Integer[np.ndarray, "batch q_seq"],
    q_first: Integer[np.ndarray, "batch q_seq"],
    k_order: Integer[np.ndarray, "batch kv_seq"],
) -> tuple[Queries, Float64[np.ndarray, "batch heads q_seq"]]:
    """Return the output and the log-sum-exp of the scores (0 and -inf for a query that sees nothing)."""
    probabilities, lse = _probabilities(q, k, mask(q_order, q_first, k_order))
    return np.einsum("bhqk,bkhd->bqhd", probabilities, _repeat(v, q)), lse


def backward(
    q: Queries,
    k: Keys,
    v: Keys,
    dout: Queries,
    *,
    q_order: Integer[np.ndarray, "batch q_seq"],
    q_first: Integer[np.ndarray, "batch q_seq"],
    k_order: Integer[np.ndarray, "batch kv_seq"],
) -> tuple[Queries, Keys, Keys]:
    """Return the gradients of sum(out * dout) with respect to q, k and v."""
    probabilities, _ = _probabilities(q, k, mask(q_order, q_first, k_order))
    dprobabilities = np.einsum("bqhd,bkhd->bhqk", dout, _repeat(v, q))
    mean = np.sum(probabilities * dprobabilities, axis=-1, keepdims=True)
    dscores = probabilities * (dprobabilities - mean) / np.sqrt(q.shape[-1])
    dq = np.einsum("bhqk,bkhd->bqhd", dscores, _repeat(k, q))
    dk = np.einsum("bhqk,bqhd->bkhd", dscores, q)
    dv = np.einsum("bhqk,bqhd->bkhd", probabilities, dout)
    return dq, _sum_groups(dk, k), _sum_groups(dv, v)


def _probabilities(q: np.ndarray, k: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = np.einsum("bqhd,bkhd->bhqk", q, _repeat(k, q)) / np.sqrt(q.shape[-1])
    scores = np.where(seen, scores, -np.inf)
    highest = scores.max(axis=-1, keepdims=True)
    highest = np.where(np.isfinite(highest), highest, 0)
    weights = np.exp(scores - highest)
    total = weights.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (highest + np.log(total))[..., 0]
    return weights / np.where(total == 0, 1, total), lse


def _repeat(keys: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.repeat(keys, q.shape[2] // keys.shape[2], axis=2)


def _sum_groups(dkeys: np.ndarray, keys: np.ndarray) -> np.ndarray:
    batch, seq, kv_heads, head = keys.shape
    return dkeys.reshape(batch, seq, kv_heads, -1, head).sum(axis=3)
