import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ringworld as rw
from ringworld.core.errors import InputError
from ringworld.data.qa.make import QaReport
from ringworld.data.store import read_examples
from ringworld.text.tokenizer import TextTokenizer
from tests.data.qa.fake_endpoint import SHIPS, Double, captain, story

Make = Callable[..., QaReport]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    TextTokenizer.train([story()], vocab_size=400).save(folder)
    return folder


@pytest.fixture
def make(tmp_path: Path, words: Path, double: Double) -> Make:
    (tmp_path / "books").mkdir()
    (tmp_path / "books/ships.txt").write_text(story())

    def run(**changes: Any) -> QaReport:
        options = {
            "passage_tokens": 150,
            "context_tokens": (600, 1500),
            "retries": 0,
            "held_out_fraction": 0.0,
            "model": "writer",
        }
        config = rw.QaConfig(address=double.address, **(options | changes))
        return rw.make_qa(tmp_path / "books", tokenizer=words, out=tmp_path / "qa", config=config)

    return run


def said(folder: Path, *, split: str = "") -> list[list[str]]:
    lines = (folder / "qa/long_qa" / split / "conversations.jsonl").read_text().splitlines()
    return [[message["content"] for message in json.loads(line)["messages"]] for line in lines]


def test_a_book_becomes_conversations_of_each_length(make: Make, double: Double, tmp_path: Path):
    report = make()
    passages = report.estimate.passages
    assert report.requests == report.estimate.requests == len(double.prompts) == passages
    assert (report.prompt_tokens, report.reply_tokens) == (100 * passages, 10 * passages)
    assert report.questions == passages and report.rejected == {}
    short, long = report.contexts[:2]
    assert (short.context_tokens, long.context_tokens) == (600, 1500)
    assert short.questions == passages >= long.questions > passages - 3  # what is equal is written once
    assert short.conversations > long.conversations > 1
    conversations = said(tmp_path)
    assert len(conversations) == short.conversations + long.conversations
    for text, *answers in conversations:
        known = {ship for ship in SHIPS if f"the ship {ship} was" in text}
        assert known >= {answer.split()[0].capitalize() for answer in answers[::2]}
    assert json.loads((tmp_path / "qa/origin.json").read_text())["kind"] == "questions"


def test_what_it_costs_is_said_before_anything_is_asked(make: Make, double: Double, tmp_path: Path):
    report = make(dry_run=True, input_price=2.0, output_price=8.0, max_reply_tokens=100)
    estimate = report.estimate
    assert estimate.requests == estimate.passages > 10 and double.bodies == []
    assert estimate.most_requests == 2 * estimate.passages  # attempts
    assert estimate.most_reply_tokens == 100 * estimate.most_requests
    cost = (2 * estimate.most_prompt_tokens + 8 * estimate.most_reply_tokens) / 1e6
    assert estimate.most_cost == pytest.approx(cost) and cost > 0
    assert not (tmp_path / "qa/long_qa").exists()


def test_nothing_is_asked_twice_and_a_killed_run_continues(make: Make, double: Double, tmp_path: Path):
    double.failures = [(200, {})] * 5 + [(500, {})] * 100
    with pytest.raises(InputError):
        make(requests_at_once=1)
    double.failures = []
    assert len(double.prompts) == 5
    with (tmp_path / "qa/replies.jsonl").open("a") as stream:
        stream.write('{"request": "of a process that')
    report = make()
    assert report.estimate.requests == report.estimate.passages - 5 == report.requests
    assert len(double.prompts) == len(set(double.prompts)) == report.estimate.passages
    whole = said(tmp_path)
    assert make().requests == 0 and said(tmp_path) == whole
    # Other contexts are of the same questions.
    assert make(context_tokens=(4000,)).requests == 0
    assert make(model="another", dry_run=True).estimate.requests == report.estimate.passages


def test_a_passage_is_asked_for_again_until_its_question_is_usable(make: Make, double: Double):
    seen: set[str] = set()

    def late(prompt: str) -> str:
        again = prompt in seen
        seen.add(prompt)
        return captain(prompt) if again else "Question: Who was it?\nAnswer: The czar of Russia"

    double.write = late
    assert make(attempts=1, dry_run=True).estimate.most_requests == make(dry_run=True).estimate.passages
    report = make(attempts=2)
    assert report.requests == 2 * report.estimate.passages and report.questions == report.estimate.passages
    assert report.requests == report.estimate.most_requests


def test_unusable_and_refused_passages_are_counted_and_their_text_is_read(
    make: Make, double: Double, tmp_path: Path
):
    double.write = lambda prompt: captain(prompt) if "ship Cal" in prompt else "I am sorry."
    double.failures = [(200, {})] * 9 + [(400, {})]
    report = make(requests_at_once=1, attempts=1)
    assert report.rejected["refused by the endpoint"] == 1
    assert report.rejected["not a question and an answer"] + report.questions + 1 == report.estimate.passages
    assert sum(one.questions for one in report.contexts if one.context_tokens == 1500) == report.questions
    assert any("the ship Bera was" in text for text, *_ in said(tmp_path))
    again = make(requests_at_once=1, attempts=1)
    assert (again.requests, again.estimate.requests, again.estimate.most_cost) == (0, 0, 0)
    assert again.rejected == report.rejected


def test_a_first_passage_that_is_refused_does_not_end_the_run_and_is_kept_with_the_first_reply(
    make: Make, double: Double, tmp_path: Path
):
    double.failures = [(413, {})] * 3
    report = make(requests_at_once=1)
    assert report.rejected == {"refused by the endpoint": 3}
    assert report.questions == report.estimate.passages - 3
    assert make().requests == 0 and len(double.bodies) == report.estimate.passages


def test_an_endpoint_that_writes_nothing_usable_or_refuses_all_is_an_error(make: Make, double: Double):
    double.failures = [(400, {})] * 1000
    with pytest.raises(InputError) as refused:
        make()
    assert refused.value.field == "address"
    assert make(dry_run=True).estimate.requests > 10  # none is kept: another day it may be started otherwise
    double.failures, double.write = [], lambda prompt: "No."
    with pytest.raises(InputError) as refused:
        make()
    assert refused.value.field == "model"


def test_what_is_held_out_is_held_out_of_the_questions(
    make: Make, double: Double, tmp_path: Path, run_prepare
):
    make(held_out_fraction=0.3, document_tokens=16)
    trained, held_out = said(tmp_path), said(tmp_path, split="held_out")
    last = f"the ship {SHIPS[-1]} was"
    assert any(last in text for text, *_ in held_out) and not any(last in text for text, *_ in trained)
    run_prepare(tmp_path / "examples", texts=(tmp_path / "qa/long_qa",), videos=())
    for example in read_examples(tmp_path / "examples", split="train"):
        assert (example.kind, example.dataset) == ("chat", "long_qa")
        assert not example.source.startswith("held_out")


def test_prepared_conversations_carry_loss_on_their_answers_alone(
    make: Make, tmp_path: Path, run_prepare, tokenizer: TextTokenizer
):
    make(context_tokens=(600,))
    run_prepare(tmp_path / "examples", texts=(tmp_path / "qa/long_qa",), videos=())
    examples = [
        example
        for split in ("train", "held_out")
        for example in read_examples(tmp_path / "examples", split=split)
    ]
    answers = sorted("".join(answers[::2]) for _, *answers in said(tmp_path))
    learned = sorted(tokenizer.decode(one.tokens[one.loss].tolist()).replace(" ", "") for one in examples)
    assert learned == [answer.replace(" ", "") for answer in answers]


def test_without_any_text_nothing_is_asked(make: Make, double: Double, tmp_path: Path):
    (tmp_path / "books/ships.txt").write_text(" ")
    with pytest.raises(InputError) as refused:
        make()
    assert refused.value.field == "texts" and double.bodies == []
