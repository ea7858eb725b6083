"""`ringworld plan`: what the stages of a preset need of a machine that need not be there."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from ringworld.cli.options import Stages, given, otherwise
from ringworld.core.config import typed_command
from ringworld.presets.run import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Say whether each stage of a preset fits a TPU slice, for which it is compiled without one, or GPUs."""

    preset: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET|MODULE:FUNCTION")]
    """Configuration, every field of which is an option of this command too."""
    topology: Annotated[str | None, otherwise("give --gpus", metavar="TPU:SHAPE")] = None
    """TPU slice, such as v5p:4x8x8."""
    gpus: Annotated[str | None, otherwise("give --topology", metavar="NxGPU")] = None
    """GPUs, such as 8xH200."""
    stages: Stages = ()
    by: Annotated[
        Literal["compiler", "arithmetic"] | None,
        otherwise("the compiler for TPU, arithmetic for GPUs", metavar="{compiler,arithmetic}"),
    ] = None
    """Who says how much memory is needed."""
    suggest: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show five meshes over which each stage fits, the fastest first, by arithmetic."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of a table."""

    def run(self, config: RunConfig) -> None:
        """Print the plan."""
        import ringworld as rw

        suggest = 5 if self.suggest else 0
        made = rw.plan(config, suggest=suggest, **given(self, "topology", "gpus", "stages", "by"))
        print(made.json(command=typed_command()) if self.json else made.table())
