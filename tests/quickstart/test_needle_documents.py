"""Documents that hide needles: what is asked can be found, and fits."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringworld.core.errors import InputError
from ringworld.quickstart.config import NeedleWorldConfig
from ringworld.quickstart.needle_documents import (
    write_copied_document,
    write_needle_document,
    write_needle_documents,
)
from ringworld.text import chat
from ringworld.text.needles import CITIES

CONFIG = NeedleWorldConfig(
    lengths_tokens=(128, 512), documents=(3, 2), copied=1, held_out=1, haystacks=1, haystack_words=50
)


def words(text: str) -> int:
    """Count tokens where each word, digit, stop and line end is one, and `<s>` and `</s>` too."""
    spaced = "".join(f" {c} " if c.isdigit() or c in ".,?:\n'" else c for c in text)
    return len(spaced.replace("\n", "|").split()) + 1


@given(st.integers(0, 10**6), st.sampled_from([100, 128, 300, 1024, 8192]), st.floats(0, 1))
def test_every_number_asked_for_stands_in_the_document_once_and_all_of_it_fits(seed, tokens, dense):
    config = NeedleWorldConfig(lengths_tokens=(tokens,), documents=(1,), dense_fraction=dense)
    text, questions = write_needle_document(Random(seed), tokens, config)
    assert questions
    asked = 0
    for one in questions:
        cities = [city for city in CITIES if f" {city}" in one.question.replace(",", "")]
        asked += len(cities)
        lines = [f"The special magic {city} number is: " for city in cities]
        assert (one.answers == "one") == (len(cities) == 1)
        for line in lines:
            assert text.count(line) == 1
            number = text.partition(line)[2][:7]
            assert number.isdigit() and f"{line}{number}." in one.answer
    first, *rest = questions
    whole = chat.answered(
        chat.document_question_prompt(text, first.question, answers=first.answers), first.answer
    )
    for one in rest:
        whole += chat.answered(chat.next_question(one.question), one.answer)
    # An apostrophe, and a space before digits, are tokens too.
    assert words("".join(segment.text for segment in whole)) + 2 * len(questions) + asked <= tokens


@given(st.integers(0, 10**6), st.sampled_from([100, 128, 2048]))
def test_what_is_copied_fits_with_its_copy(seed, tokens):
    text, (question,) = write_copied_document(Random(seed), tokens)
    assert question.answer == text
    assert len(text.split()) >= 2
    prompt = chat.document_question_prompt(text, question.question, answers=question.answers)
    whole = "".join(segment.text for segment in chat.answered(prompt, text))
    numbers = sum(word.isdigit() for word in whole.split())  # the space before digits is a token too
    assert words(whole) + numbers <= tokens


def test_files_are_written_once_and_follow_from_the_seed(tmp_path):
    done = []
    texts = write_needle_documents(tmp_path / "one", CONFIG, on_progress=lambda *of: done.append(of))
    assert done == [(i, 6) for i in range(1, 7)]
    names = sorted(str(path.relative_to(texts)) for path in texts.rglob("*.txt"))
    assert names == [
        "128/document_00000.txt",
        "128/document_00001.txt",
        "128/document_00002.txt",
        "512/document_00000.txt",
        "512/document_00001.txt",
        "copied/document_00000.txt",
        "held_out/document_00000.txt",
        "held_out/haystack_00000.txt",
    ]
    before = {path: path.stat().st_mtime_ns for path in texts.rglob("*")}
    write_needle_documents(tmp_path / "one", CONFIG)
    assert {path: path.stat().st_mtime_ns for path in texts.rglob("*")} == before
    again = write_needle_documents(tmp_path / "two", CONFIG)
    assert [(again / name).read_text() for name in names] == [(texts / name).read_text() for name in names]
    with pytest.raises(InputError):
        write_needle_documents(tmp_path / "one", NeedleWorldConfig(lengths_tokens=(128,), documents=(1,)))


@pytest.mark.parametrize(
    "wrong", [{"lengths_tokens": (64,)}, {"documents": (1, 2)}, {"dense_fraction": 2.0}, {"haystacks": 0}]
)
def test_documents_that_cannot_be_written_are_refused(wrong):
    with pytest.raises(InputError):
        NeedleWorldConfig(**({"lengths_tokens": (128,), "documents": (1,)} | wrong))
