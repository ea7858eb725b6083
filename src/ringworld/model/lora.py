"""An adapter: what LoRA adds to chosen matrices of a model that stays as it is."""

import math
from operator import attrgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ringworld.core.sharding import spec
from ringworld.model.config import Architecture
from ringworld.model.layers import normal
from ringworld.model.lora_config import MATRICES, TARGETS, LoraConfig, Target
from ringworld.model.weights import LoraWeight
from ringworld.model.world_model import WorldModel


class LowRank(eqx.Module):
    """Two thin matrices whose product is added to one of each layer, stacked over layers."""

    a: Float[Array, "layers ..."]  # then the inputs, and the rank
    b: Float[Array, "layers rank ..."]  # then the output channels


class Adapter(eqx.Module):
    """All that is trained: float32, spread over the mesh as the weights that it is added to.

    None stands for a matrix that stays as it is.
    """

    q_proj: LowRank | None
    k_proj: LowRank | None
    v_proj: LowRank | None
    o_proj: LowRank | None
    gate_proj: LowRank | None
    up_proj: LowRank | None
    down_proj: LowRank | None
    scale: float = eqx.field(static=True)

    @staticmethod
    def init(architecture: Architecture, config: LoraConfig, *, key: PRNGKeyArray) -> "Adapter":
        """Draw an adapter that adds nothing yet. Call it inside jit, under `jax.set_mesh`.

        `A` has the variance that peft gives it, 1 / (3 inputs), and `B` is zeros; the values do not depend on
        the mesh.
        """
        keys = dict(zip(TARGETS, jax.random.split(key, len(TARGETS))))

        def draw(target: Target) -> LowRank | None:
            if target not in config.targets:
                return None
            _, *sides = MATRICES[target]
            inputs, channels = ([getattr(architecture, name) for name in side] for side in sides)
            at_rest = [["weight" if name == "embed" else name for name in side] for side in sides]
            return LowRank(
                a=normal(
                    keys[target],
                    (architecture.layers, *inputs, config.rank),
                    *("layers", *at_rest[0], "rank"),
                    deviation=(3 * math.prod(inputs)) ** -0.5,
                ),
                b=jnp.zeros(
                    (architecture.layers, config.rank, *channels),
                    jnp.float32,
                    out_sharding=spec("layers", "rank", *at_rest[1]),
                ),
            )

        pairs: dict[str, Any] = {target: draw(target) for target in TARGETS}
        return Adapter(**pairs, scale=config.alpha / config.rank)


Trainable = WorldModel | Adapter
"""What a run may train: all weights, or an adapter of a model that stays as it is."""


def whole_model(trained: Trainable, frozen: WorldModel | None) -> WorldModel:
    """Return the model that a run trains; of an adapter, with `frozen`, the weights that stay as they are."""
    if isinstance(trained, Adapter):
        assert frozen is not None, "an adapter has a model"
        return adapted(frozen, trained)
    return trained


def adapted(model: WorldModel, adapter: Adapter) -> WorldModel:
    """Return the model with the adapter beside its matrices, which are neither changed nor copied."""
    pairs: dict[Target, LowRank] = {
        target: pair for target in TARGETS if (pair := getattr(adapter, target)) is not None
    }

    def chosen(model: WorldModel) -> list[Any]:
        return [attrgetter(MATRICES[target].path)(model.layers) for target in pairs]

    weights = [
        LoraWeight(base=base, a=pair.a, b=pair.b, scale=adapter.scale)
        for base, pair in zip(chosen(model), pairs.values())
    ]
    return eqx.tree_at(chosen, model, weights)
