"""A haystack is cut where sentences end, in any script; nothing of it is lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringworld.evaluation.haystack import Haystack
from ringworld.text.needles import needle
from tests.evaluation.test_needles import HAYSTACK, STORY, TOKENIZER


def test_a_haystack_keeps_no_needle_of_its_own():
    text = f"First. {needle('Oslo', '1234567')}Second one. {needle('Rome', '7654321')}Third."
    found = Haystack(text, tokenizer=TOKENIZER)
    assert [sentence.strip() for sentence in found.sentences] == ["First.", "Second one.", "Third."]


def test_the_haystack_is_cut_at_ends_of_sentences_and_nothing_is_lost():
    assert [sentence.strip() for sentence in HAYSTACK.sentences] == [
        "The ferry left at noon.",
        "Nobody on the quay waved, for it was raining hard!",
        "Was it the last one?",
        "The captain counted the crates again and wrote the number down.",
        "By evening the lamps were lit.",
    ]
    assert "".join(HAYSTACK.sentences) == STORY.strip()
    assert sum(HAYSTACK.tokens) == len(TOKENIZER.encode(STORY.strip()))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("天晴。风大！走吗？", ["天晴。", "风大！", "走吗？"]),
        ("「天晴。」风大；走", ["「天晴。」", "风大；", "走"]),
        ("राम। कल।", ["राम।", "कल।"]),
        ("Pi is 3.14. So", ["Pi is 3.14.", "So"]),
    ],
)
def test_sentences_end_as_their_script_ends_them(text, sentences):
    assert [one.strip() for one in Haystack(text, tokenizer=TOKENIZER).sentences] == sentences


def test_a_text_without_sentences_is_cut_at_spaces():
    pieces = Haystack("word " * 1000, tokenizer=TOKENIZER).sentences
    assert len(pieces) > 20
    assert all(piece.endswith("word") for piece in pieces)


@given(st.text(alphabet=st.sampled_from("ab .\n。中\U0001f600\u200d"), max_size=900))
def test_nothing_is_lost_and_no_piece_is_long(text):
    haystack = Haystack(text, tokenizer=TOKENIZER)
    assert "".join(haystack.sentences) == text.strip()
    assert max(haystack.tokens, default=0) <= 64


def test_the_haystack_goes_round():
    haystack = Haystack("One two. Three. Four five six.", tokenizer=TOKENIZER)
    first, second, third = haystack.tokens
    assert haystack.cut(third + first, start=2) == [2, 0]
    assert haystack.cut(third + first - 1, start=2) == [2]


def test_a_sentence_that_fits_comes_in_place_of_one_that_does_not():
    haystack = Haystack("One two. Three. Four five six.", tokenizer=TOKENIZER)
    first, second, third = haystack.tokens
    assert second < min(first, third)
    assert haystack.cut(second, start=2) == [1]
    assert haystack.cut(second - 1, start=2) == []
    assert Haystack("", tokenizer=TOKENIZER).cut(100, start=0) == []
