from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringworld.data.examples import Example
from ringworld.data.packing import Packer, piece_bounds, to_batch
from tests.data.packs import pack, pieces

TEXT_SIZE = 100
FITS: tuple[Literal["first", "best"], ...] = ("first", "best")


def example(tokens, loss, kind: str = "text") -> Example:
    return Example(
        tokens=np.array(tokens, np.int32),
        loss=np.array(loss, bool),
        kind=kind,
        source="file",
        cut="tokens" if kind == "text" else "never",
    )


QUESTION = example([1, 20, 30, 2], [0, 0, 1, 1], "text_qa")
IMAGE = example([1, 40, 103, 100, 109, 4], [0, 0, 1, 1, 1, 0], "caption_image")


def test_two_examples_in_a_row():
    packed = to_batch([[QUESTION, IMAGE]], context_tokens=12, text_size=TEXT_SIZE)
    batch = packed.batch
    assert packed.lengths == [[4, 6]]
    third = np.float32(1 / 3)
    assert batch.tokens.tolist() == [[1, 20, 30, 2, 1, 40, 103, 100, 109, 4, 0, 0]]
    assert batch.targets.tolist() == [[20, 30, 2, 0, 40, 103, 100, 109, 4, 0, 0, 0]]
    assert batch.order.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, -1, -1]]
    assert batch.first.tolist() == [[0, 0, 0, 0, 4, 4, 4, 4, 4, 4, 0, 0]]
    assert batch.text_weights.tolist() == [[0, 0.5, 0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert batch.vision_weights.tolist() == [[0, 0, 0, 0, 0, third, third, third, 0, 0, 0, 0]]


def test_an_example_with_loss_on_both_counts_once_in_each():
    both = example([1, 3, 103, 109, 4, 2], [0, 1, 1, 1, 1, 1], "video")
    batch = to_batch([[both]], context_tokens=6, text_size=TEXT_SIZE).batch
    assert batch.text_weights.sum() == pytest.approx(1) and batch.vision_weights.sum() == 1
    assert np.count_nonzero(batch.text_weights) == 3 and np.count_nonzero(batch.vision_weights) == 2


def test_first_fit_closes_the_fullest_row():
    packer = Packer[range](context_tokens=10, open_sequences=2)
    closed = [packer.add(range(length)) for length in (6, 7, 4, 8, 9)]
    assert closed == [None, None, [range(6), range(4)], None, [range(8)]]
    assert packer.sequences == [[range(7)], [range(9)]]


def test_best_fit_takes_the_row_with_the_least_room():
    first, best = (Packer[range](context_tokens=10, open_sequences=9, fit=fit) for fit in FITS)
    for packer, expected in ((first, [range(4), range(3)]), (best, [range(5), range(3)])):
        packer.resume([[range(4)], [range(5)], [range(8)]])
        assert packer.add(range(3)) is None
        assert expected in packer.sequences and len(packer.sequences) == 3
    assert best.add(range(2)) == [range(5), range(3), range(2)]


def test_rows_split_into_parts_with_their_lengths():
    packed = to_batch([[QUESTION], [], [IMAGE, QUESTION], [IMAGE]], context_tokens=10, text_size=TEXT_SIZE)
    parts = packed.split(2)
    assert [part.lengths for part in parts] == [[[4], []], [[6, 4], [6]]]
    for field, *of_parts in zip(packed.batch, *(part.batch for part in parts)):
        np.testing.assert_array_equal(np.concatenate(of_parts), field)


def test_a_long_document_is_cut_and_anything_else_that_is_long_is_left_out():
    document = example(range(7), [1] * 7)
    cut = pieces(document, context_tokens=3)
    assert [piece.tokens.tolist() for piece in cut] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [piece.start_token for piece in cut] == [0, 3, 6]
    assert pieces(QUESTION, context_tokens=3) == []
    (whole,) = pieces(QUESTION, context_tokens=4)
    assert whole.tokens.tolist() == QUESTION.tokens.tolist()


def test_piece_bounds_of_several_lengths():
    lengths = np.array([6, 3, 8])
    texts = piece_bounds(lengths, most=4, may_be_cut=True)
    assert texts.tolist() == [[0, 0, 4], [0, 4, 6], [1, 0, 3], [2, 0, 4], [2, 4, 8]]
    assert piece_bounds(lengths, most=4, may_be_cut=False).tolist() == [[1, 0, 3]]
    assert len(piece_bounds(lengths, most=2, may_be_cut=False)) == 0
    each = piece_bounds(lengths, most=np.array([0, 3, 7]), may_be_cut=np.array([True, False, True]))
    assert each.tolist() == [[1, 0, 3], [2, 0, 7], [2, 7, 8]]


def test_what_is_longer_is_split_truncated_or_left_out():
    lengths, may_be_cut = np.array([6, 3, 9, 9]), np.array([True, True, False, True])
    bounds = {
        longer: piece_bounds(lengths, most=4, may_be_cut=may_be_cut, longer=longer).tolist()
        for longer in ("split", "truncate", "leave_out")
    }
    assert bounds == {
        "split": [[0, 0, 4], [0, 4, 6], [1, 0, 3], [3, 0, 4], [3, 4, 8], [3, 8, 9]],
        "truncate": [[0, 0, 4], [1, 0, 3], [3, 0, 4]],
        "leave_out": [[1, 0, 3]],
    }


def test_by_token_every_target_has_the_same_weight():
    batch = to_batch([[QUESTION, IMAGE]], context_tokens=12, text_size=TEXT_SIZE, weights="token").batch
    assert batch.text_weights.tolist() == [[0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]]
    assert batch.vision_weights.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0]]


@st.composite
def examples(draw) -> list[Example]:
    # Tokens are unique over all examples, so that each can be found again.
    ids = iter(range(1, 10_000))
    made = []
    for _ in range(draw(st.integers(1, 12))):
        length = draw(st.integers(1, 30))
        kind = "text" if length > 16 else draw(st.sampled_from(["text", "text_qa"]))
        loss = draw(st.lists(st.booleans(), min_size=length, max_size=length))
        tokens = [next(ids) for _ in range(length)]
        made.append(example(tokens, loss, kind))
    return made


@settings(deadline=None)
@given(examples(), st.integers(1, 4), st.integers(16, 40))
def test_packing_keeps_every_token_once_with_its_target_and_its_weight(made, open_sequences, context):
    text_size = 60  # some of the ids are text, some vision
    packed = pack(made, context_tokens=context, text_size=text_size, open_sequences=open_sequences)
    batch = packed.batch
    real = batch.order >= 0
    assert sorted(batch.tokens[real]) == sorted(np.concatenate([e.tokens for e in made]))
    parts = {int(p.tokens[0]): p for e in made for p in pieces(e, context_tokens=context)}
    for row in range(len(batch.tokens)):
        used = int(real[row].sum())
        assert batch.order[row, :used].tolist() == list(range(used))
        starts = sorted(set(batch.first[row, :used].tolist()))
        assert packed.lengths[row] == np.diff([*starts, used]).tolist()
        for start, stop in zip(starts, [*starts[1:], used]):
            part = parts.pop(int(batch.tokens[row, start]))
            assert batch.tokens[row, start:stop].tolist() == part.tokens.tolist()
            assert set(batch.first[row, start:stop].tolist()) == {start}
            assert batch.targets[row, start : stop - 1].tolist() == part.tokens[1:].tolist()
            for weights, mine in (
                (batch.text_weights, part.tokens < text_size),
                (batch.vision_weights, part.tokens >= text_size),
            ):
                with_loss = (part.loss & mine)[1:]
                got = weights[row, start:stop]
                assert got[-1] == 0
                assert np.array_equal(got[:-1] > 0, with_loss)
                assert got.sum() == pytest.approx(1 if with_loss.any() else 0)
                assert len(set(got[got > 0].tolist())) <= 1
    assert not parts
    for field in (batch.tokens, batch.targets, batch.first, batch.text_weights, batch.vision_weights):
        assert not field[~real].any()


@settings(deadline=None)
@given(st.lists(st.integers(1, 10), max_size=60), st.integers(1, 5), st.sampled_from(FITS))
def test_either_fit_gives_every_piece_once_and_no_row_too_long(lengths, open_sequences, fit):
    packer = Packer[range](context_tokens=10, open_sequences=open_sequences, fit=fit)
    marked = [range(1000 * i, 1000 * i + length) for i, length in enumerate(lengths)]
    rows = []
    for piece in marked:
        row = packer.add(piece)
        assert len(packer.sequences) <= open_sequences
        rows += [row] if row else []
    rows += packer.sequences
    assert sorted((p for row in rows for p in row), key=lambda p: p.start) == marked
    assert all(sum(map(len, row)) <= 10 for row in rows)
