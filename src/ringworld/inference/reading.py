"""Prompts of any length into a cache, in chunks of few sizes, so that few programs are compiled."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Int32

from ringworld.core.sharding import spec
from ringworld.inference.batches import LEAST_BUCKET_TOKENS, chunk_size
from ringworld.model.arrange import Layout
from ringworld.model.cache import KVCache, padded_length
from ringworld.model.decode import GenerationWeights, read_chunk
from ringworld.model.forward import Forward


def chunk_sizes(tokens: int, *, most: int, members: int, least: int = LEAST_BUCKET_TOKENS) -> list[int]:
    """Return the sizes of the chunks in which so many tokens are read; the last one may not be full.

    Args:
        tokens: to be read.
        most: of a chunk.
        members: of the ring, which share each chunk.
        least: of a chunk, half of which is below it; the more, the fewer sizes, each of them a program.

    Example:
        `chunk_sizes(2700, most=1024, members=1)` is `[1024, 1024, 512, 128, 32]`.
    """
    sizes = []
    while tokens > 0:
        sizes.append(padded_length(chunk_size(tokens, most=most, least=least), members=members))
        tokens -= sizes[-1]
    return sizes


def read_chunks(
    weights: GenerationWeights,
    cache: KVCache,
    tokens: Int32[np.ndarray, "batch seq"],
    *,
    order: Int32[np.ndarray, "batch seq"],
    sizes: Sequence[int],
    slot: int,
    forward: Forward,
    mesh: Mesh,
) -> Iterator[tuple[Float32[Array, "batch vocab"], KVCache]]:
    """Read tokens after what a cache holds; yield, after each chunk, the scores so far and the cache.

    Args:
        weights: the model.
        cache: it is used up, as is each one that was yielded.
        tokens: ids, in order.
        order: index of each in its row; -1 for padding.
        sizes: of the chunks, together at least `seq`.
        slot: the first that is written, a multiple of the members.
        forward: rotary frequencies and configuration.
        mesh: that is set.
    """
    # In this layout padding leaves the last slots empty, and a chunk costs every member the same.
    layout = Layout(replace(forward.execution.attention, layout="striped"), mesh=mesh)
    scores = None
    start = 0
    for size in sizes:
        missing = ((0, 0), (0, max(0, start + size - tokens.shape[1])))
        part = np.pad(tokens[:, start : start + size], missing)
        part_order = np.pad(order[:, start : start + size], missing, constant_values=-1)
        reached = (part_order >= 0).any(axis=1)
        host: tuple[Any, ...] = (part, part_order)
        placed, placed_order = layout.place(host, [[size]] * len(part)).arrays
        new, cache = read_chunk(
            weights, cache, placed, order=placed_order, slot=jnp.int32(slot + start), forward=forward
        )
        scores = new if scores is None else _newest(scores, new, jnp.asarray(reached))
        yield scores, cache
        start += size


@jax.jit
def _newest(
    scores: Float32[Array, "batch vocab"], new: Float32[Array, "batch vocab"], reached: Bool[Array, " batch"]
) -> Float32[Array, "batch vocab"]:
    """Return the scores of rows with tokens in the last chunk, and of others those that they had."""
    return jnp.where(jax.reshard(reached, spec("batch"))[:, None], new, scores)
