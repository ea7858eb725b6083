"""Needle grids on a tiny model: resumable, complete, and the same whenever they are asked."""

import dataclasses
import json

import pytest

from ringworld.core.errors import InputError
from ringworld.evaluation.config import NeedleConfig
from ringworld.evaluation.needles import Haystack
from ringworld.evaluation.retrieval import run_needles
from tests.inference.tiny_world import TOKENIZER, make_world

STORY = "A red circle moves to the right. " * 3
HAYSTACK = Haystack(STORY, tokenizer=TOKENIZER)
CONFIG = NeedleConfig(
    context_tokens=(440, 450), depth_percents=(0.0, 100.0), needles=2, asked=2, max_new_tokens=4
)


def test_a_grid_is_asked_once_and_resumed_where_it_stopped(tmp_path):
    engine = make_world(ring=1).engine
    results = run_needles(engine, CONFIG, haystack=HAYSTACK, out=tmp_path)
    assert [(one.context_tokens, one.answer in one.response) for one in results] == [
        (context, one.correct) for context, one in zip([440] * 4 + [450] * 4, results)
    ]
    assert {one.depth_percent for one in results} >= {0.0, 100.0}
    row = json.loads((tmp_path / "440.json").read_text())["results"][0]
    assert row.keys() >= {"context_tokens", "depth_percent", "response", "answer", "correct", "seed"}

    kept = (tmp_path / "440.json").stat().st_mtime_ns
    (tmp_path / "450.json").unlink()
    assert run_needles(engine, CONFIG, haystack=HAYSTACK, out=tmp_path) == results
    assert (tmp_path / "440.json").stat().st_mtime_ns == kept

    other = dataclasses.replace(CONFIG, seed=1)
    assert run_needles(engine, other, haystack=HAYSTACK, out=tmp_path) != results


def test_a_context_beyond_the_model_is_refused_and_leaves_no_file(tmp_path):
    engine = make_world(ring=1).engine
    config = dataclasses.replace(CONFIG, context_tokens=(1000,))
    with pytest.raises(InputError, match="context of this model"):
        run_needles(engine, config, haystack=HAYSTACK, out=tmp_path)
    assert not list(tmp_path.iterdir())
