"""`ringworld evaluate`: needles and held-out loss of a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ringworld.cli.options import Devices, Weights, otherwise


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    """Measure needle retrieval over context length and depth, and held-out loss by modality and position."""

    model: Path
    """Model folder."""
    data: Path
    """Folder that prepare wrote; its held-out split is scored, and its held-out texts hide the needles."""
    out: Path
    """Folder for the results: evaluation.json, and the outcome of each item."""
    preset: Annotated[str | None, otherwise("what the model was trained with", metavar="NAME")] = None
    """Configuration that says what is measured."""
    weights: Weights = None
    """Type in which weights are kept; int8 rounds them, each output channel by itself."""
    devices: Devices = None
    """Devices of the ring; without an accelerator they are simulated."""

    def run(self) -> None:
        """Measure what is not measured yet, and print it."""
        import ringworld as rw
        from ringworld.presets.run import load_preset

        tasks = load_preset(self.preset).evaluation if self.preset else None
        evaluation = rw.evaluate(
            self.model,
            data=self.data,
            out=self.out,
            tasks=tasks,
            weights=self.weights,
            devices=self.devices,
        )
        print("\n".join(evaluation.lines()))
