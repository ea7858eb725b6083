import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ringworld.attention.blocks import LiveBlocks, even_block, live_blocks, pad_mask
from ringworld.attention.visibility import MaskSpec
from tests.attention import reference

#         documents: 0 0 0 | 3 3 3 3 3 3 | padding
ORDER = np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8, -1, -1, -1]], np.int32)
FIRST = np.array([[0, 0, 0, 3, 3, 3, 3, 3, 3, 0, 0, 0]], np.int32)
MASK = MaskSpec(*(jnp.asarray(x) for x in (ORDER, FIRST, ORDER)))

_for_queries, _for_keys = (
    jax.jit(functools.partial(live_blocks, of=of), static_argnames=("q_block", "kv_block"))
    for of in ("queries", "keys")
)


def _lists(live: LiveBlocks) -> list[tuple[list[int], list[int]]]:
    """Return for each block of the first row which blocks to visit without a mask, and which with."""
    others, whole, some = (np.asarray(x[0]) for x in (live.others, live.whole, live.some))
    return [(row[:w].tolist(), row[w:s].tolist()) for row, w, s in zip(others, whole, some)]


def test_each_block_lists_what_it_sees_whole_and_then_what_it_sees_in_part():
    # blocks of two queries and of one key
    live = _for_queries(MASK, q_block=2, kv_block=1)
    assert _lists(live) == [
        ([0], [1]),
        ([], [0, 1, 2, 3]),
        ([3, 4], [5]),
        ([3, 4, 5, 6], [7]),
        ([], [3, 4, 5, 6, 7, 8]),
        ([], []),
    ]


def test_each_block_of_keys_lists_what_sees_it():
    live = _for_keys(MASK, q_block=2, kv_block=2)
    assert _lists(live) == [
        ([], [0, 1]),
        ([], [1, 2, 3, 4]),
        ([3], [2, 4]),
        ([], [3, 4]),
        ([], [4]),
        ([], []),
    ]


_TOKENS = hnp.arrays(np.int32, (2, 12), elements=st.integers(-1, 12))


@settings(max_examples=30)
@given(order=_TOKENS, back=_TOKENS, k_order=_TOKENS)
def test_every_key_that_a_query_sees_is_visited_once_and_no_mask_is_missing(order, back, k_order):
    tokens = (order, np.maximum(order - np.maximum(back, 0), 0), k_order)
    mask = MaskSpec(*(jnp.asarray(x) for x in tokens))
    seen = reference.mask(*tokens)[:, 0].reshape(2, 4, 3, 6, 2)
    for live, pairs in (
        (_for_queries(mask, q_block=3, kv_block=2), seen.transpose(0, 1, 3, 2, 4)),
        (_for_keys(mask, q_block=3, kv_block=2), seen.transpose(0, 3, 1, 2, 4)),
    ):
        for row in range(2):
            for block, (whole, part) in enumerate(
                _lists(jax.tree.map(lambda x, row=row: x[row : row + 1], live))
            ):
                visited = whole + part
                assert block in live.longest_first[row].tolist()
                assert len(set(visited)) == len(visited)
                assert set(np.flatnonzero(pairs[row, block].any(axis=(1, 2)))) <= set(visited)
                assert pairs[row, block, whole].all()


@pytest.mark.parametrize(("q_block", "kv_block"), [(5, 8), (12, 4)])
def test_what_fills_the_last_blocks_is_never_seen_and_sees_nothing(q_block, kv_block):
    padded = pad_mask(MASK, q_block=q_block, kv_block=kv_block)
    assert padded.q_order.shape[1] % q_block == padded.k_order.shape[1] % kv_block == 0
    seen = reference.mask(*(np.asarray(x) for x in padded))[0, 0]
    np.testing.assert_array_equal(seen[:12, :12], reference.mask(ORDER, FIRST, ORDER)[0, 0])
    assert not seen[12:].any() and not seen[:, 12:].any()


@given(seq=st.integers(1, 5000), limit=st.integers(1, 600))
def test_blocks_are_as_few_as_a_limit_allows_and_the_last_is_filled_least(seq, limit):
    block = even_block(seq, limit)
    blocks = -(-seq // block)
    assert block <= limit
    assert blocks == -(-seq // limit)
    # A shorter block would need one more.
    assert blocks * (block - 1) < seq
