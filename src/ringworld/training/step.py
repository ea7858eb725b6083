"""One update of the weights: compiled once a stage."""

from collections.abc import Callable
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jaxtyping import Array, Float32, Int32

from ringworld.core.sharding import spec
from ringworld.data.batch import PackedBatch
from ringworld.model.config import Architecture, Execution
from ringworld.model.forward import Forward
from ringworld.model.lora import Trainable, whole_model
from ringworld.model.world_model import WorldModel, weighted_loss
from ringworld.training.config import Stage, TrainingConfig
from ringworld.training.guard import Guard, judge, made_if
from ringworld.training.loss import POSITION_STARTS, LossOutput, by_position, loss_output, loss_weights
from ringworld.training.optimizer import apply_gradient, learning_rate
from ringworld.training.state import TrainState

Pieces = tuple[PackedBatch, ...]
"""The sequences of one update, in `accumulation_steps` parts; every field [batch, seq], on the devices."""


def abstract_pieces(stage: Stage, *, mesh: Mesh | AbstractMesh) -> Pieces:
    """Return shapes, types and shardings of a batch without arrays: to plan a stage."""
    shape = (stage.batch_sequences // stage.accumulation_steps, stage.context_tokens)
    where = NamedSharding(mesh, spec("batch", "seq"))
    ids, weights = (jax.ShapeDtypeStruct(shape, dtype, sharding=where) for dtype in (jnp.int32, jnp.float32))
    piece = PackedBatch(
        tokens=ids, targets=ids, order=ids, first=ids, text_weights=weights, vision_weights=weights
    )
    return (piece,) * stage.accumulation_steps


class StepOutput(eqx.Module):
    """What one update reports."""

    loss: LossOutput
    """Before the update."""
    gradient_norm: Float32[Array, ""]
    """Global norm of the gradient before it is clipped."""
    learning_rate: Float32[Array, ""]
    """Rate of this update."""
    step: Int32[Array, ""]
    """Number of this update."""
    guard: Guard
    """After it."""


def make_step(
    config: TrainingConfig, stage: Stage, architecture: Architecture, execution: Execution
) -> Callable[..., tuple[TrainState, StepOutput]]:
    """Return the update of one stage, to be compiled for the mesh that is set; its arguments are `update`'s.

    It takes over the memory of the state that it is given. The rope base is the stage's.
    """
    forward = Forward.of(architecture, execution, rope_base=stage.rope_base)
    return jax.jit(partial(update, config=config, forward=forward), donate_argnums=0)


def update(
    state: TrainState,
    pieces: Pieces,
    frozen: WorldModel | None = None,
    *,
    config: TrainingConfig,
    forward: Forward,
) -> tuple[TrainState, StepOutput]:
    """Return the state one step on, and what is worth a line in the log; see `guard.judge`.

    Where the state is of an adapter, `frozen` is the model that it adapts.
    """
    loss, gradient = loss_and_gradient(state.params, pieces, frozen, config=config, forward=forward)
    norm = optax.tree.norm(gradient)
    good, guard = judge(state.guard, loss=loss.loss, norm=norm, config=config.guard)
    after = apply_gradient(config, gradient, state.optimizer, state.params)
    params, moments = made_if(good, after, (state.params, state.optimizer))
    step = state.step + 1
    output = StepOutput(
        loss=loss,
        gradient_norm=norm,
        learning_rate=learning_rate(state.step, config),
        step=step,
        guard=guard,
    )
    return TrainState(params=params, optimizer=moments, step=step, guard=guard), output


def loss_and_gradient(
    params: Trainable,
    pieces: Pieces,
    frozen: WorldModel | None = None,
    *,
    config: TrainingConfig,
    forward: Forward,
) -> tuple[LossOutput, Trainable]:
    """Return the loss of one update and its gradient, in float32 and spread as the weights.

    The weights in the loss are those of the whole update, so that the result does not depend on how its
    sequences are cut into pieces, which are computed one after another.
    """
    batch = jax.tree.map(lambda *fields: jnp.stack(fields), *pieces)
    weights = loss_weights(
        batch, text_weight=config.text_loss_weight, vision_weight=config.vision_loss_weight
    )

    def piece_loss(
        params: Trainable, piece: PackedBatch, text: Array, vision: Array
    ) -> tuple[Float32[Array, ""], Float32[Array, "modalities=2 positions"]]:
        order, first = piece.order, piece.first
        model = whole_model(params, frozen)
        loss, nll = weighted_loss(
            model, piece.tokens, piece.targets, text + vision, order=order, first=first, forward=forward
        )
        return loss, by_position(text * nll, vision * nll, batch=piece)

    def add_piece(
        total: tuple[Trainable, Array], piece: tuple[PackedBatch, Array, Array]
    ) -> tuple[tuple[Trainable, Array], None]:
        return jax.tree.map(jnp.add, total, jax.grad(piece_loss, has_aux=True)(params, *piece)), None

    nothing = (jax.tree.map(jnp.zeros_like, params), jnp.zeros((2, len(POSITION_STARTS)), jnp.float32))
    (gradient, parts), _ = jax.lax.scan(add_piece, nothing, (batch, weights.text, weights.vision))
    return loss_output(parts, weights, batch), gradient
