"""`ringworld.plan`: what the stages of a run need of a machine that need not be there."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from ringworld.api.machine import check_run
from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.ranges import whole_number
from ringworld.planning.machines import Machine, gpu_machine, tpu_slice
from ringworld.planning.plan import Plan, Source, best_mesh, plan_stages
from ringworld.presets.run import RunConfig
from ringworld.training.config import Stage


def plan(
    run: RunConfig,
    *,
    topology: str | None = None,
    gpus: str | None = None,
    stages: Sequence[str] = (),
    by: Source | None = None,
    suggest: int = 0,
) -> Plan:
    """Say what the stages of a run need of a TPU slice or of GPUs, and whether they fit.

    As `train` does there, each stage takes all devices: its ring is made as long as needed.

    Args:
        run: what would be trained; such as `ringworld.presets.lwm_text_7b()`.
        topology: a TPU slice, such as `v5p:4x8x8`.
        gpus: GPUs instead, such as `8xH200`.
        stages: names of stages to plan; by default all.
        by: "compiler" compiles the train step of each stage with libtpu, in minutes and without a TPU;
            "arithmetic" takes no time. By default the compiler for a TPU slice; of GPUs there is arithmetic
            alone.
        suggest: how many meshes to suggest for each stage, by arithmetic.

    Returns:
        Bytes a chip, FLOPs and the least seconds a step of every stage.

    Raises:
        InputError: there is no such machine or stage, the mesh of a stage does not divide it, or libtpu is
            not installed.
    """
    check_run(run)
    machine = _machine(topology, gpus)
    if by is None:
        by = "compiler" if topology else "arithmetic"
    if by not in get_args(Source):
        raise not_a_choice("by", by, choices=get_args(Source))
    if by == "compiler" and gpus is not None:
        problem = "by is compiler, but only programs for TPU can be compiled without the device"
        raise InputError(problem, field="by", value=by, remedy="use arithmetic, or name a topology")
    suggest = whole_number("suggest", suggest, least=0)
    return plan_stages(
        run.training,
        _stages(run, stages, machine),
        architecture=run.model,
        execution=run.execution,
        machine=machine,
        by=by,
        suggest=suggest,
    )


def _machine(topology: str | None, gpus: str | None) -> Machine:
    if topology is not None and gpus is None:
        return tpu_slice(topology)
    if gpus is not None and topology is None:
        return gpu_machine(gpus)
    given = "neither is given" if gpus is None else f"both {topology} and {gpus} are given"
    raise InputError(
        f"a plan is for a topology of TPU chips or for gpus, but {given}",
        field="topology",
        value=topology,
        remedy="give one, such as v5p:4x8x8 or 8xH200",
    )


def _stages(run: RunConfig, names: Sequence[str], machine: Machine) -> tuple[Stage, ...]:
    chosen, stages = run.with_stages(names).training, list[Stage]()
    for stage in chosen.stages:
        alone = replace(run, training=replace(chosen, stages=(stage,)))
        try:
            stages += alone.on_devices(machine.chips).training.stages
        except InputError as error:
            raise _with_mesh(error, run, stage, machine) from error
    return tuple(stages)


def _with_mesh(error: InputError, run: RunConfig, stage: Stage, machine: Machine) -> InputError:
    """Add to the remedy a mesh that the machine has and over which a stage fits."""
    mesh = best_mesh(run.training, stage, architecture=run.model, execution=run.execution, machine=machine)
    such = f"; stage {stage.name} would fit with {mesh}" if mesh else ""
    return InputError(
        f"{machine.name}: {error.problem}", remedy=f"{error.remedy}{such}", field="mesh", value=machine.chips
    )
