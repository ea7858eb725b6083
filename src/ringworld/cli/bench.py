"""`ringworld bench PART`: one part of the system, measured by itself."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from ringworld.cli.bench_attention import BenchAttention
from ringworld.cli.bench_layouts import BenchLayouts


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Measure one part of the system by itself."""

    part: (
        Annotated[BenchAttention, tyro.conf.subcommand("attention")]
        | Annotated[BenchLayouts, tyro.conf.subcommand("layouts")]
    )

    def run(self) -> None:
        """Measure it, and print the result."""
        self.part.run()
