"""AdamW with clipping, and one learning rate schedule over all stages."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float32, Int32

from ringworld.model.world_model import WorldModel
from ringworld.training.config import Stage, TrainingConfig


def learning_rate(step: Int32[Array, ""], config: TrainingConfig) -> Float32[Array, ""]:
    """Return the learning rate of the update after `step` others: warm-up and cosine, anew in each stage.

    Example:
        One stage with `warmup_steps=3`, `learning_rate=4`: steps 0, 1, 2, 3 have 1, 2, 3, 4.
    """
    schedules = [_of_stage(stage) for stage in config.stages]
    # optax mixes Python floats with int32 counts, which strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"):
        return jnp.asarray(optax.join_schedules(schedules, list(config.boundaries[1:-1]))(step), jnp.float32)


def init_moments(config: TrainingConfig, params: WorldModel) -> optax.OptState:
    """Return moments of zero, in float32 and spread as the weights, and a count of steps."""
    tree: Any = params
    return _optimizer(config).init(tree)


def apply_gradient(
    config: TrainingConfig, gradient: WorldModel, moments: optax.OptState, params: WorldModel
) -> tuple[WorldModel, optax.OptState]:
    """Return the weights and the moments after one update."""
    trees: Any = (gradient, moments, params)
    with jax.named_scope("optimizer"), jax.numpy_dtype_promotion("standard"):
        updates, moments = _optimizer(config).update(*trees)
        after: Any = optax.apply_updates(trees[-1], updates)
    return after, moments


def _optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    optimizer = config.optimizer
    schedule: Any = partial(learning_rate, config=config)
    return optax.chain(
        optax.clip_by_global_norm(optimizer.clip_norm),
        optax.adamw(
            schedule,
            b1=optimizer.beta1,
            b2=optimizer.beta2,
            eps=optimizer.epsilon,
            weight_decay=optimizer.weight_decay,
            mask=decayed,
        ),
    )


def decayed(model: WorldModel) -> WorldModel:
    """Return whether each parameter decays, as a tree of bools: every matrix does, the head among them.

    Norm scales do not, since they start at 1 and not 0, nor do biases; nor does the embedding, since the
    vector of a rare token would fade between the few batches that hold the token.
    """
    nothing = jax.tree.map(lambda _: False, model)
    return eqx.tree_at(_matrices, nothing, replace_fn=lambda _: True)


def _matrices(model: WorldModel) -> list[Any]:
    attention, mlp = model.layers.attention, model.layers.mlp
    matrices = [attention.wq, attention.wk, attention.wv, attention.wo, mlp.gate, mlp.up, mlp.down]
    return matrices if model.head is None else [*matrices, model.head]


def _of_stage(stage: Stage) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(
        init_value=stage.learning_rate / (stage.warmup_steps + 1),
        peak_value=stage.learning_rate,
        warmup_steps=stage.warmup_steps,
        decay_steps=stage.steps,
        end_value=stage.min_learning_rate,
    )
