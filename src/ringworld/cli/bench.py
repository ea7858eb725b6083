"""`ringworld bench PART`: one part of the system, measured alone."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from ringworld.cli.bench_attention import BenchAttention
from ringworld.cli.bench_layouts import BenchLayouts


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Measure one part of the system alone."""

    part: (
        Annotated[BenchAttention, tyro.conf.subcommand("attention")]
        | Annotated[BenchLayouts, tyro.conf.subcommand("layouts")]
    )

    def run(self) -> None:
        """Measure it, and print the result."""
        try:
            self.part.run()
        except KeyboardInterrupt:
            # Unlike other commands, this one leaves nothing to resume from.
            raise KeyboardInterrupt("nothing is kept of the measurement") from None
