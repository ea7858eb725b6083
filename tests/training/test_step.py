import functools
import re
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
import pytest

from ringworld.core.mesh import abstract_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.data.batch import PackedBatch, PackedRows
from ringworld.model.config import Execution, Rope
from ringworld.model.forward import Forward
from ringworld.model.lora_config import LoraConfig
from ringworld.presets import RunConfig, lwm_chat_7b
from ringworld.presets.run import presets
from ringworld.training.config import MomentType, OptimizerConfig
from ringworld.training.state import TrainState, abstract_state
from ringworld.training.step import StepOutput, abstract_pieces, loss_and_gradient, make_step, update
from tests.training.meshes import mesh_of, on_devices, state_on
from tests.training.test_loss import ROUNDING
from tests.training.tiny_run import EXECUTION, MODEL, stage, training

CONTEXT, ROWS = 48, 4
ROPE_BASE = 1e6  # of the stage; the model has another


def copy_batch() -> PackedRows:
    """Draw rows of three examples of 16 tokens, of which the last 8 repeat the first 8 and carry loss."""
    ids = np.random.default_rng(0).integers(0, MODEL.vocab, (ROWS, CONTEXT // 16, 8)).astype(np.int32)
    tokens = np.concatenate([ids, ids], axis=2).reshape(ROWS, CONTEXT)
    order = np.tile(np.arange(CONTEXT, dtype=np.int32), (ROWS, 1))
    loss = np.where((order % 16 >= 7) & (order % 16 < 15), 1 / 8, 0)
    targets = np.roll(tokens, -1, axis=1)
    is_text = targets < MODEL.text_vocab
    batch = PackedBatch(
        tokens=tokens,
        targets=targets,
        order=order,
        first=order // 16 * 16,
        text_weights=(loss * is_text).astype(np.float32),
        vision_weights=(loss * ~is_text).astype(np.float32),
    )
    return PackedRows(batch=batch, lengths=[[16] * (CONTEXT // 16)] * ROWS)


class Trained(NamedTuple):
    """The compiled program, what each step reports, and a step more whose loss is NaN."""

    program: str
    outputs: list[StepOutput]
    before: TrainState
    after: TrainState
    spoiled: StepOutput


def run_steps(
    execution: Execution, *, steps: int, moment_dtype: MomentType = "float32", **axes: int
) -> Trained:
    """Train on the same rows again and again."""
    config = training(
        stages=(stage(steps=steps, learning_rate=0.03, rope_base=ROPE_BASE),),
        optimizer=OptimizerConfig(moment_dtype=moment_dtype),
    )
    mesh = mesh_of(**axes)
    with jax.set_mesh(mesh):
        state, pieces = state_on(mesh, config), on_devices(copy_batch(), mesh)
        compiled = make_step(config, config.stages[0], MODEL, execution).lower(state, pieces).compile()
        outputs = []
        for _ in range(steps):
            state, output = compiled(state, pieces)
            outputs.append(jax.device_get(output))
        assert state.step == steps
        before = jax.device_get(state)
        no_weights = jax.device_put(np.full((ROWS, CONTEXT), np.nan, np.float32), pieces[0].tokens.sharding)
        state, spoiled = compiled(state, (pieces[0]._replace(text_weights=no_weights),))
    return Trained(compiled.as_text(), outputs, before, jax.device_get(state), jax.device_get(spoiled))


@functools.cache
def on_a_ring() -> Trained:
    return run_steps(EXECUTION, steps=60, ring=2)


def test_the_loss_of_a_copy_task_falls():
    losses = [float(output.loss.loss) for output in on_a_ring()[1]]
    assert losses[-1] < losses[0] / 4, losses


def test_bfloat16_compute_and_moments_train_as_float32_does():
    narrow = run_steps(replace(EXECUTION, compute="bfloat16"), steps=60, moment_dtype="bfloat16", ring=2)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(narrow.before.optimizer)} == {"bfloat16", "int32"}
    first, last = narrow.outputs[0].loss.loss, narrow.outputs[-1].loss.loss
    # bfloat16 keeps 8 bits: the loss of equal weights agrees to a few of its rounding errors, 2 ** -9 each.
    np.testing.assert_allclose(first, on_a_ring()[1][0].loss.loss, rtol=4 * 2**-9)
    assert last < first / 4


def test_a_step_rotates_by_the_base_of_its_stage():
    """The oracle is a model that has the base of the stage as its own."""
    config, mesh = training(), mesh_of()
    forward = Forward.of(replace(MODEL, rope=Rope(base=ROPE_BASE)), EXECUTION)
    with jax.set_mesh(mesh):
        loss_of = jax.jit(lambda *args: loss_and_gradient(*args, config=config, forward=forward)[0].loss)
        expected = loss_of(state_on(mesh, config).params, on_devices(copy_batch(), mesh))
    np.testing.assert_allclose(on_a_ring()[1][0].loss.loss, expected, rtol=ROUNDING)


def test_the_rate_and_the_norm_are_reported():
    first = on_a_ring()[1][0]
    np.testing.assert_allclose(first.learning_rate, 0.03 / (stage().warmup_steps + 1), rtol=1e-6)
    assert first.gradient_norm > 0


def test_an_update_whose_loss_is_no_number_changes_nothing_but_counts():
    ring = on_a_ring()
    assert np.isnan(ring.spoiled.loss.loss)
    guard = ring.spoiled.guard
    assert (guard.skipped, guard.in_a_row, ring.spoiled.step) == (1, 1, 61)
    assert np.isnan(guard.loss)
    assert {int(output.guard.skipped) for output in ring.outputs} == {0}
    assert ring.after.step == ring.before.step + 1 == 61
    jax.tree.map(np.testing.assert_array_equal, ring.after.params, ring.before.params)
    for after, before in zip(*map(jax.tree.leaves, (ring.after.optimizer, ring.before.optimizer))):
        np.testing.assert_array_equal(after, before + 1 if before.dtype == np.int32 else before)
    np.testing.assert_array_equal(ring.after.guard.norms, ring.before.guard.norms)
    norms = [output.gradient_norm for output in ring.outputs]
    np.testing.assert_array_equal(ring.before.guard.norms[-60:], norms)


def test_a_ring_passes_keys_on_and_never_gathers_a_sequence():
    program = on_a_ring()[0]
    assert "collective-permute" in program
    gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather(?:-start)?\(", program)
    assert gathered
    # No weight has a dimension as long as a sequence.
    assert max(int(size) for shape in gathered for size in shape.split(",")) < CONTEXT


def on_mesh(run: RunConfig, **axes: int) -> RunConfig:
    """Return the last stage of a run on another mesh."""
    stage = replace(run.training.stages[-1], mesh=MeshConfig(**axes), accumulation_steps=1)
    return replace(run, training=replace(run.training, stages=(stage,)))


OF_TEXT = ("lwm_text_65b", "lwm_text_llama_8b")
"""Of the text runs by one rule: the widest, and the one whose heads share keys and values."""
OF_OTHERS = ("lwm_vision_7b",)
"""Whose last stage is that of another preset."""
RUNS = {
    name: preset()
    for name, preset in presets().items()
    if (preset.__module__ != "ringworld.presets.lwm_text" or name in OF_TEXT) and name not in OF_OTHERS
} | {
    "lwm_chat_7b on data, fsdp, ring and tensor": on_mesh(lwm_chat_7b(), data=2, fsdp=4, ring=32, tensor=2),
    "lwm_chat_7b on ring, ulysses and tensor": on_mesh(lwm_chat_7b(), ring=64, ulysses=2, tensor=4),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_step_of_the_longest_context_type_checks_on_its_mesh_at_full_size(run: RunConfig):
    stage = run.training.stages[-1]
    mesh = stage.mesh
    devices = abstract_mesh(mesh)
    forward = Forward.of(run.model, run.execution, rope_base=stage.rope_base)
    state = abstract_state(run.training, run.model, mesh=devices)
    whole = replace(run.training, lora=LoraConfig())
    frozen = abstract_state(whole, run.model, mesh=devices).params if run.training.lora.rank else None
    with jax.sharding.use_abstract_mesh(devices):
        after, output = jax.eval_shape(
            functools.partial(update, config=run.training, forward=forward),
            state,
            abstract_pieces(stage, mesh=devices),
            frozen,
        )
    jax.tree.map(lambda a, b: _assert_same_type(a, b), after, state)
    assert output.loss.loss.shape == ()
    members = mesh.weight_members * mesh.tensor
    for weight in jax.tree.leaves(after.params):
        if weight.ndim > 2:
            assert np.prod(weight.sharding.shard_shape(weight.shape)) * members == np.prod(weight.shape)


def _assert_same_type(got: jax.ShapeDtypeStruct, expected: jax.ShapeDtypeStruct) -> None:
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    if got.ndim:
        assert got.sharding.spec == expected.sharding.spec
