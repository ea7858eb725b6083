"""The contract of every kernel."""

from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from jaxtyping import Array, Float, Float32

from ringworld.attention.config import AttentionConfig
from ringworld.attention.merge import Partial
from ringworld.attention.visibility import MaskSpec

OfQueries = Float[Array, "batch heads q_seq head"]
OfKeys = Float[Array, "batch kv_heads kv_seq head"]
Tile = TypeVar("Tile")


class Gradients(NamedTuple):
    """What one shard of keys contributes to the gradients, in float32."""

    dq: Float32[Array, "batch heads q_seq head"]
    dk: Float32[Array, "batch kv_heads kv_seq head"]
    dv: Float32[Array, "batch kv_heads kv_seq head"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles(Generic[Tile]):
    """How each of three kernels is cut."""

    forward: Tile
    backward_q: Tile
    backward_kv: Tile


@runtime_checkable
class Kernel(Protocol):
    """Attention of one shard of queries to one shard of keys, on one device: a module with two functions.

    Heads stand before tokens, so that a shard travels round the ring as the kernel reads it. `heads` is a
    multiple of `kv_heads`; query head i uses key head i // (heads // kv_heads), and keys are never repeated.
    Inputs are in the compute type (bfloat16 or float32); products accumulate in float32, and every output is
    float32. Scores are scaled by head ** -0.5. A query that sees nothing has out 0, lse -inf and gradient 0.
    Nothing of size q_seq x kv_seq is materialized except lists of blocks, and a block in which nothing is
    visible costs nothing.
    """

    def forward(
        self, q: OfQueries, k: OfKeys, v: OfKeys, *, mask: MaskSpec, config: AttentionConfig
    ) -> Partial:
        """Return `out` [batch, heads, q_seq, head] and `lse` [batch, heads, q_seq] over these keys alone."""
        ...

    def backward(
        self,
        q: OfQueries,
        k: OfKeys,
        v: OfKeys,
        dout: OfQueries,
        *,
        lse: Float32[Array, "batch heads q_seq"],
        delta: Float32[Array, "batch heads q_seq"],
        mask: MaskSpec,
        config: AttentionConfig,
    ) -> Gradients:
        """Return what these keys contribute to the gradients.

        `lse` is final, over all keys of the sequence, and `delta` is the sum over head of dout times the
        final out; with them the contributions of shards add up (FlashAttention-2, arXiv 2307.08691,
        algorithm 2).
        """
        ...
