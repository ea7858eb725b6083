"""What decides the parameters of a world model, and how they are computed; without importing jax."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

from ringworld.attention.config import AttentionConfig, ComputeType, sequence_axes
from ringworld.attention.layouts import check_shares
from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.ranges import check_range

_MOST_NUMBERS = 2**59
"""Of one stacked weight: its bytes, too, are counted in 64 bits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """Every position is divided by `factor` (position interpolation, arXiv 2306.15595)."""

    factor: float
    """How many times longer the context became."""

    def __post_init__(self) -> None:
        """Refuse a context that shrinks."""
        check_range(self, "factor", of="rope.scaling", least=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Llama3:
    """Low frequencies are divided by `factor`, high ones kept, those between blended (Llama 3.1)."""

    factor: float
    """How many times longer the context became."""
    low_frequency_factor: float = 1.0
    """Wavelengths above `original_context_tokens` over this are divided."""
    high_frequency_factor: float = 4.0
    """Wavelengths below `original_context_tokens` over this are kept."""
    original_context_tokens: int = 8192
    """Context before it was extended."""

    def __post_init__(self) -> None:
        """Refuse bands that are empty or overlap."""
        check_range(self, "factor", "original_context_tokens", of="rope.scaling", least=1)
        check_range(self, "low_frequency_factor", of="rope.scaling", above=0)
        check_range(self, "high_frequency_factor", of="rope.scaling", above=self.low_frequency_factor)


@dataclass(frozen=True, kw_only=True, slots=True)
class Yarn:
    """NTK-by-parts interpolation with a sharper softmax (YaRN, arXiv 2309.00071)."""

    factor: float
    """How many times longer the context became."""
    original_context_tokens: int
    """Context before it was extended."""
    beta_fast: float = 32.0
    """Pairs that rotate more often than this within the original context are kept."""
    beta_slow: float = 1.0
    """Pairs that rotate less often than this are divided by `factor`."""

    def __post_init__(self) -> None:
        """Refuse bands that are empty or overlap."""
        check_range(self, "factor", "original_context_tokens", of="rope.scaling", least=1)
        check_range(self, "beta_slow", of="rope.scaling", above=0)
        check_range(self, "beta_fast", of="rope.scaling", above=self.beta_slow)


Scaling = Linear | Llama3 | Yarn


@dataclass(frozen=True, kw_only=True, slots=True)
class Rope:
    """Rotary position embedding: the base of its frequencies and how they are scaled."""

    base: float = 10_000.0
    """Pair `i` of a head of size `h` rotates by `base ** (-2 i / h)` radians a position."""
    scaling: Scaling | None = None
    """How the frequencies are changed for contexts longer than those of pretraining; None leaves them."""

    def __post_init__(self) -> None:
        """Refuse a base for which frequencies do not fall."""
        check_range(self, "base", of="rope", above=1)


Family = Literal["llama", "mistral", "qwen2", "qwen3"]
"""Whose model it is, as `model_type` of Hugging Face says: what a layer has besides LLaMA's weights.

| family | besides |
|---|---|
| `llama` | nothing |
| `mistral` | nothing, but tokens may see a window alone |
| `qwen2` | biases of queries, keys and values |
| `qwen3` | RMSNorm of each query and key, before it is rotated |
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A LLaMA-shaped decoder whose ids are text first, then vision: everything that decides its parameters.

    transformers reads it as a causal language model of its family: vision ids are the last rows of one
    vocabulary.
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
    vision_vocab: int = 0
    """Ids `[text_vocab, text_vocab + vision_vocab)` are vision codes, end of frame and end of vision; 0 is a
    model of text alone."""
    rope: Rope = field(default_factory=Rope)
    """Rotary position embedding; a stage of context extension has a base of its own."""
    norm_eps: float = 1e-6
    """Added to the mean square in RMSNorm."""
    family: Family = "llama"
    """What a layer has besides LLaMA's weights."""
    tied: bool = False
    """Whether the output head is the embedding."""
    window_tokens: int = 0
    """How many tokens a token sees at most, itself and those before it; 0 is all of its example."""

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be built, or that `LlamaForCausalLM` refuses."""
        check = partial(check_range, self, of="model")
        check("layers", least=1, below=2**16)
        check("embed", "heads", "kv_heads", "head", "mlp", least=1, below=2**31)
        # An id is an int32.
        check("text_vocab", least=1, below=2**30)
        check("vision_vocab", least=0, below=2**30)
        check("norm_eps", "window_tokens", least=0)
        if self.heads % self.kv_heads:
            raise InputError(
                f"model.kv_heads is {self.kv_heads}, which does not divide heads={self.heads}",
                field="model.kv_heads",
                value=self.kv_heads,
                remedy="set kv_heads=heads for attention without groups",
            )
        if self.embed % self.heads:
            raise InputError(
                f"model.embed is {self.embed}, but must be a multiple of heads={self.heads}, as "
                "LlamaForCausalLM demands even where a head has another width",
                field="model.embed",
                value=self.embed,
            )
        if self.window_tokens and self.family != "mistral":
            raise InputError(
                f"model.window_tokens is {self.window_tokens}, but {self.family} has no window",
                field="model.window_tokens",
                value=self.window_tokens,
                remedy='set family="mistral", which has the same parameters, or window_tokens=0',
            )
        if self.head % 2:
            problem = f"model.head is {self.head}, but must be even, since RoPE rotates pairs"
            raise InputError(problem, field="model.head", value=self.head)
        widest = max(self.layers * self.heads * self.head, self.layers * self.mlp, self.vocab)
        if self.embed * widest > _MOST_NUMBERS:
            raise InputError(
                f"model.embed is {self.embed}, with which a weight has {self.embed * widest} numbers, but at "
                f"most {_MOST_NUMBERS} can be stored",
                field="model.embed",
                value=self.embed,
            )

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have biases."""
        return self.family == "qwen2"

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalized, each head by itself."""
        return self.family == "qwen3"

    @property
    def vocab(self) -> int:
        """Number of ids of both modalities."""
        return self.text_vocab + self.vision_vocab


WeightType = Literal["float32", "bfloat16", "int8"]
"""How weights are kept for inference; int8 is rounded by output channel."""
StoredType = Literal["float32", "bfloat16"]
"""Type of the weights in a folder that is written."""
CacheType = Literal["compute", "int8"]
"""How keys and values are kept in pages: as they are computed, or rounded by token and head."""


RematName = Literal["none", "layer", "all", "offload"]
"""What backward computes again of each layer.

| | computed again | kept of a layer |
|---|---|---|
| `none` | norms, rotations and activations | products of its weights, and what attention returned |
| `layer` | all but attention | its input, and what attention returned |
| `all` | all, and keys and values go round the ring once more | its input |
| `offload` | as `layer` | the same, in the host's memory, but for a number a head and token |
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """How a model is computed: no parameter depends on it, and results differ by rounding alone."""

    attention: AttentionConfig = field(default_factory=AttentionConfig)
    """Strategy, kernel and layout of attention."""
    remat: RematName = "layer"
    """What backward computes again, and so what is kept of each layer."""
    mlp_block_tokens: int = 0
    """Tokens of a device for which the feed-forward activations exist at one time; 0 means all."""
    compute: ComputeType = "float32"
    """Type of activations and of weights in use; master weights are always float32."""

    def __post_init__(self) -> None:
        """Refuse a negative block, and a policy that there is not."""
        check_range(self, "mlp_block_tokens", of="execution", least=0)
        if self.remat not in get_args(RematName):
            raise not_a_choice("execution.remat", str(self.remat), choices=get_args(RematName))


def check_mesh(
    architecture: Architecture,
    attention: AttentionConfig,
    mesh: MeshConfig,
    *,
    contexts_tokens: Iterable[int] = (),
) -> None:
    """Refuse a mesh that cannot hold the model, or over which its layout cannot cut a context.

    Raises:
        InputError: a dimension of the model, or a context, is not a multiple of the number of its parts.
    """
    for seq in contexts_tokens:
        check_shares(attention, seq=seq, ring=mesh.ring, ulysses=mesh.ulysses)
    axes = sequence_axes(attention.strategy, ring=mesh.ring, ulysses=mesh.ulysses)
    cut_heads = math.prod(axes.heads)
    cuts = (
        ("heads", architecture.heads, "devices of the tensor axis", mesh.tensor),
        ("kv_heads", architecture.kv_heads, "devices of the axes that cut heads", mesh.tensor * cut_heads),
        ("mlp", architecture.mlp, "devices of the tensor axis", mesh.tensor),
        ("vocab", architecture.vocab, "devices of the tensor axis", mesh.tensor),
        ("embed", architecture.embed, "weight shards (fsdp x ring x ulysses)", mesh.weight_members),
    )
    for name, size, members, count in cuts:
        if size % count:
            problem = f"model.{name} is {size}, which {count} {members} cannot share"
            remedy = f"change {name} or the mesh"
            raise InputError(problem, field=f"model.{name}", value=size, remedy=remedy)
