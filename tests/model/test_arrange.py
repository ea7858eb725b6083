from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from ringworld.attention.config import AttentionConfig
from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.model.arrange import arrange, place_rows, placed_rows


class Pair(NamedTuple):
    tokens: np.ndarray
    weights: np.ndarray


def arranged(lengths, **options) -> np.ndarray:
    """Lay out rows of 0 1 2 ... 7, 8 9 10 ... over two members each."""
    mesh = make_mesh(MeshConfig(data=2, ring=2), devices=jax.devices()[:4])
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8)
    attention = AttentionConfig(block_q_tokens=1, block_kv_tokens=1, **options)
    placements = place_rows(lengths, seq=8, attention=attention, mesh=mesh)
    batch = arrange(Pair(tokens, tokens.astype(np.float32)), mesh=mesh, placements=placements)
    assert isinstance(batch, Pair)
    assert jax.typeof(batch.tokens).sharding.spec == spec("batch", "seq")
    assert batch.weights.dtype == np.float32
    np.testing.assert_array_equal(batch.weights, batch.tokens)
    return batch.tokens


def test_lays_tokens_out_and_keeps_type_and_names():
    tokens = arranged([[8], [8]], layout="zigzag")
    np.testing.assert_array_equal(tokens, [[0, 1, 6, 7, 2, 3, 4, 5], [8, 9, 14, 15, 10, 11, 12, 13]])


def test_each_row_has_a_layout_of_its_own():
    tokens = arranged([[8], [4, 2, 2]], layout="balanced")
    np.testing.assert_array_equal(tokens, [[0, 1, 6, 7, 2, 3, 4, 5], [8, 11, 12, 15, 9, 10, 13, 14]])


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("ring", [0, 7, 1, 6, 2, 5, 3, 4]),
        ("all_gather", [0, 7, 1, 6, 2, 5, 3, 4]),
        # Two members of the ring, each a pair that exchanges tokens for heads.
        ("hybrid", [0, 1, 6, 7, 2, 3, 4, 5]),
        # None: every member sees all tokens, which are best in their order.
        ("head_parallel", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_a_layout_is_for_the_members_that_hold_parts_of_the_tokens(strategy, expected):
    mesh = make_mesh(MeshConfig(ring=2, ulysses=2), devices=jax.devices()[:4])
    attention = AttentionConfig(layout="zigzag", strategy=strategy)
    (placement,) = place_rows([[8]], seq=8, attention=attention, mesh=mesh)
    assert placement.permutation().tolist() == expected


@pytest.mark.parametrize("strategy", ["hybrid", "head_parallel"])
def test_a_row_is_cut_over_those_that_exchange_heads_too(strategy):
    mesh = make_mesh(MeshConfig(ring=2, ulysses=2), devices=jax.devices()[:4])
    with pytest.raises(InputError, match="got 6 tokens over 4 members"):
        place_rows([[6]], seq=6, attention=AttentionConfig(layout="striped", strategy=strategy), mesh=mesh)


def test_a_layout_asks_nothing_of_those_that_exchange_heads():
    mesh = make_mesh(MeshConfig(ulysses=4), devices=jax.devices()[:4])
    attention = AttentionConfig(layout="zigzag", strategy="head_parallel")
    (placement,) = place_rows([[4]], seq=4, attention=attention, mesh=mesh)
    assert placement.permutation().tolist() == [0, 1, 2, 3]


class _Tpu:
    """A device of a TPU that is not there."""

    platform, device_kind, process_index = "tpu", "TPU v5 lite", 0

    def __init__(self, number: int) -> None:
        self.id = number


@pytest.mark.parametrize(
    ("tpus", "seq", "chunk"),
    [
        (False, 32 * 1024, 256),
        (True, 32 * 1024, 1024),
        # Shares of less than two blocks are dealt in halves.
        (True, 4 * 1024, 512),
        (True, 1536, 192),
        (True, 8, 1),
    ],
)
def test_a_chunk_is_a_side_of_a_block_of_the_kernel_for_the_devices_of_the_mesh(tpus, seq, chunk):
    devices = np.array([_Tpu(n) for n in range(4)] if tpus else jax.devices()[:4])
    mesh = Mesh(devices.reshape(4, 1), ("ring", "ulysses"))
    attention = AttentionConfig(layout="balanced")
    (placement,) = place_rows([[seq]], seq=seq, attention=attention, mesh=mesh)
    assert seq // placement.holders.size == chunk


def test_what_was_laid_out_comes_back_in_order():
    mesh = make_mesh(MeshConfig(ring=2), devices=jax.devices()[:2])
    order, first = np.array([[0, 1, 2, 3, 4, 5, -1, -1]]), np.array([[0, 0, 0, 3, 3, 3, 0, 0]])
    attention = AttentionConfig(layout="zigzag")
    (row,) = placed_rows(order, first, attention=attention, mesh=mesh)
    (placed,) = arrange(Pair(order, first), mesh=mesh, placements=[row.placement]).tokens
    assert placed.tolist() == [0, 1, -1, -1, 2, 3, 4, 5]
    assert np.asarray(placed)[row.slots()].tolist() == order[0].tolist()
    assert row.lengths == [3, 3]


def test_refuses_a_sequence_that_cannot_be_cut():
    mesh = make_mesh(MeshConfig(ring=2), devices=jax.devices()[:2])
    with pytest.raises(InputError, match="multiple of 4"):
        place_rows([[6]], seq=6, attention=AttentionConfig(layout="zigzag"), mesh=mesh)
