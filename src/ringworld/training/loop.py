"""The training loop: stages of growing context on one state, going on exactly where it was stopped.

After a kill at any moment the same call restores the newest checkpoint (weights, moments, step, state of the
loader), cuts the rows of `metrics.jsonl` beyond it, and writes equal ones again.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from ringworld.core.checkpoint import Checkpoints
from ringworld.core.errors import Stopped
from ringworld.core.files import append_jsonl, keep_jsonl, read_jsonl, sync
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.progress import Progress
from ringworld.data.batch import PackedBatch
from ringworld.data.loader import make_loader
from ringworld.data.store import ExampleStore
from ringworld.model.arrange import arrange, placed_rows
from ringworld.model.config import ModelConfig
from ringworld.model.world_model import WorldModel
from ringworld.training.config import StageConfig, TrainingConfig, validate
from ringworld.training.identity import claim_run
from ringworld.training.metrics import (
    METRICS_FILE,
    BatchCounts,
    Interval,
    check_rows,
    count,
    metrics_row,
)
from ringworld.training.state import TrainState, abstract_state, init_state
from ringworld.training.step import Pieces, make_step
from ringworld.training.stop import StopRequest

CHECKPOINTS_FOLDER = "checkpoints"

OnStage = Callable[[Literal["before", "after"], StageConfig, WorldModel], None]
"""What happens before the first stage and after each one, such as an evaluation. A run that is killed in its
midst calls it again, and a finished run once more for the last stage, so it must skip what it finds done."""


def train(
    config: TrainingConfig,
    model_config: ModelConfig,
    *,
    data_dir: Path,
    out: Path,
    mesh: Mesh,
    on_claim: Callable[[], None] = lambda: None,
    on_stage: OnStage = lambda when, stage, params: None,
) -> TrainState:
    """Train through all stages, or what is left of them in the folder `out`.

    Args:
        config: stages and optimizer.
        model_config: shape of the model; the stages replace `rope_base`.
        data_dir: what `data.prepare` wrote.
        out: where checkpoints and `metrics.jsonl` go.
        mesh: of `core.mesh.make_mesh`; it may differ from that of an earlier call on the same folder.
        on_claim: called once, when it is sure that `out` belongs to this run.
        on_stage: called with when, the stage and the weights.

    Raises:
        InputError: the configuration does not fit together, or there is no data, or `out` holds another run,
            or the loss is not finite.
        Stopped: on Ctrl-C or SIGTERM, after the step was finished and saved.
    """
    validate(config, model_config, MeshConfig(**mesh.shape))
    claim_run(out, config, model_config, data=ExampleStore(data_dir).fingerprint)
    on_claim()
    with closing(Checkpoints(out / CHECKPOINTS_FOLDER)) as checkpoints, jax.set_mesh(mesh):
        run = _Run(
            config=config,
            model_config=model_config,
            data_dir=data_dir,
            out=out,
            mesh=mesh,
            checkpoints=checkpoints,
        )
        state, resumed = run.begin()
        done = int(state.step)
        if done == 0:
            on_stage("before", config.stages[0], state.params)
        for index, stage in enumerate(config.stages):
            last = config.boundaries[index + 1]
            if done > last:
                continue
            if done < last:
                state = run.stage(index, state, resumed if done > config.boundaries[index] else None)
                done = last
            on_stage("after", stage, state.params)
    return state


class _Prepared(NamedTuple):
    """One batch, ready for the devices while they still compute the last one."""

    pieces: Pieces
    counts: BatchCounts
    loader_state: dict[str, Any]
    """After this batch and no other, so that a checkpoint taken now goes on with the next."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    config: TrainingConfig
    model_config: ModelConfig
    data_dir: Path
    out: Path
    mesh: Mesh
    checkpoints: Checkpoints

    def begin(self) -> tuple[TrainState, dict[str, Any] | None]:
        """Restore the newest checkpoint with what was saved beside it, or draw the first weights.

        What was logged beyond that is cut.

        Raises:
            InputError: the rows of `metrics.jsonl` up to it are not those that were written.
        """
        restored = self.checkpoints.restore(abstract_state(self.config, self.model_config, mesh=self.mesh))
        step = 0 if restored is None else restored.step
        path = self.out / METRICS_FILE
        keep_jsonl(path, lambda row: row["step"] <= step)
        unlogged = 0 if restored is None else Interval(**restored.meta["interval"]).steps
        check_rows(read_jsonl(path), self.config, logged_steps=step - unlogged, where=path)
        if restored is None:
            return init_state(self.config, self.model_config, mesh=self.mesh), None
        return restored.tree, restored.meta

    def stage(self, index: int, state: TrainState, resumed: dict[str, Any] | None) -> TrainState:
        """Run what is left of one stage; its last state is on disk when this returns."""
        stage, last = self.config.stages[index], self.config.boundaries[index + 1]
        done = int(state.step)
        batches = self.batches(index, resumed and resumed["loader"])
        interval = Interval(**resumed["interval"]) if resumed else Interval()
        batch = next(batches)
        print(f"train {stage.name}: compiling for {stage.context_tokens} tokens", file=sys.stderr, flush=True)
        update = make_step(self.config, stage, self.model_config).lower(state, batch.pieces).compile()
        progress = Progress(f"train {stage.name}", total=self.config.boundaries[-1], unit="steps", done=done)
        with StopRequest() as stop, progress:
            for step in range(done + 1, last + 1):
                started = time.perf_counter()
                state, output = update(state, batch.pieces)
                # The devices compute while the host prepares what they need next.
                following = next(batches) if step < last else batch
                jax.block_until_ready(output)
                seconds = time.perf_counter() - started
                interval = interval.plus(batch.counts, seconds=seconds)
                row = metrics_row(
                    output, step=step, stage=stage.name, interval=interval, model=self.model_config
                )
                progress.update(step, loss=row["loss"], tokens_per_second=row["tokens_per_second"])
                if step % self.config.log_every_steps == 0 or step == last:
                    append_jsonl(self.out / METRICS_FILE, row)
                    interval = Interval()
                asked = stop.signal
                if asked or step % self.config.checkpoint_every_steps == 0 or step == last:
                    beside = {"loader": batch.loader_state, "interval": interval._asdict()}
                    sync(self.out / METRICS_FILE)  # a checkpoint never outlives the rows before it
                    self.checkpoints.save(step, state, beside)
                if asked:
                    raise Stopped(
                        f"{asked.name} after step {step}, saved: the same command goes on", number=asked
                    )
                batch = following
        return state

    def batches(self, index: int, loader_state: dict[str, Any] | None) -> Iterator[_Prepared]:
        """Yield the batches of a stage from `loader_state` on, each made when it is asked for."""
        stage = self.config.stages[index]
        loader = make_loader(
            self.data_dir,
            split="train",
            context_tokens=stage.context_tokens,
            batch_sequences=stage.batch_sequences,
            mixture=stage.mixture,
            packing=self.config.packing,
            seed=self.config.seed + index,
        )
        if any(loader.left_out.values()):
            by_kind = ", ".join(f"{many} {kind}" for kind, many in loader.left_out.items() if many)
            line = f"train {stage.name}: left out, longer than {stage.context_tokens} tokens: {by_kind}"
            print(line, file=sys.stderr, flush=True)
        if loader_state is not None:
            loader.set_state(loader_state)
        for batch in loader:
            rows = placed_rows(
                batch.order, batch.first, attention=self.model_config.attention, mesh=self.mesh
            )
            placements = np.split(np.array([row.placement for row in rows]), stage.accumulation_steps)
            parts = zip(*(np.split(field, stage.accumulation_steps) for field in batch))
            yield _Prepared(
                pieces=tuple(
                    arrange(PackedBatch(*part), mesh=self.mesh, placements=where.tolist())
                    for part, where in zip(parts, placements)
                ),
                counts=count(rows),
                loader_state=loader.get_state(),
            )
