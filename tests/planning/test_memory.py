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
from ringworld.model.lora_config import LoraConfig
from ringworld.planning.memory import MemoryNeeds, host_bytes, memory_needs
from ringworld.training.config import OptimizerConfig, Stage
from ringworld.training.guard import Guard
from ringworld.training.state import abstract_frozen, abstract_state
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
ALL_WEIGHTS = LoraConfig()
COUNTERS_BYTES = 12 + sum(leaf.nbytes for leaf in jax.tree.leaves(Guard.new()))
"""The number of the step, the optimizer's two, and what decides whether an update is made."""


@cache
def _compiled(
    layers: int, stage: Stage, execution: Execution, lora: LoraConfig = ALL_WEIGHTS
) -> tuple[Any, MemoryNeeds]:
    """Return what the compiler says of a step of so many layers, and what arithmetic says."""
    architecture, config = replace(MODEL, layers=layers), training(stages=(stage,), lora=lora)
    mesh = mesh_of(stage.mesh)
    frozen = abstract_frozen(config, architecture, mesh=mesh)
    state, pieces = abstract_state(config, architecture, mesh=mesh), abstract_pieces(stage, mesh=mesh)
    step = make_step(config, stage, architecture, execution)
    with jax.set_mesh(mesh):
        found = step.lower(state, pieces, frozen).compile().memory_analysis()
    needs = memory_needs(
        stage, architecture=architecture, execution=execution, optimizer=config.optimizer, lora=lora
    )
    return found, needs


def test_the_arguments_are_weights_moments_and_the_batch():
    found, needs = _compiled(2, IN_PIECES, EXECUTION)
    tokens = 4 * 256 // 2
    assert found.argument_size_in_bytes == needs.weights + needs.moments + 6 * 4 * tokens + COUNTERS_BYTES
    assert found.alias_size_in_bytes >= needs.weights + needs.moments


@pytest.mark.parametrize(
    ("stage", "remat", "error"),
    # Of a rematerialized layer its input, the result of attention and its log-sum-exp are kept, exactly; but
    # gradients of norms may lie in the memory of something else, and what is alive beside them at the peak is
    # not the same with attention computed again.
    [
        (IN_PIECES, "layer", 0.01),
        (stage(context_tokens=512, batch_sequences=1), "all", 0.03),
        (stage(context_tokens=512, batch_sequences=1), "none", 0.02),
    ],
)
def test_a_layer_more_needs_what_is_kept_of_it_and_its_gradients(stage, remat, error):
    execution = replace(EXECUTION, remat=remat, mlp_block_tokens=128)
    (fewer, few), (more, many) = (_compiled(layers, stage, execution) for layers in (2, 4))
    expected = many.kept + many.gradients - few.kept - few.gradients
    found = more.temp_size_in_bytes - fewer.temp_size_in_bytes
    assert abs(found - expected) <= error * expected


def test_a_layer_more_beside_an_adapter_has_no_gradients_but_those_of_the_adapter():
    lora = LoraConfig(rank=4, base="float32")
    (fewer, few), (more, many) = (_compiled(layers, IN_PIECES, EXECUTION, lora) for layers in (2, 4))
    expected = many.kept + many.gradients - few.kept - few.gradients
    assert abs(more.temp_size_in_bytes - fewer.temp_size_in_bytes - expected) <= 0.05 * expected


@pytest.mark.parametrize("base", ["float32", "bfloat16", "int8"])
def test_the_state_of_an_adapter_and_the_model_beside_it_are_what_a_run_keeps_there(base):
    lora = LoraConfig(rank=4, base=base)
    config, mesh = training(stages=(IN_PIECES,), lora=lora), mesh_of(IN_PIECES.mesh)
    needs = _needs(IN_PIECES, lora=lora)
    state = abstract_state(config, MODEL, mesh=mesh)
    assert needs.weights == _bytes_of_device(state.params)
    assert needs.moments == _bytes_of_device(state.optimizer) - 2 * 4  # its two counts
    beside = _bytes_of_device(abstract_frozen(config, MODEL, mesh=mesh))
    # Scales of int8, one float32 a channel, are left out of the arithmetic.
    channels = MODEL.layers * (32 + 16 + 16 + 32 + 2 * 64 + 32) + MODEL.vocab
    assert 0 <= beside - needs.frozen <= (4 * channels if base == "int8" else 0)


def _bytes_of_device(tree: Any) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)


def _needs(
    stage: Stage,
    *,
    optimizer: OptimizerConfig | None = None,
    execution: Execution = EXECUTION,
    lora: LoraConfig = ALL_WEIGHTS,
    **model: Any,
) -> MemoryNeeds:
    architecture = replace(MODEL, **model)
    return memory_needs(
        stage,
        architecture=architecture,
        execution=execution,
        optimizer=optimizer or OptimizerConfig(),
        lora=lora,
    )


@pytest.mark.parametrize("moment_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("optimizer", "family"), [("adamw", "llama"), ("adamw", "qwen3"), ("muon", "llama")])
def test_the_state_of_a_device_is_what_a_run_keeps_there(optimizer, family, moment_dtype):
    one = stage(mesh=MeshConfig(fsdp=2, ring=2, tensor=2))
    architecture = replace(MODEL, family=family)
    config = training(stages=(one,), optimizer=OptimizerConfig(kind=optimizer, moment_dtype=moment_dtype))
    needs = _needs(one, optimizer=config.optimizer, family=family)
    state = abstract_state(config, architecture, mesh=mesh_of(one.mesh))
    kept = _bytes_of_device((state.params, state.optimizer))
    # Norms of heads are small, and whole on every device.
    assert needs.weights + needs.moments == pytest.approx(kept, rel=0.02)


def test_a_longer_ring_halves_what_is_kept_and_only_a_ring_needs_room_for_what_travels():
    needs = {ring: _needs(stage(context_tokens=1024, mesh=MeshConfig(ring=ring))) for ring in (1, 2, 4)}
    assert needs[1].kept == 2 * needs[2].kept == 4 * needs[4].kept
    assert needs[1].ring == 0 and needs[2].ring == 2 * needs[4].ring > 0


def test_what_is_offloaded_is_what_a_layer_keeps_but_for_statistics():
    one = stage(context_tokens=1024, mesh=MeshConfig(tensor=2))
    kept, offloaded = (
        _needs(one, execution=replace(EXECUTION, remat=remat)) for remat in ("layer", "offload")
    )
    away = host_bytes(one, architecture=MODEL, execution=replace(EXECUTION, remat="offload"))
    assert kept.kept - offloaded.kept == away > 0
    assert offloaded.total < kept.total + away  # of two layers it is on its way
    assert host_bytes(one, architecture=MODEL, execution=EXECUTION) == 0


def test_half_the_bytes_of_the_compute_type_are_half_of_what_is_kept_but_for_statistics():
    one = stage(context_tokens=1024)
    wide, narrow = (
        _needs(one, execution=replace(EXECUTION, compute=kind)) for kind in ("float32", "bfloat16")
    )
    statistics = MODEL.layers * 4 * 1024 * 4 * MODEL.heads
    assert wide.kept - statistics == 2 * (narrow.kept - statistics)
    assert wide.weights == narrow.weights
