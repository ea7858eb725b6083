"""An engine from a checkpoint, and what is measured of it."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
from jax.sharding import Mesh

from ringworld.core.checkpoint import UNREAD, Checkpoints
from ringworld.core.config import read_as, to_json
from ringworld.core.errors import InputError
from ringworld.core.files import claim_folder, write_json_atomic
from ringworld.data.config import Kind
from ringworld.data.loader import read_once
from ringworld.data.store import ExampleStore, read_examples
from ringworld.evaluation.held_out import held_out_loss
from ringworld.evaluation.metrics import HeldOutMetrics, LeftOut, NeedleMetrics, When
from ringworld.evaluation.needles import Haystack, accuracy
from ringworld.evaluation.retrieval import run_needles
from ringworld.inference.config import EngineConfig
from ringworld.inference.engine import Engine
from ringworld.model.world_model import WorldModel
from ringworld.presets import RunConfig
from ringworld.text.tokenizer import TextTokenizer
from ringworld.training.config import StageConfig
from ringworld.training.loop import CHECKPOINTS_FOLDER
from ringworld.training.state import abstract_state
from ringworld.vision.frame_tokenizer import FrameTokenizer

SUMMARY_FILE = "evaluation.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What was measured of one model."""

    needles: tuple[NeedleMetrics, ...]
    held_out: HeldOutMetrics


class Trained(NamedTuple):
    """A model as a checkpoint holds it."""

    model: WorldModel
    stage: StageConfig
    """The last stage that it went through, or is in."""
    step: int
    """Updates that it had."""


def restore_model(run: RunConfig, *, folder: Path, mesh: Mesh) -> Trained:
    """Return the newest weights in a folder of `ringworld train`, and the stage that they come from.

    The moments of the optimizer, twice the size of the weights, are not read.

    Raises:
        InputError: there is no checkpoint.
    """
    path = folder / CHECKPOINTS_FOLDER
    restored = None
    if path.exists():
        state = abstract_state(run.training, run.model, mesh=mesh)
        unread = jax.tree.map(lambda _: UNREAD, state.optimizer)
        with closing(Checkpoints(path, mode="read")) as checkpoints:
            restored = checkpoints.restore(eqx.tree_at(lambda state: state.optimizer, state, unread))
    if restored is None:
        raise InputError(
            what=str(folder),
            got="no checkpoint",
            expected="a folder that `ringworld train` wrote",
            remedy="Train first, or name another folder with --model.",
        )
    begun = sum(first < restored.step for first in run.training.boundaries[:-1])
    return Trained(restored.tree.params, run.training.stages[max(0, begun - 1)], restored.step)


def build_engine(
    run: RunConfig,
    model: WorldModel,
    stage: StageConfig,
    *,
    text: TextTokenizer,
    frames: FrameTokenizer,
    mesh: Mesh,
) -> Engine:
    """Return the engine of a model as the stage left it; contexts may go up to the longest of the run."""
    trained = [stage.context_tokens for stage in run.training.stages]
    longest = max(trained + [n for grid in run.evaluation.needles for n in grid.context_tokens])
    return Engine(
        model,
        config=replace(run.model, rope_base=stage.rope_base),
        tokenizer=text,
        vocabulary=run.vocabulary,
        frame_tokenizer=frames,
        mesh=mesh,
        limits=EngineConfig(max_context_tokens=longest),
    )


def evaluate_engine(
    engine: Engine, run: RunConfig, stage: StageConfig, *, step: int, when: When, data: Path, out: Path
) -> Evaluation:
    """Measure all that the configuration asks for; what is in `out` already is not measured again.

    Args:
        engine: the model.
        run: what is measured.
        stage: the last stage that the model went through.
        step: updates that it had.
        when: whether before that stage or after it.
        data: prepared data, whose held-out split is used.
        out: folder of the results.

    Raises:
        InputError: `out` holds the measurement of another model or of other data.
    """
    measured_of = {
        "step": step,
        "weights": engine.fingerprint,
        "rope_base": stage.rope_base,
        "data": ExampleStore(data).fingerprint,
        "evaluation": to_json(run.evaluation),
    }
    claim_folder(
        out / "measured_of.json",
        measured_of,
        holds="the evaluation of another model, of other data, or by another configuration",
    )
    if (out / SUMMARY_FILE).exists():
        return read_evaluation(out / SUMMARY_FILE)
    haystack = read_haystack(data, engine.tokenizer)
    grids = []
    for grid in run.evaluation.needles:
        folder = out / f"needles-{grid.needles}-{grid.asked}"
        results = run_needles(engine, grid, haystack=haystack, out=folder)
        cells = accuracy(results, depth_percents=grid.depth_percents)
        grids.append(
            NeedleMetrics(stage=stage.name, when=when, needles=grid.needles, asked=grid.asked, cells=cells)
        )
    held_out = _held_out(engine, run, stage, when=when, data=data)
    measured = Evaluation(needles=tuple(grids), held_out=held_out)
    write_json_atomic(out / SUMMARY_FILE, to_json(measured))
    return measured


def read_haystack(data: Path, tokenizer: TextTokenizer) -> Haystack:
    """Return the held-out texts of prepared data as one haystack; those trained on where none is held out.

    Raises:
        InputError: the data holds no text.
    """
    for split in ("held_out", "train"):
        texts = [
            tokenizer.decode(example.tokens.tolist())
            for example in read_examples(data, split=split, kinds=("text",))
        ]
        if texts:
            return Haystack("\n".join(texts), tokenizer=tokenizer)
    raise InputError(
        what=str(data),
        got="no text",
        expected="prose to hide needles in",
        remedy="Prepare some with --texts.",
    )


def _held_out(
    engine: Engine, run: RunConfig, stage: StageConfig, *, when: When, data: Path
) -> HeldOutMetrics:
    # The same examples whatever the stage, at the longest context, so that stages can be compared.
    longest = run.training.stages[-1]
    kinds = read_once(
        data,
        split="held_out",
        context_tokens=longest.context_tokens,
        batch_sequences=longest.batch_sequences,
        mixture=longest.mixture,
        most_examples=run.evaluation.held_out.examples_per_kind,
        packing=run.training.packing,
    )
    loss = held_out_loss(
        engine,
        kinds,
        context_tokens=longest.context_tokens,
        position_edges=run.evaluation.held_out.position_edges,
    )
    left = left_out({one.kind: one.left_out for one in kinds})
    return HeldOutMetrics(stage=stage.name, when=when, loss=loss, left_out=left)


def left_out(examples: Mapping[Kind, int]) -> tuple[LeftOut, ...]:
    """Return what is too long for a context, without the kinds of which nothing is."""
    return tuple(LeftOut(kind=kind, examples=many) for kind, many in examples.items() if many)


def read_evaluation(path: Path) -> Evaluation:
    """Read what `evaluate_engine` wrote."""
    return read_as(Evaluation, path)
