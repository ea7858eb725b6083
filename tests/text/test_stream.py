"""Text as it arrives: whole characters, and nothing of a stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringworld.text.stream import TextStream
from ringworld.text.tokenizer import TextTokenizer

PIECES = ["a", " E", "N", "DED", "EN", "D", " ", "x"]
TOKENIZER = TextTokenizer.train(["A red circle moves. " * 4], vocab_size=270)


def spelled(ids):
    return "".join(PIECES[id] for id in ids)


def test_a_stop_string_across_tokens_is_held_back_and_cut():
    stream = TextStream(spelled, stop=["END"])
    assert [stream.push(id) for id in (0, 1, 2, 3)] == ["a", " ", "", ""]
    assert stream.stopped
    assert (stream.text, stream.push(0), stream.close()) == ("a ", "", "")


def test_what_only_began_like_a_stop_string_is_given_in_the_end():
    stream = TextStream(spelled, stop=["END"])
    assert "".join([stream.push(0), stream.push(4), stream.close()]) == "aEN" == stream.text
    assert not stream.stopped


@given(st.lists(st.integers(0, len(PIECES) - 1)), st.lists(st.text("aENDx ", min_size=1, max_size=4)))
def test_streamed_text_is_the_whole_text_before_the_earliest_stop(ids, stops):
    stream = TextStream(spelled, stop=stops)
    given_text = "".join(stream.push(id) for id in ids) + stream.close()
    reached = [n for n in range(len(ids) + 1) if any(stop in spelled(ids[:n]) for stop in stops)]
    whole = spelled(ids[: reached[0]] if reached else ids)
    found = [whole.find(stop) for stop in stops if stop in whole]
    assert given_text == stream.text == (whole[: min(found)] if found else whole)
    assert stream.stopped == bool(reached)


@pytest.mark.parametrize("text", ["\u00e9\u6771\U0001f600 red", "\N{REPLACEMENT CHARACTER}", "a\ufffdb", ""])
def test_no_half_of_a_character_is_shown(text):
    stream = TextStream(TOKENIZER.decode)
    parts = [stream.push(id) for id in TOKENIZER.encode(text)]
    assert "".join(parts) + stream.close() == text
    assert all(part in text for part in parts)
    if "\ufffd" not in text:
        assert not any("\ufffd" in part for part in parts)


def test_bytes_that_are_no_characters_are_shown_meanwhile_and_each_is_decoded_a_few_times():
    half, smile = TOKENIZER.encode("\U0001f600")[-1:], TOKENIZER.encode("\U0001f600")
    ids = half * 500 + smile + half * 20 + smile[:-1]
    decoded = 0

    def decode(some):
        nonlocal decoded
        decoded += len(some)
        return TOKENIZER.decode(some)

    stream = TextStream(decode)
    parts = [stream.push(id) for id in ids]
    assert sum(map(len, parts[:500])) > 450
    assert "".join(parts) + stream.close() == TOKENIZER.decode(ids)
    assert decoded < 50 * len(ids)


def test_bytes_that_never_become_a_character_are_shown_in_the_end():
    ids = TOKENIZER.encode("\U0001f600")[:-1]
    stream = TextStream(TOKENIZER.decode)
    assert [stream.push(id) for id in ids] == [""] * len(ids)
    assert stream.close() == TOKENIZER.decode(ids)
