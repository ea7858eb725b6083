"""A model comes back without its moments, and its measurements are never taken for those of another."""

import dataclasses
from contextlib import closing
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

from ringworld.cli.jobs.measure import build_engine, evaluate_engine, restore_model
from ringworld.core.checkpoint import Checkpoints
from ringworld.core.errors import InputError
from ringworld.core.mesh_config import MeshConfig
from ringworld.data.examples import Example
from ringworld.evaluation.config import EvaluationConfig, HeldOutConfig
from ringworld.model.world_model import WorldModel
from ringworld.presets import RunConfig, smoke
from ringworld.training.config import TrainingConfig
from ringworld.training.loop import CHECKPOINTS_FOLDER
from ringworld.training.state import abstract_state
from tests.core.reads import bytes_read
from tests.inference.tiny_world import CONFIG, FRAMES, TOKENIZER, VOCABULARY, make_world, random_weights
from tests.training.tiny_run import stage, write_examples

STORY = "A red circle moves to the right. " * 8
RUN = dataclasses.replace(
    smoke(),
    model=CONFIG,
    frames=FRAMES,
    training=TrainingConfig(stages=(stage(), stage("long", rope_base=1e5))),
    evaluation=EvaluationConfig(needles=(), held_out=HeldOutConfig(position_edges=(0, 32))),
    mesh=MeshConfig(),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    tokens = np.array([TOKENIZER.bos, *TOKENIZER.encode(STORY)], np.int32)
    text = Example(tokens=tokens, loss=np.ones(tokens.size, bool), kind="text", source="story.txt")
    question = dataclasses.replace(text, kind="text_qa")
    assert len(question) > max(one.context_tokens for one in RUN.training.stages)
    folder = tmp_path_factory.mktemp("data")
    return write_examples(folder, [(text, "held_out"), (question, "held_out")], vocabulary=VOCABULARY)


def evaluate(run: RunConfig, model: WorldModel, data: Path, out: Path, *, last: int = 1):
    world, stage = make_world(ring=1), run.training.stages[last]
    engine = build_engine(run, model, stage, text=TOKENIZER, frames=world.frames, mesh=world.mesh)
    return evaluate_engine(engine, run, stage, step=80, when="after", data=data, out=out)


def test_measurements_of_other_weights_of_the_same_step_are_refused(data, tmp_path):
    model = make_world(ring=1).model
    measured = evaluate(RUN, model, data, tmp_path)
    assert evaluate(RUN, model, data, tmp_path) == measured
    other = eqx.tree_at(lambda model: model.norm, model, replace_fn=lambda norm: norm * 1.000001)
    with pytest.raises(InputError, match="the evaluation of another model"):
        evaluate(RUN, other, data, tmp_path)
    with pytest.raises(InputError, match="the evaluation of another model"):
        evaluate(RUN, model, data, tmp_path, last=0)


def test_what_no_context_holds_is_counted(data, tmp_path):
    measured = evaluate(RUN, make_world(ring=1).model, data, tmp_path)
    assert [(one.kind, one.examples) for one in measured.held_out.left_out] == [("text_qa", 1)]


def test_a_run_of_one_stage_without_needles_has_an_engine():
    world, one = make_world(ring=1), RUN.training.stages[0]
    run = dataclasses.replace(RUN, training=TrainingConfig(stages=(one,)))
    engine = build_engine(run, world.model, one, text=TOKENIZER, frames=world.frames, mesh=world.mesh)
    assert engine.limits.max_context_tokens == one.context_tokens


def test_a_model_comes_back_without_its_moments(tmp_path):
    mesh = make_world(ring=2).mesh
    run = dataclasses.replace(RUN, model=dataclasses.replace(CONFIG, mlp=2**14))
    # Wide and random, moments too: zeros would take no room on disk.
    state = random_weights(abstract_state(run.training, run.model, mesh=mesh), scale=1.0, mesh=mesh)
    with closing(Checkpoints(tmp_path / CHECKPOINTS_FOLDER)) as checkpoints:
        checkpoints.save(60, state, {})
    begun = bytes_read()
    model, stage, step = restore_model(run, folder=tmp_path, mesh=mesh)
    between = bytes_read()
    with closing(Checkpoints(tmp_path / CHECKPOINTS_FOLDER, mode="read")) as checkpoints:
        checkpoints.restore(state)
    assert 0 < between - begun < (bytes_read() - between) / 2
    jax.tree.map(np.testing.assert_array_equal, model, state.params)
    assert (stage.name, step) == ("long", 60)
