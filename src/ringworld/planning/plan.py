"""What each stage of a run needs of a machine: bytes, time, and whether it fits."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import machine as this_machine
from ringworld.core.origin import versions
from ringworld.core.version import __version__
from ringworld.model.config import Architecture, Execution
from ringworld.planning.collectives import Collective
from ringworld.planning.machines import GPUS, Machine
from ringworld.planning.memory import MemoryNeeds, host_bytes, memory_needs
from ringworld.planning.program import CompiledMemory, Program, compile_step, devices_of
from ringworld.planning.roofline import Roofline, roofline, step_flops
from ringworld.planning.suggest import Suggestion, suggestions
from ringworld.training.config import Stage, TrainingConfig

Source = Literal["compiler", "arithmetic"]
"""Who says how much memory a stage needs: libtpu's compiler, or a model of what the step keeps."""
_ROOM = 0.9
"""Of a chip's memory, what arithmetic may fill before a mesh is suggested."""
_TAKEN_OF_A_GPU = 0.75
_DAY_SECONDS = 86_400
_GIB = 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class StagePlan:
    """One stage on one machine."""

    stage: str
    context_tokens: int
    mesh: MeshConfig
    accumulation_steps: int
    by: Source
    """Who says `bytes_per_chip`."""
    fits: bool
    bytes_per_chip: int
    """The most that is in use at a time."""
    hbm_bytes_per_chip: int
    """What there is for programs."""
    host_bytes_per_chip: int
    """Of the host's memory, for what is offloaded, by arithmetic."""
    compile_seconds: float
    """On the machine that planned; 0 by arithmetic."""
    flops_per_step: int
    """That the model needs, where each row holds one example; nothing is counted twice."""
    step_seconds_estimate: float
    """The least time that a step can take; see `roofline`."""
    mfu_estimate: float
    """Share of the peak that the model's FLOPs reach in that time: the most that can be."""
    days_estimate: float
    """Of the stage, at that speed."""
    roofline: Roofline
    arithmetic: MemoryNeeds
    """Bytes by what they are for."""
    compiled: CompiledMemory | None
    """Bytes as the compiler sorts them; None by arithmetic."""
    collectives: tuple[Collective, ...]
    """Of the compiled step."""
    remedy: str
    """What to change where it does not fit, in words."""
    changes: tuple[str, ...]
    """The parameters that the remedy names, or `chips`; empty where it fits."""
    suggestions: tuple[Suggestion, ...]
    """Meshes over which it fits by arithmetic, the fastest first."""

    @property
    def spare_bytes(self) -> int:
        """Return what is left on a chip; less than nothing where it does not fit."""
        return self.hbm_bytes_per_chip - self.bytes_per_chip


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All stages that were asked for."""

    machine: Machine
    stages: tuple[StagePlan, ...]

    @property
    def fits(self) -> bool:
        """Whether every stage fits."""
        return all(one.fits for one in self.stages)

    @property
    def tightest(self) -> StagePlan:
        """Return the stage that leaves least memory."""
        return min(self.stages, key=lambda one: one.spare_bytes)

    def json(self, *, command: str) -> str:
        """Return one JSON object, with the command that it comes from.

        Of several stages, the numbers beside `stages` are those of the one that leaves least memory, which
        `stage` names; `fits` is of all of them, and seconds to compile and days are sums.
        """
        tightest = self.tightest
        compilers = ["libtpu"] if any(one.by == "compiler" for one in self.stages) else []
        made = {
            "command": command,
            "machine": self.machine.name,
            "chips": self.machine.chips,
            "chip": asdict(self.machine.chip),
            "fits": self.fits,
            "stage": tightest.stage,
            "bytes_per_chip": tightest.bytes_per_chip,
            "hbm_bytes_per_chip": tightest.hbm_bytes_per_chip,
            "compile_seconds": sum(one.compile_seconds for one in self.stages),
            "flops_per_step": tightest.flops_per_step,
            "step_seconds_estimate": tightest.step_seconds_estimate,
            "days_estimate": sum(one.days_estimate for one in self.stages),
            "stages": [asdict(one) for one in self.stages],
            "versions": {"ringworld": __version__, **versions("jax", "jaxlib", *compilers)},
            "compiled_on": this_machine(),
        }
        return json.dumps(made, indent=2)

    def table(self) -> str:
        """Return a line for each stage, then what it sends, what to change, and what would fit."""
        chip, by = self.machine.chip, self.stages[0].by
        lines = [
            f"{self.machine.name}: {self.machine.chips} x {chip.name} of {chip.hbm_bytes / _GIB:.1f} GiB, by "
            f"{'the compiler of libtpu' if by == 'compiler' else by}; times are the least that there can be",
            *self._notes(),
            f"{'stage':8}{'context':>10}  {'mesh':42}{'GiB a chip':>11}{'spare':>8}{'step s':>9}{'MFU':>6}"
            f"{'days':>7}",
        ]
        for one in self.stages:
            lines.append(
                f"{one.stage:8}{one.context_tokens:>10}  {_mesh(one.mesh, one.accumulation_steps):42}"
                f"{one.bytes_per_chip / _GIB:>11.2f}{one.spare_bytes / _GIB:>8.2f}"
                f"{one.step_seconds_estimate:>9.3g}{one.mfu_estimate:>6.0%}{one.days_estimate:>7.2g}"
            )
            if one.host_bytes_per_chip:
                lines.append(
                    f"  offloaded: {one.host_bytes_per_chip / _GIB:.2f} GiB a chip of the host's memory"
                )
            lines += [
                f"  {sent.kind}: {sent.count}, {sent.bytes_per_chip / 1e9:.2f} GB a chip and step, "
                f"{sent.hidden_bytes_per_chip / max(1, sent.bytes_per_chip):.0%} while something is computed"
                for sent in one.collectives
            ]
            if one.remedy:
                lines.append(f"  does not fit: {one.remedy}")
            lines += [
                f"  would fit: {_mesh(other.mesh, other.accumulation_steps)}, strategy {other.strategy}: "
                f"{other.bytes_per_chip / _GIB:.2f} GiB, {other.step_seconds_estimate:.3g} s"
                for other in one.suggestions
            ]
        return "\n".join(lines)

    def _notes(self) -> list[str]:
        """Return what a reader of the table would not expect."""
        available = self.machine.chip.hbm_bytes
        notes = []
        if self.stages[0].by == "arithmetic":
            notes.append(
                f"to fit by arithmetic, {1 - _ROOM:.0%} of the memory must be left, since it is not exact"
            )
        needed = max(one.bytes_per_chip for one in self.stages)
        if self.machine.chip.name in GPUS and _TAKEN_OF_A_GPU * available < needed <= available:
            notes.append("jax takes 75% of a GPU by itself: set XLA_PYTHON_CLIENT_MEM_FRACTION=0.95")
        return notes


def plan_stages(
    config: TrainingConfig,
    stages: Sequence[Stage],
    *,
    architecture: Architecture,
    execution: Execution,
    machine: Machine,
    by: Source,
    suggest: int,
) -> Plan:
    """Plan stages of a run, whose meshes take all chips of the machine.

    Args:
        config: the run, whose optimizer and adapter count.
        stages: those to plan, one after another.
        architecture: of the model.
        execution: how it is computed.
        machine: what it is planned for; the compiler makes programs for TPU slices alone.
        by: who says how much memory is needed.
        suggest: how many meshes to suggest for each stage.

    Raises:
        InputError: libtpu is missing, or a stage cannot be computed on these chips.
    """
    devices = devices_of(machine) if by == "compiler" else []
    planned = []
    for stage in stages:
        program = None
        if by == "compiler":
            print(f"plan {stage.name}: compiling for {machine.name}", file=sys.stderr, flush=True)
            program = compile_step(
                config,
                stage,
                architecture=architecture,
                execution=execution,
                machine=machine,
                devices=devices,
            )
        planned.append(
            _planned(
                config,
                stage,
                architecture=architecture,
                execution=execution,
                machine=machine,
                program=program,
                suggest=suggest,
            )
        )
    return Plan(machine=machine, stages=tuple(planned))


def best_mesh(
    config: TrainingConfig,
    stage: Stage,
    *,
    architecture: Architecture,
    execution: Execution,
    machine: Machine,
) -> str:
    """Return in words the fastest other mesh over which a stage fits by arithmetic, or nothing."""
    found = [
        one
        for one in suggestions(
            config, stage, architecture=architecture, execution=execution, machine=machine, room=_ROOM, most=2
        )
        if (one.mesh, one.accumulation_steps) != (stage.mesh, stage.accumulation_steps)
    ]
    if not found:
        return ""
    best, strategy = found[0], ""
    if best.strategy != execution.attention.strategy:
        strategy = f" and the strategy {best.strategy}"
    return f"{_mesh(best.mesh, best.accumulation_steps)}{strategy}"


def _planned(
    config: TrainingConfig,
    stage: Stage,
    *,
    architecture: Architecture,
    execution: Execution,
    machine: Machine,
    program: Program | None,
    suggest: int,
) -> StagePlan:
    how = {"architecture": architecture, "execution": execution}
    needs = memory_needs(stage, optimizer=config.optimizer, lora=config.lora, **how)
    needed, available = needs.total, machine.chip.hbm_bytes
    fits, sent = needed <= _ROOM * available, None
    if program is not None:
        needed, available, fits = program.memory.peak_bytes, program.hbm_bytes, program.fits
        sent = program.collectives or None
    least = roofline(stage, lora=config.lora, machine=machine, needs=needs, sent=sent, **how)
    flops = step_flops(stage, architecture, config.lora)
    changes, remedy = ((), "") if fits else _remedy(config, stage, machine=machine, needs=needs, **how)
    return StagePlan(
        stage=stage.name,
        context_tokens=stage.context_tokens,
        mesh=stage.mesh,
        accumulation_steps=stage.accumulation_steps,
        by="arithmetic" if program is None else "compiler",
        fits=fits,
        bytes_per_chip=needed,
        hbm_bytes_per_chip=available,
        host_bytes_per_chip=host_bytes(stage, **how),
        compile_seconds=program.compile_seconds if program else 0.0,
        flops_per_step=flops,
        step_seconds_estimate=least.step_seconds,
        mfu_estimate=flops / (least.step_seconds * machine.chips * machine.chip.flops_per_second),
        days_estimate=stage.steps * least.step_seconds / _DAY_SECONDS,
        roofline=least,
        arithmetic=needs,
        compiled=program and program.memory,
        collectives=sent or (),
        remedy=remedy,
        changes=changes,
        suggestions=suggestions(config, stage, machine=machine, room=_ROOM, most=suggest, **how)
        if suggest
        else (),
    )


def _remedy(
    config: TrainingConfig,
    stage: Stage,
    *,
    architecture: Architecture,
    execution: Execution,
    machine: Machine,
    needs: MemoryNeeds,
) -> tuple[tuple[str, ...], str]:
    """Return what to change of a stage that does not fit, and that in words.

    | largest part | first |
    |---|---|
    | kept, and no product is computed again | `remat="layer"` |
    | layer, and the feed-forward takes all tokens at once | `mlp_block_tokens` |
    | anything else | another mesh or more accumulation |
    | anything else, there is no such mesh, and it fits where what is kept is elsewhere | `remat="offload"` |
    | anything else | more chips |
    """
    largest = f"most of it is {needs.largest}, {getattr(needs, needs.largest) / _GIB:.1f} GiB by arithmetic"
    if needs.largest == "kept" and execution.remat == "none":
        return ("remat",), f'{largest}; set remat="layer"'
    if needs.largest == "layer" and not execution.mlp_block_tokens:
        return ("mlp_block_tokens",), f"{largest}; set mlp_block_tokens, such as 4096"
    mesh = best_mesh(config, stage, architecture=architecture, execution=execution, machine=machine)
    away = replace(execution, remat="offload")
    how = {"architecture": architecture, "optimizer": config.optimizer, "lora": config.lora}
    if not mesh and memory_needs(stage, execution=away, **how).total <= _ROOM * machine.chip.hbm_bytes:
        words = f'{largest}; set remat="offload", which keeps it in the memory of the host'
        return ("remat",), words
    if not mesh:
        none = f"no mesh of {machine.chips} chips holds it"
        return ("chips", "context_tokens"), f"{largest}; {none}: use more chips or a shorter context"
    return ("mesh", "accumulation_steps"), f"{largest}; try {mesh}"


def _mesh(mesh: MeshConfig, accumulation_steps: int) -> str:
    sizes = [f"{name}={size}" for name, size in asdict(mesh).items() if size > 1]
    pieces = [f"accumulation_steps={accumulation_steps}"] if accumulation_steps > 1 else []
    return " ".join([*sizes, *pieces]) or "one device"
