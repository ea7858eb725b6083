import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ringworld.attention.visibility import ALL, NOTHING, PART, MaskSpec, block_visibility, sees_any, visible
from tests.attention import reference

_block_visibility = jax.jit(block_visibility)


def _spec(q_order, q_first, k_order) -> MaskSpec:
    return MaskSpec(*(jnp.asarray(x, jnp.int32) for x in (q_order, q_first, k_order)))


def _exact(q_order, q_first, k_order) -> np.ndarray:
    """Classify pairs of blocks [blocks, block] by the oracle's whole mask."""
    rows = (x.reshape(1, -1) for x in (q_order, q_first, k_order))
    seen = reference.mask(*rows).reshape(*q_order.shape, *k_order.shape)
    return np.where(seen.all(axis=(1, 3)), ALL, np.where(seen.any(axis=(1, 3)), PART, NOTHING))


def _classify(q_order, q_first, k_order) -> np.ndarray:
    return np.asarray(_block_visibility(_spec(q_order, q_first, k_order)))


def test_a_query_sees_its_example_up_to_itself():
    #       examples: 0 0 | 2 2 2 | padding
    order, first = [0, 1, 2, 3, 4, -1], [0, 0, 2, 2, 2, 0]
    assert visible(_spec(order, first, order)).astype(int).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_blocks_are_skipped_masked_or_seen_whole():
    # Examples 0 1 2 | 3 4 5 6 7 in blocks of two, and a block of padding.
    order = [[0, 1], [2, 3], [4, 5], [6, 7], [-1, -1]]
    first = [[0, 0], [0, 3], [3, 3], [3, 3], [0, 0]]
    assert block_visibility(_spec(order, first, order)).tolist() == [
        [PART, NOTHING, NOTHING, NOTHING, NOTHING],
        [PART, PART, NOTHING, NOTHING, NOTHING],
        [NOTHING, PART, PART, NOTHING, NOTHING],
        [NOTHING, PART, ALL, PART, NOTHING],
        [NOTHING, NOTHING, NOTHING, NOTHING, NOTHING],
    ]


def test_padding_in_a_block_needs_a_mask():
    order, first = [[0, 1], [2, -1]], [[0, 0], [0, 0]]
    keys = [[0, 1], [-1, 0]]
    assert block_visibility(_spec(order, first, keys)).tolist() == [[PART, PART], [PART, PART]]
    assert block_visibility(_spec([[2, 3]], [[0, 0]], keys)).tolist() == [[ALL, PART]]


_BLOCKS = hnp.arrays(np.int32, (3, 4), elements=st.integers(-1, 12))


@settings(max_examples=100)
@given(q_order=_BLOCKS, back=hnp.arrays(np.int32, (3, 4), elements=st.integers(0, 12)), k_order=_BLOCKS)
def test_in_any_layout_nothing_visible_is_skipped_and_nothing_hidden_is_seen(q_order, back, k_order):
    q_first = np.maximum(q_order - back, 0)
    found, exact = (f(q_order, q_first, k_order) for f in (_classify, _exact))
    assert ((found == ALL) == (exact == ALL)).all()
    assert (exact[found == NOTHING] == NOTHING).all()


@settings(max_examples=100)
@given(
    lengths=st.lists(st.integers(1, 12), max_size=8),
    blocks=st.sampled_from([(4, 4), (6, 2), (3, 12)]),
    queries=st.integers(0, 3),
    keys=st.integers(0, 3),
)
def test_of_runs_of_tokens_every_pair_of_blocks_is_told_exactly(lengths, blocks, queries, keys):
    # A packed sequence over four members of 24 tokens; the queries of one and the keys of another.
    (q_block, kv_block), used = blocks, sum(lengths)
    order = np.where(np.arange(96) < used, np.arange(96), -1).astype(np.int32)
    first = np.zeros_like(order)
    first[:used] = np.repeat(np.cumsum(lengths, dtype=np.int32) - np.array(lengths, np.int32), lengths)
    q, k = (slice(member * 24, (member + 1) * 24) for member in (queries, keys))
    cut = order[q].reshape(-1, q_block), first[q].reshape(-1, q_block), order[k].reshape(-1, kv_block)
    np.testing.assert_array_equal(_classify(*cut), _exact(*cut))


def test_some_queries_see_some_keys_or_none_sees_any():
    assert sees_any(_spec([4, 5], [0, 0], [5, 6]))
    assert not sees_any(_spec([4, 5], [0, 0], [6, 7]))
    # Two rows: the second sees what the first does not.
    assert sees_any(_spec([[4, 5], [6, 7]], [[4, 4], [6, 6]], [[6, 7], [6, 7]]))
    assert not sees_any(_spec([4, 5], [4, 4], [2, 3]))
    assert not sees_any(_spec([-1, -1], [0, 0], [0, 1]))
    assert not sees_any(_spec([4, 5], [0, 0], [-1, -1]))
