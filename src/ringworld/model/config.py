"""The shape of a world model, without importing jax."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from ringworld.attention.config import AttentionConfig, ComputeType, sequence_axes
from ringworld.attention.layouts import check_shares
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.ranges import check_range, require


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A LLaMA-shaped decoder whose ids are text first, then vision.

    A stage of context extension derives its configuration with `dataclasses.replace(config, rope_base=...)`;
    the parameters do not depend on `rope_base`, `attention`, `remat`, `mlp_block_tokens` or `compute`.
    """

    layers: int
    """Number of transformer layers."""
    embed: int
    """Width of the residual stream."""
    heads: int
    """Query heads."""
    kv_heads: int
    """Key and value heads; divides `heads`."""
    head: int
    """Width of one head; even."""
    mlp: int
    """Width of the feed-forward layer."""
    text_vocab: int
    """Ids `[0, text_vocab)` are text."""
    vision_vocab: int
    """Ids `[text_vocab, text_vocab + vision_vocab)` are vision codes, end of frame and end of vision."""
    rope_base: float = 10_000.0
    """Base of the rotary frequencies; raised with the context length."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMSNorm."""
    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """Kernel and layout of attention."""
    remat: Literal["none", "layer"] = "layer"
    """What backward computes again: nothing, or each layer except its attention."""
    mlp_block_tokens: int = 0
    """Tokens of a device for which the feed-forward activations exist at one time; 0 means all."""
    compute: ComputeType = "float32"
    """Type of activations and of weights in use; master weights are always float32."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built."""
        check = partial(check_range, self, what="model {}".format)
        check("layers", "embed", "heads", "kv_heads", "head", "mlp", "text_vocab", least=1)
        check("vision_vocab", "mlp_block_tokens", "norm_eps", least=0)
        check("rope_base", above=1)
        require(
            self.heads % self.kv_heads == 0,
            "model kv_heads",
            got=self.kv_heads,
            expected=f"a divisor of heads={self.heads}",
            remedy="Set kv_heads=heads for attention without groups.",
        )
        even = self.head % 2 == 0
        require(even, "model head", got=self.head, expected="an even width, since RoPE rotates pairs")

    @property
    def vocab(self) -> int:
        """Number of ids of both modalities."""
        return self.text_vocab + self.vision_vocab


def check_mesh(config: ModelConfig, mesh: MeshConfig, *, contexts_tokens: Iterable[int] = ()) -> None:
    """Refuse a mesh that cannot hold the model, or over which its layout cannot cut a context.

    Raises:
        InputError: a dimension of the model, or a context, is not a multiple of the number of its pieces.
    """
    for seq in contexts_tokens:
        check_shares(config.attention, seq=seq, ring=mesh.ring, ulysses=mesh.ulysses)
    axes = sequence_axes(config.attention.strategy, ring=mesh.ring, ulysses=mesh.ulysses)
    cut_heads = math.prod(axes.heads)
    cuts = (
        ("heads", config.heads, "tensor members", mesh.tensor),
        ("kv_heads", config.kv_heads, "members of the axes that cut heads", mesh.tensor * cut_heads),
        ("mlp", config.mlp, "tensor members", mesh.tensor),
        ("vocab", config.vocab, "tensor members", mesh.tensor),
        ("embed", config.embed, "weight members (fsdp x ring x ulysses)", mesh.weight_members),
    )
    for name, size, members, count in cuts:
        expected, remedy = f"a multiple of the {count} {members}", f"Change {name} or the mesh."
        require(size % count == 0, f"model {name}", got=size, expected=expected, remedy=remedy)
