"""Training of a world model: stages of growing context on one state, resumed exactly where it was stopped."""

import itertools
import sys
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding

from ringworld.core.checkpoint import Checkpoints
from ringworld.core.config import to_json
from ringworld.core.mesh import mesh_of
from ringworld.core.origin import Origin, claim
from ringworld.core.processes import by_all, by_writer, is_writer
from ringworld.core.steps import CHECKPOINTS_FOLDER, Batch, Interval, Resumed, RunFiles, run_steps
from ringworld.core.tracker import check_tracker, tracking
from ringworld.data.loader import PackedLoader
from ringworld.data.store import ExampleStore
from ringworld.model.arrange import Layout
from ringworld.model.config import Architecture, Execution
from ringworld.model.lora import whole_model
from ringworld.model.world_model import WorldModel, check_offload
from ringworld.training.config import Stage, TrainingConfig, validate
from ringworld.training.guard import check_skipped
from ringworld.training.identity import identity
from ringworld.training.metrics import check_rows, count, metrics_row
from ringworld.training.stage_loader import stage_loader
from ringworld.training.state import TrainState, abstract_state, begin_stage, init_state, shardings
from ringworld.training.step import Pieces, StepOutput, make_step

OnStage = Callable[[Literal["before", "after"], Stage, WorldModel, Mesh], None]
"""What happens before the first stage and after each one, such as an evaluation. A run that is killed during
it calls it again, and a finished run calls it for its last stage, so it must skip what it finds done."""
Measure = Callable[[int, Stage, WorldModel, Mesh], Mapping[str, float]]
"""What is measured of the weights after an update, within a stage; the row of the update has it."""


def train(
    config: TrainingConfig,
    *,
    architecture: Architecture,
    execution: Execution,
    data_dir: Path,
    out: Path,
    initial: Callable[[Mesh], WorldModel] | None = None,
    frozen: Callable[[Mesh], WorldModel] | None = None,
    origin: Origin,
    on_stage: OnStage = lambda when, stage, model, mesh: None,
    measure: Measure = lambda step, stage, model, mesh: {},
    measure_every_steps: int = 0,
    peak_flops_per_second: float | None = None,
) -> TrainState:
    """Train through all stages, or what is left of them in the folder `out`.

    Args:
        config: stages and optimizer; each stage has its own mesh, which may differ from that of an earlier
            call on the same folder; with several processes each is over the devices of all of them.
        architecture: of the model; the stages replace its rope base.
        execution: how it is computed.
        data_dir: what `data.prepare` wrote.
        out: where checkpoints and `metrics.jsonl` go.
        initial: returns the first weights on the mesh of the first stage; by default they are drawn.
        frozen: returns the model on a mesh that an adapter is trained for; it is in no checkpoint.
        origin: of the run, to which the identity of what is trained is added; it claims `out`.
        on_stage: called with when, the stage, the weights, with the adapter where one is trained, and the
            mesh on which they lie.
        measure: called likewise with the number of the update.
        measure_every_steps: how often; 0 is never.
        peak_flops_per_second: of one device; where it is known, rows have the share of it that is reached.

    Raises:
        InputError: the configuration does not fit together, or there is no data, or `out` holds another run.
        Diverged: as many updates in a row were skipped as `GuardConfig` allows.
        Stopped: on Ctrl-C or SIGTERM, after the step was finished and saved.
    """
    assert (config.lora.rank > 0) == (frozen is not None), "an adapter is trained for a model"
    validate(config, architecture, execution)
    check_tracker(config.tracker)
    meshes = [mesh_of(stage.mesh) for stage in config.stages]
    check_offload(execution, meshes[0])
    data = by_all(lambda: ExampleStore(data_dir).fingerprint)
    made_of = identity(config, architecture, execution, data=data)
    whole = replace(origin, identity=made_of | origin.identity)
    by_writer(lambda: claim(out, whole, results=f"{CHECKPOINTS_FOLDER}/*"))
    run = _Run(
        config=config,
        architecture=architecture,
        execution=execution,
        data_dir=data_dir,
        measure=measure,
        measure_every_steps=measure_every_steps,
        peak_flops_per_second=peak_flops_per_second,
    )
    with closing(Checkpoints(out / CHECKPOINTS_FOLDER)) as checkpoints, ExitStack() as stack:
        files = RunFiles(
            folder=out,
            checkpoints=checkpoints,
            log_every_steps=config.log_every_steps,
            checkpoint_every_steps=config.checkpoint_every_steps,
            check=partial(check_rows, config=config),
        )
        begun = max(0, bisect_left(config.boundaries, checkpoints.latest_step or 0) - 1)
        mesh = meshes[begun]
        with jax.set_mesh(mesh):
            at = files.resume(
                abstract_state(config, architecture, mesh=mesh),
                begin=lambda: init_state(config, architecture, mesh=mesh, model=initial and initial(mesh)),
            )
            name = config.tracker if is_writer() else "none"
            shown = tracking(name, folder=out, after_step=at.step, configuration=to_json(config))
            files = replace(files, tracker=stack.enter_context(shown))
            # A newest checkpoint that is damaged may leave one of an earlier stage.
            begun = max(0, bisect_left(config.boundaries, at.step) - 1)
            base = frozen and frozen(meshes[begun])
            if at.step == 0:
                on_stage("before", config.stages[0], whole_model(at.state.params, base), meshes[0])
        for index, (stage, mesh) in enumerate(zip(config.stages[begun:], meshes[begun:]), start=begun):
            where = shardings(config, architecture, mesh=mesh)
            at = replace(at, state=jax.device_put(at.state, where, donate=True))
            base = _moved(base, mesh)
            with jax.set_mesh(mesh):
                if index and at.step == config.boundaries[index]:
                    at = replace(at, state=begin_stage(at.state, config, stage))
                if at.step < config.boundaries[index + 1]:
                    at = run.stage(index, at, files, mesh, frozen=base)
                on_stage("after", stage, whole_model(at.state.params, base), mesh)
            at = Resumed(step=at.step, state=at.state)  # the next stage has a loader of its own
    return at.state


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    config: TrainingConfig
    architecture: Architecture
    execution: Execution
    data_dir: Path
    measure: Measure
    measure_every_steps: int
    peak_flops_per_second: float | None

    def stage(
        self,
        index: int,
        start: Resumed[TrainState],
        files: RunFiles,
        mesh: Mesh,
        *,
        frozen: WorldModel | None,
    ) -> Resumed[TrainState]:
        """Run what is left of one stage; its last state is on disk when this returns."""
        stage, last = self.config.stages[index], self.config.boundaries[index + 1]
        with ExitStack() as stack:

            def begin() -> tuple[PackedLoader, Iterator[Batch[Pieces]], Batch[Pieces]]:
                loader = stack.enter_context(closing(self.loader(index, mesh, start.loader_state)))
                batches = stack.enter_context(closing(self.batches(stage, mesh, loader)))
                return loader, batches, next(batches)

            loader, batches, ahead = by_all(begin)
            title = f"train {stage.name}"
            if is_writer():
                print(f"{title}: compiling for {stage.context_tokens} tokens", file=sys.stderr, flush=True)
            step = make_step(self.config, stage, self.architecture, self.execution)
            compiled = step.lower(start.state, ahead.inputs, frozen).compile()
            state = run_steps(
                start,
                itertools.chain([ahead], batches),
                last=last,
                files=files,
                update=lambda state, inputs: compiled(state, inputs, frozen),
                row=partial(self.row, stage, title, loader.names, mesh),
                title=title,
                total=self.config.boundaries[-1],
                shown=("loss", "tokens_per_second", "mfu"),
                measure=lambda state, step: self.measure(
                    step, stage, whole_model(state.params, frozen), mesh
                ),
                measure_every_steps=self.measure_every_steps,
            )
        return Resumed(step=last, state=state)

    def row(
        self,
        stage: Stage,
        title: str,
        names: Sequence[str],
        mesh: Mesh,
        output: StepOutput,
        interval: Interval,
    ) -> dict[str, Any]:
        """Return the row of a step, unless too many updates up to it were skipped."""
        check_skipped(output.guard, step=int(output.step), of=title, config=self.config.guard)
        return metrics_row(
            output,
            stage=stage.name,
            interval=interval,
            architecture=self.architecture,
            names=names,
            lora=self.config.lora,
            peak_flops_per_second=self.peak_flops_per_second and self.peak_flops_per_second * mesh.size,
        )

    def loader(self, index: int, mesh: Mesh, state: Mapping[str, Any] | None) -> PackedLoader:
        """Return the loader of a stage at a state, after saying what of the data it does not draw.

        It reads what the devices of this process hold of each piece of a batch.
        """
        stage = self.config.stages[index]
        of_piece = stage.batch_sequences // stage.accumulation_steps
        here = Layout(self.execution.attention, mesh=mesh).rows_here(of_piece)
        rows = {start + row for start in range(0, stage.batch_sequences, of_piece) for row in here}
        loader = stage_loader(self.config, index, data_dir=self.data_dir, rows=rows)
        title = f"train {stage.name}"
        for many, what in (
            (loader.left_out, f"left out, longer than {stage.context_tokens} tokens"),
            (loader.truncated, "cut off behind the context, in tokens, or frames of footage"),
        ):
            if any(many.values()) and is_writer():
                by_name = ", ".join(f"{count} {name}" for name, count in many.items() if count)
                print(f"{title}: {what}: {by_name}", file=sys.stderr, flush=True)
        if loader.unmatched:
            names = ", ".join(loader.unmatched)
            line = f"{title}: the mixture names {names}, of which there is no example between its lengths"
            print(line, file=sys.stderr, flush=True)
        if state is not None:
            loader.set_state(dict(state))
        return loader

    def batches(self, stage: Stage, mesh: Mesh, loader: PackedLoader) -> Generator[Batch[Pieces], None, None]:
        """Yield the batches of a stage that follow, each put on the devices when it is asked for."""
        layout = Layout(self.execution.attention, mesh=mesh)
        for packed in loader:
            placed = [
                layout.place(part.batch, part.lengths) for part in packed.split(stage.accumulation_steps)
            ]
            yield Batch(
                inputs=tuple(part.arrays for part in placed),
                counts=count(placed, drawn=packed.drawn),
                loader_state=loader.get_state(),
            )


def _moved(model: WorldModel | None, mesh: Mesh) -> WorldModel | None:
    """Return a model on another mesh, spread over the same axes."""
    where = jax.tree.map(lambda leaf: NamedSharding(mesh, leaf.sharding.spec), model)
    return jax.device_put(model, where, donate=True)
