"""lm-eval through the server, on a task of its own files: what it measures is what the model gives."""

import json
import math

import lm_eval
import numpy as np
import pytest
from lm_eval.tasks import TaskManager

from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.inference.config import EngineConfig
from tests.inference.tiny_world import TOKENIZER
from tests.serving.test_server import WORLD, serving

CHOICES = [" right", " left", " A red circle"]
ASKED = ["A red circle moves to the", "A red", "Red moves to the right."]
TEXTS = ["A red circle moves to the right. " * 3, "Other words, which the tokenizer spells."]
CHOICE_TASK = """
task: tiny_choices
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/choices.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{asked}}"
doc_to_choice: choices
doc_to_target: answer
target_delimiter: ""
metric_list: [{metric: acc}]
"""
TEXT_TASK = """
task: tiny_texts
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/texts.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}]
"""


def nats(context: str, continuation: str) -> float:
    """Return how unlikely a continuation is, by the scorer; lm-eval puts nothing before a question."""
    before, whole = (TOKENIZER.encode(text) for text in (context, context + continuation))
    return float(WORLD.scorer.losses(np.array(whole, np.int32))[len(before) - 1 :].sum())


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm-eval")
    Tokenizers(text_tokenizer=TOKENIZER, frame_tokenizer=None).save(folder / "tokenizer")
    rows = [{"asked": asked, "choices": CHOICES, "answer": i} for i, asked in enumerate(ASKED)]
    (folder / "choices.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for name, task in (("choices", CHOICE_TASK), ("texts", TEXT_TASK)):
        (folder / f"{name}.yaml").write_text(task.replace("FOLDER", str(folder)))
    with WORLD.engine(EngineConfig(max_sequences=4, chunk_tokens=64)) as engine, serving(engine) as port:
        return lm_eval.simple_evaluate(
            model="local-completions",
            model_args={
                "model": "tiny",
                "base_url": f"http://127.0.0.1:{port}/v1/completions",
                "tokenizer": str(folder / "tokenizer"),
                "num_concurrent": 1,
                "max_length": 400,
            },
            tasks=["tiny_choices", "tiny_texts"],
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            batch_size=2,
            bootstrap_iters=0,
        )


def test_likelihoods_of_choices_are_those_of_the_scorer(results):
    for sample, asked in zip(results["samples"]["tiny_choices"], ASKED, strict=True):
        found = [float(answer[0][0]) for answer in sample["resps"]]
        np.testing.assert_allclose(found, [-nats(asked, choice) for choice in CHOICES], rtol=0, atol=1e-4)
    right = [
        int(np.argmin([nats(asked, choice) for choice in CHOICES])) == i for i, asked in enumerate(ASKED)
    ]
    assert results["results"]["tiny_choices"]["acc,none"] == pytest.approx(np.mean(right))


def test_bits_per_byte_are_those_of_the_scorer(results):
    bits = sum(WORLD.score(text).token_nats.sum() for text in TEXTS) / math.log(2)
    expected = bits / sum(len(text.encode()) for text in TEXTS)
    assert results["results"]["tiny_texts"]["bits_per_byte,none"] == pytest.approx(expected, rel=1e-5)
