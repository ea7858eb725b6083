"""What is asked of a batch, as values of the compiled loop."""

from typing import NamedTuple

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
        sampling=Sampling(
            temperature=_float32(sampling.temperature),
            top_k=jnp.int32(min(sampling.top_k, np.iinfo(np.int32).max)),
            top_p=_float32(sampling.top_p),
            min_p=_float32(sampling.min_p),
            repetition_penalty=_float32(sampling.repetition_penalty),
        ),
        guidance_scale=_float32(sampling.guidance_scale),
        grammar=grammar,
    )


def _float32(value: float) -> jax.Array:
    """Return the nearest finite float32 that is zero only for zero."""
    limits = np.finfo(np.float32)
    return jnp.float32(min(max(value, float(limits.tiny)), float(limits.max)) if value else 0)
