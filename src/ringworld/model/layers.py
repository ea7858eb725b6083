"""The parts of one transformer layer.

Weights keep heads as a dimension; `ringworld.model.weights` says how they lie at rest and in use.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, PRNGKeyArray

from ringworld.core.divisors import largest_divisor
from ringworld.core.sharding import TENSOR_AXIS, spec
from ringworld.model.config import Architecture
from ringworld.model.forward import Forward
from ringworld.model.rope import Rotation, rotate
from ringworld.model.weights import PRODUCT_NAME, Weight, in_use, product, widened

Attend = Callable[[Array, Array, Array], Float[Array, "batch seq heads head"]]
"""Of queries, keys and values [batch, seq, heads or kv_heads, head]."""


def normal(
    key: PRNGKeyArray, shape: tuple[int, ...], *dimensions: str, deviation: float
) -> Float[Array, "..."]:
    """Return a float32 weight, initialized in its sharding: no device ever holds the whole."""
    return deviation * jax.random.normal(key, shape, jnp.float32, out_sharding=spec(*dimensions))


def rms_norm(
    x: Float[Array, "*dims embed"], scale: Float[Array, " embed"], *, eps: float
) -> Float[Array, "*dims embed"]:
    """Scale each vector to unit mean square, in float32, and return the type of `x`."""
    with jax.named_scope("rms_norm"):
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
        scale = jax.reshard(scale.astype(jnp.float32), spec("embed"))
        scale = jnp.expand_dims(scale, range(x.ndim - 1))
        return (wide * jax.lax.rsqrt(mean_square + eps) * scale).astype(x.dtype)


class Attention(eqx.Module):
    """Projections round an attention that the caller gives: the ring in training, the cache in generation."""

    wq: Weight  # [embed, heads, head]
    wk: Weight  # [embed, kv_heads, head]
    wv: Weight  # [embed, kv_heads, head]
    wo: Weight  # [heads, head, embed]
    bq: Float[Array, "heads head"] | None
    bk: Float[Array, "kv_heads head"] | None
    bv: Float[Array, "kv_heads head"] | None
    q_norm: Float[Array, " head"] | None
    k_norm: Float[Array, " head"] | None

    @staticmethod
    def init(architecture: Architecture, *, key: PRNGKeyArray) -> "Attention":
        """Draw weights of deviation `fan_in ** -0.5`, less on the way back into the residual stream."""
        keys = jax.random.split(key, 4)
        embed, head = architecture.embed, architecture.head
        heads, kv_heads = architecture.heads, architecture.kv_heads
        into, back = embed**-0.5, (2 * architecture.layers * heads * head) ** -0.5
        ones = jnp.ones(head, jnp.float32, out_sharding=spec("head")) if architecture.qk_norm else None
        bq, bk, bv = (
            jnp.zeros((count, head), jnp.float32, out_sharding=spec(name, "head"))
            if architecture.qkv_bias
            else None
            for count, name in ((heads, "heads"), (kv_heads, "kv_heads"), (kv_heads, "kv_heads"))
        )
        return Attention(
            wq=normal(keys[0], (embed, heads, head), "weight", "heads", "head", deviation=into),
            wk=normal(keys[1], (embed, kv_heads, head), "weight", "kv_heads", "head", deviation=into),
            wv=normal(keys[2], (embed, kv_heads, head), "weight", "kv_heads", "head", deviation=into),
            wo=normal(keys[3], (heads, head, embed), "heads", "head", "weight", deviation=back),
            bq=bq,
            bk=bk,
            bv=bv,
            q_norm=ones,
            k_norm=ones,
        )

    def in_use(self, compute: str) -> "Attention":
        """Return the weights gathered in the compute type."""
        return replace(
            self,
            wq=in_use(self.wq, "embed", "heads", "head", compute=compute),
            wk=in_use(self.wk, "embed", "kv_heads", "head", compute=compute),
            wv=in_use(self.wv, "embed", "kv_heads", "head", compute=compute),
            wo=in_use(self.wo, "heads", "head", "embed", compute=compute),
        )

    def __call__(
        self, x: Float[Array, "batch seq embed"], *, rotation: Rotation, attend: Attend, forward: Forward
    ) -> Float[Array, "batch seq embed"]:
        """Project, rotate, attend with `attend(q, k, v)` and project back."""
        with jax.named_scope("attention"):
            ready = self.in_use(forward.execution.compute)
            project = partial(_project, x, eps=forward.architecture.norm_eps)
            q = rotate(project(ready.wq, bias=ready.bq, norm=ready.q_norm), rotation)
            k = rotate(project(ready.wk, bias=ready.bk, norm=ready.k_norm), rotation)
            out = attend(q, k, project(ready.wv, bias=ready.bv, norm=None))
            # einsum sums over dimensions in the order of their letters: of another than that of the weight,
            # XLA would lay the weight out anew in each call.
            back = product("bshk,hke->bse", out, ready.wo, out_sharding=jax.typeof(x).sharding)
            return checkpoint_name(back, PRODUCT_NAME)


def _project(
    x: Float[Array, "batch seq embed"],
    weight: Weight,
    *,
    bias: Float[Array, "heads head"] | None,
    norm: Float[Array, " head"] | None,
    eps: float,
) -> Float[Array, "batch seq heads head"]:
    out = checkpoint_name(product("bse,ehd->bshd", x, weight), PRODUCT_NAME)
    if bias is not None:
        out += bias.astype(out.dtype)[None, None]
    return out if norm is None else rms_norm(out, norm, eps=eps)


class FeedForward(eqx.Module):
    """SwiGLU, computed for a block of tokens at a time so that no array of size seq x mlp is kept."""

    gate: Weight  # [embed, mlp]
    up: Weight  # [embed, mlp]
    down: Weight  # [mlp, embed]

    @staticmethod
    def init(architecture: Architecture, *, key: PRNGKeyArray) -> "FeedForward":
        """Draw weights of deviation `fan_in ** -0.5`, less on the way back into the residual stream."""
        keys = jax.random.split(key, 3)
        embed, mlp = architecture.embed, architecture.mlp
        back = (2 * architecture.layers * mlp) ** -0.5
        return FeedForward(
            gate=normal(keys[0], (embed, mlp), "weight", "mlp", deviation=embed**-0.5),
            up=normal(keys[1], (embed, mlp), "weight", "mlp", deviation=embed**-0.5),
            down=normal(keys[2], (mlp, embed), "mlp", "weight", deviation=back),
        )

    def in_use(self, compute: str) -> "FeedForward":
        """Return the weights gathered in the compute type."""
        return FeedForward(
            gate=in_use(self.gate, "embed", "mlp", compute=compute),
            up=in_use(self.up, "embed", "mlp", compute=compute),
            down=in_use(self.down, "mlp", "embed", compute=compute),
        )

    def __call__(
        self, x: Float[Array, "batch seq embed"], *, block_tokens: int, compute: str
    ) -> Float[Array, "batch seq embed"]:
        """Return `(silu(x @ gate) * (x @ up)) @ down`, `block_tokens` tokens of each device at a time."""
        sharding = jax.typeof(x).sharding.spec
        axes = tuple(axis for entry in sharding if entry for axis in entry)

        def local(
            x: Float[Array, "batch seq embed"], weights: FeedForward
        ) -> Float[Array, "batch seq embed"]:
            # Weights made varying, and wide, here: their gradient is then summed over blocks in float32 on
            # each device and reduced over devices once, instead of once a block.
            gate, up, down = (
                jax.tree.map(lambda w: jax.lax.pcast(w, axes, to="varying"), widened(weight))
                for weight in (weights.gate, weights.up, weights.down)
            )
            weights = FeedForward(gate=gate, up=up, down=down)
            tokens = math.prod(x.shape[:2])
            block = largest_divisor(tokens, limit=block_tokens or tokens)
            blocks = x.reshape(tokens // block, block, x.shape[-1])
            if len(blocks) == 1:
                out = _swiglu(weights, blocks[0], keep=True)
            else:
                out = jax.lax.map(jax.checkpoint(lambda b: _swiglu(weights, b), prevent_cse=False), blocks)
            return jax.lax.psum(out, TENSOR_AXIS).astype(x.dtype).reshape(x.shape)

        with jax.named_scope("feed_forward"):
            return jax.shard_map(local, out_specs=sharding)(x, self.in_use(compute))


class Layer(eqx.Module):
    """Pre-norm attention and feed-forward."""

    attention_norm: Float[Array, " embed"]
    attention: Attention
    mlp_norm: Float[Array, " embed"]
    mlp: FeedForward

    @staticmethod
    def init(architecture: Architecture, *, key: PRNGKeyArray) -> "Layer":
        """Draw one layer."""
        attention_key, mlp_key = jax.random.split(key)
        ones = jnp.ones(architecture.embed, jnp.float32, out_sharding=spec("weight"))
        return Layer(
            attention_norm=ones,
            attention=Attention.init(architecture, key=attention_key),
            mlp_norm=ones,
            mlp=FeedForward.init(architecture, key=mlp_key),
        )

    def __call__(
        self,
        x: Float[Array, "batch seq embed"],
        *,
        rotation: Rotation,
        attend: Attend,
        forward: Forward,
    ) -> Float[Array, "batch seq embed"]:
        """Return the residual stream after this layer."""
        eps, execution = forward.architecture.norm_eps, forward.execution
        normed = rms_norm(x, self.attention_norm, eps=eps)
        x = x + self.attention(normed, rotation=rotation, attend=attend, forward=forward)
        normed = rms_norm(x, self.mlp_norm, eps=eps)
        return x + self.mlp(normed, block_tokens=execution.mlp_block_tokens, compute=execution.compute)


def _swiglu(
    weights: FeedForward, x: Float[Array, "tokens embed"], *, keep: bool = False
) -> Float[Array, "tokens embed"]:
    """Return the feed-forward; unless asked to `keep` them, no policy keeps its products of width `mlp`."""
    gate, up = (product("te,em->tm", x, weight) for weight in (weights.gate, weights.up))
    if keep:
        gate, up = checkpoint_name(gate, PRODUCT_NAME), checkpoint_name(up, PRODUCT_NAME)
    # The sum over the tensor axis follows, so the partial sums stay wide.
    return product("tm,me->te", jax.nn.silu(gate) * up, weights.down, wide=True)
