import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringworld.attention.efficiency import ring_work, total_balance
from ringworld.attention.layouts import place
from ringworld.bench.lengths import draw
from ringworld.core.errors import InputError
from tests.attention import reference
from tests.attention.efficiencies import ring_efficiency

LAYOUTS = ("contiguous", "zigzag", "striped", "balanced")


def test_the_work_between_two_members_counted_by_hand():
    def work(lengths, layout, *, seq=4):
        return ring_work(lengths, place(layout, seq=seq, members=2, lengths=lengths)).tolist()

    # Queries 0 1 2 3 see 1 2 3 4 keys; 0 and 1 live on member 0.
    assert work([4], "contiguous") == [[3, 0], [4, 3]]
    # Member 0 holds 0 and 3, member 1 holds 1 and 2.
    assert work([4], "zigzag") == [[3, 2], [2, 3]]
    assert work([4], "striped") == [[3, 1], [3, 3]]
    # Two documents that do not see each other, and two tokens of padding.
    assert work([1, 1], "contiguous") == [[2, 0], [0, 0]]


def test_efficiency_is_the_work_over_what_the_slowest_member_takes():
    assert ring_efficiency([4], "contiguous", members=2) == 10 / (2 * (3 + 4))
    assert ring_efficiency([4], "zigzag", members=2) == 1
    assert ring_efficiency([4], "striped", members=2) == 10 / (2 * (3 + 3))
    assert ring_efficiency([5, 3], "contiguous", members=1) == 1
    assert ring_efficiency([], "contiguous", members=2, seq=4) == 0


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    members=st.integers(1, 4),
    layout=st.sampled_from(LAYOUTS),
    block=st.integers(1, 3),
)
def test_work_is_that_of_the_mask(lengths, members, layout, block):
    used = sum(lengths)
    seq = -(-used // (6 * members)) * 6 * members
    order = np.where(np.arange(seq) < used, np.arange(seq), -1)
    first = np.zeros(seq, np.int64)
    first[:used] = np.repeat(np.cumsum(lengths) - lengths, lengths)
    placement = place(layout, seq=seq, members=members, lengths=lengths, chunk_tokens=3)
    perm = placement.token_of_slot()
    seen = reference.mask(order[None, perm], first[None, perm], order[None, perm])[0, 0]
    blocks = seen.reshape(members, seq // members // block, block, members, seq // members // block, block)
    of_blocks = blocks.sum(axis=(2, 5))
    pairs = of_blocks.sum(axis=(1, 3))
    if block == 1:
        assert ring_work(lengths, placement).tolist() == pairs.tolist()
    else:
        work = ring_work(lengths, placement, block_tokens=block)
        # A kernel compares bounds, so it may compute a block in which nothing turns out to be visible.
        assert (work >= (of_blocks > 0).sum(axis=(1, 3)) * block**2).all()
        if layout == "contiguous":
            assert work.tolist() == ((of_blocks > 0).sum(axis=(1, 3)) * block**2).tolist()


def test_blocks_count_whole_when_anything_is_visible():
    # Blocks of 2 x 2: three of four on the diagonal and below it.
    placement = place("contiguous", seq=4, members=2)
    assert ring_work([4], placement, block_tokens=2).tolist() == [[4, 0], [4, 4]]
    # Every block of two striped members holds tokens of both documents.
    placement = place("striped", seq=4, members=2)
    assert ring_work([2, 2], placement, block_tokens=2).tolist() == [[4, 4], [4, 4]]
    assert ring_efficiency([2, 2], "striped", members=2, block_tokens=2) == 6 / (2 * (4 + 4))
    # Padding is seen by nothing; a block is no longer than a member's share.
    placement = place("contiguous", seq=4, members=2, lengths=[1])
    assert ring_work([1], placement, block_tokens=256).tolist() == [[4, 0], [0, 0]]


def test_in_blocks_of_a_kernel_balanced_wastes_least():
    for seed in range(3):
        lengths = draw("lognormal", seq=2**18, seed=seed)
        in_blocks = {
            layout: ring_efficiency(lengths, layout, members=8, block_tokens=256) for layout in LAYOUTS
        }
        assert in_blocks["balanced"] > 1.2 * max(in_blocks[layout] for layout in LAYOUTS[:-1])


def test_the_balance_of_all_gather_is_the_mean_over_the_largest_total():
    assert total_balance(np.array([[3, 0], [4, 3]])) == 5 / 7
    assert total_balance(np.zeros((2, 2), np.int64)) == 0


def test_what_cannot_be_counted_is_refused():
    placement = place("contiguous", seq=8, members=2)
    for lengths, options, field in (
        ([4, 5], {}, "lengths"),
        ([4, 0], {}, "lengths"),
        ([8], {"block_tokens": 0}, "block_tokens"),
    ):
        with pytest.raises(InputError) as refused:
            ring_work(lengths, placement, **options)
        assert refused.value.field == field
