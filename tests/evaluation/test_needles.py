"""The needle protocol: what is asked is fixed by the cell, fits, and can be found again."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringworld.core.errors import InputError
from ringworld.evaluation.config import NeedleConfig
from ringworld.evaluation.needles import Haystack, NeedleResult, accuracy, build_task, score
from ringworld.text import needles as wording
from ringworld.text.needles import CITIES
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary

STORY = (
    "The ferry left at noon. Nobody on the quay waved, for it was raining hard! Was it the last one? "
    "The captain counted the crates again and wrote the number down.\n\nBy evening the lamps were lit. "
)
TOKENIZER = TextTokenizer.train([STORY * 4], vocab_size=400)
VOCABULARY = Vocabulary(text_size=TOKENIZER.size, codes=8, codes_per_frame=4)
HAYSTACK = Haystack(STORY, tokenizer=TOKENIZER)
CONFIG = NeedleConfig(context_tokens=(600,), needles=4, asked=2, max_new_tokens=20, seed=3)


def task(*, context_tokens=600, depth_percent=50.0, round=0, config=CONFIG, haystack=HAYSTACK):
    return build_task(
        haystack,
        config=config,
        context_tokens=context_tokens,
        depth_percent=depth_percent,
        round=round,
        tokenizer=TOKENIZER,
        vocabulary=VOCABULARY,
    )


def test_a_haystack_keeps_no_needle_of_its_own():
    text = f"First. {wording.needle('Oslo', '1234567')}Second one. {wording.needle('Rome', '7654321')}Third."
    found = Haystack(text, tokenizer=TOKENIZER)
    assert [sentence.strip() for sentence in found.sentences] == ["First.", "Second one.", "Third."]


def test_no_city_is_listed_twice():
    assert len(CITIES) >= 100
    assert len(set(CITIES)) == len(CITIES)


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


def test_a_text_without_sentences_is_cut_at_spaces():
    pieces = Haystack("word " * 1000, tokenizer=TOKENIZER).sentences
    assert max(map(len, pieces)) <= 400
    assert all(piece.endswith("word") for piece in pieces)


def test_the_haystack_goes_round():
    haystack = Haystack("One two. Three. Four five six.", tokenizer=TOKENIZER)
    first, second, third = haystack.tokens
    assert haystack.cut(third + first, start=2) == [2, 0]
    assert haystack.cut(third + first - 1, start=2) == [2]
    assert haystack.cut(third - 1, start=2) == []


@settings(max_examples=60, deadline=None)
@given(
    context_tokens=st.integers(450, 1500),
    depth=st.sampled_from([0.0, 10.0, 37.5, 50.0, 90.0, 100.0]),
    round=st.integers(0, 50),
    needles=st.integers(1, 5),
)
def test_a_task_fits_and_holds_every_needle_once(context_tokens, depth, round, needles):
    config = dataclasses.replace(CONFIG, needles=needles, asked=1)
    made = task(context_tokens=context_tokens, depth_percent=depth, round=round, config=config)
    assert len(made.prompt) + config.max_new_tokens <= context_tokens
    assert len({needle.city for needle in made.needles}) == needles
    text = TOKENIZER.decode(made.prompt.tolist())
    for needle in made.needles:
        assert text.count(needle.text) == 1
        assert 1_000_000 <= int(needle.number) <= 9_999_999
    assert made.question in text


@pytest.mark.parametrize("depth", [0.0, 25.0, 50.0, 75.0, 100.0])
def test_a_needle_lies_at_its_depth_but_for_half_a_sentence(depth):
    config = dataclasses.replace(CONFIG, needles=1, asked=1)
    made = task(context_tokens=2000, depth_percent=depth, config=config)
    before, after = (
        len(TOKENIZER.encode(part)) for part in made.context.split(made.needles[0].text, maxsplit=1)
    )
    longest = max(HAYSTACK.tokens)
    assert abs(before - depth / 100 * (before + after)) <= longest / 2 + 2
    assert (before == 0) == (depth == 0)
    assert (after == 0) == (depth == 100)


def test_the_context_is_filled_up_to_a_sentence():
    made = task(context_tokens=1200)
    room = 1200 - CONFIG.max_new_tokens - len(made.prompt)
    assert room <= max(HAYSTACK.tokens) + 4  # tokens that merge differently at the joints


def test_the_same_cell_asks_the_same_and_another_asks_something_else():
    assert task().prompt.tolist() == task().prompt.tolist()
    assert [(needle.city, needle.number) for needle in task().needles] == [
        ("Tbilisi", "9715800"),
        ("Fukuoka", "8500416"),
        ("Tehran", "7437158"),
        ("Beirut", "8716239"),
    ]
    others = [task(round=1), task(depth_percent=25.0), task(context_tokens=601)]
    others.append(task(config=dataclasses.replace(CONFIG, seed=4)))
    for other in others:
        assert {needle.number for needle in other.needles}.isdisjoint(
            {needle.number for needle in task().needles}
        )


def test_a_context_without_room_is_refused():
    with pytest.raises(InputError, match="needle test of 100 tokens"):
        task(context_tokens=100)


def test_an_empty_haystack_is_refused():
    with pytest.raises(InputError, match="haystack"):
        Haystack(" \n ", tokenizer=TOKENIZER)


@pytest.mark.parametrize(
    "wrong",
    [
        {"context_tokens": ()},
        {"context_tokens": (0,)},
        {"depth_percents": (101.0,)},
        {"depth_percents": ()},
        {"rounds": 0},
        {"needles": 0},
        {"needles": 2, "asked": 3},
        {"max_new_tokens": 0},
    ],
)
def test_a_grid_that_cannot_be_asked_is_refused(wrong):
    with pytest.raises(InputError):
        NeedleConfig(**{"context_tokens": (512,), **wrong})


def test_a_needle_is_found_where_its_number_stands_in_the_response():
    made = task()
    first, second = made.needles[:2]
    one, two = score(made, f"It is {first.number}.")
    assert (one.correct, two.correct) == (True, False)
    assert (one.depth_percent, two.depth_percent) == (50.0, second.depth_percent)
    assert [result.correct for result in score(made, f"{second.number} {first.number}")] == [True, True]
    assert not any(result.correct for result in score(made, first.number[:6]))


def test_accuracy_is_the_share_found_near_each_depth():
    def result(context, depth, correct):
        return NeedleResult(
            context_tokens=context,
            depth_percent=depth,
            round=0,
            seed=0,
            question="?",
            response="",
            answer="",
            correct=correct,
        )

    rows = [(512, 0.0, True), (512, 20.0, False), (512, 70.0, True), (256, 0.0, True)]
    table = accuracy([result(*row) for row in rows], depth_percents=(0.0, 50.0, 100.0))
    assert [(cell.context_tokens, cell.depth_percent, cell.accuracy, cell.asked) for cell in table] == [
        (256, 0.0, 1.0, 1),
        (512, 0.0, 0.5, 2),
        (512, 50.0, 1.0, 1),
    ]
