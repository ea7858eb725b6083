"""The needle protocol: what is asked is fixed by the cell, fits, and can be found again."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringworld.core.errors import InputError
from ringworld.evaluation.haystack import Haystack
from ringworld.evaluation.needles import Cell, NeedleConfig, NeedlePrompt, NeedleTask
from ringworld.evaluation.task import Unmeasured
from ringworld.text.needles import CITIES
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from tests.evaluation.fake_subject import FakeSubject

STORY = (
    "The ferry left at noon. Nobody on the quay waved, for it was raining hard! Was it the last one? "
    "The captain counted the crates again and wrote the number down.\n\nBy evening the lamps were lit. "
)
TOKENIZER = TextTokenizer.train([STORY * 4], vocab_size=400)
VOCABULARY = Vocabulary(text_size=TOKENIZER.size, codes=8, codes_per_frame=4)
HAYSTACK = Haystack(STORY, tokenizer=TOKENIZER)
CONFIG = NeedleConfig(context_tokens=(600,), needles=4, asked=2, max_new_tokens=20, seed=3)


def task(config: NeedleConfig = CONFIG, haystack: Haystack = HAYSTACK) -> NeedleTask:
    return NeedleTask(config, haystack, subject=FakeSubject(TOKENIZER, VOCABULARY).subject)


def prompt(
    *, context_tokens=600, depth_percent=50.0, round=0, config=CONFIG, haystack=HAYSTACK
) -> NeedlePrompt:
    return task(config, haystack).prompt(Cell(context_tokens, depth_percent, round))


def measured(config: NeedleConfig, haystack: Haystack = HAYSTACK, **subject) -> list:
    asked = task(config, haystack)
    items = list(asked.items())
    outcomes = asked.score(FakeSubject(TOKENIZER, VOCABULARY, **subject).subject, items)
    return list(asked.aggregate({item.key: outcome for item, outcome in zip(items, outcomes)}))


def test_no_city_is_listed_twice():
    assert len(CITIES) >= 100
    assert len(set(CITIES)) == len(CITIES)


@settings(max_examples=60, deadline=None)
@given(
    context_tokens=st.integers(450, 1500),
    depth=st.sampled_from([0.0, 10.0, 37.5, 50.0, 90.0, 100.0]),
    round=st.integers(0, 50),
    needles=st.integers(1, 5),
)
def test_a_prompt_fits_and_holds_every_needle_once(context_tokens, depth, round, needles):
    config = dataclasses.replace(CONFIG, needles=needles, asked=1)
    made = prompt(context_tokens=context_tokens, depth_percent=depth, round=round, config=config)
    assert len(made.ids) + config.max_new_tokens <= context_tokens
    assert len({needle.city for needle in made.needles}) == needles
    text = TOKENIZER.decode(made.ids.tolist())
    for needle in made.needles:
        assert text.count(needle.text) == 1
        assert 1_000_000 <= int(needle.number) <= 9_999_999
    assert made.question in text


@pytest.mark.parametrize("depth", [0.0, 25.0, 50.0, 75.0, 100.0])
def test_a_needle_lies_at_its_depth_but_for_half_a_sentence(depth):
    config = dataclasses.replace(CONFIG, needles=1, asked=1)
    made = prompt(context_tokens=2000, depth_percent=depth, config=config)
    before, after = (
        len(TOKENIZER.encode(part)) for part in made.context.split(made.needles[0].text, maxsplit=1)
    )
    longest = max(HAYSTACK.tokens)
    assert abs(before - depth / 100 * (before + after)) <= longest / 2 + 2
    assert (before == 0) == (depth == 0)
    assert (after == 0) == (depth == 100)


def test_the_context_is_filled_up_to_a_sentence():
    made = prompt(context_tokens=1200)
    room = 1200 - CONFIG.max_new_tokens - len(made.ids)
    assert room <= max(HAYSTACK.tokens) + 4  # tokens that merge differently at the joints


def test_the_same_cell_asks_the_same_and_another_asks_something_else():
    assert prompt().ids.tolist() == prompt().ids.tolist()
    assert [(needle.city, needle.number) for needle in prompt().needles] == [
        ("Tbilisi", "9715800"),
        ("Fukuoka", "8500416"),
        ("Tehran", "7437158"),
        ("Beirut", "8716239"),
    ]
    others = [prompt(round=1), prompt(depth_percent=25.0), prompt(context_tokens=601)]
    others.append(prompt(config=dataclasses.replace(CONFIG, seed=4)))
    for other in others:
        assert {needle.number for needle in other.needles}.isdisjoint(
            {needle.number for needle in prompt().needles}
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"context_tokens": ()},
        {"context_tokens": (0,)},
        {"depth_percents": (101.0,)},
        {"depth_percents": ()},
        {"rounds": 0},
        {"needles": 0},
        {"asked": 3, "needles": 2},
        {"max_new_tokens": 0},
    ],
)
def test_a_grid_that_cannot_be_asked_is_refused(wrong):
    with pytest.raises(InputError) as refused:
        NeedleConfig(**{"context_tokens": (512,), **wrong})
    assert refused.value.field == next(iter(wrong))


def test_a_needle_is_found_where_its_number_stands_in_the_answer():
    config = NeedleConfig(context_tokens=(600,), depth_percents=(50.0,), needles=2, asked=2)
    first, second = prompt(config=config).needles
    item = next(iter(task(config).items()))
    one = FakeSubject(TOKENIZER, VOCABULARY, finds=first.number.__eq__)
    (outcome,) = task(config).score(one.subject, [item])
    assert not isinstance(outcome, Unmeasured)
    assert outcome["found"] == [True, False]
    assert outcome["answers"] == [first.number, second.number]
    assert outcome["depth_percents"] == [50.0, second.depth_percent]


def test_accuracy_is_the_share_found_near_each_depth():
    config = NeedleConfig(context_tokens=(512, 256), depth_percents=(0.0, 50.0, 100.0))
    rows = [(512, 0.0, 0.0, True), (512, 50.0, 20.0, False), (512, 100.0, 70.0, True), (256, 0.0, 0.0, True)]
    outcomes: dict[str, Any] = {item.key: Unmeasured(reason="not asked") for item in task(config).items()}
    for context, depth, lies, found in rows:
        outcomes[Cell(context, depth, 0).key] = {"depth_percents": [lies], "found": [found]}
    results = [
        (one.cell["context_tokens"], one.cell["depth_percent"], one.value, one.count)
        for one in task(config).aggregate(outcomes)
        if one.count
    ]
    assert results == [(256, 0.0, 1.0, 1), (512, 0.0, 0.5, 2), (512, 50.0, 1.0, 1)]


def test_a_cell_that_cannot_be_built_is_reported_and_the_others_are_asked():
    config = NeedleConfig(context_tokens=(100, 600), depth_percents=(0.0, 100.0))
    results = {(one.cell["context_tokens"], one.cell["depth_percent"]): one for one in measured(config)}
    for depth in (0.0, 100.0):
        lost, asked = results[100, depth], results[600, depth]
        assert (lost.value, lost.count) == (None, 0) and "100" in lost.reason
        assert (asked.value, asked.count, asked.reason) == (1.0, 1, "")


def test_a_haystack_of_nothing_is_reported():
    results = measured(NeedleConfig(context_tokens=(600,)), Haystack(" \n ", tokenizer=TOKENIZER))
    assert len(results) == 5
    assert all(one.value is None and one.reason for one in results)


@pytest.mark.parametrize(
    "text",
    [
        "船中午开了。没有人挥手！下雨了吗？" * 60,
        "船中午开了，没有人挥手，" * 100,
        "\n".join(f"* {word} and more" for word in STORY.split()) * 5,
        "word " * 1500,
        "x" * 5000,
    ],
    ids=["chinese", "chinese without ends", "list", "words", "one word"],
)
def test_a_haystack_of_any_script_has_room_for_needles_at_every_depth(text):
    haystack = Haystack(text, tokenizer=TOKENIZER)
    config = NeedleConfig(context_tokens=(380, 900), max_new_tokens=20)
    results = measured(config, haystack)
    assert [one.reason for one in results] == [""] * 10
    assert [one.value for one in results] == [1.0] * 10
    for depth in (25.0, 75.0):
        made = prompt(context_tokens=900, depth_percent=depth, config=config, haystack=haystack)
        before, after = (
            len(TOKENIZER.encode(part)) for part in made.context.split(made.needles[0].text, maxsplit=1)
        )
        assert abs(before - depth / 100 * (before + after)) <= max(haystack.tokens) / 2 + 4
