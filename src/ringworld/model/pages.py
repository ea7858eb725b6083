"""Keys and values in pages, for sequences that come and go; they never move.

A pool holds a fixed number of pages; page 0 belongs to nobody, and takes what need not be kept. The pages of
a sequence stand in its table: its token `t` is in slot `t % page` of page `table[t // page]`, and on member
`t % members` of the sequence axes. `attention.paged` reads what is written here. No orders are stored: a
token sees what stands before it in its own table, so a page that goes to another sequence is not emptied.

    pool = PagePool.init(architecture, pages=pages, page_tokens=page_tokens, compute=execution.compute)
    pool = read_pages(weights, pool, tokens, order=order, pages=pages, table=table, forward=forward)
    scores, pool = step_pages(weights, pool, tokens, order=order, tables=tables, forward=forward)

Call all of it under `jax.set_mesh`, with one member on the batch axes, and `step_pages` inside jit.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32

from ringworld.attention.int8_pages import Int8Numbers, StoredPages, rounded
from ringworld.attention.paged import paged_attention
from ringworld.core.sharding import SEQ_AXES, spec
from ringworld.model.config import Architecture, CacheType
from ringworld.model.decode import GenerationWeights, begin, scores_of_last
from ringworld.model.forward import Forward
from ringworld.model.layers import Layer
from ringworld.model.rope import Rotation
from ringworld.model.world_model import window_start

_Called = tuple[Float[Array, "batch seq embed"], StoredPages, StoredPages]  # what a layer returns, and stores
_DIMENSIONS = (None, "kv_heads", "seq", "head")  # of an array of pages; scales lack the last


class PagePool(eqx.Module):
    """One array of keys and one of values a layer, so that a step writes each in place."""

    keys: tuple[StoredPages, ...]
    values: tuple[StoredPages, ...]

    @staticmethod
    def init(
        architecture: Architecture,
        *,
        pages: int,
        page_tokens: int,
        compute: str,
        cache_type: CacheType = "compute",
    ) -> "PagePool":
        """Return an empty pool; `page_tokens` is a multiple of the members.

        int8 takes `1 + 4 / head` bytes a number with its scale, at most 1.1 for heads of 40 or wider.
        """
        shape = (pages, architecture.kv_heads, page_tokens, architecture.head)

        def zeros(dimensions: int, dtype: str) -> Array:
            return jnp.zeros(shape[:dimensions], dtype, out_sharding=spec(*_DIMENSIONS[:dimensions]))

        def empty() -> StoredPages:
            if cache_type == "compute":
                return zeros(4, compute)
            assert cache_type == "int8", cache_type
            return Int8Numbers(values=zeros(4, "int8"), scale=zeros(3, "float32"))

        keys, values = (tuple(empty() for _ in range(architecture.layers)) for _ in range(2))
        return PagePool(keys=keys, values=values)


def read_pages(
    weights: GenerationWeights,
    pool: PagePool,
    tokens: Int32[Array, "1 seq"],
    *,
    order: Int32[Array, "1 seq"],
    pages: Int32[Array, " pages_of_chunk"],
    table: Int32[Array, "1 width"],
    forward: Forward,
) -> tuple[Float[Array, "1 seq embed"], PagePool]:
    """Read more of one sequence after what its pages hold already.

    The tokens are cut over the sequence axes, as in `read_chunk`; keys and values stay where they are made.

    Args:
        weights: The model.
        pool: Outside jit its arrays are used up.
        tokens: Whole pages, padded; striped over the members, sharded by `spec("batch", "seq")`.
        order: Index of each token in its sequence, -1 for padding; arranged as the tokens are.
        pages: Where these tokens go.
        table: All pages of the sequence, those included.
        forward: Rotary frequencies and configuration.

    Returns:
        The residual stream after the last layer, arranged as the tokens are, and the pool.
    """
    first = jnp.zeros_like(order)
    x, rotated = begin(weights.embed, tokens, order=order, first=first, forward=forward)
    whole_order = _whole(order)

    def call(layer: Layer, x: Array, k: StoredPages, v: StoredPages) -> _Called:
        return _chunk_layer(
            layer, x, k, v, rotated=rotated, order=whole_order, pages=pages, tables=table, forward=forward
        )

    return _through_layers(call, weights, pool, x)


def step_pages(
    weights: GenerationWeights,
    pool: PagePool,
    tokens: Int32[Array, " batch"],
    *,
    order: Int32[Array, " batch"],
    tables: Int32[Array, "batch width"],
    forward: Forward,
) -> tuple[Float32[Array, "batch vocab"], PagePool]:
    """Append a token to each sequence, and score what follows it.

    Args:
        weights: The model.
        pool: What the last call returned.
        tokens: New ids.
        order: Index of each in its sequence; -1 where there is none.
        tables: The pages of each sequence.
        forward: Rotary frequencies and configuration.

    Returns:
        The scores after each token, which mean nothing where there was none, and the pool.
    """
    tokens, order = (jax.reshard(x[:, None], spec("batch", None)) for x in (tokens, order))
    x, rotated = begin(weights.embed, tokens, order=order, first=jnp.zeros_like(order), forward=forward)
    tables = jax.reshard(tables, spec("batch", None))

    def call(layer: Layer, x: Array, k: StoredPages, v: StoredPages) -> _Called:
        return _layer(
            layer, x, k, v, rotated=rotated, order=order, pages=None, tables=tables, forward=forward
        )

    x, pool = _through_layers(call, weights, pool, x)
    return scores_of_last(weights, x, order=order, forward=forward), pool


def _through_layers(
    call: Callable[[Layer, Array, StoredPages, StoredPages], _Called],
    weights: GenerationWeights,
    pool: PagePool,
    x: Float[Array, "batch seq embed"],
) -> tuple[Float[Array, "batch seq embed"], PagePool]:
    keys, values = [], []
    for layer, stored_k, stored_v in zip(weights.layers, pool.keys, pool.values):
        x, k, v = call(layer, x, stored_k, stored_v)
        keys.append(k)
        values.append(v)
    return x, PagePool(keys=tuple(keys), values=tuple(values))


def _layer(
    layer: Layer,
    x: Float[Array, "batch seq embed"],
    stored_k: StoredPages,
    stored_v: StoredPages,
    *,
    rotated: Rotation,
    order: Int32[Array, "batch seq"],
    pages: Int32[Array, " pages_of_chunk"] | None,
    tables: Int32[Array, "batch width"],
    forward: Forward,
) -> _Called:
    """Put new tokens into their pages and attend to all; `pages` are those of a chunk, None of a step."""
    stored = []

    def attend(q: Array, k: Array, v: Array) -> Array:
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        for pool, new in ((stored_k, k), (stored_v, v)):
            if pages is None:
                stored.append(_stored(pool, new, lambda pool, new: _append(pool, new, order, tables)))
            else:
                stored.append(fill_pages(pool, new, pages))
        out = paged_attention(
            jax.reshard(q, spec("batch", "heads", None, "head")),
            *stored,
            q_order=order,
            q_first=window_start(order, jnp.zeros_like(order), forward=forward),
            tables=tables,
            config=forward.execution.attention,
        )
        return jax.reshard(out, jax.typeof(q).sharding.spec).swapaxes(1, 2)

    x = layer(x, rotation=rotated, attend=attend, forward=forward)
    return x, stored[0], stored[1]


def fill_pages(
    pool: StoredPages, new: Float[Array, "1 kv_heads seq head"], pages: Int32[Array, " pages_of_chunk"]
) -> StoredPages:
    """Write whole pages, whose tokens lie on the members that keep them."""
    return _stored(pool, new, lambda pool, new: _fill(pool, new, pages))


def _stored(
    pool: StoredPages, new: Float[Array, "..."], store: Callable[[Array, Array], Array]
) -> StoredPages:
    """Store numbers as the pool keeps them: each array of it takes its own."""
    return jax.tree.map(store, pool, rounded(new) if isinstance(pool, Int8Numbers) else new)


def _fill(pool: Array, new: Array, pages: Int32[Array, " pages_of_chunk"]) -> Array:
    def local(pool: Array, new: Array, pages: Array) -> Array:
        size = pool.shape[2]

        def write(i: Array, pool: Array) -> Array:
            page = jax.lax.dynamic_slice_in_dim(new, i * size, size, axis=2)
            return jax.lax.dynamic_update_index_in_dim(pool, page, pages[i], axis=0)

        return jax.lax.fori_loop(0, len(pages), write, pool)

    new = jax.reshard(new, spec(*_DIMENSIONS[: new.ndim]))
    return jax.shard_map(local, out_specs=jax.typeof(pool).sharding.spec)(pool, new, pages)


def _append(
    pool: Array,
    new: Array,
    order: Int32[Array, "batch 1"],
    tables: Int32[Array, "batch width"],
) -> Array:
    """Write a token of each sequence, on the member that keeps it; all others write to page 0."""

    def local(pool: Array, new: Array, order: Array, tables: Array) -> Array:
        members, member = jax.lax.axis_size(SEQ_AXES), jax.lax.axis_index(SEQ_AXES)
        page = pool.shape[2] * members

        def write(row: Array, pool: Array) -> Array:
            token = order[row, 0]
            mine = (token >= 0) & (token % members == member)
            kept = jnp.where(mine, tables[row, token // page], 0)
            value = jax.lax.dynamic_slice_in_dim(new, row, 1)
            start = (kept, 0, token % page // members, 0)
            return jax.lax.dynamic_update_slice(pool, value, start[: pool.ndim])

        return jax.lax.fori_loop(0, len(new), write, pool)

    new = jax.reshard(new, spec(*(None, "kv_heads", None, "head")[: new.ndim]))
    order, tables = (jax.reshard(x, spec(None, None)) for x in (order, tables))
    return jax.shard_map(local, out_specs=jax.typeof(pool).sharding.spec)(pool, new, order, tables)


_chunk_layer = jax.jit(_layer, donate_argnames=("x", "stored_k", "stored_v"))
_whole = jax.jit(lambda order: jax.reshard(order, spec("batch", None)))
