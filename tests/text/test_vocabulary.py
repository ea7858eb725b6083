from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringworld.core.errors import InputError
from ringworld.text.vocabulary import Vocabulary

SMALL = Vocabulary(text_size=100, codes=8, codes_per_frame=2)


def test_ids_lie_text_codes_end_of_frame_end_of_vision():
    assert (SMALL.code_offset, SMALL.eof, SMALL.eov) == (100, 108, 109)
    assert (SMALL.vision_size, SMALL.size, SMALL.frame_tokens) == (10, 110, 3)
    assert SMALL.is_vision(np.array([0, 99, 100, 109])).tolist() == [False, False, True, True]


def test_frames_end_with_eof_and_the_last_with_eov():
    assert SMALL.encode_frames(np.array([[3, 0], [7, 1]])).tolist() == [103, 100, 108, 107, 101, 109]
    assert SMALL.encode_frames(np.array([[3, 0]])).tolist() == [103, 100, 109]


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=5))
def test_decoding_gives_the_codes_back(frames):
    codes = np.array(frames, np.int32)
    assert np.array_equal(SMALL.decode_frames(SMALL.encode_frames(codes)), codes)


@pytest.mark.parametrize(
    "ids",
    [
        [],
        [103, 100],
        [103, 100, 108],
        [103, 100, 109, 103, 100, 109],
        [103, 99, 109],
        [103, 108, 109],
    ],
)
def test_ids_that_are_not_whole_frames_are_refused(ids):
    with pytest.raises(InputError) as refused:
        SMALL.decode_frames(np.array(ids, np.int32))
    assert refused.value.field == "ids"


def test_a_vocabulary_of_text_alone_has_no_vision_ids():
    text = Vocabulary(text_size=100)
    assert (text.size, text.vision_size, text.frame_tokens, text.code_offset) == (100, 0, 0, 100)
    assert text.is_vision(np.array([0, 99])).tolist() == [False, False]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"text_size": 0}, "vocabulary.text_size"),
        ({"codes": -1}, "vocabulary.codes"),
        ({"codes": 0}, "vocabulary.codes"),
        ({"codes_per_frame": 0}, "vocabulary.codes"),
        ({"codes": 10**400}, "vocabulary.codes"),
    ],
)
def test_sizes_that_do_not_fit_each_other_are_refused(wrong, field):
    with pytest.raises(InputError) as refused:
        replace(SMALL, **wrong)
    assert refused.value.field == field
