import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringworld.attention.layouts import example_lengths, inverse, permutation, place
from ringworld.cli.jobs.lengths import until_full
from ringworld.core.errors import InputError

LAYOUTS = ("contiguous", "zigzag", "striped", "balanced")


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("contiguous", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]),
        ("zigzag", [[0, 1, 14, 15], [2, 3, 12, 13], [4, 5, 10, 11], [6, 7, 8, 9]]),
        ("striped", [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]),
        # One example fills the sequence, so that this is zigzag.
        ("balanced", [[0, 1, 14, 15], [2, 3, 12, 13], [4, 5, 10, 11], [6, 7, 8, 9]]),
    ],
)
def test_the_tokens_of_each_of_four_members(layout, expected):
    assert permutation(layout, seq=16, members=4).reshape(4, 4).tolist() == expected


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("contiguous", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("zigzag", [[0, 1, 6, 7], [2, 3, 4, 5]]),
        ("striped", [[0, 2, 4, 6], [1, 3, 5, 7]]),
        ("balanced", [[0, 3, 4, 7], [1, 2, 5, 6]]),
    ],
)
def test_the_tokens_of_three_packed_examples(layout, expected):
    placement = place(layout, seq=8, members=2, lengths=[4, 2, 2], chunk_tokens=1)
    assert placement.permutation().reshape(2, 4).tolist() == expected


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_member_holds_the_sequence_as_it_is(layout):
    assert permutation(layout, seq=6, members=1).tolist() == [0, 1, 2, 3, 4, 5]


@given(data=st.data(), layout=st.sampled_from(LAYOUTS), members=st.integers(1, 8), share=st.integers(1, 20))
def test_every_token_has_one_slot_and_a_member_keeps_the_order(data, layout, members, share):
    seq = 2 * members * share
    draws = data.draw(st.lists(st.integers(1, seq), min_size=1, max_size=20))
    lengths = until_full(np.array(draws), seq=data.draw(st.integers(1, seq)))
    perm = place(layout, seq=seq, members=members, lengths=lengths, chunk_tokens=4).permutation()
    assert sorted(perm.tolist()) == list(range(seq))
    assert (np.diff(perm.reshape(members, -1), axis=1) > 0).all()


def test_the_inverse_brings_tokens_back():
    perm = permutation("zigzag", seq=12, members=2)
    assert perm.tolist() == [0, 1, 2, 9, 10, 11, 3, 4, 5, 6, 7, 8]
    assert inverse(perm).tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11, 3, 4, 5]


def test_a_sequence_that_does_not_divide_is_refused_with_one_that_does():
    with pytest.raises(InputError, match="12 tokens over 4 members, expected a multiple of 8. Use 16"):
        permutation("zigzag", seq=12, members=4)
    with pytest.raises(InputError, match="expected a multiple of 4. Use 16"):
        permutation("striped", seq=13, members=4)
    with pytest.raises(InputError, match="balanced layout: got 13 tokens.*multiple of 4. Use 16"):
        permutation("balanced", seq=13, members=4)
    # Shares of 16,411 tokens, a prime: chunks would be single tokens.
    with pytest.raises(
        InputError, match="balanced layout: got 1050304 tokens.*a multiple of 32768. Use 1081344"
    ):
        permutation("balanced", seq=64 * 16411, members=64)
    assert permutation("contiguous", seq=12, members=4).size == 12


def test_examples_that_do_not_fill_a_sequence_are_refused_in_any_layout():
    for layout in LAYOUTS:
        with pytest.raises(
            InputError, match="got 9 tokens in all, the shortest 4, expected lengths.*Pack fewer"
        ):
            place(layout, seq=8, members=2, lengths=[4, 5])


def test_lengths_are_read_off_a_packed_row():
    order, first = np.array([0, 1, 2, 3, 4, -1]), np.array([0, 0, 0, 3, 3, 0])
    assert example_lengths(order, first) == [3, 2]
    assert example_lengths(np.full(4, -1), np.zeros(4, np.int64)) == []
    assert example_lengths(np.arange(3), np.arange(3)) == [1, 1, 1]
