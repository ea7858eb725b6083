from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from ringworld.attention.config import AttentionConfig
from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.model.arrange import Layout


class Pair(NamedTuple):
    tokens: Any
    weights: Any


def layout_on(axes: dict[str, int], **options) -> Layout:
    sizes = MeshConfig(**axes)
    attention = AttentionConfig(block_q_tokens=1, block_kv_tokens=1, **options)
    return Layout(attention, mesh=make_mesh(sizes, devices=jax.devices()[: sizes.devices]))


def placed_on(axes: dict[str, int], lengths: list[list[int]], *, seq: int, **options) -> np.ndarray:
    """Place rows of 0 1 2 ..., seq seq+1 ..., and return which token each slot holds."""
    tokens = np.arange(len(lengths) * seq, dtype=np.int32).reshape(len(lengths), seq)
    (placed,) = layout_on(axes, **options).place((tokens,), lengths).arrays
    return np.asarray(placed)


@pytest.mark.parametrize(
    ("layout", "lengths", "expected"),
    [
        ("zigzag", [[8], [8]], [[0, 1, 6, 7, 2, 3, 4, 5], [8, 9, 14, 15, 10, 11, 12, 13]]),
        # Each row by its own documents.
        ("balanced", [[8], [4, 2, 2]], [[0, 1, 6, 7, 2, 3, 4, 5], [8, 11, 12, 15, 9, 10, 13, 14]]),
    ],
)
def test_tokens_move_to_their_members_and_results_come_back_in_order(layout, lengths, expected):
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8)
    batch = Pair(tokens, tokens.astype(np.float32))
    placed = layout_on({"data": 2, "ring": 2}, layout=layout).place(batch, lengths)
    assert isinstance(placed.arrays, Pair)
    np.testing.assert_array_equal(placed.arrays.tokens, expected)
    np.testing.assert_array_equal(placed.arrays.weights, expected)
    assert jax.typeof(placed.arrays.tokens).sharding.spec == spec("batch", "seq")
    assert (placed.arrays.tokens.dtype, placed.arrays.weights.dtype) == (np.int32, np.float32)
    np.testing.assert_array_equal(placed.restore(placed.arrays.tokens), tokens)
    several = placed.arrays.weights[..., None] + np.arange(3, dtype=np.float32)[None, None]
    np.testing.assert_array_equal(placed.restore(several)[..., 2], tokens + 2)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("ring", [0, 7, 1, 6, 2, 5, 3, 4]),
        ("all_gather", [0, 7, 1, 6, 2, 5, 3, 4]),
        # Two members of the ring, each a pair that exchanges tokens for heads.
        ("hybrid", [0, 1, 6, 7, 2, 3, 4, 5]),
        # Every member sees all tokens, which are best in their order.
        ("head_parallel", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_a_layout_is_for_the_members_that_hold_parts_of_the_tokens(strategy, expected):
    placed = placed_on({"ring": 2, "ulysses": 2}, [[8]], seq=8, layout="zigzag", strategy=strategy)
    assert placed[0].tolist() == expected


@pytest.mark.parametrize(
    ("axes", "options"),
    [
        ({"ring": 2}, {"layout": "zigzag"}),
        ({"ring": 2, "ulysses": 2}, {"layout": "striped", "strategy": "hybrid"}),
        ({"ring": 2, "ulysses": 2}, {"layout": "striped", "strategy": "head_parallel"}),
    ],
    ids=str,
)
def test_a_row_that_cannot_be_cut_is_refused(axes, options):
    with pytest.raises(InputError) as refused:
        placed_on(axes, [[6]], seq=6, **options)
    assert (refused.value.field, refused.value.value) == ("seq", 6)


def test_a_layout_does_not_restrict_devices_that_exchange_heads():
    placed = placed_on({"ulysses": 4}, [[4]], seq=4, layout="zigzag", strategy="head_parallel")
    assert placed[0].tolist() == [0, 1, 2, 3]


def test_a_placed_batch_counts_what_it_holds_and_how_evenly():
    # One document of 4 tokens, contiguous over 2 members: 10 of 2 x (3 + 4) pairs. Two of 2: all of 2 x 3.
    batch = (np.zeros((3, 4), np.int32),)
    placed = layout_on({"ring": 2}, layout="contiguous").place(batch, [[4], [2, 2], []])
    assert (placed.tokens, placed.documents, placed.visible_pairs) == (8, 3, 10 + 3 + 3)
    assert placed.ring_efficiency == pytest.approx((10 / 14 + 1 + 1) / 3)
