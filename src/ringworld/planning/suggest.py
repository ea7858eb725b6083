"""Meshes over which a stage fits, the fastest first; by arithmetic, without importing jax."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from ringworld.attention.config import Strategy, advised_sharing
from ringworld.core.divisors import divisors
from ringworld.core.errors import InputError
from ringworld.core.mesh_config import MeshConfig
from ringworld.model.config import Architecture, Execution
from ringworld.planning.machines import Machine
from ringworld.planning.memory import memory_needs
from ringworld.planning.roofline import roofline
from ringworld.training.config import Stage, TrainingConfig, validate


@dataclass(frozen=True, kw_only=True, slots=True)
class Suggestion:
    """A mesh over which a stage fits."""

    mesh: MeshConfig
    accumulation_steps: int
    """The fewest with which it fits."""
    strategy: Strategy
    """How its sequence axes share a sequence."""
    bytes_per_chip: int
    step_seconds_estimate: float


def suggestions(
    config: TrainingConfig,
    stage: Stage,
    *,
    architecture: Architecture,
    execution: Execution,
    machine: Machine,
    room: float,
    most: int = 5,
) -> tuple[Suggestion, ...]:
    """Return meshes of all chips of a machine over which a stage fits, by the least time of a step.

    Sequences are shared as `advised_sharing` says. Of two meshes that are equally fast, the one that moves
    and sends less comes first.

    Args:
        config: whose optimizer and adapter count.
        stage: whose mesh, accumulation and strategy are looked for.
        architecture: of the model.
        execution: all else of it stays.
        machine: how many chips there are, and of which kind.
        room: share of a chip's memory that arithmetic may fill, since it is not exact.
        most: how many to return.
    """
    found: list[tuple[float, Suggestion]] = []
    for mesh, strategy in _meshes(architecture, machine.chips):
        shared = replace(execution, attention=replace(execution.attention, strategy=strategy))
        rows, left = divmod(stage.batch_sequences, mesh.batch_members)
        for pieces in [] if left else divisors(rows):
            tried = replace(stage, mesh=mesh, accumulation_steps=pieces)
            how = {"architecture": architecture, "execution": shared, "lora": config.lora}
            needs = memory_needs(tried, optimizer=config.optimizer, **how)
            if needs.total > room * machine.chip.hbm_bytes:
                continue
            with suppress(InputError):
                validate(replace(config, stages=(tried,)), architecture, shared)
                least = roofline(tried, machine=machine, needs=needs, **how)
                made = Suggestion(
                    mesh=mesh,
                    accumulation_steps=pieces,
                    strategy=strategy,
                    bytes_per_chip=needs.total,
                    step_seconds_estimate=least.step_seconds,
                )
                found.append((least.memory_seconds + least.network_seconds, made))
            break
    found.sort(key=lambda one: (one[1].step_seconds_estimate, one[0]))
    return tuple(made for _, made in found[:most])


def _meshes(architecture: Architecture, chips: int) -> Iterator[tuple[MeshConfig, Strategy]]:
    for tensor in divisors(chips):
        if architecture.kv_heads % tensor:
            continue
        for members in divisors(chips // tensor):
            sharing = advised_sharing(kv_heads=architecture.kv_heads // tensor, members=members)
            for data in divisors(chips // (tensor * members)):
                mesh = MeshConfig(
                    data=data,
                    fsdp=chips // (tensor * members * data),
                    ring=sharing.ring,
                    ulysses=sharing.ulysses,
                    tensor=tensor,
                )
                yield mesh, sharing.strategy
