import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringworld.attention.work import (
    attention_flops,
    by_step,
    check_lengths,
    efficiency_of,
    visible_pairs,
    work_of_chunks,
    work_striped,
)
from ringworld.core.errors import InputError


def counted_one_by_one(lengths: list[int], holders: np.ndarray, *, members: int) -> list[list[int]]:
    work, begin = np.zeros((members, members), int), 0
    for length in lengths:
        for query in range(begin, begin + length):
            for key in range(begin, query + 1):
                work[holders[query], holders[key]] += 1
        begin += length
    return work.tolist()


def live_blocks(lengths: list[int], chunk_tokens: int) -> int:
    ends = np.cumsum(lengths)
    pairs = {
        (query // chunk_tokens, key // chunk_tokens)
        for end, length in zip(ends.tolist(), lengths)
        for query in range(end - length, end)
        for key in range(end - length, query + 1)
    }
    return len(pairs)


def test_pairs_counted_by_hand():
    # Queries 0 1 2 3 see 1 2 3 4 keys; 0 and 1 live on member 0.
    assert work_of_chunks([4], np.array([0, 1]), seq=4, members=2).tolist() == [[3, 0], [4, 3]]
    # Tokens 0 and 1 are one document, 2 to 4 another, and 5 is padding; chunks of two tokens.
    work = work_of_chunks([2, 3], np.array([1, 0, 1]), seq=6, members=2)
    assert work.tolist() == [[3, 0], [2, 3 + 1]]
    # The second document is seen in the blocks of chunks 1 and 2, and in that of 2 and 1.
    work = work_of_chunks([2, 3], np.array([1, 0, 1]), seq=6, members=2, of="blocks")
    assert work.tolist() == [[4, 0], [4, 4 + 4]]
    assert work_striped([3], members=2).tolist() == [[3, 1], [1, 1]]
    assert work_striped([1, 3], members=2).tolist() == [[1 + 1, 1], [1, 3]]


@given(data=st.data(), members=st.integers(1, 4), chunk_tokens=st.integers(1, 4), chunks=st.integers(1, 8))
def test_pairs_are_those_counted_one_by_one(data, members, chunk_tokens, chunks):
    seq = chunk_tokens * chunks
    drawn = data.draw(st.lists(st.integers(1, 9), max_size=8))
    lengths = [n for n, end in zip(drawn, np.cumsum(drawn)) if end <= seq]
    holders = np.array(data.draw(st.lists(st.integers(0, members - 1), min_size=chunks, max_size=chunks)))
    of_tokens = np.repeat(holders, chunk_tokens)
    expected = counted_one_by_one(lengths, of_tokens, members=members)
    assert work_of_chunks(lengths, holders, seq=seq, members=members).tolist() == expected
    blocks = work_of_chunks(lengths, holders, seq=seq, members=members, of="blocks")
    assert blocks.sum() == chunk_tokens**2 * live_blocks(lengths, chunk_tokens)
    assert (blocks >= expected).all()
    in_turn = counted_one_by_one(lengths, np.arange(seq) % members, members=members)
    assert work_striped(lengths, members=members).tolist() == in_turn


def test_step_t_pairs_a_member_with_the_keys_of_the_t_th_before_it():
    work = np.array([[0, 1, 2], [10, 11, 12], [20, 21, 22]])
    assert by_step(work).tolist() == [[0, 2, 1], [11, 10, 12], [22, 21, 20]]


def test_each_step_waits_for_its_slowest_member():
    # 10 visible pairs; members take 3 and 3 in the first step, 0 and 4 in the second.
    assert efficiency_of(np.array([[3, 0], [4, 3]]), [4]) == 10 / (2 * (3 + 4))
    assert efficiency_of(np.zeros((2, 2), np.int64), []) == 0


def test_documents_that_do_not_fit_are_refused():
    for lengths in ([4, 5], [4, 0]):
        with pytest.raises(InputError) as refused:
            check_lengths(lengths, seq=8)
        assert (refused.value.field, refused.value.value) == ("lengths", lengths)
    check_lengths([], seq=8)


def test_the_work_of_attention_is_what_is_visible():
    assert visible_pairs([2, 3]) == 9
    # Two products forward, five backward, each of 2 x 16 for each of 9 pairs and 4 heads.
    assert attention_flops(9, heads=4, head=16, backward=False) == 2 * (2 * 16 * 9 * 4)
    assert attention_flops(9, heads=4, head=16, backward=True) == 7 * (2 * 16 * 9 * 4)
