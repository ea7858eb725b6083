import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringworld.attention.balance import chunk_size, deal, needed_divisor
from ringworld.attention.efficiency import ring_efficiency, ring_work, total_balance
from ringworld.attention.layouts import place
from ringworld.attention.work import efficiency_of
from ringworld.cli.jobs.lengths import lognormal, until_full

K = 1024


def dealt(lengths: list[int], *, seq: int, members: int) -> list[int]:
    return deal(lengths, seq=seq, members=members, chunk_tokens=1).tolist()


def test_one_document_is_dealt_in_zigzag():
    assert dealt([8], seq=8, members=2) == [0, 0, 1, 1, 1, 1, 0, 0]
    assert dealt([12], seq=12, members=3) == [0, 0, 1, 1, 2, 2, 2, 2, 1, 1, 0, 0]


def test_each_document_is_dealt_by_itself():
    assert dealt([6, 6], seq=12, members=3) == [0, 1, 2, 2, 1, 0, 0, 1, 2, 2, 1, 0]
    # Member 1 asks member 0 in the second document, so member 0 asks member 1 in the third.
    assert dealt([4, 2, 2], seq=8, members=2) == [0, 1, 1, 0, 0, 1, 1, 0]


def test_short_documents_are_exchanged_whole_between_runs():
    # As they are, members would have 4 and 6 pairs; a document of two goes for two of one.
    assert dealt([1, 1, 1, 1, 2, 2], seq=8, members=2) == [1, 1, 0, 0, 0, 0, 1, 1]
    # 15 and 3 to 9 and 9.
    assert dealt([3, 3, 1, 1, 1, 1, 1, 1], seq=12, members=2) == [1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1]


def test_what_waits_for_nobody_stays_as_it_is():
    assert dealt([4, 4], seq=8, members=2) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert dealt([1] * 6, seq=6, members=3) == [0, 0, 1, 1, 2, 2]
    assert dealt([], seq=4, members=2) == [0, 0, 1, 1]
    assert dealt([5], seq=8, members=1) == [0] * 8


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
    "lognormal": lambda seed: lognormal(seq=256 * K, seed=seed),
    "narrow": lambda seed: lognormal(seq=256 * K, seed=seed, median_tokens=1000, sigma=0.8),
    "short": lambda seed: lognormal(seq=256 * K, seed=seed, median_tokens=300, sigma=1.0),
    "book": lambda seed: lognormal(seq=256 * K, seed=seed, book=0.4),
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
    lengths = lognormal(seq=seq, seed=seed, book=0.4)
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
