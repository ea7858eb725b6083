"""`ringworld train`: a world model in stages of growing context."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ringworld.cli.options import ConfigFolder, Devices, PresetName, Stages, given, otherwise
from ringworld.presets.run import RunConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    """Train a world model in stages; the same command again resumes where it was stopped."""

    data: Path
    """Folder that prepare wrote."""
    out: Path
    """Folder for checkpoints, metrics.jsonl, evaluations, and a model or adapter folder for each stage."""
    init: Annotated[Path | None, otherwise("random weights", metavar="PATH")] = None
    """Model folder whose weights the first stage begins from."""
    stages: Stages = ()
    evaluate: Literal["stages", "never"] = "stages"
    """Measure needles and held-out loss before the first stage and after each, or never."""
    devices: Devices = None
    """Devices of the ring; without an accelerator they are simulated."""
    preset: PresetName = None
    config: ConfigFolder = None

    def run(self, config: RunConfig) -> None:
        """Train what is left, and print the folder of the last stage's model or adapter."""
        import ringworld as rw

        print(rw.train(config, **given(self, "data", "out", "init", "stages", "evaluate", "devices")))
