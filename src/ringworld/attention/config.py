"""How attention is computed, without importing jax."""

from dataclasses import dataclass
from typing import Literal

from ringworld.core.errors import InputError

Layout = Literal["contiguous", "zigzag", "striped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionConfig:
    """Which kernel computes a block, and which tokens lie on which ring member."""

    kernel: Literal["xla"] = "xla"
    """What computes one shard of queries against one of keys; `xla` runs on every backend."""
    layout: Layout = "zigzag"
    """Which tokens of a sequence lie on which ring member; it changes speed, never the result."""
    block_q_tokens: int = 256
    """Queries of one block; memory grows with block_q_tokens x block_kv_tokens."""
    block_kv_tokens: int = 256
    """Keys of one block; a block with nothing visible is skipped."""

    def __post_init__(self) -> None:
        """Refuse empty blocks."""
        for name in ("block_q_tokens", "block_kv_tokens"):
            if getattr(self, name) < 1:
                raise InputError(
                    what=name,
                    got=str(getattr(self, name)),
                    expected="at least 1 token",
                    remedy="Use 256, or less where memory is short.",
                )
