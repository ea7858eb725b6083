"""`ringworld.evaluate`: needles and held-out loss of a model folder."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ringworld.api.load import load_opened
from ringworld.api.machine import PathArgument, begin_process
from ringworld.artifacts.examples_folder import ExamplesFolder
from ringworld.artifacts.model_folder import ModelFolder
from ringworld.core.config import from_json
from ringworld.core.errors import InputError
from ringworld.core.origin import working_in
from ringworld.core.results import Evaluation
from ringworld.evaluation.config import EvaluationConfig, TaskName, tasks_for
from ringworld.evaluation.runner import evaluate as run_tasks
from ringworld.evaluation.subject import subject_of
from ringworld.evaluation.task import EvaluationData
from ringworld.model.config import WeightType
from ringworld.presets.run import RunConfig
from ringworld.report.grids import needle_maps
from ringworld.report.plots import needle_map, write_png
from ringworld.text.read_text import read_text

_MOST_BYTES = 2**28


def evaluate(
    model: PathArgument,
    *,
    out: PathArgument,
    data: PathArgument | None = None,
    haystack: PathArgument | None = None,
    tasks: EvaluationConfig | TaskName | Sequence[TaskName] | None = None,
    weights: WeightType | None = None,
    devices: int | None = None,
) -> Evaluation:
    """Measure a model; what is in `out` already is not measured again.

    Args:
        model: model folder, or adapter folder.
        out: folder of the results, with a heat map `needles-{hidden}-{asked}.png` of each grid.
        data: examples folder; its held-out split is scored, and its held-out texts hide the needles.
        haystack: text file that hides them instead; without `data`, needles alone are measured.
        tasks: what is measured, or names of what would be: what the run of the model measures or,
            where it is of no run, a needle at every power of two from 1K tokens to its context.
        weights: how its weights are kept, as in `load`.
        devices: of the ring; by default one CPU, or all accelerators.

    Raises:
        InputError: there is neither data nor a haystack, a task lacks what it needs, model and data do not
            fit together, or `out` holds results of others.
    """
    if data is None and not isinstance(tasks, EvaluationConfig | None) and "held_out" in tasks:
        problem = "held-out loss is measured on examples"
        raise InputError(problem, field="data", remedy="name the folder that prepare wrote")
    if data is None and haystack is None:
        problem = "there is nothing to score and no text to hide needles in"
        raise InputError(problem, field="data", remedy="give data, or a haystack for needles alone")
    with working_in(Path(out), kind="evaluation"):
        begin_process(devices=devices)
        folder = ModelFolder.open(Path(model))
        measured, packed = _decided(folder, data=data, haystack=haystack, tasks=tasks)
        longest = max(folder.context_tokens, measured.longest_context_tokens)
        evaluation = run_tasks(
            subject_of(load_opened(folder, devices=devices, weights=weights, context_tokens=longest)),
            measured.tasks,
            data=packed,
            out=Path(out),
            label={"model": Path(model).resolve().name},
            identity={"weights": folder.fingerprint} | ({"kept_as": weights} if weights else {}),
        )
        for (needles, asked), cells in needle_maps(evaluation).items():
            write_png(needle_map(cells), Path(out) / f"needles-{needles}-{asked}.png")
    return evaluation


def _decided(
    model: ModelFolder,
    *,
    data: PathArgument | None,
    haystack: PathArgument | None,
    tasks: EvaluationConfig | TaskName | Sequence[TaskName] | None,
) -> tuple[EvaluationConfig, EvaluationData]:
    """Return what is measured, and on what.

    | | a model of a run | of no run |
    |---|---|---|
    | tasks, unless a configuration is given | those of the run | a needle at 1K, 2K, ... tokens, and loss |
    | packed | as in the last stage of the run | to the context of the model |

    Without `data`, needles alone are measured.
    """
    text = None if haystack is None else read_text(Path(haystack), max_bytes=_MOST_BYTES)
    examples = None if data is None else ExamplesFolder.open(Path(data))
    if examples is not None:
        _check_ids(examples, model)
    run, folder = _run_of(model), None if examples is None else examples.path
    if isinstance(tasks, EvaluationConfig):
        measured = tasks
    else:
        measured = run.evaluation if run else tasks_for(model.context_tokens)
        measured = measured if tasks is None else measured.only(tasks)
    if run:
        packed = packed_as(run, folder=folder, haystack=text)
    else:
        packed = EvaluationData(folder=folder, context_tokens=model.context_tokens, haystack=text)
    return measured if examples is not None else measured.only("needles"), packed


def _check_ids(examples: ExamplesFolder, model: ModelFolder) -> None:
    """Refuse examples whose ids mean something else than the model's.

    Raises:
        InputError: they were prepared for another vocabulary, or with other tokenizers.
    """
    examples.check(model.vocabulary)
    if differing := model.tokenizers.unlike(examples.tokenizers):
        raise InputError(
            f"{examples.path} was prepared with another {' and another '.join(differing)} than that of the "
            f"model in {model.path}",
            field="data",
            value=differing,
            path=examples.path,
            remedy=f"prepare it with the tokenizers of the model (tokenizer={model.path})",
        )


def _run_of(folder: ModelFolder) -> RunConfig | None:
    """Return the run that made a model; None for one of others, or of another version, as a line says."""
    if folder.configuration is None:
        return None
    try:
        return from_json(RunConfig, folder.configuration, where=f"the configuration of {folder.path}")
    except InputError as error:
        print(f"ringworld: {error.problem}: it is measured as a model of no run", file=sys.stderr)
        return None


def packed_as(run: RunConfig, *, folder: Path | None, haystack: str | None = None) -> EvaluationData:
    """Return how held-out examples are packed for any model of a run: as in its last stage.

    Models of all its stages can so be compared.
    """
    last = run.training.stages[-1]
    return EvaluationData(
        folder=folder,
        context_tokens=last.context_tokens,
        batch_sequences=last.batch_sequences,
        mixture=last.mixture,
        clips=last.clips,
        packing=run.training.packing,
        haystack=haystack,
    )
