"""What a training run carries from step to step, and through a checkpoint."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Array, Int32

from ringworld.core.sharding import spec
from ringworld.model.config import Architecture
from ringworld.model.lora import Adapter, Trainable, kept
from ringworld.model.world_model import WorldModel
from ringworld.training.config import Stage, TrainingConfig
from ringworld.training.guard import Guard
from ringworld.training.optimizer import init_moments, reset_moments

T = TypeVar("T")


class TrainState(eqx.Module):
    """Weights, moments and progress of a run, one through all its stages.

    Where an adapter is trained, the model that it adapts is no part of it: it never changes.
    """

    params: Trainable
    """Float32 master weights, or those of an adapter, spread over the mesh."""
    optimizer: optax.OptState
    """Moments, in the type that they are kept in, spread as the weights that they belong to."""
    step: Int32[Array, ""]
    """Updates done since the run began, over all stages; skipped ones count."""
    guard: Guard
    """What was skipped, and what decides about the next update."""


def init_state(
    config: TrainingConfig, architecture: Architecture, *, mesh: Mesh, model: WorldModel | None = None
) -> TrainState:
    """Return the first state of a run, from weights that lie on the mesh, or drawn from the seed.

    An adapter is always drawn. Weights are drawn on the devices on which they lie; the values do not depend
    on the mesh.
    """
    where = shardings(config, architecture, mesh=mesh)
    with jax.set_mesh(mesh):
        begin = jax.jit(partial(_begin, config, architecture), out_shardings=where)
        return begin(jax.random.key(config.seed) if model is None else model)


def begin_stage(state: TrainState, config: TrainingConfig, stage: Stage) -> TrainState:
    """Return the state with which a stage begins that another has left, on the mesh that is set.

    | part | |
    |---|---|
    | weights, updates done, updates skipped | kept |
    | moments, and how many updates they are over | as the stage says |
    | gradient norms, updates skipped in a row | begin anew |
    """
    where = jax.tree.map(lambda leaf: leaf.sharding, state)
    # What is given up is donated, so that what replaces it needs no more memory.
    return jax.jit(partial(_begun, config, stage), out_shardings=where, donate_argnums=0)(state)


def _begun(config: TrainingConfig, stage: Stage, state: TrainState) -> TrainState:
    moments = state.optimizer
    if stage.moments == "reset":
        moments = reset_moments(config, moments, state.params)
    return replace(state, guard=state.guard.next_stage(), optimizer=moments)


def shardings(config: TrainingConfig, architecture: Architecture, *, mesh: Mesh) -> TrainState:
    """Return where each part of a state lies on a mesh."""
    return jax.tree.map(lambda leaf: leaf.sharding, abstract_state(config, architecture, mesh=mesh))


def abstract_state(
    config: TrainingConfig, architecture: Architecture, *, mesh: Mesh | AbstractMesh
) -> TrainState:
    """Return shapes, types and shardings without arrays: to restore a checkpoint, or to plan a run."""
    return _abstract(lambda: _begin(config, architecture, jax.random.key(config.seed)), mesh=mesh)


def abstract_frozen(
    config: TrainingConfig, architecture: Architecture, *, mesh: Mesh | AbstractMesh
) -> WorldModel | None:
    """Return the model that an adapter is trained for, as `abstract_state` does the state; else None."""
    if not config.lora.rank:
        return None

    def begin() -> WorldModel:
        return kept(WorldModel.init(architecture, key=jax.random.key(0)), config.lora.base)

    return _abstract(begin, mesh=mesh)


def _abstract(make: Callable[[], T], *, mesh: Mesh | AbstractMesh) -> T:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        shapes = jax.eval_shape(make)

    def on_mesh(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        # The type of a constant, such as a step count or Muon's coefficients, names no sharding.
        partition = leaf.sharding.spec if leaf.sharding else spec(*[None] * leaf.ndim)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, partition))

    return jax.tree.map(on_mesh, shapes)


def _begin(config: TrainingConfig, architecture: Architecture, start: WorldModel | Array) -> TrainState:
    if isinstance(start, WorldModel):
        params = start
    elif config.lora.rank:
        params = Adapter.init(architecture, config.lora, key=start)
    else:
        params = WorldModel.init(architecture, key=start)
    return TrainState(
        params=params, optimizer=init_moments(config, params), step=jnp.int32(0), guard=Guard.new()
    )
