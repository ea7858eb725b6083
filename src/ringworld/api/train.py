"""`ringworld.train`: a world model in stages, with an evaluation and a model folder after each."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from ringworld.api.begin_from import opened
from ringworld.api.evaluate import packed_as
from ringworld.api.load import ModelDefaults
from ringworld.api.machine import PathArgument, begin_process, on_this_machine
from ringworld.artifacts.adapter_folder import is_saved_adapter, save_adapter
from ringworld.artifacts.examples_folder import ExamplesFolder
from ringworld.artifacts.model_folder import ModelFolder, is_saved, save_model
from ringworld.core.config import to_json
from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.fingerprint import fingerprint
from ringworld.core.origin import Origin, check_replaceable, parent, working_in
from ringworld.core.processes import by_all, by_writer, join
from ringworld.core.results import Evaluation
from ringworld.evaluation.runner import evaluate as run_tasks
from ringworld.evaluation.subject import subject_of
from ringworld.evaluation.task import TaskConfig
from ringworld.inference.config import GenerationLimits, WatchingConfig
from ringworld.inference.prompts import Prompts
from ringworld.inference.world import World
from ringworld.model.decode import GenerationWeights
from ringworld.model.extend import add_vision_ids
from ringworld.model.forward import Forward
from ringworld.model.world_model import WorldModel
from ringworld.planning.machines import peak_flops_per_second
from ringworld.presets.run import RunConfig
from ringworld.report.grids import in_short
from ringworld.text.training_template import learned_template
from ringworld.training.config import Stage
from ringworld.training.loop import train as train_stages

MODELS_FOLDER, ADAPTERS_FOLDER, EVALUATIONS_FOLDER = "models", "adapters", "evaluation"
When = Literal["before", "after"]


def train(
    run: RunConfig,
    *,
    data: PathArgument,
    out: PathArgument,
    init: PathArgument | None = None,
    stages: Sequence[str] = (),
    evaluate: Literal["stages", "never"] = "stages",
    devices: int | None = None,
) -> Path:
    """Train through the stages of a run, or what is left of them; a second call resumes to the bit.

    Where the environment says so, this process is one of several, each of which makes the same call; see
    `ringworld.core.processes.join`. They may be other ones, or another number, when a run resumes.

    Args:
        run: what is trained, how and on which devices; such as `ringworld.presets.laptop()`.
        data: examples folder that `prepare` wrote; the model keeps its tokenizers.
        out: folder for `metrics.jsonl`, checkpoints, `evaluation/` and `models/STAGE`, a model folder each;
            or, where `training.lora` asks for an adapter, `adapters/STAGE`, an adapter folder each.
        init: model folder whose weights the first stage begins from; by default they are drawn. A model of
            text alone gains the vision ids of the run, each the mean of the text ids. An adapter needs it.
        stages: names of one or several that follow each other, by default all. Where the first is left out,
            they begin from the model of the one before (`init`), with the examples that they would draw in
            the whole run; moments begin anew.
        evaluate: measure before the first stage and after each, and within them as `run.evaluation` says, or
            never.
        devices: of the ring; by default as the run says, or all accelerators that there are.

    Returns:
        The model folder, or adapter folder, of the last stage.

    Raises:
        InputError: the configuration does not fit together, or not to the data, or `out` holds another run.
        Diverged: as many updates in a row were skipped as `training.guard` allows.
        Stopped: on Ctrl-C or SIGTERM, after the step was finished and saved.
    """
    processes = join()
    begin_process(run, devices=devices if processes > 1 else None, processes=processes)
    out = Path(out)
    with _only_this_run(out):
        run = _part(run, stages, init=init)
        run = on_this_machine(run, devices=devices)
        examples, begun_from = by_all(partial(opened, run, data=Path(data), init=init))
        if begun_from is None and run.training.lora.rank:
            problem = "training.lora.rank asks for an adapter, but there is no model to adapt"
            raise InputError(problem, field="init", remedy="name its folder (init), or use rank 0")
        if evaluate not in ("stages", "never"):
            raise not_a_choice("evaluate", evaluate, choices=("stages", "never"))
        job = _Job(run=run, examples=examples, out=out, begun_from=begun_from, evaluate=evaluate)
        for stage in run.training.stages:
            by_writer(partial(check_replaceable, job.folder(stage), kind=job.kind))
        train_stages(
            run.training,
            architecture=run.model,
            execution=run.execution,
            data_dir=examples.path,
            out=out,
            initial=None if begun_from is None or job.adapts else job.initial,
            frozen=job.frozen if job.adapts else None,
            origin=by_all(job.origin),
            on_stage=job.at_stage,
            measure=job.within_stage,
            measure_every_steps=0 if evaluate == "never" else run.evaluation.every_steps,
            peak_flops_per_second=peak_flops_per_second(jax.devices()[0].device_kind),
        )
    return job.folder(run.training.stages[-1])


def _part(run: RunConfig, names: Sequence[str], *, init: PathArgument | None) -> RunConfig:
    """Return a run of some stages of another."""
    part = run.with_stages(names)
    every, chosen = ([stage.name for stage in one.training.stages] for one in (run, part))
    begin = every.index(chosen[0])
    if chosen != every[begin : begin + len(chosen)]:
        raise InputError(
            f"stages {', '.join(chosen)} do not follow each other",
            field="stages",
            value=tuple(chosen),
            remedy=f"name neighbors of {', '.join(every)}",
        )
    if begin and init is None:
        raise InputError(
            f"stage {chosen[0]} begins from the weights of stage {every[begin - 1]}, which are not given",
            field="init",
            remedy="name the folder of its model (init)",
        )
    return replace(part, training=replace(part.training, seed=run.training.seed + begin))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """What happens around the stages: the folder is claimed, models are saved, and each is measured."""

    run: RunConfig
    examples: ExamplesFolder
    out: Path
    begun_from: ModelFolder | None
    evaluate: Literal["stages", "never"]

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained, and no model."""
        return self.run.training.lora.rank > 0

    @property
    def kind(self) -> Literal["model", "adapter"]:
        """What a stage ends with."""
        return "adapter" if self.adapts else "model"

    def origin(self) -> Origin:
        """Return the origin of the run; what is trained, and on which data, is added by the loop."""
        init = None if self.begun_from is None else self.begun_from.fingerprint
        return self._origin("run", {"init": init})

    def initial(self, mesh: Mesh) -> WorldModel:
        """Return the weights of `init`, with the vision ids that it lacks."""
        assert self.begun_from is not None
        model = self.begun_from.read_weights(mesh)
        missing = self.run.model.vocab - self.begun_from.architecture.vocab
        with jax.set_mesh(mesh):
            return add_vision_ids(model, ids=missing) if missing else model

    def frozen(self, mesh: Mesh) -> WorldModel:
        """Return the weights of `init`, to which an adapter is trained."""
        assert self.begun_from is not None
        return self.begun_from.read_weights(mesh, weights=self.run.training.lora.base)

    def at_stage(self, when: When, stage: Stage, model: WorldModel, mesh: Mesh) -> None:
        """Save the model or adapter that a stage ends with, and measure what is not measured yet."""
        step = self.run.training.boundaries[self.run.training.stages.index(stage) + (when == "after")]
        if when == "after":
            self._save(stage, model, mesh, step=step)
        if self.evaluate != "never":
            self._evaluated(stage, model, mesh, when=when, tasks=self.run.evaluation.tasks)

    def within_stage(self, step: int, stage: Stage, model: WorldModel, mesh: Mesh) -> dict[str, float]:
        """Measure what the run asks for within a stage, and return it in short."""
        when = f"at {step}"
        # A run that was killed after it may have had other weights here, on another mesh.
        folder = evaluation_folder(self.out, stage.name, f"at-{step}")
        by_writer(lambda: shutil.rmtree(folder, ignore_errors=True))
        tasks = self.run.evaluation.of_a_stage()
        return in_short(self._evaluated(stage, model, mesh, when=when, tasks=tasks))

    def _evaluated(
        self, stage: Stage, model: WorldModel, mesh: Mesh, *, when: str, tasks: Sequence[TaskConfig]
    ) -> Evaluation:
        with jax.set_mesh(mesh):
            weights = GenerationWeights.from_model(model, compute=self.run.execution.compute)
            weights_fingerprint = fingerprint(model)
        tokenizers, stages = self.examples.tokenizers, self.run.training.stages
        forward = Forward.of(self.run.model, self.run.execution, rope_base=stage.rope_base)
        if when == "before" and self.begun_from is not None:  # as it was handed over
            own = replace(self.run.model, rope=self.begun_from.architecture.rope)
            forward = Forward.of(own, self.run.execution)
        longest = max(one.context_tokens for one in stages)
        world = World.of(
            weights,
            forward=forward,
            prompts=Prompts(
                tokenizers.text_tokenizer,
                vocabulary=self.run.vocabulary,
                frame_tokenizer=tokenizers.frame_tokenizer,
                template=learned_template(tokenizers.text_tokenizer, vocabulary=self.run.vocabulary),
            ),
            mesh=mesh,
            limits=GenerationLimits(
                max_context_tokens=max(longest, self.run.evaluation.longest_context_tokens)
            ),
            sampling=self.run.sampling,
            watching=self._defaults.watching,
        )
        return run_tasks(
            subject_of(world),
            tasks,
            data=packed_as(self.run, folder=self.examples.path),
            out=evaluation_folder(self.out, stage.name, when.replace(" ", "-")),
            label={"when": when, "stage": stage.name},
            identity={"weights": weights_fingerprint},
        )

    @property
    def _defaults(self) -> ModelDefaults:
        clips = self.run.training.stages[-1].clips.of(self.run.prepare)
        return ModelDefaults(
            sampling=self.run.sampling,
            watching=WatchingConfig(max_frames=clips.max_frames, frames_per_second=clips.frames_per_second),
            execution=self.run.execution,
        )

    def folder(self, stage: Stage) -> Path:
        """Return where the model or adapter of a stage is."""
        return self.out / (ADAPTERS_FOLDER if self.adapts else MODELS_FOLDER) / stage.name

    def _save(self, stage: Stage, model: WorldModel, mesh: Mesh, *, step: int) -> None:
        folder = self.folder(stage)
        origin = self._origin(self.kind, {"step": step, "stage": stage.name})
        if self.adapts:
            self._save_adapter(folder, model, mesh, origin=origin)
            return
        if by_writer(lambda: is_saved(folder, origin)):
            return
        save_model(
            folder,
            model,
            architecture=replace(self.run.model, rope=replace(self.run.model.rope, base=stage.rope_base)),
            tokenizers=self.examples.tokenizers,
            context_tokens=stage.context_tokens,
            generation=to_json(self._defaults),
            origin=origin,
            mesh=mesh,
        )

    def _save_adapter(self, folder: Path, model: WorldModel, mesh: Mesh, *, origin: Origin) -> None:
        assert self.begun_from is not None
        if by_writer(lambda: is_saved_adapter(folder, origin)):
            return
        save_adapter(
            folder,
            model,
            architecture=self.run.model,
            config=self.run.training.lora,
            base=self.begun_from.path,
            origin=origin,
            mesh=mesh,
        )

    def _origin(self, kind: Literal["run", "model", "adapter"], decides: dict[str, Any]) -> Origin:
        parents = {"data": parent(self.examples.path, self.examples.fingerprint)}
        if self.begun_from is not None:
            parents["init"] = parent(self.begun_from.path, self.begun_from.fingerprint)
        return Origin(kind=kind, identity=decides, configuration=to_json(self.run), parents=parents)


@contextmanager
def _only_this_run(out: Path) -> Iterator[None]:
    """Keep other runs out of a folder; of the processes of this one, the first holds the lock."""
    with ExitStack() as stack:
        by_writer(lambda: stack.enter_context(working_in(out, kind="run")))
        yield


def evaluation_folder(out: Path, stage: str, when: str) -> Path:
    """Return where the evaluation of a stage is: `before` it, `after` it, or `at-120`, after update 120."""
    return out / EVALUATIONS_FOLDER / f"{when}-{stage}"
