import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringworld.attention.config import AttentionConfig
from ringworld.attention.layouts import check_shares, filled_length, place, place_rows
from ringworld.bench.lengths import until_full
from ringworld.core.errors import InputError

LAYOUTS = ("contiguous", "zigzag", "striped", "balanced")


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("contiguous", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]),
        ("zigzag", [[0, 1, 14, 15], [2, 3, 12, 13], [4, 5, 10, 11], [6, 7, 8, 9]]),
        ("striped", [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]),
        # One document fills the sequence, so that this is zigzag.
        ("balanced", [[0, 1, 14, 15], [2, 3, 12, 13], [4, 5, 10, 11], [6, 7, 8, 9]]),
    ],
)
def test_the_tokens_of_each_of_four_members(layout, expected):
    assert place(layout, seq=16, members=4).token_of_slot().reshape(4, 4).tolist() == expected


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("contiguous", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("zigzag", [[0, 1, 6, 7], [2, 3, 4, 5]]),
        ("striped", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("balanced", [[0, 3, 4, 7], [1, 2, 5, 6]]),
    ],
)
def test_the_tokens_of_three_packed_documents(layout, expected):
    placement = place(layout, seq=8, members=2, lengths=[4, 2, 2], chunk_tokens=1)
    assert placement.token_of_slot().reshape(2, 4).tolist() == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_member_holds_the_sequence_as_it_is(layout):
    assert place(layout, seq=6, members=1).token_of_slot().tolist() == [0, 1, 2, 3, 4, 5]


@given(data=st.data(), layout=st.sampled_from(LAYOUTS), members=st.integers(1, 8), share=st.integers(1, 20))
def test_every_token_has_one_slot_and_a_member_keeps_the_order(data, layout, members, share):
    seq = 2 * members * share
    draws = data.draw(st.lists(st.integers(1, seq), min_size=1, max_size=20))
    lengths = until_full(np.array(draws), seq=data.draw(st.integers(1, seq)))
    placement = place(layout, seq=seq, members=members, lengths=lengths, chunk_tokens=4)
    tokens = placement.token_of_slot()
    assert sorted(tokens.tolist()) == list(range(seq))
    assert tokens[placement.slot_of_token()].tolist() == list(range(seq))
    assert (np.diff(tokens.reshape(members, -1), axis=1) > 0).all()


def test_slots_bring_tokens_back():
    placement = place("zigzag", seq=12, members=2)
    assert placement.token_of_slot().tolist() == [0, 1, 2, 9, 10, 11, 3, 4, 5, 6, 7, 8]
    assert placement.slot_of_token().tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11, 3, 4, 5]


# Shares of 16,411 tokens, a prime, would make chunks of single tokens.
LONG_PRIME = 64 * 16411


@pytest.mark.parametrize(
    ("layout", "seq", "members", "next_length"),
    [
        ("zigzag", 12, 4, 16),
        ("striped", 13, 4, 16),
        ("balanced", 13, 4, 16),
        ("balanced", LONG_PRIME, 64, 1081344),
        ("contiguous", 13, 4, 16),
    ],
)
def test_a_sequence_that_does_not_divide_is_refused_and_the_next_that_does_is_known(
    layout, seq, members, next_length
):
    with pytest.raises(InputError) as refused:
        place(layout, seq=seq, members=members)
    assert (refused.value.field, refused.value.value) == ("seq", seq)
    assert refused.value.suggested == next_length
    assert filled_length(AttentionConfig(layout=layout), seq=seq, ring=members, ulysses=1) == next_length


@given(
    layout=st.sampled_from(LAYOUTS),
    strategy=st.sampled_from(["ring", "hybrid", "head_parallel", "all_gather"]),
    seq=st.integers(1, 5000),
    ring=st.integers(1, 6),
    ulysses=st.integers(1, 6),
)
def test_a_filled_sequence_can_be_cut_and_is_no_longer_than_it_must_be(layout, strategy, seq, ring, ulysses):
    config = AttentionConfig(layout=layout, strategy=strategy)
    filled = filled_length(config, seq=seq, ring=ring, ulysses=ulysses)
    assert seq <= filled < seq + 2 * ring * ulysses
    check_shares(config, seq=filled, ring=ring, ulysses=ulysses)


@pytest.mark.parametrize(
    ("platform", "seq", "chunk"),
    [
        ("cpu", 32 * 1024, 256),
        ("tpu", 32 * 1024, 1024),
        # Shares of less than two blocks are dealt in halves.
        ("tpu", 4 * 1024, 512),
        ("tpu", 1536, 192),
        ("tpu", 8, 1),
    ],
)
def test_a_chunk_is_a_side_of_a_block_of_the_kernel_on_the_platform(platform, seq, chunk):
    config = AttentionConfig(layout="balanced")
    (placement,) = place_rows([[seq]], config, seq=seq, ring=4, ulysses=1, platform=platform)
    assert seq // placement.holders.size == chunk


def test_documents_that_do_not_fit_are_refused_in_any_layout():
    for layout in LAYOUTS:
        with pytest.raises(InputError) as refused:
            place(layout, seq=8, members=2, lengths=[4, 5])
        assert refused.value.field == "lengths"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"members": 0}, "members"),
        ({"chunk_tokens": 0}, "chunk_tokens"),
        ({"seq": 0}, "seq"),
        ({"seq": 2**31}, "seq"),
        ({"lengths": [4, 0]}, "lengths"),
    ],
    ids=str,
)
def test_numbers_that_make_no_sense_are_refused(options, field):
    with pytest.raises(InputError) as refused:
        place("balanced", **{"seq": 16, "members": 2} | options)
    assert refused.value.field == field
