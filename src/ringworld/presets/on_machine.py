"""Meshes for the stages of any run on a machine, by one rule; without importing jax."""

import math
from dataclasses import replace

from ringworld.core.divisors import divisors
from ringworld.core.errors import InputError
from ringworld.core.mesh_config import MeshConfig
from ringworld.model.config import RematName
from ringworld.planning.machines import Machine, gpu_machine, tpu_slice
from ringworld.planning.memory import memory_needs
from ringworld.presets.run import RunConfig
from ringworld.training.config import Stage

_ROOM = 0.9
"""Of a chip's memory, what arithmetic may fill."""


def on_machine(run: RunConfig, machine: str) -> RunConfig:
    """Return a run each stage of which takes all chips of a machine.

    What is offloaded lies in the memory of the hosts, of which `ringworld plan` says how much.

    | | |
    |---|---|
    | `fsdp` | as many sequences as are computed at one time, so that those of short contexts are not cut |
    | `ring` | the chips that are left share each sequence |
    | `tensor` | 1, or as large as needed for the others to divide the width of the model |
    | `accumulation_steps` | the fewest with which the stage fits by arithmetic |
    | `execution.remat` | as it is, or "offload" where a stage would not fit with any number of pieces |

    Example:
        `lwm_text_7b` on 256 chips: at 32K `fsdp=128 ring=2`, at 128K `fsdp=32 ring=8`, at 1M
        `fsdp=4 ring=64`.

    Args:
        run: whose meshes do not matter.
        machine: a TPU slice such as `v5p:4x8x8`, or GPUs such as `64xH100`.

    Raises:
        InputError: there is no such machine, or a stage does not fit it.
    """
    on = tpu_slice(machine) if ":" in machine else gpu_machine(machine)
    if on.chips & (on.chips - 1):
        raise InputError(
            f"{machine} has {on.chips} devices, which is no power of two",
            field="machine",
            value=machine,
            remedy="take a power of two of them, or write the meshes of the stages yourself",
        )
    policies: tuple[RematName, ...] = (run.execution.remat, "offload")
    too_large: list[str] = []
    for remat in policies:
        tried = replace(run, execution=replace(run.execution, remat=remat))
        found = {stage.name: _on(on, stage, tried) for stage in run.training.stages}
        too_large = [name for name, made in found.items() if made is None]
        if not too_large:
            stages = tuple(made for made in found.values() if made is not None)
            return replace(tried, training=replace(run.training, stages=stages))
    raise InputError(
        f"stage {', '.join(too_large)} does not fit {on.name}, even with what layers keep offloaded",
        field="machine",
        value=on.name,
        remedy="take more chips or a smaller model, or leave the stage out",
    )


def _on(machine: Machine, stage: Stage, run: RunConfig) -> Stage | None:
    chips, tensor = machine.chips, 1
    while tensor < chips and run.model.embed % (chips // tensor):
        tensor *= 2
    for pieces in divisors(stage.batch_sequences):
        fsdp = math.gcd(chips // tensor, stage.batch_sequences // pieces)
        mesh = MeshConfig(fsdp=fsdp, ring=chips // (tensor * fsdp), tensor=tensor)
        tried = replace(stage, mesh=mesh, accumulation_steps=pieces)
        needs = memory_needs(
            tried,
            architecture=run.model,
            execution=run.execution,
            optimizer=run.training.optimizer,
            lora=run.training.lora,
        )
        if needs.total <= _ROOM * machine.chip.hbm_bytes:
            return tried
    return None
