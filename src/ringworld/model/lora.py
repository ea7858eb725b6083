"""An adapter: what LoRA adds to chosen matrices of a model that stays as it is."""

import math
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ringworld.core.sharding import spec
from ringworld.model.config import Architecture, WeightType
from ringworld.model.layers import normal
from ringworld.model.lora_config import MATRICES, TARGETS, LoraConfig, Target
from ringworld.model.weights import LoraWeight, quantized
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


def kept(model: WorldModel, weights: WeightType) -> WorldModel:
    """Return the weights of a model in the type in which they are kept beside an adapter.

    Of int8, matrices of layers and the output head are rounded, and the rest is bfloat16. Call it inside
    jit, under `jax.set_mesh`; a model on disk is read as this by `interop.hf_llama.read_weights`, a layer
    at a time.
    """
    narrow = jax.tree.map(lambda leaf: leaf.astype("float32" if weights == "float32" else "bfloat16"), model)
    if weights != "int8":
        return narrow
    paths = {f"layers.{matrix.path}": len(matrix.inputs) for matrix in MATRICES.values()}

    def rounded(weight: Any, *, inputs: int) -> Any:
        return jax.vmap(partial(quantized, inputs=inputs))(weight)

    of_layers = [rounded(attrgetter(path)(model), inputs=inputs) for path, inputs in paths.items()]
    narrow = eqx.tree_at(lambda tree: [attrgetter(path)(tree) for path in paths], narrow, of_layers)
    if model.output_head is None:
        return narrow
    return replace(narrow, output_head=quantized(model.output_head, inputs=1))


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
