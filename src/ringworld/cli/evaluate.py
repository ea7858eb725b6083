"""`ringworld evaluate`: needles and held-out loss of a trained model."""

from dataclasses import dataclass
from pathlib import Path

from ringworld.cli.options import ConfigOptions, Devices
from ringworld.core.config import write_run
from ringworld.core.files import only_one


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluate:
    """Measure needle retrieval over context length and depth, and held-out loss by modality and position."""

    model: Path
    """Folder that train wrote."""
    tokenizer: Path
    """Folder that train-tokenizer wrote."""
    data: Path
    """Folder that prepare wrote; its held-out split is scored, and its held-out texts hide the needles."""
    out: Path
    """Folder for the results: evaluation.json, and the answers of each grid."""
    devices: Devices = None
    """Members of the ring; without an accelerator they are simulated."""

    def run(self) -> None:
        """Measure what is not measured yet, and print it."""
        from ringworld.cli.jobs.measure import build_engine, evaluate_engine, restore_model
        from ringworld.cli.jobs.setup import check_data, load_tokenizers, open_mesh

        run = ConfigOptions(config=self.model).load()
        with only_one(self.out):
            run, mesh = open_mesh(run, devices=self.devices)
            model, stage, step = restore_model(run, folder=self.model, mesh=mesh)
            text, frames = load_tokenizers(run, self.tokenizer)
            check_data(run, self.data, text=text, tokenizer=self.tokenizer)
            engine = build_engine(run, model, stage, text=text, frames=frames, mesh=mesh)
            measured = evaluate_engine(
                engine, run, stage, step=step, when="after", data=self.data, out=self.out
            )
            write_run(self.out, run)
        for grid in measured.needles:
            for cell in grid.cells:
                print(
                    f"{grid.asked} of {grid.needles} needles, {cell.context_tokens} tokens, "
                    f"depth {cell.depth_percent:g}%: {cell.accuracy:.0%}"
                )
        loss = measured.held_out.loss
        print(
            f"held-out loss at {loss.context_tokens} tokens: text {loss.text_loss}, vision {loss.vision_loss}"
        )
        for one in measured.held_out.left_out:
            print(f"left out of it, longer than {loss.context_tokens} tokens: {one.examples} {one.kind}")
