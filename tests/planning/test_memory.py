"""The arithmetic of memory against programs that were compiled for simulated devices."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import pytest

from ringworld.attention.config import AttentionConfig
from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.model.config import Architecture, Execution
from ringworld.planning.memory import MemoryNeeds, memory_needs
from ringworld.training.config import OptimizerConfig, Stage
from ringworld.training.guard import Guard
from ringworld.training.state import abstract_state
from ringworld.training.step import abstract_pieces, make_step
from tests.training.tiny_run import stage, training

MODEL = Architecture(layers=2, embed=32, heads=4, kv_heads=2, head=8, mlp=64, text_vocab=64)
EXECUTION = Execution(attention=AttentionConfig(layout="contiguous", block_q_tokens=256, block_kv_tokens=256))
IN_PIECES = stage(
    context_tokens=256,
    batch_sequences=4,
    accumulation_steps=2,
    mesh=MeshConfig(fsdp=2, tensor=2),
)
COUNTERS_BYTES = 12 + sum(leaf.nbytes for leaf in jax.tree.leaves(Guard.new()))
"""The number of the step, the optimizer's two, and what decides whether an update is made."""


@cache
def _compiled(layers: int, stage: Stage, execution: Execution) -> tuple[Any, MemoryNeeds]:
    """Return what the compiler says of a step of so many layers, and what arithmetic says."""
    architecture, config = replace(MODEL, layers=layers), training(stages=(stage,))
    mesh = mesh_of(stage.mesh)
    state, pieces = abstract_state(config, architecture, mesh=mesh), abstract_pieces(stage, mesh=mesh)
    step = make_step(config, stage, architecture, execution)
    with jax.set_mesh(mesh):
        found = step.lower(state, pieces).compile().memory_analysis()
    needs = memory_needs(stage, architecture=architecture, execution=execution, optimizer=config.optimizer)
    return found, needs


def test_the_arguments_are_weights_moments_and_the_batch():
    found, needs = _compiled(2, IN_PIECES, EXECUTION)
    tokens = 4 * 256 // 2
    assert found.argument_size_in_bytes == needs.weights + needs.moments + 6 * 4 * tokens + COUNTERS_BYTES
    assert found.alias_size_in_bytes >= needs.weights + needs.moments


@pytest.mark.parametrize(
    ("stage", "remat", "error"),
    # Of a rematerialized layer its input, the result of attention and its log-sum-exp are kept, exactly; but
    # gradients of norms may lie in the memory of something else. Without, statistics of norms come besides.
    [(IN_PIECES, "layer", 0.01), (stage(context_tokens=512, batch_sequences=1), "none", 0.02)],
)
def test_a_layer_more_needs_what_is_kept_of_it_and_its_gradients(stage, remat, error):
    execution = replace(EXECUTION, remat=remat, mlp_block_tokens=128)
    (fewer, few), (more, many) = (_compiled(layers, stage, execution) for layers in (2, 4))
    expected = many.kept + many.gradients - few.kept - few.gradients
    found = more.temp_size_in_bytes - fewer.temp_size_in_bytes
    assert abs(found - expected) <= error * expected


def _needs(
    stage: Stage, *, optimizer: OptimizerConfig | None = None, execution: Execution = EXECUTION, **model: Any
) -> MemoryNeeds:
    architecture = replace(MODEL, **model)
    return memory_needs(
        stage, architecture=architecture, execution=execution, optimizer=optimizer or OptimizerConfig()
    )


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_the_state_of_a_device_is_what_a_run_keeps_there(optimizer, family):
    one = stage(mesh=MeshConfig(fsdp=2, ring=2, tensor=2))
    architecture = replace(MODEL, family=family)
    config = training(stages=(one,), optimizer=OptimizerConfig(kind=optimizer))
    needs = _needs(one, optimizer=config.optimizer, family=family)
    state = abstract_state(config, architecture, mesh=mesh_of(one.mesh))
    leaves = jax.tree.leaves((state.params, state.optimizer))
    kept = sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)
    # Norms of heads are small, and whole on every device.
    assert needs.weights + needs.moments == pytest.approx(kept, rel=0.02)


def test_a_longer_ring_halves_what_is_kept_and_only_a_ring_needs_room_for_what_travels():
    needs = {ring: _needs(stage(context_tokens=1024, mesh=MeshConfig(ring=ring))) for ring in (1, 2, 4)}
    assert needs[1].kept == 2 * needs[2].kept == 4 * needs[4].kept
    assert needs[1].ring == 0 and needs[2].ring == 2 * needs[4].ring > 0


def test_half_the_bytes_of_the_compute_type_are_half_of_what_is_kept_but_for_statistics():
    one = stage(context_tokens=1024)
    wide, narrow = (
        _needs(one, execution=replace(EXECUTION, compute=kind)) for kind in ("float32", "bfloat16")
    )
    statistics = MODEL.layers * 4 * 1024 * 4 * MODEL.heads
    assert wide.kept - statistics == 2 * (narrow.kept - statistics)
    assert wide.weights == narrow.weights
