"""Every item is asked once, whatever ends the process; what cannot be measured never ends it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.core.results import Evaluation, Result
from ringworld.data.examples import Example
from ringworld.evaluation.held_out import HeldOutConfig
from ringworld.evaluation.needles import NeedleConfig
from ringworld.evaluation.runner import evaluate, read_evaluation
from ringworld.evaluation.subject import subject_of
from ringworld.evaluation.task import EvaluationData, Item, Subject, Task, Unmeasured
from tests.evaluation.fake_subject import FakeSubject
from tests.inference.tiny_world import TOKENIZER, VOCABULARY, make_world
from tests.training.tiny_run import write_examples

STORY = "A red circle moves to the right. " * 8
NEEDLES = NeedleConfig(
    context_tokens=(440, 450), depth_percents=(0.0, 100.0), needles=2, asked=2, max_new_tokens=4
)
HELD_OUT = HeldOutConfig(position_edges=(0, 32))
LABEL = {"when": "after", "stage": "long"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> EvaluationData:
    tokens = np.array([TOKENIZER.bos, *TOKENIZER.encode(STORY)], np.int32)
    text = Example(tokens=tokens, loss=np.ones(tokens.size, bool), kind="text", source="a", cut="tokens")
    question = dataclasses.replace(text, kind="text_qa", cut="never")
    folder = tmp_path_factory.mktemp("data")
    write_examples(folder, [(text, "held_out"), (question, "held_out")], vocabulary=VOCABULARY)
    return EvaluationData(folder=folder, context_tokens=32)


def subject(**options) -> FakeSubject:
    return FakeSubject(TOKENIZER, VOCABULARY, **options)


def run(subject, data, out: Path, *tasks, identity="weights", call_tokens=2**17) -> Evaluation:
    asked = subject if isinstance(subject, Subject) else subject.subject
    named = {"weights": identity}
    return evaluate(asked, tasks, data=data, out=out, label=LABEL, identity=named, call_tokens=call_tokens)


def test_an_evaluation_that_was_stopped_asks_only_what_is_left(data, tmp_path):
    tasks, alone = (NEEDLES, HELD_OUT), 500  # tokens: each prompt is asked alone
    whole = subject()
    expected = run(whole, data, tmp_path / "whole", *tasks, call_tokens=alone)
    assert (whole.asked, whole.scored) == (4, 3)
    for stop_after in (0, 1, 3, 6):
        out = tmp_path / str(stop_after)
        stopped, again = subject(), subject()
        stopped.stop_after = stop_after
        with pytest.raises(KeyboardInterrupt):
            run(stopped, data, out, *tasks, call_tokens=alone)
        for file in out.glob("*.jsonl"):
            file.write_bytes(file.read_bytes() + b'{"item": "torn')
        assert run(again, data, out, *tasks, call_tokens=alone) == expected
        assert stopped.asked + again.asked == whole.asked
        assert stopped.scored + again.scored == whole.scored
    assert read_evaluation(tmp_path / "whole") == expected


def test_a_finished_evaluation_asks_nothing_and_another_task_is_asked_beside_it(data, tmp_path):
    first = run(subject(), data, tmp_path, NEEDLES)
    idle = subject()
    assert run(idle, data, tmp_path, NEEDLES) == first
    assert (idle.asked, idle.scored) == (0, 0)
    both = run(idle, data, tmp_path, NEEDLES, HELD_OUT)
    assert both.results[: len(first.results)] == first.results
    assert idle.asked == 0 and idle.scored > 0
    other = run(idle, data, tmp_path, dataclasses.replace(NEEDLES, seed=1))
    assert idle.asked == 4
    assert {one.metric for one in other.results} == {"found"}


def test_results_of_another_model_are_refused(data, tmp_path):
    run(subject(), data, tmp_path, NEEDLES)
    with pytest.raises(InputError) as refused:
        run(subject(), data, tmp_path, NEEDLES, identity="others")
    assert (refused.value.path, refused.value.field) == (tmp_path, "weights")


def test_what_the_model_cannot_hold_is_reported_and_asked_again_by_one_that_can(data, tmp_path):
    long = dataclasses.replace(NEEDLES, context_tokens=(440, 1000))
    made = run(subject(longest=500), data, tmp_path / "short", long, HELD_OUT)
    reasons = {one.cell["context_tokens"]: one.reason for one in made.results if one.task == "needles"}
    assert reasons[440] == "" and reasons[1000]
    assert [one.value for one in made.results if one.cell["context_tokens"] == 1000] == [None, None]
    assert [one for one in made.results if one.task == "held_out" and one.value]


def test_data_without_a_text_or_a_held_out_example_are_reported(tmp_path):
    picture = Example(
        tokens=np.array([TOKENIZER.bos, VOCABULARY.eov], np.int32),
        loss=np.ones(2, bool),
        kind="video",
        source="clip.mp4",
    )
    write_examples(tmp_path / "data", [(picture, "train")], vocabulary=VOCABULARY)
    data = EvaluationData(folder=tmp_path / "data", context_tokens=32)
    made = run(subject(), data, tmp_path / "out", NEEDLES, HELD_OUT)
    assert {one.task for one in made.results} == {"needles", "held_out"}
    assert all(one.value is None and one.reason for one in made.results)


def test_damaged_data_are_no_result(tmp_path):
    with pytest.raises(InputError):
        run(subject(), EvaluationData(folder=tmp_path, context_tokens=32), tmp_path / "out", HELD_OUT)


def test_a_third_task_is_one_class(data, tmp_path):
    @dataclasses.dataclass(frozen=True)
    class CountingConfig:
        up_to: int
        longest_context_tokens: int = 0

        def build(self, subject, *, data):
            return Counting(self.up_to)

    class Counting(Task[int]):
        name = "counting"

        def __init__(self, up_to: int) -> None:
            self.up_to = up_to

        def items(self):
            return [Item(key=str(number), tokens=1, content=number) for number in range(self.up_to)]

        def score(self, subject, items):
            return [{"squared": item.content**2} for item in items]

        def aggregate(self, outcomes):
            total = sum(one["squared"] for one in outcomes.values() if not isinstance(one, Unmeasured))
            return [Result(task=self.name, metric="sum", cell={}, value=float(total), count=self.up_to)]

    (result,) = run(subject(), data, tmp_path, CountingConfig(4)).results
    assert (result.value, result.count) == (14.0, 4)
    (file,) = tmp_path.glob("counting-*.jsonl")
    assert [json.loads(line)["outcome"]["squared"] for line in file.read_text().splitlines()] == [0, 1, 4, 9]


def test_a_model_is_asked_and_scored(data, tmp_path):
    asked = subject_of(make_world(ring=1).world)
    made = run(asked, data, tmp_path, NEEDLES, HELD_OUT)
    assert {one.cell["context_tokens"] for one in made.results if one.task == "needles"} == {440, 450}
    loss = next(one for one in made.results if one.metric == "text_loss")
    scored = [
        json.loads(line)["outcome"]["text"]
        for file in tmp_path.glob("held_out-*")
        for line in file.read_text().splitlines()
    ]
    weights, losses = (sum(sum(of_batch[i]) for of_batch in scored) for i in (0, 1))
    assert loss.value == pytest.approx(losses / weights)
    assert [(one.cell["kind"], one.count) for one in made.results if one.metric == "too_long"] == [
        ("text_qa", 1)
    ]
