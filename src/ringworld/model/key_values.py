"""Keys and values between a cache and the host: in the order of the tokens, whatever the mesh and the cache.

They move a span of tokens at a time, `[layers, 2, tokens, kv_heads, head]` with keys before values, so that
no more than a span is in host memory. On the devices token `t` of a span is on member `t % members`, in pages
as in the slots of a cache.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Array, Int32, Shaped

from ringworld.attention.int8_pages import Int8Numbers, StoredPages
from ringworld.core.mesh import members_of
from ringworld.core.sharding import SEQ_AXES, spec
from ringworld.model.cache import KVCache, fill
from ringworld.model.config import Architecture
from ringworld.model.pages import PagePool, fill_pages

KeyValues = Shaped[np.ndarray, "layers 2 _tokens kv_heads head"]
_SPAN_BYTES = 2**26


def token_bytes(architecture: Architecture, *, compute: str) -> int:
    """Return the bytes of the keys and values of one token."""
    numbers = 2 * architecture.layers * architecture.kv_heads * architecture.head
    return numbers * jax.numpy.dtype(compute).itemsize


def span_tokens(architecture: Architecture, *, compute: str, multiple: int) -> int:
    """Return how many tokens move at once: a multiple, 64 MiB of them where that is as large."""
    return multiple * max(1, _SPAN_BYTES // token_bytes(architecture, compute=compute) // multiple)


def fetch_pages(pool: PagePool, pages: Int32[Array, " taken"], *, compute: str) -> KeyValues:
    """Return the keys and values of the tokens of some pages, one after the other, in the compute type."""
    members = members_of(jax.sharding.get_mesh(), SEQ_AXES)

    def fetched(stored: StoredPages) -> Shaped[np.ndarray, "tokens kv_heads head"]:
        found = np.asarray(_pages(stored, pages, compute=compute))
        count, heads, page, head = found.shape
        apart = found.reshape(count, heads, members, page // members, head)
        return apart.transpose(0, 3, 2, 1, 4).reshape(-1, heads, head)

    return np.stack([np.stack([fetched(k), fetched(v)]) for k, v in zip(pool.keys, pool.values)])


def put_pages(pool: PagePool, span: KeyValues, *, pages: Int32[Array, " taken"]) -> PagePool:
    """Fill pages with the keys and values of tokens, one after the other; the pool is used up."""
    keys, values = [], []
    for stored_k, stored_v, (k, v) in zip(pool.keys, pool.values, span):
        keys.append(_put_pages(stored_k, _striped(k, rows=1), pages))
        values.append(_put_pages(stored_v, _striped(v, rows=1), pages))
    return PagePool(keys=tuple(keys), values=tuple(values))


def fetch_slots(cache: KVCache, slots: Sequence[int]) -> KeyValues:
    """Return the keys and values of the tokens in some slots of the first row."""
    members, count = members_of(jax.sharding.get_mesh(), SEQ_AXES), cache.order.shape[1]
    wanted = np.asarray(slots, np.int32)
    # A slot is on member `slot % members`, whose shard is contiguous.
    where = jax.device_put(wanted % members * (count // members) + wanted // members)

    def fetched(stored: Shaped[Array, "..."]) -> Shaped[np.ndarray, "tokens kv_heads head"]:
        return np.asarray(_slots(stored, where))

    return np.stack([np.stack([fetched(k), fetched(v)]) for k, v in zip(cache.keys, cache.values)])


def put_slots(cache: KVCache, span: KeyValues, *, start: int) -> KVCache:
    """Write tokens into the slots from `start` on, of the first row; the cache is used up.

    Args:
        cache: in which those slots are empty.
        span: a multiple of the members, of tokens.
        start: index of the first token and its slot, a multiple of the members.
    """
    rows, slot = len(cache.order), jax.numpy.int32(start)
    keys, values = [], []
    for stored_k, stored_v, (k, v) in zip(cache.keys, cache.values, span):
        keys.append(_put_slots(stored_k, _striped(k, rows=rows), slot=slot))
        values.append(_put_slots(stored_v, _striped(v, rows=rows), slot=slot))
    order = np.full((rows, span.shape[2]), -1, np.int32)
    members = members_of(jax.sharding.get_mesh(), SEQ_AXES)
    order[0] = (start + np.arange(span.shape[2])).reshape(-1, members).T.reshape(-1)
    placed = jax.device_put(order, jax.NamedSharding(jax.sharding.get_mesh(), spec("batch", "seq")))
    return KVCache(keys=tuple(keys), values=tuple(values), order=_put_slots(cache.order, placed, slot=slot))


def cut(spans: Iterable[KeyValues], *, multiple: int) -> Iterator[KeyValues]:
    """Yield spans of a multiple of tokens each; what is left at the end is dropped.

    Example:
        Spans of 5, 5 and 4 tokens are cut, with a multiple of 4, into 4, 4 and 4.
    """
    left: KeyValues | None = None
    for span in spans:
        whole = span if left is None else np.concatenate([left, span], axis=2)
        end = whole.shape[2] // multiple * multiple
        left = whole[:, :, end:]
        if end:
            yield whole[:, :, :end]


def _striped(
    tokens: Shaped[np.ndarray, "tokens kv_heads head"], *, rows: int
) -> Shaped[Array, "rows kv_heads tokens head"]:
    """Put tokens on the devices, each on its member; rows but the first are zeros."""
    mesh = jax.sharding.get_mesh()
    members = members_of(mesh, SEQ_AXES)
    count, heads, head = tokens.shape
    apart = tokens.reshape(count // members, members, heads, head).transpose(2, 1, 0, 3)
    laid = np.zeros((rows, heads, count, head), tokens.dtype)
    laid[0] = apart.reshape(heads, count, head)
    return jax.device_put(laid, jax.NamedSharding(mesh, spec("batch", "kv_heads", "seq", "head")))


@partial(jax.jit, static_argnames="compute")
def _pages(
    stored: StoredPages, pages: Int32[Array, " taken"], *, compute: str
) -> Shaped[Array, "taken kv_heads page head"]:
    def local(stored: Array, pages: Array) -> Array:
        return stored[pages]

    def take(stored: Array) -> Array:
        return jax.shard_map(local, out_specs=jax.typeof(stored).sharding.spec)(stored, pages)

    taken = jax.tree.map(take, stored)
    return taken.to(compute) if isinstance(taken, Int8Numbers) else taken


@jax.jit
def _slots(
    stored: Shaped[Array, "batch kv_heads slots head"], slots: Int32[Array, " taken"]
) -> Shaped[Array, "taken kv_heads head"]:
    return stored.at[0, :, slots].get(out_sharding=spec(None, "kv_heads", "head"))


_put_pages = jax.jit(fill_pages, donate_argnums=0)
_put_slots = jax.jit(fill, donate_argnums=0)
