"""The transformer: one embedding table, one output head, one id space of text and vision."""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jaxtyping import Array, Float, Float32, Int32, PRNGKeyArray

from ringworld.attention.attend import LSE_NAME, OUT_NAME, attention
from ringworld.core.errors import InputError
from ringworld.core.sharding import TENSOR_AXIS, spec
from ringworld.model.config import Architecture, Execution, RematName
from ringworld.model.cross_entropy import cross_entropy, weighted_cross_entropy
from ringworld.model.forward import Forward
from ringworld.model.layers import Layer, normal, rms_norm
from ringworld.model.rope import rotation
from ringworld.model.weights import PRODUCT_NAME, FrozenWeight, Weight, as_floats, in_use, product

_INPUT_NAME, _HOST = "layer_input", "pinned_host"


class WorldModel(eqx.Module):
    """Weights spread over the mesh; leaves of `layers` have a leading `layers` dimension.

    Those that are trained are float32 masters; where an adapter is, the others may be smaller.
    """

    embed: Float[Array, "vocab embed"]
    layers: Layer
    norm: Float[Array, " embed"]
    output_head: FrozenWeight | None  # [embed, vocab]
    """None where it is the embedding; see `read_out`."""

    @staticmethod
    def init(architecture: Architecture, *, key: PRNGKeyArray) -> "WorldModel":
        """Draw a model. Call it inside jit, under `jax.set_mesh`; the values do not depend on the mesh."""
        embed_key, layers_key, head_key = jax.random.split(key, 3)
        keys = jax.random.split(layers_key, architecture.layers)
        shape = (architecture.vocab, architecture.embed)
        return WorldModel(
            embed=normal(embed_key, shape, "vocab", "weight", deviation=architecture.embed**-0.5),
            layers=jax.vmap(lambda key: Layer.init(architecture, key=key))(keys),
            norm=jnp.ones(architecture.embed, jnp.float32, out_sharding=spec("weight")),
            # So small that the first predictions are nearly uniform, whatever the width.
            output_head=None
            if architecture.tied
            else normal(head_key, shape[::-1], "weight", "vocab", deviation=1 / architecture.embed),
        )

    @property
    def read_out(self) -> FrozenWeight:
        """What turns the last hidden states into scores: the output head, or the embedding if tied."""
        return self.embed.T if self.output_head is None else self.output_head

    @staticmethod
    def abstract(architecture: Architecture) -> "WorldModel":
        """Return shapes, types and shardings under the mesh that is set, without arrays."""
        return jax.eval_shape(lambda: WorldModel.init(architecture, key=jax.random.key(0)))


def hidden_states(
    model: WorldModel,
    tokens: Int32[Array, "batch seq"],
    *,
    order: Int32[Array, "batch seq"],
    first: Int32[Array, "batch seq"],
    forward: Forward,
) -> Float[Array, "batch seq embed"]:
    """Return what the output head reads: the residual stream after the last norm, in the compute type.

    Call it inside jit, under `jax.set_mesh`. All arrays are sharded by `spec("batch", "seq")` and in one
    layout; the result has the same layout. A token sees the tokens whose order lies in `[first, order]`;
    padding has order -1 and first 0. Nothing of size seq x seq is kept, and with blocks or any `remat` but
    "none" nothing of size seq x mlp.
    """
    rotated = rotation(positions(order, first), forward.frequencies)
    seen_from = window_start(order, first, forward=forward)
    attend = partial(attention, order=order, first=seen_from, config=forward.execution.attention)

    def step(
        x: Float[Array, "batch seq embed"], layer: Layer
    ) -> tuple[Float[Array, "batch seq embed"], None]:
        x = checkpoint_name(x, _INPUT_NAME)
        return layer(x, rotation=rotated, attend=attend, forward=forward), None

    step = jax.checkpoint(step, policy=_kept(forward.execution.remat), prevent_cse=False)
    x, _ = jax.lax.scan(step, embedded(model.embed, tokens, compute=forward.execution.compute), model.layers)
    return rms_norm(x, model.norm, eps=forward.architecture.norm_eps)


def _kept(remat: RematName) -> Callable[..., Any]:
    """Return what backward finds of each layer, as `jax.checkpoint` asks; the rest it computes again."""
    policies = jax.checkpoint_policies
    match remat:
        case "none":
            return policies.save_only_these_names(PRODUCT_NAME, OUT_NAME, LSE_NAME)
        case "layer":
            return policies.save_only_these_names(OUT_NAME, LSE_NAME)
        case "all":
            return policies.nothing_saveable
        case "offload":
            return policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[LSE_NAME],
                names_which_can_be_offloaded=[_INPUT_NAME, OUT_NAME],
                offload_src="device",
                offload_dst=_HOST,
            )


def check_offload(execution: Execution, mesh: Mesh) -> None:
    """Refuse to keep in the host's memory what devices have no way to put there.

    Raises:
        InputError: `remat` is "offload", and they have no such memory.
    """
    device = mesh.devices.flat[0]
    if execution.remat == "offload" and (
        device.platform == "cpu" or _HOST not in {memory.kind for memory in device.addressable_memories()}
    ):
        raise InputError(
            f'execution.remat is "offload", but a device of the kind {device.device_kind} has no memory of a '
            "host beside its own",
            field="execution.remat",
            value="offload",
            remedy='use remat="layer", which keeps the same on the device',
        )


def weighted_loss(
    model: WorldModel,
    tokens: Int32[Array, "batch seq"],
    targets: Int32[Array, "batch seq"],
    weights: Float32[Array, "batch seq"],
    *,
    order: Int32[Array, "batch seq"],
    first: Int32[Array, "batch seq"],
    forward: Forward,
) -> tuple[Float32[Array, ""], Float32[Array, "batch seq"]]:
    """Return the sum of the losses of targets, each times its weight, and the losses, which have no gradient.

    A loss is the negative log-likelihood of a target in nats, among the ids of its own modality; see
    `cross_entropy` for targets below 0. Arrays and layout as in `hidden_states`.
    """
    states = hidden_states(model, tokens, order=order, first=first, forward=forward)
    output_head = as_floats(model.read_out, compute=forward.execution.compute)
    text_vocab = forward.architecture.text_vocab
    return weighted_cross_entropy(states, output_head, targets, weights, text_vocab=text_vocab)


def losses_of(
    x: Float[Array, "batch seq embed"],
    targets: Int32[Array, "batch seq"],
    *,
    norm: Float[Array, " embed"],
    output_head: FrozenWeight,
    forward: Forward,
) -> Float32[Array, "batch seq"]:
    """Return the losses of targets, as `weighted_loss`, after the residual stream `x`.

    Args:
        x: After the last layer, before the last norm.
        targets: Of each token.
        norm: The last norm.
        output_head: [embed, vocab].
        forward: Configuration.
    """
    states = rms_norm(x, norm, eps=forward.architecture.norm_eps)
    ready = as_floats(output_head, compute=forward.execution.compute)
    return cross_entropy(states, ready, targets, text_vocab=forward.architecture.text_vocab)


def positions(
    order: Int32[Array, "*micro batch seq"], first: Int32[Array, "*micro batch seq"]
) -> Int32[Array, "*micro batch seq"]:
    """Return each token's position in its own example; 0 for padding."""
    return jnp.maximum(order - first, 0)


def window_start(
    order: Int32[Array, "batch seq"], first: Int32[Array, "batch seq"], *, forward: Forward
) -> Int32[Array, "batch seq"]:
    """Return the order from which on each token sees others: where its example begins, or its window.

    Example:
        Orders 0 to 4 of one example, with a window of 3 tokens: 0, 0, 0, 1, 2.
    """
    window = forward.architecture.window_tokens
    return jnp.maximum(first, order - (window - 1)) if window else first


def embedded(
    table: Float[Array, "vocab embed"], tokens: Int32[Array, "batch seq"], *, compute: str
) -> Float[Array, "batch seq embed"]:
    """Look tokens up in a table whose rows are cut over the tensor axis."""

    def local(
        table: Float[Array, "vocab embed"], tokens: Int32[Array, "batch seq"]
    ) -> Float[Array, "batch seq embed"]:
        row = tokens - jax.lax.axis_index(TENSOR_AXIS) * len(table)
        mine = (row >= 0) & (row < len(table))
        # Wide, because the gradient of a common token is the sum of very many small terms.
        rows = jnp.take(table.astype(jnp.float32), row, axis=0, mode="clip")
        return jax.lax.psum(jnp.where(mine[:, :, None], rows, 0), TENSOR_AXIS).astype(table.dtype)

    with jax.named_scope("embed"):
        out = jax.sharding.PartitionSpec(*jax.typeof(tokens).sharding.spec, None)
        return jax.shard_map(local, out_specs=out)(in_use(table, "vocab", "embed", compute=compute), tokens)


def logits(hidden: Float[Array, "batch seq embed"], output_head: Weight) -> Float32[Array, "batch seq vocab"]:
    """Return the scores of all ids by an output head [embed, vocab]; `cross_entropy` never holds them."""
    with jax.named_scope("logits"):
        ready = in_use(output_head, "embed", "vocab", compute=str(hidden.dtype))
        return product("bse,ev->bsv", hidden, ready, wide=True)
