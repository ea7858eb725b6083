from hypothesis import given
from hypothesis import strategies as st

from ringworld.data.qa.passages import passages_of


def words(text: str) -> int:
    return len(text.split())


def test_passages_are_of_about_equal_length_and_end_with_sentences():
    text = "One two three four five. " * 26
    passages = passages_of(text, passage_tokens=50, count_tokens=words)
    assert [passage.tokens for passage in passages] == [40, 45, 45]
    assert all(passage.text.endswith("five. ") for passage in passages)
    assert "".join(passage.text for passage in passages) == text


def test_what_has_no_sentences_is_cut_between_words_and_without_words_anywhere():
    by_word = passages_of("word " * 100, passage_tokens=40, count_tokens=words)
    assert [passage.tokens for passage in by_word] == [45, 55]
    assert all(passage.text.endswith("word ") for passage in by_word)
    anywhere = passages_of("a" * 1000, passage_tokens=100, count_tokens=len)
    assert {passage.tokens for passage in anywhere} == {100}


def test_a_short_text_is_one_passage():
    (passage,) = passages_of("A short one.", passage_tokens=1000, count_tokens=words)
    assert (passage.text, passage.tokens) == ("A short one.", 3)


@given(st.text(alphabet='ab .\n。?"', max_size=400), st.integers(32, 100))
def test_nothing_of_a_text_is_lost_and_no_passage_is_much_too_long(text: str, passage_tokens: int):
    passages = passages_of(text, passage_tokens=passage_tokens, count_tokens=len)
    assert "".join(passage.text for passage in passages) == text
    assert all(0 < passage.tokens <= 2 * passage_tokens for passage in passages)
