"""How attention is computed, without importing jax."""

import math
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar, get_args

from ringworld.core.divisors import largest_divisor
from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.ranges import check_number, check_range

LayoutName = Literal["contiguous", "zigzag", "striped", "balanced"]
"""Which tokens of a packed sequence live on which member of the ring; `layouts` has the table."""
KernelName = Literal["auto", "xla", "pallas_tpu", "pallas_triton", "pallas_hopper"]
"""What computes one shard of queries against one of keys.

| name | where |
|---|---|
| `auto` | the best of those below for the devices of the mesh and the queries |
| `xla` | any backend |
| `pallas_tpu` | TPU |
| `pallas_triton` | NVIDIA GPU from Ampere on |
| `pallas_hopper` | NVIDIA GPU of the Hopper family (H100, H200, GH200, ...): bfloat16, heads of up to 128 |
"""
ComputeType = Literal["float32", "bfloat16"]
"""Of queries, keys and values."""
PallasMode = Literal["compiled", "interpreted"]
Strategy = Literal["ring", "head_parallel", "hybrid", "all_gather"]
"""How a sequence that is cut over devices is attended to.

| strategy | what travels | needs |
|---|---|---|
| `ring` | keys and values, hop by hop | nothing |
| `head_parallel` | heads for tokens, exchanged over all sequence axes | kv_heads a multiple of the members |
| `hybrid` | the same over the `ulysses` axis, a ring over `ring` | kv_heads a multiple of `ulysses` |
| `all_gather` | all keys and values to every member at once | room for the keys of the whole sequence |
"""

# A step costs a few hundred cycles besides its products, which take 2,000 on a v5e with a head of 128. Larger
# blocks would hide that better, but more of what they compute would be masked.
TPU_Q_BLOCK_TOKENS: Final = 512
TPU_KV_BLOCK_TOKENS: Final = 1024

Axis = TypeVar("Axis")


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceAxes(Generic[Axis]):
    """What the axes that cut a sequence cut while attention is computed."""

    heads: tuple[Axis, ...]
    """Those that cut heads instead: a device holds all tokens of its heads."""
    tokens: tuple[Axis, ...]
    """Those that still cut tokens: the members of the ring, or of the all-gather."""


def sequence_axes(strategy: Strategy, *, ring: Axis, ulysses: Axis) -> SequenceAxes[Axis]:
    """Return which of the two sequence axes, given by name or by size, cuts what.

    | strategy | heads | tokens |
    |---|---|---|
    | `ring`, `all_gather` | | ring, ulysses |
    | `head_parallel` | ring, ulysses | |
    | `hybrid` | ulysses | ring |
    """
    match strategy:
        case "ring" | "all_gather":
            return SequenceAxes(heads=(), tokens=(ring, ulysses))
        case "head_parallel":
            return SequenceAxes(heads=(ring, ulysses), tokens=())
        case "hybrid":
            return SequenceAxes(heads=(ulysses,), tokens=(ring,))


@dataclass(frozen=True, kw_only=True, slots=True)
class Sharing:
    """How devices share a sequence, and the sizes of the axes of their mesh that cut it."""

    strategy: Strategy
    ring: int
    ulysses: int


def advised_sharing(*, kv_heads: int, members: int, strategy: Strategy | None = None) -> Sharing:
    """Return how so many devices best share a sequence, and the mesh for it.

    | kv_heads | advised | why |
    |---|---|---|
    | a multiple of the members | `head_parallel` | all work is even, in any layout, and keys travel once |
    | has a divisor above 1 in common with them | `hybrid`, by the largest | the ring is short |
    | otherwise | `ring` | it needs nothing |

    `all_gather` is never advised: whether the keys of the whole sequence fit depends on more.

    Args:
        kv_heads: heads of keys and values that the devices hold among them.
        members: devices that share a sequence.
        strategy: use this one; the best by default.

    Raises:
        InputError: the devices cannot share the heads in this strategy.
    """
    check_number("kv_heads", kv_heads, least=1)
    check_number("members", members, least=1)
    common = math.gcd(kv_heads, members)
    if strategy is None:
        strategy = advised_strategy(kv_heads=kv_heads, ring=members // common, ulysses=common)
    match strategy:
        case "ring" | "all_gather":
            return Sharing(strategy=strategy, ring=members, ulysses=1)
        case "head_parallel":
            ulysses, fits, rule = common, common == members, "a multiple of the devices"
        case "hybrid":
            ulysses = largest_divisor(common, limit=members - 1)
            fits, rule = ulysses > 1, "a common divisor of both, above 1 and below the number of devices"
        case _:
            raise not_a_choice("strategy", strategy, choices=get_args(Strategy))
    if not fits:
        raise InputError(
            f"{members} devices cannot share {kv_heads} kv_heads in the {strategy} strategy, which needs "
            f"{rule}",
            field="strategy",
            value=strategy,
            remedy="change kv_heads, the number of devices or the strategy",
        )
    return Sharing(strategy=strategy, ring=members // ulysses, ulysses=ulysses)


def advised_strategy(*, kv_heads: int, ring: int, ulysses: int) -> Strategy:
    """Return the best strategy on a mesh whose axes are given: `advised_sharing` chooses the mesh too."""
    if kv_heads % (ring * ulysses) == 0:
        return "head_parallel"
    return "hybrid" if ulysses > 1 and kv_heads % ulysses == 0 else "ring"


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig:
    """Which kernel computes a block, and which tokens live on which ring member."""

    kernel: KernelName = "auto"
    """What computes one shard of queries against one of keys."""
    pallas_mode: PallasMode = "compiled"
    """Whether a Pallas kernel is compiled for its device, or interpreted on any: slow, for tests."""
    strategy: Strategy = "ring"
    """How devices share a sequence; it changes speed and memory, never the result."""
    layout: LayoutName = "zigzag"
    """Which tokens of a sequence live on which ring member; it changes speed, never the result."""
    block_q_tokens: int = 0
    """Queries of one block, at most; 0 is 256, or 512 where one device has all cores of a CPU.

    | kernel | `block_q_tokens` | `block_kv_tokens` |
    |---|---|---|
    | `xla` | a limit | a limit, but where queries are few a block takes more keys |
    | `pallas_triton` | the power of two below it, from 16 to the kernel's own tile | likewise |
    | `pallas_tpu`, interpreted | a limit, up to whole 128 tokens | likewise |
    | `pallas_tpu`, compiled | ignored: 512 | ignored: 1024 |
    | `pallas_hopper` | ignored: 64 or 128 | ignored: 64 or 128 |

    They also set the chunk of the `balanced` layout: `kept_together_tokens`.
    """
    block_kv_tokens: int = 256
    """Keys of one block, at most, as above."""

    def __post_init__(self) -> None:
        """Refuse unknown names and empty blocks."""
        choices = {
            "kernel": KernelName,
            "pallas_mode": PallasMode,
            "strategy": Strategy,
            "layout": LayoutName,
        }
        for name, kind in choices.items():
            if getattr(self, name) not in get_args(kind):
                raise not_a_choice(name, str(getattr(self, name)), choices=get_args(kind))
        remedy = "use 256, or less where memory is short"
        check_range(self, "block_q_tokens", least=0, remedy=remedy)
        check_range(self, "block_kv_tokens", least=1, remedy=remedy)

    def most_q_tokens(self, *, all_cores: bool = False) -> int:
        """Return how many queries a block may have on a device, which may have all cores of a CPU.

        XLA shares only large products among threads (`docs/log.md`).
        """
        return self.block_q_tokens or (512 if all_cores else 256)


def kept_together_tokens(config: AttentionConfig, *, platform: str) -> int:
    """Return the chunk of the `balanced` layout: the largest side of a block of the kernel.

    | platform | kernel | kept together |
    |---|---|---|
    | tpu | compiled `pallas_tpu`, chosen or named | 1024, a side of its block |
    | any | any other | the larger of `block_q_tokens` and `block_kv_tokens` |

    Args:
        config: which kernel, and the blocks that it may have.
        platform: of the devices of the mesh, such as "tpu".
    """
    if platform == "tpu" and config.kernel in ("auto", "pallas_tpu") and config.pallas_mode == "compiled":
        return max(TPU_Q_BLOCK_TOKENS, TPU_KV_BLOCK_TOKENS)
    return max(config.most_q_tokens(), config.block_kv_tokens)
