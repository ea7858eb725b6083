"""`ringworld bench PART`: one part of the system, measured alone."""

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from ringworld.bench.load import Load
from ringworld.cli.bench_attention import BenchAttention
from ringworld.cli.bench_layouts import BenchLayouts
from ringworld.cli.options import Show, Shown
from ringworld.core.config import typed_command
from ringworld.core.files import check_picture, write_bytes_atomic


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchServing:
    """Ask a running server as many would at once, and measure how it answers."""

    url: tyro.conf.Positional[str]
    """Of a server in the protocol of OpenAI's API; it is shown $OPENAI_API_KEY."""
    load: Annotated[Load, tyro.conf.arg(name="")] = Load()
    show: Shown = Show()

    def measure(self) -> Any:
        """Ask it."""
        from ringworld.bench.serving import bench_serving

        return bench_serving(self.url, self.load)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Measure one part of the system alone."""

    part: (
        Annotated[BenchAttention, tyro.conf.subcommand("attention")]
        | Annotated[BenchLayouts, tyro.conf.subcommand("layouts")]
        | Annotated[BenchServing, tyro.conf.subcommand("serving")]
    )

    def run(self) -> None:
        """Measure it, and print the result."""
        show = self.part.show
        check_picture(show.out)
        try:
            made = self.part.measure()
        except KeyboardInterrupt:
            # Unlike other commands, this one leaves nothing to resume from.
            raise KeyboardInterrupt("nothing is kept of the measurement") from None
        if show.out is not None:
            write_bytes_atomic(show.out, made.picture())
        print(made.json(command=typed_command()) if show.json else made.table())
