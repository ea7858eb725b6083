"""The whole path from files to a report, each part as its own command does it."""

import shutil
from pathlib import Path

from ringworld.api.load import load
from ringworld.api.machine import on_this_machine
from ringworld.api.prepare import prepare
from ringworld.api.tokenizer import train_tokenizer
from ringworld.api.train import train
from ringworld.core.config import to_json
from ringworld.core.errors import InputError
from ringworld.core.files import writing_folder
from ringworld.core.origin import Origin, claim, working_in
from ringworld.core.progress import Progress
from ringworld.data.find_sources import find_sources
from ringworld.quickstart.config import NeedleWorldConfig, QuickstartConfig
from ringworld.quickstart.demonstrations import demonstrate
from ringworld.quickstart.extension import extend
from ringworld.quickstart.needle_documents import write_needle_documents
from ringworld.quickstart.phases import Phases
from ringworld.quickstart.summary import summarize
from ringworld.quickstart.toy_world import render_toy_world
from ringworld.report.report import write_report

PHASES_FOLDER, MODEL_FOLDER = "phases", "model"
Paths = tuple[Path, ...]


def quickstart(
    config: QuickstartConfig, *, out: Path, videos: Paths, texts: Paths, devices: int | None
) -> Path:
    """Do what is not done yet of the whole path in `out`, and return the path of the report.

    Videos and texts are the user's, besides the toy world's.

    Raises:
        InputError: an input cannot be used, or `out` holds another run.
    """
    with working_in(out, kind="quickstart"):
        run = on_this_machine(config.run, devices=devices)
        if videos and run.frame_tokenizer is None:
            problem = "the model is of text alone, which videos cannot teach"
            raise InputError(problem, field="videos", value=videos, remedy="leave them out")
        if videos or texts:  # what is refused leaves nothing that binds the next call
            find_sources(videos=videos, texts=texts, config=run.prepare)
        identity = {
            "videos": [str(path.resolve()) for path in videos],
            "texts": [str(path.resolve()) for path in texts],
            "config": to_json(config),
        }
        origin = Origin(kind="quickstart", identity=identity, configuration=to_json(config.run))
        claim(out, origin, results=PHASES_FOLDER)
        toy, tokenizer, examples, trained, samples = (
            out / name for name in ("toy", "tokenizer", "examples", "train", "samples")
        )
        phases = Phases(out / PHASES_FOLDER)
        with phases("toy world", leaves=toy), Progress("toy world", total=1, unit="files") as progress:

            def show(done: int, total: int) -> None:
                progress.update(done, total=total)

            if isinstance(config.toy_world, NeedleWorldConfig):
                texts = (write_needle_documents(toy, config.toy_world, on_progress=show), *texts)
            else:
                rendered = render_toy_world(toy, config.toy_world, on_progress=show)
                videos, texts = (rendered.videos, *videos), (rendered.texts, *texts)
        sources = find_sources(videos=videos, texts=texts, config=run.prepare)
        with phases("tokenizers", leaves=tokenizer):
            train_tokenizer(run, videos=videos, texts=texts, out=tokenizer)
        with phases("preparation", leaves=examples):
            prepared = prepare(run, videos=videos, texts=texts, tokenizer=tokenizer, out=examples)
        with phases("training and evaluation", leaves=trained):
            model = train(run, data=examples, out=trained, devices=devices)
        if not (out / MODEL_FOLDER).exists():
            with writing_folder(out / MODEL_FOLDER) as unfinished:
                shutil.copytree(model, unfinished, dirs_exist_ok=True)
        with phases("generation", leaves=samples):
            shown = demonstrate(
                load(out / MODEL_FOLDER, devices=run.training.stages[-1].mesh.devices),
                run,
                sources=sources,
                folder=samples,
            )
        extended = ()
        if config.extension is not None:
            with phases("extension of a kept model", leaves=out / "extension"):
                extended = extend(config.extension, out=out / "extension", devices=devices)
        metrics = summarize(
            run,
            toy_world=config.toy_world,
            tokenizer=tokenizer,
            examples=examples,
            train=trained,
            sources=sources,
            prepared=prepared,
            shown=shown,
            extended=extended,
            phases=phases.done(),
        )
        return write_report(metrics, out=out)
