"""Time, suggestions and remedies: arithmetic whose answers follow from a few rules."""

from dataclasses import replace

import pytest

from ringworld.core.mesh_config import MeshConfig
from ringworld.model.config import Execution
from ringworld.model.flops import training_flops
from ringworld.model.lora_config import LoraConfig
from ringworld.planning.machines import gpu_machine, tpu_slice
from ringworld.planning.memory import memory_needs
from ringworld.planning.plan import plan_stages
from ringworld.planning.roofline import bytes_sent, roofline, step_flops
from ringworld.planning.suggest import suggestions
from ringworld.presets import lwm_text_7b
from ringworld.training.config import TrainingConfig, validate
from tests.training.tiny_run import EXECUTION, MODEL, stage

RUN = lwm_text_7b()
SLICE = tpu_slice("v5p:4x8x8")
LONGEST = RUN.training.stages[-1]
NO_ADAPTER = LoraConfig()
HOW = {"architecture": RUN.model, "execution": RUN.execution, "lora": NO_ADAPTER}


def test_flops_are_those_of_one_example_a_row_or_of_its_windows():
    one = stage(context_tokens=8, batch_sequences=3)
    assert step_flops(one, MODEL, NO_ADAPTER) == training_flops(MODEL, tokens=24, pairs=3 * 36)
    window = replace(MODEL, family="mistral", window_tokens=2)
    assert step_flops(one, window, NO_ADAPTER) == training_flops(window, tokens=24, pairs=3 * (1 + 7 * 2))


def test_a_step_takes_as_long_as_its_slowest_part():
    needs = memory_needs(LONGEST, optimizer=RUN.training.optimizer, **HOW)
    least = roofline(LONGEST, machine=SLICE, needs=needs, **HOW)
    parts = least.compute_seconds, least.memory_seconds, least.network_seconds
    assert least.step_seconds == max(parts) == least.compute_seconds
    # A step computes what it needs, and a third of the layers and a sixth of attention again.
    needed = step_flops(LONGEST, RUN.model, NO_ADAPTER) / (SLICE.chips * SLICE.chip.flops_per_second)
    assert needed < least.compute_seconds < needed * 4 / 3


def test_one_device_sends_nothing_and_a_ring_sends_keys_and_values():
    def sent(**axes: int) -> float:
        return bytes_sent(stage(context_tokens=64, mesh=MeshConfig(**axes)), MODEL, EXECUTION, NO_ADAPTER)

    assert sent() == 0
    kv_bytes = 2 * 4 * MODEL.kv_heads * MODEL.head
    rows, ring = 4, 2
    tokens = rows * 64 // ring
    weights = (2 * 4 + 4) * (MODEL.layers * (2 * 16 * 4 * (4 + 2) + 3 * 16 * 32) + MODEL.vocab * 16)
    hops = MODEL.layers * kv_bytes * tokens * ((ring - 1) * 2 + ring)
    assert sent(ring=2) == weights / 2 + hops


@pytest.mark.parametrize("machine", [SLICE, gpu_machine("8xH200")])
def test_what_is_suggested_fits_is_allowed_and_is_sorted(machine):
    found = suggestions(
        RUN.training,
        LONGEST,
        architecture=RUN.model,
        execution=RUN.execution,
        machine=machine,
        room=0.9,
        most=50,
    )
    assert found
    for one in found:
        execution = replace(RUN.execution, attention=replace(RUN.execution.attention, strategy=one.strategy))
        tried = replace(LONGEST, mesh=one.mesh, accumulation_steps=one.accumulation_steps)
        validate(TrainingConfig(stages=(tried,)), RUN.model, execution)
        assert one.mesh.devices == machine.chips
        assert one.bytes_per_chip <= 0.9 * machine.chip.hbm_bytes
    seconds = [one.step_seconds_estimate for one in found]
    assert seconds == sorted(seconds)


def _planned(stage, *, execution: Execution = RUN.execution, gpus: str = "8xH200"):
    plan = plan_stages(
        RUN.training,
        [stage],
        architecture=RUN.model,
        execution=execution,
        machine=gpu_machine(gpus),
        by="arithmetic",
        suggest=0,
    )
    return plan.stages[0]


def test_what_does_not_fit_says_what_to_change():
    one = replace(LONGEST, context_tokens=2**17, mesh=MeshConfig(ring=8), accumulation_steps=1)
    assert _planned(one).fits and _planned(one).changes == ()
    nothing_again = replace(RUN.execution, remat="none", mlp_block_tokens=0)
    kept = _planned(one, execution=nothing_again)
    assert (kept.fits, kept.arithmetic.largest) == (False, "kept")
    assert kept.changes == ("remat",)
    many = replace(one, batch_sequences=64)
    assert not _planned(many).fits
    assert _planned(many).changes == ("mesh", "accumulation_steps")
    assert _planned(replace(one, context_tokens=2**21, batch_sequences=1)).changes == ("remat",)
    assert _planned(replace(one, context_tokens=2**24)).changes == ("chips", "context_tokens")


def test_time_and_use_agree():
    one = _planned(replace(LONGEST, context_tokens=2**17, mesh=MeshConfig(ring=8)))
    peak = 8 * gpu_machine("8xH200").chip.flops_per_second
    assert one.mfu_estimate == pytest.approx(one.flops_per_step / (one.step_seconds_estimate * peak))
    assert one.days_estimate == pytest.approx(LONGEST.steps * one.step_seconds_estimate / 86400)
    assert 0 < one.mfu_estimate < 1
    assert one.spare_bytes == one.hbm_bytes_per_chip - one.bytes_per_chip


def test_an_adapter_needs_less_memory_and_time_than_all_weights():
    one = replace(LONGEST, context_tokens=2**15, mesh=MeshConfig(ring=8))
    config = replace(RUN.training, lora=LoraConfig(rank=16, base="int8"))
    whole, thin = (
        plan_stages(
            config,
            [one],
            architecture=RUN.model,
            execution=RUN.execution,
            machine=gpu_machine("8xH200"),
            by="arithmetic",
            suggest=1,
        ).stages[0]
        for config in (RUN.training, config)
    )
    assert thin.arithmetic.kept == whole.arithmetic.kept
    assert thin.arithmetic.moments == 2 * thin.arithmetic.weights < 0.05 * whole.arithmetic.moments
    assert whole.arithmetic.frozen == 0 < 4 * thin.arithmetic.frozen < 1.1 * whole.arithmetic.weights
    assert 0.66 < thin.flops_per_step / whole.flops_per_step < 0.9
    assert thin.suggestions[0].bytes_per_chip < whole.suggestions[0].bytes_per_chip
