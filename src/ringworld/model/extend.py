"""A model of text, extended by the ids of vision."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from ringworld.model.weights import Int8Weight
from ringworld.model.world_model import WorldModel


def new_row(
    parts: Iterable[Float[Array | np.ndarray, "_ embed"]],
) -> Float[Array | np.ndarray, "1 embed"]:
    """Return the one row with which every new id begins: the mean of those that are there.

    So it begins as likely as an average one (Hewitt, "Initializing new word embeddings", 2021).

    Args:
        parts: all rows of the embedding, or of the output head with its ids first, in one array or more.
    """
    total: Any = 0.0
    count, dtype = 0, None
    for part in parts:
        total = total + part.sum(axis=0, keepdims=True, dtype=np.float32)
        count, dtype = count + part.shape[0], part.dtype
    assert count, "no rows"
    return (total / count).astype(dtype)


@partial(jax.jit, static_argnames="ids")
def add_vision_ids(model: WorldModel, *, ids: int) -> WorldModel:
    """Return the model with more ids at the end of its vocabulary.

    The new rows of the embedding, and of a separate output head, are each as `new_row` says.

    Args:
        model: on the mesh that is set.
        ids: how many are added.
    """

    def longer(rows: Float32[Array, "vocab embed"]) -> Float32[Array, "longer embed"]:
        return jnp.concatenate([rows, jnp.tile(new_row((rows,)), (ids, 1))])

    def along(axis: int, table: Float32[Array, "_ _"]) -> Float32[Array, "_ _"]:
        # The dimension that grows is cut over devices: how its pieces move is left to the compiler.
        extend: Any = jax.sharding.auto_axes(
            lambda array: jnp.moveaxis(longer(jnp.moveaxis(array, axis, 0)), 0, axis),
            out_sharding=jax.typeof(table).sharding,
        )
        return extend(table)

    assert not isinstance(model.output_head, Int8Weight), "ids are added to masters"
    output_head = None if model.output_head is None else along(1, model.output_head)
    return replace(model, embed=along(0, model.embed), output_head=output_head)
