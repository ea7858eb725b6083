"""`ringworld bench PART`: one part of the system, measured by itself."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from ringworld.cli.bench_layouts import BenchLayouts


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Measure one part of the system by itself."""

    # A union of one is none to tyro, which would then ask for no name.
    part: Annotated[BenchLayouts, tyro.conf.subcommand("layouts")] | Annotated[None, tyro.conf.Suppress]

    def run(self) -> None:
        """Measure it, and print the result."""
        assert self.part is not None
        self.part.run()
