"""Training in stages, with an evaluation before the first and after each."""

from functools import partial
from pathlib import Path
from typing import Literal

from jax.sharding import Mesh

from ringworld.cli.jobs.measure import build_engine, evaluate_engine
from ringworld.cli.jobs.setup import check_data, load_tokenizers
from ringworld.core.config import write_run
from ringworld.evaluation.metrics import When
from ringworld.model.world_model import WorldModel
from ringworld.presets import RunConfig
from ringworld.training.config import StageConfig
from ringworld.training.loop import train
from ringworld.training.state import TrainState


def train_stages(
    run: RunConfig,
    *,
    data: Path,
    tokenizer: Path,
    out: Path,
    mesh: Mesh,
    evaluate: Literal["stages", "never"],
) -> TrainState:
    """Train through the stages of `run`, with an evaluation before the first and after each."""
    text, frames = load_tokenizers(run, tokenizer)
    check_data(run, data, text=text, tokenizer=tokenizer)

    def measure(when: When, stage: StageConfig, model: WorldModel) -> None:
        if evaluate == "never":
            return
        engine = build_engine(run, model, stage, text=text, frames=frames, mesh=mesh)
        index = run.training.stages.index(stage) + (when == "after")
        evaluate_engine(
            engine,
            run,
            stage,
            step=run.training.boundaries[index],
            when=when,
            data=data,
            out=evaluation_folder(out, stage.name, when),
        )

    return train(
        run.training,
        run.model,
        data_dir=data,
        out=out,
        mesh=mesh,
        on_claim=partial(write_run, out, run),
        on_stage=measure,
    )


def evaluation_folder(out: Path, stage: str, when: When) -> Path:
    """Return where the evaluation before or after a stage is."""
    return out / "evaluation" / f"{when}-{stage}"
