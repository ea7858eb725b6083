"""`ringworld evaluate`: needles and held-out loss of a trained model."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from ringworld.cli.options import Loaded, LoadOptions, given, otherwise
from ringworld.evaluation.config import TaskName


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    """Measure needle retrieval over context length and depth, and held-out loss by modality and position."""

    model: Path
    """Model folder, or adapter folder."""
    out: Path
    """Folder for the results: evaluation.json, the outcome of each item, and a heat map of the needles."""
    data: Annotated[Path | None, otherwise("none: needles alone, in a haystack", metavar="PATH")] = None
    """Folder that prepare wrote; its held-out split is scored, and its held-out texts hide the needles."""
    haystack: Annotated[Path | None, otherwise("the held-out texts of the data", metavar="PATH")] = None
    """Text file that hides the needles."""
    tasks: Annotated[tuple[TaskName, ...] | None, otherwise("all", metavar="{needles,held_out} ...")] = None
    """What is measured."""
    preset: Annotated[str | None, otherwise("what the model was trained with", metavar="NAME")] = None
    """Configuration that says how it is measured."""
    loading: Loaded = LoadOptions()

    def run(self) -> None:
        """Measure what is not measured yet, and print it."""
        import ringworld as rw
        from ringworld.presets.run import load_preset

        tasks = self.tasks
        if self.preset:
            tasks = load_preset(self.preset).evaluation.only(self.tasks or ())
        options = given(self, "out", "data", "haystack") | asdict(self.loading)
        evaluation = rw.evaluate(self.model, tasks=tasks, **options)
        print("\n".join(evaluation.lines()))
