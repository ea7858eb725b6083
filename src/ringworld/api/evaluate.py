"""`ringworld.evaluate`: needles and held-out loss of a model folder."""

from pathlib import Path

from ringworld.api.load import load_opened
from ringworld.api.machine import PathArgument, begin_process
from ringworld.artifacts.examples_folder import ExamplesFolder
from ringworld.artifacts.model_folder import ModelFolder
from ringworld.core.config import from_json
from ringworld.core.errors import InputError
from ringworld.core.files import only_one
from ringworld.core.results import Evaluation
from ringworld.evaluation.config import EvaluationConfig
from ringworld.evaluation.runner import evaluate as run_tasks
from ringworld.evaluation.subject import subject_of
from ringworld.evaluation.task import EvaluationData
from ringworld.model.config import WeightType
from ringworld.presets.run import RunConfig


def evaluate(
    model: PathArgument,
    *,
    data: PathArgument,
    out: PathArgument,
    tasks: EvaluationConfig | None = None,
    weights: WeightType | None = None,
    devices: int | None = None,
) -> Evaluation:
    """Measure a model; what is in `out` already is not measured again.

    Args:
        model: model folder.
        data: examples folder; its held-out split is scored, and its held-out texts hide the needles.
        out: folder of the results.
        tasks: what is measured; by default what the run of the model measures.
        weights: how its weights are kept, as in `load`.
        devices: of the ring; by default one CPU, or all accelerators.

    Raises:
        InputError: the model is of no run and `tasks` are not given, model and data do not fit together,
            or `out` holds results of others.
    """
    begin_process(devices=devices)
    folder, examples = ModelFolder.open(Path(model)), ExamplesFolder.open(Path(data))
    examples.check(folder.vocabulary)
    configuration = None if folder.origin is None else folder.origin.configuration
    if configuration is not None:
        run = from_json(RunConfig, configuration, where=f"the configuration of {folder.path}")
        tasks, packed = tasks or run.evaluation, packed_as(run, folder=examples.path)
    elif tasks is not None:
        packed = EvaluationData(folder=examples.path, context_tokens=folder.context_tokens)
    else:
        raise InputError(
            f"{folder.path} does not say how it was trained, and so not what to measure",
            field="tasks",
            path=folder.path,
            remedy="say what to measure: an EvaluationConfig, or --preset on the command line",
        )
    with only_one(Path(out)):
        longest = max(folder.context_tokens, tasks.longest_context_tokens)
        return run_tasks(
            subject_of(load_opened(folder, devices=devices, weights=weights, context_tokens=longest)),
            tasks.tasks,
            data=packed,
            out=Path(out),
            label={"model": folder.path.name},
            identity={"weights": folder.fingerprint} | ({"kept_as": weights} if weights else {}),
        )


def packed_as(run: RunConfig, *, folder: Path) -> EvaluationData:
    """Return how held-out examples are packed for any model of a run: as in its last stage.

    Models of all its stages can so be compared.
    """
    last = run.training.stages[-1]
    return EvaluationData(
        folder=folder,
        context_tokens=last.context_tokens,
        batch_sequences=last.batch_sequences,
        mixture=last.mixture,
        packing=run.training.packing,
    )
