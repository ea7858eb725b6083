"""The train step of a stage as libtpu's compiler makes it, for chips that are not there."""

import importlib.util
import os
import re
import time
from dataclasses import dataclass
from typing import Any, Final

import jax
from jax.experimental import topologies

from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh
from ringworld.model.config import Architecture, Execution
from ringworld.planning.collectives import Collective, collectives
from ringworld.planning.machines import Machine
from ringworld.training.config import Stage, TrainingConfig
from ringworld.training.state import abstract_frozen, abstract_state
from ringworld.training.step import abstract_pieces, make_step

# What libtpu otherwise asks of a metadata server, or logs that it could not ask; and it may be in use.
_NO_TPU_HERE: Final = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5p-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_ONE_DEVICE_A_CHIP: Final = {"TPU v4": {"chip_config_name": "megacore"}}


@dataclass(frozen=True, kw_only=True, slots=True)
class CompiledMemory:
    """Bytes on one chip, as the compiler says."""

    peak_bytes: int
    """The most that is in use at a time, with the program."""
    arguments_bytes: int = 0
    """The state and the batch."""
    outputs_bytes: int = 0
    """The next state, and what is logged."""
    aliased_bytes: int = 0
    """Of the outputs, what takes over the memory of arguments."""
    temporaries_bytes: int = 0
    """All that is made on the way; more than ever exists at one time."""
    program_bytes: int = 0
    """The code itself."""
    host_bytes: int = 0
    """Of the host's memory: what is offloaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """What is known of a compiled step."""

    memory: CompiledMemory
    """Only the peak, where the compiler ran out of memory."""
    fits: bool
    hbm_bytes: int
    """What the compiler could give to it."""
    collectives: tuple[Collective, ...]
    """None are known where it does not fit."""
    compile_seconds: float


def devices_of(machine: Machine) -> list[Any]:
    """Return the chips of a TPU slice, as devices for which programs can be compiled.

    Raises:
        InputError: libtpu is not installed, or knows no such slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"compiling for {machine.name} needs libtpu, which is not installed",
            field="topology",
            value=machine.name,
            remedy="install the extra: pip install 'ringworld[tpu]'",
            suggested="ringworld[tpu]",
        )
    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    options = _ONE_DEVICE_A_CHIP.get(machine.chip.name, {})
    try:
        devices = topologies.get_topology_desc(machine.name, platform="tpu", **options).devices
    except jax.errors.JaxRuntimeError as error:
        problem = f"libtpu knows no slice {machine.name} ({error})"
        raise InputError(problem, field="topology", value=machine.name) from error
    assert len(devices) == machine.chips, (machine, len(devices))
    return devices


def compile_step(
    config: TrainingConfig,
    stage: Stage,
    *,
    architecture: Architecture,
    execution: Execution,
    machine: Machine,
    devices: list[Any],
) -> Program:
    """Compile the update of a stage for the chips of a slice, as `training.loop` does for those it has.

    Raises:
        InputError: the mesh of the stage does not take all chips, or a kernel does not run on them.
    """
    mesh = make_mesh(stage.mesh, devices=devices)
    state, pieces = abstract_state(config, architecture, mesh=mesh), abstract_pieces(stage, mesh=mesh)
    frozen = abstract_frozen(config, architecture, mesh=mesh)
    # Its constants are arrays of this machine's.
    step = make_step(config, stage, architecture, execution)
    begun = time.perf_counter()
    try:
        with jax.set_mesh(mesh):
            compiled = step.trace(state, pieces, frozen).lower(lowering_platforms=("tpu",)).compile()
    except jax.errors.JaxRuntimeError as error:
        needed, available = out_of_memory(str(error))
        if not needed:
            reason = str(error).strip().splitlines()[0]
            problem = f"the compiler refuses the step of stage {stage.name}: {reason:.300}"
            raise InputError(problem, field="stage", value=stage.name) from error
        return Program(
            memory=CompiledMemory(peak_bytes=needed),
            fits=False,
            hbm_bytes=available,
            collectives=(),
            compile_seconds=time.perf_counter() - begun,
        )
    seconds = time.perf_counter() - begun
    found, text = compiled.memory_analysis(), compiled.as_text()
    assert found is not None and text is not None
    return Program(
        memory=CompiledMemory(
            peak_bytes=found.peak_memory_in_bytes + found.generated_code_size_in_bytes,
            arguments_bytes=found.argument_size_in_bytes,
            outputs_bytes=found.output_size_in_bytes,
            aliased_bytes=found.alias_size_in_bytes,
            temporaries_bytes=found.temp_size_in_bytes,
            program_bytes=found.generated_code_size_in_bytes,
            host_bytes=found.host_temp_size_in_bytes,
        ),
        fits=True,
        hbm_bytes=machine.chip.hbm_bytes,
        collectives=collectives(text),
        compile_seconds=seconds,
    )


def out_of_memory(message: str) -> tuple[int, int]:
    """Return the bytes that a program needs and those that there are, or zeros for another message.

    | message | |
    |---|---|
    | `... required for HLO temporaries (400.00G) exceeds available HBM (95.74G).` | from the buffers |
    | `... Used 98.06G of 95.74G hbm. Exceeded hbm capacity by 2.32G.` | from their assignment |
    """
    size = r"([\d.]+)([KMGT]?)"
    for pattern in (rf"\({size}\) exceeds available HBM \({size}\)", rf"Used {size} of {size} hbm"):
        if found := re.search(pattern, message):
            needed, unit, available, unit_of_available = found.groups()
            return int(float(needed) * _UNITS[unit]), int(float(available) * _UNITS[unit_of_available])
    return 0, 0
