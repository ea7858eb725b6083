import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringworld.attention.balance import chunk_size, deal, needed_divisor
from ringworld.attention.efficiency import ring_work, total_balance
from ringworld.attention.layouts import place
from ringworld.attention.work import by_step, efficiency_of
from ringworld.bench.lengths import draw, until_full
from tests.attention.efficiencies import ring_efficiency

K = 1024


def work_of(lengths: list[int], *, seq: int, members: int) -> np.ndarray:
    """Return the work between members where a chunk is a token."""
    return ring_work(lengths, place("balanced", seq=seq, members=members, lengths=lengths, chunk_tokens=1))


@pytest.mark.parametrize(
    ("lengths", "seq", "members"),
    [([8], 8, 2), ([12], 12, 3), ([6, 6], 12, 3), ([4, 2, 2], 8, 2), ([5], 8, 1)],
    ids=str,
)
def test_documents_longer_than_a_share_are_dealt_evenly(lengths, seq, members):
    work = work_of(lengths, seq=seq, members=members)
    # At each step, at most a token's own pair more than the mean.
    steps = by_step(work)
    assert (steps.max(axis=0) <= steps.mean(axis=0) + 1).all()


@pytest.mark.parametrize(
    ("lengths", "seq", "members"),
    [
        ([4, 4], 8, 2),
        ([1] * 6, 6, 3),
        # In their order, members would have 4 and 6 pairs, and 15 and 3.
        ([1, 1, 1, 1, 2, 2], 8, 2),
        ([3, 3, 1, 1, 1, 1, 1, 1], 12, 2),
    ],
    ids=str,
)
def test_short_documents_stay_whole_and_give_every_member_as_much(lengths, seq, members):
    work = work_of(lengths, seq=seq, members=members)
    assert (work == np.diag(np.diag(work))).all()
    assert len(set(np.diag(work).tolist())) == 1


def test_no_documents_at_all_are_dealt():
    assert not work_of([], seq=4, members=2).any()


@settings(max_examples=50)
@given(data=st.data(), members=st.integers(1, 7), share=st.integers(1, 24), chunk_tokens=st.integers(1, 9))
def test_any_lengths_give_every_member_as_many_chunks_and_always_the_same(data, members, share, chunk_tokens):
    seq = members * share
    draws = data.draw(st.lists(st.integers(1, seq), min_size=1, max_size=30))
    lengths = until_full(np.array(draws), seq=data.draw(st.integers(1, seq)))
    holders = deal(lengths, seq=seq, members=members, chunk_tokens=chunk_tokens)
    size = chunk_size(seq=seq, members=members, chunk_tokens=chunk_tokens)
    assert np.bincount(holders, minlength=members).tolist() == [share // size] * members
    again = deal(lengths, seq=seq, members=members, chunk_tokens=chunk_tokens)
    assert holders.tolist() == again.tolist()


@pytest.mark.parametrize("members", [1, 2, 3, 5, 6, 7, 8, 12, 24, 48, 61, 63, 64])
def test_one_document_over_any_members_wastes_nothing(members):
    assert ring_efficiency([members * 4096], "balanced", members=members) > 0.9999
    assert ring_efficiency([members * 3000], "balanced", members=members) >= 0.97
    assert ring_efficiency([members * 4095], "balanced", members=members) >= 0.97


MIXTURES = {
    "lognormal": lambda seed: draw("lognormal", seq=256 * K, seed=seed),
    "narrow": lambda seed: draw("lognormal", seq=256 * K, seed=seed, median_tokens=1000, sigma=0.8),
    "short": lambda seed: draw("lognormal", seq=256 * K, seed=seed, median_tokens=300, sigma=1.0),
    "book": lambda seed: draw("book", seq=256 * K, seed=seed),
    "uniform to 8K": lambda seed: until_full(
        np.random.default_rng(seed).integers(1, 8 * K, 4000), seq=256 * K
    ),
    "uniform to 64K": lambda seed: until_full(
        np.random.default_rng(seed).integers(1, 64 * K, 4000), seq=256 * K
    ),
    "uniform to 1,000": lambda seed: until_full(
        np.random.default_rng(seed).integers(1, 1000, 4000), seq=256 * K
    ),
    "uniform to a block": lambda seed: until_full(
        np.random.default_rng(seed).integers(1, 256, 4000), seq=256 * K
    ),
    "exponential": lambda seed: until_full(np.random.default_rng(seed).exponential(1500, 4000), seq=256 * K),
    "equal": lambda seed: until_full(np.full(4000, 300 * (seed + 2) ** 2), seq=256 * K),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mixture", MIXTURES)
def test_256k_tokens_over_8_members_reach_0_97(mixture, seed):
    assert ring_efficiency(MIXTURES[mixture](seed), "balanced", members=8, seq=256 * K) >= 0.97


@pytest.mark.parametrize("seed", range(3))
def test_a_million_tokens_over_64_members_with_a_book_reach_0_85(seed):
    seq, members = K * K, 64
    lengths = draw("book", seq=seq, seed=seed)
    placement = place("balanced", seq=seq, members=members, lengths=lengths)
    work = ring_work(lengths, placement)
    assert total_balance(work) >= 0.97
    assert efficiency_of(work, lengths) >= 0.85
    assert efficiency_of(ring_work(lengths, placement, block_tokens=256), lengths) >= 0.85
    for layout in ("contiguous", "zigzag"):
        assert ring_efficiency(lengths, layout, members=members) < 0.5


def test_chunks_are_blocks_of_a_kernel_that_divide_a_share():
    assert chunk_size(seq=K * K, members=64) == 256
    assert chunk_size(seq=256 * K, members=8, chunk_tokens=128) == 128
    assert chunk_size(seq=4 * K * K, members=64) == 1024
    assert chunk_size(seq=3000, members=3) == 250
    assert chunk_size(seq=64, members=8) == 4
    assert chunk_size(seq=8, members=8) == 1


def test_a_share_without_a_fit_divisor_needs_a_longer_sequence():
    assert needed_divisor(seq=64 * 16384, members=64) == 64
    assert needed_divisor(seq=64 * 16411, members=64) == 64 * 512
    assert needed_divisor(seq=8 * 17, members=8) == 8
