"""A model of text, extended by the ids of vision."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from ringworld.model.world_model import WorldModel


@partial(jax.jit, static_argnames="ids")
def add_vision_ids(model: WorldModel, *, ids: int) -> WorldModel:
    """Return the model with more ids at the end of its vocabulary.

    The new rows of the embedding, and of a head of its own, are the means of those that are there, so that
    the new ids begin as likely as an average one (Hewitt, "Initializing new word embeddings", 2021).

    Args:
        model: on the mesh that is set.
        ids: how many are added.
    """

    def along(axis: int, rows: Float32[Array, "_ _"]) -> Float32[Array, "_ _"]:
        def longer(rows: Float32[Array, "_ _"]) -> Float32[Array, "_ _"]:
            mean = rows.mean(axis=axis, keepdims=True)
            return jnp.concatenate([rows, jnp.repeat(mean, ids, axis=axis)], axis=axis)

        # The dimension that grows is cut over devices: how its pieces move is left to the compiler.
        extend: Any = jax.sharding.auto_axes(longer, out_sharding=jax.typeof(rows).sharding)
        return extend(rows)

    head = None if model.head is None else along(1, model.head)
    return replace(model, embed=along(0, model.embed), head=head)
