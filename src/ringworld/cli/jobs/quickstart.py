"""The whole path, each part through the job of its own command."""

from pathlib import Path

from ringworld.cli.jobs.demonstrations import demonstrate
from ringworld.cli.jobs.measure import build_engine
from ringworld.cli.jobs.phases import Phases
from ringworld.cli.jobs.preparation import prepare_examples
from ringworld.cli.jobs.setup import load_tokenizers, open_mesh
from ringworld.cli.jobs.summary import summarize
from ringworld.cli.jobs.tokenizers import train_tokenizers
from ringworld.cli.jobs.training import train_stages
from ringworld.core.config import RUN_FILE, to_json, typed_command, write_run
from ringworld.core.errors import InputError
from ringworld.core.files import claim_folder
from ringworld.core.memory import peak_memory_bytes
from ringworld.core.progress import Progress
from ringworld.data.sources import find_sources, why_no_file
from ringworld.data.toy_world import ToyWorld, render_toy_world
from ringworld.evaluation.report import write_report
from ringworld.presets import RunConfig
from ringworld.training.config import validate

INPUTS_FILE = "inputs.json"
PHASES_FOLDER = "phases"
Paths = tuple[Path, ...]


def quickstart(run: RunConfig, *, out: Path, videos: Paths, texts: Paths, devices: int | None) -> Path:
    """Do what is not done yet of the whole path, and return the path of the report.

    Args:
        run: the configuration.
        out: folder of everything; a second call goes on in it.
        videos: the user's, besides the toy world's.
        texts: likewise.
        devices: members of the ring, or None for the default of this machine.

    Raises:
        InputError: an input cannot be used, or `out` holds another run.
    """
    claim(out, run, videos=videos, texts=texts)
    run, mesh = open_mesh(run, devices=devices)
    validate(run.training, run.model, run.mesh)
    if videos or texts:
        find_sources(videos=videos, texts=texts, config=run.prepare)
    toy, tokenizer, examples, train, samples = (
        out / name for name in ("toy", "tokenizer", "examples", "train", "samples")
    )
    phases = Phases(out / PHASES_FOLDER)
    with phases("toy world", leaves=toy):
        world = _render(toy, run)
    videos, texts = (world.videos, *videos), (world.texts, *texts)
    sources = find_sources(videos=videos, texts=texts, config=run.prepare)
    with phases("tokenizers", leaves=tokenizer):
        train_tokenizers(run, videos=videos, texts=texts, out=tokenizer)
    with phases("preparation", leaves=examples):
        prepared = prepare_examples(run, videos=videos, texts=texts, tokenizer=tokenizer, out=examples)
    with phases("training and evaluation", leaves=train):
        state = train_stages(run, data=examples, tokenizer=tokenizer, out=train, mesh=mesh, evaluate="stages")
    text, frames = load_tokenizers(run, tokenizer)
    last = run.training.stages[-1]
    engine = build_engine(run, state.params, last, text=text, frames=frames, mesh=mesh)
    with phases("generation", leaves=samples):
        shown = demonstrate(engine, frames, run, sources=sources, root=out, folder=samples)
    metrics = summarize(
        run,
        tokenizer=tokenizer,
        examples=examples,
        train=train,
        command=typed_command(),
        sources=sources,
        prepared=prepared,
        shown=shown,
        phases=phases.done(),
        peak_bytes=peak_memory_bytes(),
    )
    return write_report(metrics, out=out)


def claim(out: Path, run: RunConfig, *, videos: Paths, texts: Paths) -> None:
    """Write `run.json`, and which inputs join in, or check that both are those of an earlier call.

    A call that was refused before its first part leaves nothing that binds the next.

    Raises:
        InputError: an input is missing, or `out` holds the run of another configuration or of other inputs.
    """
    for path, option in [*((path, "--videos") for path in videos), *((path, "--texts") for path in texts)]:
        if problem := why_no_file(path) or ("" if path.exists() else "no such file"):
            raise InputError(
                what=f"{option} {path}",
                got=problem,
                expected="a file or folder",
                remedy="Check its name.",
            )
    inputs = {
        "videos": [str(path.resolve()) for path in videos],
        "texts": [str(path.resolve()) for path in texts],
        "config": to_json(run),
    }
    begun = out / PHASES_FOLDER
    claim_folder(
        out / INPUTS_FILE,
        inputs,
        holds="the run of another configuration, or of other videos or texts",
        results=begun,
    )
    if not ((out / RUN_FILE).exists() and begun.exists()):
        write_run(out, run)


def _render(folder: Path, run: RunConfig) -> ToyWorld:
    with Progress("toy world", total=1, unit="files") as progress:
        return render_toy_world(
            folder, run.toy_world, on_progress=lambda done, total: progress.update(done, total=total)
        )
