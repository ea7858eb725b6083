"""`ringworld train`: a world model in stages of growing context."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ringworld.cli.options import ConfigOptions, Devices
from ringworld.core.files import only_one


@dataclass(frozen=True, kw_only=True, slots=True)
class Train:
    """Train a world model in stages; the same command again goes on where it was."""

    data: Path
    """Folder that prepare wrote."""
    out: Path
    """Folder for checkpoints, metrics.jsonl and evaluations."""
    tokenizer: Path
    """Folder that train-tokenizer wrote."""
    evaluate: Literal["stages", "never"] = "stages"
    """Measure needles and held-out loss before the first stage and after each, or never."""
    devices: Devices = None
    """Members of the ring; without an accelerator they are simulated."""
    configuration: ConfigOptions = field(default_factory=ConfigOptions)

    def run(self) -> None:
        """Train what is left, and print where its metrics are."""
        from ringworld.cli.jobs.setup import open_mesh
        from ringworld.cli.jobs.training import train_stages

        run = self.configuration.load()
        with only_one(self.out):
            run, mesh = open_mesh(run, devices=self.devices)
            train_stages(
                run, data=self.data, tokenizer=self.tokenizer, out=self.out, mesh=mesh, evaluate=self.evaluate
            )
        print(self.out / "metrics.jsonl")
