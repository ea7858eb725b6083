"""What is asked of a batch, as values of the compiled loop."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, UInt32

from ringworld.inference.batches import PromptBatch
from ringworld.inference.config import SamplingConfig
from ringworld.inference.grammar import Grammar
from ringworld.inference.sampling import Sampling


class Request(NamedTuple):
    """What is asked of a batch; nothing here makes a program compile again."""

    lengths: Int32[Array, " batch"]
    """Of the prompts."""
    seen: Bool[Array, "batch vocab"]
    """Which ids the prompts hold."""
    idle: Bool[Array, " batch"]
    """Sequences for which nothing need be written."""
    checksums: UInt32[Array, " batch"]
    seed: UInt32[Array, ""]
    new_tokens: Int32[Array, ""]
    """Most tokens to write."""
    sampling: Sampling
    guidance_scale: Float32[Array, ""]
    grammar: Grammar


def request_of(
    batch: PromptBatch, *, grammar: Grammar, new_tokens: int, sampling: SamplingConfig, vocab: int
) -> Request:
    """Return how a batch is continued by a model of so many ids."""
    seen = np.zeros((len(batch.lengths), vocab), bool)
    for row, tokens, length in zip(seen, batch.tokens, batch.lengths):
        row[tokens[:length]] = True
    return Request(
        lengths=jnp.asarray(batch.lengths),
        idle=jnp.asarray(batch.idle),
        checksums=jnp.asarray(batch.checksums),
        seed=jnp.uint32(sampling.seed),
        new_tokens=jnp.int32(new_tokens),
        seen=jnp.asarray(seen),
        sampling=jax.tree.map(jnp.asarray, sampling_of([sampling] * len(batch.lengths))),
        guidance_scale=jnp.float32(float32_of(sampling.guidance_scale)),
        grammar=grammar,
    )


def sampling_of(each: Sequence[SamplingConfig]) -> Sampling:
    """Return how each sequence is drawn, as NumPy arrays."""

    def values(name: str) -> Any:
        return np.array([float32_of(getattr(one, name)) for one in each], np.float32)

    top_k: Any = np.array([min(one.top_k, np.iinfo(np.int32).max) for one in each], np.int32)
    return Sampling(
        temperature=values("temperature"),
        top_k=top_k,
        top_p=values("top_p"),
        min_p=values("min_p"),
        repetition_penalty=values("repetition_penalty"),
    )


def float32_of(value: float) -> float:
    """Return what becomes a finite float32, which is zero only for zero."""
    limits = np.finfo(np.float32)
    return min(max(value, float(limits.tiny)), float(limits.max)) if value else 0.0
