"""AdamW or Muon with clipping, and one learning rate schedule over all stages."""

import math
from functools import partial
from itertools import combinations
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float32, Int32
from optax.contrib import MuonDimensionNumbers, MuonState

from ringworld.core.sharding import WEIGHT_AXES
from ringworld.model.lora import Adapter, Trainable
from ringworld.model.world_model import WorldModel
from ringworld.training.config import MomentType, Stage, TrainingConfig

T = TypeVar("T", bound=Trainable)
_WITH_MOMENTS = (optax.ScaleByAdamState, MuonState)
_RMS_OF_ADAMW = 0.2
"""Of an update of AdamW, in units of its learning rate (arXiv 2502.16982, section 2.2)."""


def learning_rate(step: Int32[Array, ""], config: TrainingConfig) -> Float32[Array, ""]:
    """Return the learning rate of the update after `step` others: warm-up and cosine, anew in each stage.

    Example:
        One stage with `warmup_steps=3`, `learning_rate=4`: steps 0, 1, 2, 3 have 1, 2, 3, 4.
    """
    schedules = [_of_stage(stage) for stage in config.stages]
    # optax mixes Python floats with int32 counts, which strict promotion would refuse.
    with jax.numpy_dtype_promotion("standard"):
        return jnp.asarray(optax.join_schedules(schedules, list(config.boundaries[1:-1]))(step), jnp.float32)


def init_moments(config: TrainingConfig, params: Trainable) -> optax.OptState:
    """Return moments of zero and a count of steps, spread as the weights."""
    tree: Any = params
    return _optimizer(config).init(tree)


def reset_moments(config: TrainingConfig, moments: optax.OptState, params: Trainable) -> optax.OptState:
    """Return moments as `init_moments` does, in a run that is as far as `moments`.

    The schedule of learning rates continues; what corrects moments for their beginning at zero does not.
    """

    def kept(fresh: Any, old: Any) -> Any:
        return old if isinstance(old, optax.ScaleByScheduleState) else fresh

    return jax.tree.map(
        kept,
        init_moments(config, params),
        moments,
        is_leaf=lambda node: isinstance(node, optax.ScaleByScheduleState),
    )


def apply_gradient(
    config: TrainingConfig, gradient: T, moments: optax.OptState, params: T
) -> tuple[T, optax.OptState]:
    """Return the weights and the moments after one update."""
    trees: Any = (gradient, moments, params)
    with jax.named_scope("optimizer"), jax.numpy_dtype_promotion("standard"):
        updates, moments = _optimizer(config).update(*trees)
        after: Any = optax.apply_updates(trees[-1], updates)
    return after, moments


def _optimizer(config: TrainingConfig) -> optax.GradientTransformation:
    optimizer = config.optimizer
    schedule: Any = partial(learning_rate, config=config)
    directions: Any = _directions
    adamw = optax.adamw(
        schedule,
        b1=optimizer.beta1,
        b2=optimizer.beta2,
        eps=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        mask=decayed,
    )
    if optimizer.kind == "muon":
        muon = optax.contrib.muon(
            schedule,
            weight_decay=optimizer.weight_decay,
            muon_weight_dimension_numbers=directions,
            consistent_rms=_RMS_OF_ADAMW,
        )
        rule = optax.partition({"adamw": adamw, "muon": _by_layer(muon)}, _rules)
    else:
        rule = adamw
    if optimizer.moment_dtype != "float32":
        rule = _kept_as(rule, optimizer.moment_dtype)
    return optax.chain(optax.clip_by_global_norm(optimizer.clip_norm), rule)


def _kept_as(rule: optax.GradientTransformation, dtype: MomentType) -> optax.GradientTransformation:
    """Keep moments in another type between two updates."""

    def init(params: Any) -> Any:
        return _moments_as(rule.init(params), dtype)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        steps, after = rule.update(updates, _moments_as(state, "float32"), params)
        return steps, _moments_as(after, dtype)

    return optax.GradientTransformation(init, update)


def _moments_as(state: Any, dtype: MomentType) -> Any:
    """Return the state of an optimizer with the moments that are in it cast."""

    def cast(node: Any) -> Any:
        if not isinstance(node, _WITH_MOMENTS):
            return node
        names = set(node._fields) & {"mu", "nu"}
        trees = {name: jax.tree.map(lambda x: x.astype(dtype), getattr(node, name)) for name in names}
        return node._replace(**trees)

    return jax.tree.map(cast, state, is_leaf=lambda node: isinstance(node, _WITH_MOMENTS))


def _rules(model: WorldModel) -> WorldModel:
    """Return who moves each parameter, as a tree of names."""
    adamw = jax.tree.map(lambda _: "adamw", model)
    return eqx.tree_at(_matrices_of_layers, adamw, replace_fn=lambda _: "muon")


def _directions(model: WorldModel) -> WorldModel:
    """Return which dimensions of each matrix, stacked over layers, are summed over and which are channels."""
    whole = MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    into_heads = MuonDimensionNumbers(reduction_axis=1, output_axis=(2, 3))
    from_heads = MuonDimensionNumbers(reduction_axis=(1, 2), output_axis=3)
    directions = [into_heads, into_heads, into_heads, from_heads, whole, whole, whole]
    return eqx.tree_at(_matrices_of_layers, model, directions)


def _by_layer(rule: optax.GradientTransformation) -> optax.GradientTransformation:
    """Let each device move whole matrices, those of some layers; what is kept lies where the weights do."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        steps, after = rule.update(_moved(updates), _moved(state), _moved(params))
        return _as_before(steps, updates), _as_before(after, state)

    return optax.GradientTransformation(rule.init, update)


def _moved(tree: Any) -> Any:
    def of_layers(leaf: Array) -> Array:
        return jax.reshard(leaf, _spread_over_layers(len(leaf))) if leaf.ndim > 2 else leaf

    return jax.tree.map(of_layers, tree)


def _as_before(tree: Any, before: Any) -> Any:
    return jax.tree.map(lambda leaf, was: jax.reshard(leaf, jax.typeof(was).sharding), tree, before)


def _spread_over_layers(layers: int) -> PartitionSpec:
    """Return the axes that the most members share the layers along."""
    sizes = jax.sharding.get_abstract_mesh().shape
    shares = {
        axes: math.prod(sizes[axis] for axis in axes)
        for count in range(len(WEIGHT_AXES) + 1)
        for axes in combinations(WEIGHT_AXES, count)
    }
    axes = max((axes for axes in shares if layers % shares[axes] == 0), key=lambda axes: shares[axes])
    return PartitionSpec(axes or None)


def decayed(model: T) -> T:
    """Return whether each parameter decays, as a tree of bools: every matrix does, also the output head.

    An adapter has matrices alone.

    Norm scales do not, since they start at 1 and not 0, nor do biases; nor does the embedding, since the
    vector of a rare token would fade between the few batches that hold the token.
    """
    if isinstance(model, Adapter):
        return jax.tree.map(lambda _: True, model)
    nothing = jax.tree.map(lambda _: False, model)
    return eqx.tree_at(_matrices, nothing, replace_fn=lambda _: True)


def _matrices(model: WorldModel) -> list[Any]:
    of_layers = _matrices_of_layers(model)
    return of_layers if model.output_head is None else [*of_layers, model.output_head]


def _matrices_of_layers(model: WorldModel) -> list[Any]:
    attention, mlp = model.layers.attention, model.layers.mlp
    return [attention.wq, attention.wk, attention.wv, attention.wo, mlp.gate, mlp.up, mlp.down]


def _of_stage(stage: Stage) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(
        init_value=stage.learning_rate / (stage.warmup_steps + 1),
        peak_value=stage.learning_rate,
        warmup_steps=stage.warmup_steps,
        decay_steps=stage.steps,
        end_value=stage.min_learning_rate,
    )
