"""`ringworld bench layouts`: how evenly each layout spreads the work of ring attention."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ringworld.attention.config import LayoutName
from ringworld.bench.lengths import Workload
from ringworld.cli.options import given, otherwise
from ringworld.core.config import typed_command
from ringworld.core.files import check_picture, write_bytes_atomic


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchLayouts:
    """Compare how evenly layouts spread the attention of one packed sequence over a ring.

    Nothing is attended to: the work follows from the lengths of the documents. Efficiency is the work over
    what the ring takes if each step waits for its slowest member; once with work counted in visible pairs of
    a query and a key, once in the blocks that a kernel computes.
    """

    seq: int = 1 << 20
    """Length of the packed sequence, in tokens."""
    members: int = 64
    """Members of the ring."""
    layouts: tuple[LayoutName, ...] = ("contiguous", "zigzag", "striped", "balanced")
    """Which to compare."""
    lengths: Workload = "book"
    """One document; so many equal ones; so many, cut at random places; log-normal lengths until the sequence
    is full; or a book of 40% of it and log-normal lengths for the rest."""
    documents: int = 16
    """How many documents, of equal and of random lengths."""
    median_tokens: int = 2000
    """Median of log-normal lengths."""
    sigma: float = 1.5
    """Spread of log-normal lengths: the standard deviation of their logarithm."""
    seed: int = 0
    """The same seed gives the same lengths."""
    block_tokens: int = 256
    """Side of a block of the kernel, and tokens that the balanced layout keeps together."""
    out: Annotated[Path | None, otherwise("no picture", metavar="PATH")] = None
    """File for a picture (PNG) of the work of each member at each step."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of a table."""

    def run(self) -> None:
        """Print what was measured."""
        from ringworld.bench import lengths
        from ringworld.bench.layouts import bench_layouts

        check_picture(self.out)
        names = ("seq", "documents", "seed", "median_tokens", "sigma")
        documents = lengths.draw(self.lengths, **given(self, *names))
        made = bench_layouts(documents, **given(self, "members", "layouts", "block_tokens"))
        if self.out is not None:
            write_bytes_atomic(self.out, made.picture())
        print(made.json(command=typed_command()) if self.json else made.table())
