"""`ringworld bench layouts`: how evenly each layout spreads the work of ring attention."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from ringworld.attention.config import LayoutName
from ringworld.bench.lengths import Packed
from ringworld.cli.options import Show, Shown, given


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchLayouts:
    """Compare how evenly layouts spread the attention of one packed sequence over a ring.

    Nothing is attended to: the work follows from the lengths of the documents. Efficiency is the work over
    what the ring takes if each step waits for its slowest member; once with work counted in visible pairs of
    a query and a key, once in the blocks that a kernel computes.
    """

    packed: Annotated[Packed, tyro.conf.arg(name="")] = Packed()
    members: int = 64
    """Members of the ring."""
    layouts: tuple[LayoutName, ...] = ("contiguous", "zigzag", "striped", "balanced")
    """Which to compare."""
    block_tokens: int = 256
    """Side of a block of the kernel, and tokens that the balanced layout keeps together."""
    show: Shown = Show()

    def measure(self) -> Any:
        """Compare them."""
        from ringworld.bench.layouts import bench_layouts

        return bench_layouts(self.packed.draw(), **given(self, "members", "layouts", "block_tokens"))
