import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ringworld.attention.visibility import MaskSpec, blocks_with_something_visible, visible


def _spec(q_order, q_first, k_order) -> MaskSpec:
    return MaskSpec(*(jnp.asarray(x, jnp.int32) for x in (q_order, q_first, k_order)))


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


def test_blocks_of_other_examples_of_the_future_and_of_padding_are_not_computed():
    order, first = [[0, 1], [2, 3], [4, 5], [-1, -1]], [[0, 0], [0, 3], [3, 3], [0, 0]]
    assert blocks_with_something_visible(_spec(order, first, order)).astype(int).tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 0],
    ]


_BLOCKS = hnp.arrays(np.int32, (3, 4), elements=st.integers(-1, 12))


@settings(max_examples=50, deadline=None)
@given(q_order=_BLOCKS, back=hnp.arrays(np.int32, (3, 4), elements=st.integers(0, 12)), k_order=_BLOCKS)
def test_a_block_in_which_something_is_visible_is_never_skipped(q_order, back, k_order):
    first = np.maximum(q_order - back, 0)
    keys = k_order[None, :, None, :]
    seen = (first[:, None, :, None] <= keys) & (keys <= q_order[:, None, :, None])
    computed = np.asarray(blocks_with_something_visible(_spec(q_order, first, k_order)))
    assert not (seen.any(axis=(2, 3)) & ~computed).any()
