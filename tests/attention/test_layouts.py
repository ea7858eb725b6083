import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringworld.attention import reference
from ringworld.attention.layouts import inverse, permutation, ring_efficiency, ring_work
from ringworld.core.errors import InputError


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("contiguous", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]),
        ("zigzag", [[0, 1, 14, 15], [2, 3, 12, 13], [4, 5, 10, 11], [6, 7, 8, 9]]),
        ("striped", [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15]]),
    ],
)
def test_the_tokens_of_each_of_four_members(layout, expected):
    assert permutation(layout, seq=16, members=4).reshape(4, 4).tolist() == expected


@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "striped"])
def test_one_member_holds_the_sequence_as_it_is(layout):
    assert permutation(layout, seq=6, members=1).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_inverse_brings_tokens_back():
    perm = permutation("zigzag", seq=12, members=2)
    assert perm.tolist() == [0, 1, 2, 9, 10, 11, 3, 4, 5, 6, 7, 8]
    assert inverse(perm).tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11, 3, 4, 5]


def test_a_sequence_that_does_not_divide_is_refused_with_one_that_does():
    with pytest.raises(InputError, match="12 tokens over 4 ring members, expected a multiple of 8. Use 16"):
        permutation("zigzag", seq=12, members=4)
    with pytest.raises(InputError, match="expected a multiple of 4. Use 16"):
        permutation("striped", seq=13, members=4)
    assert permutation("contiguous", seq=12, members=4).size == 12


def test_the_work_between_two_members_counted_by_hand():
    # Queries 0 1 2 3 see 1 2 3 4 keys; 0 and 1 live on member 0.
    assert ring_work([4], "contiguous", members=2).tolist() == [[3, 0], [4, 3]]
    # Member 0 holds 0 and 3, member 1 holds 1 and 2.
    assert ring_work([4], "zigzag", members=2).tolist() == [[3, 2], [2, 3]]
    assert ring_work([4], "striped", members=2).tolist() == [[3, 1], [3, 3]]
    # Two examples that do not see each other, and two tokens of padding.
    assert ring_work([1, 1], "contiguous", members=2, seq=4).tolist() == [[2, 0], [0, 0]]


def test_efficiency_is_the_work_over_what_the_slowest_member_takes():
    assert ring_efficiency([4], "contiguous", members=2) == 10 / (2 * (3 + 4))
    assert ring_efficiency([4], "zigzag", members=2) == 1
    assert ring_efficiency([4], "striped", members=2) == 10 / (2 * (3 + 3))
    assert ring_efficiency([5, 3], "contiguous", members=1) == 1
    assert ring_efficiency([], "contiguous", members=2, seq=4) == 0


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    members=st.integers(1, 4),
    layout=st.sampled_from(["contiguous", "zigzag", "striped"]),
)
def test_work_is_the_number_of_visible_pairs_of_the_mask(lengths, members, layout):
    used = sum(lengths)
    seq = -(-used // (2 * members)) * 2 * members
    order = np.where(np.arange(seq) < used, np.arange(seq), -1)
    first = np.zeros(seq, np.int64)
    first[:used] = np.repeat(np.cumsum(lengths) - lengths, lengths)
    perm = permutation(layout, seq=seq, members=members)
    seen = reference.mask(order[None, perm], first[None, perm], order[None, perm])[0, 0]
    blocks = seen.reshape(members, seq // members, members, seq // members).sum(axis=(1, 3))
    assert ring_work(lengths, layout, members=members, seq=seq).tolist() == blocks.tolist()


def test_examples_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="9 tokens in all"):
        ring_work([4, 5], "contiguous", members=2, seq=8)
    with pytest.raises(InputError, match="shortest 0"):
        ring_work([4, 0], "contiguous", members=2, seq=8)


def test_efficiency_of_64k_tokens_takes_milliseconds():
    lengths = [1024] * 64
    start = time.process_time()
    assert ring_efficiency(lengths, "striped", members=8) > 0.99
    assert time.process_time() - start < 0.05
