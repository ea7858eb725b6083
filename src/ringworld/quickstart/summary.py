"""Every number of a quickstart, gathered from what its parts left on disk."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ringworld.api.tokenizer import REPORT_FILE, FrameTokenizerReport, TokenizerReport
from ringworld.api.train import evaluation_folder
from ringworld.core.config import read_as, typed_command
from ringworld.core.files import read_jsonl
from ringworld.core.memory import peak_memory_bytes
from ringworld.core.origin import machine, versions
from ringworld.core.results import Evaluation
from ringworld.data.loader import PackedLoader
from ringworld.data.prepare_report import PrepareReport
from ringworld.data.sources import Source
from ringworld.data.store import ExampleStore
from ringworld.evaluation.runner import read_evaluation
from ringworld.model.flops import parameters
from ringworld.presets import RunConfig
from ringworld.quickstart.config import NeedleWorldConfig, ToyWorldConfig
from ringworld.quickstart.demonstrations import Demonstrations
from ringworld.quickstart.toy_world import held_out_words
from ringworld.report.schema import (
    FrameTokenizerMetrics,
    InputFile,
    LossPoint,
    Metrics,
    Phase,
    StageMetrics,
    TextTokenizerMetrics,
    UnusableFile,
)
from ringworld.training.config import Stage
from ringworld.training.metrics import METRICS_FILE, check_rows
from ringworld.vision.config import FrameTokenizerConfig


def summarize(
    run: RunConfig,
    *,
    toy_world: ToyWorldConfig | NeedleWorldConfig,
    tokenizer: Path,
    examples: Path,
    train: Path,
    sources: Sequence[Source],
    prepared: PrepareReport,
    shown: Demonstrations,
    extended: tuple[Evaluation, ...],
    phases: tuple[Phase, ...],
) -> Metrics:
    """Return the metrics of a finished run, whose folders are `tokenizer`, `examples` and `train`.

    Raises:
        InputError: what a part left is missing or damaged; rows of the training are, say, doubled.
    """
    rows = read_jsonl(train / METRICS_FILE)
    check_rows(rows, run.training, logged_steps=run.training.boundaries[-1], where=train / METRICS_FILE)
    tokenizers = read_as(TokenizerReport, tokenizer / REPORT_FILE)
    bytes_per_token = tokenizers.text_tokenizer.bytes_per_token
    assert bytes_per_token is not None  # the toy world has texts
    stages = run.training.stages
    mesh, attention = stages[-1].mesh, run.execution.attention
    facts = {
        "devices": f"{mesh.devices} ({mesh.ring} in the ring)",
        "parameters": f"{parameters(run.model):,}",
        "model": f"{run.model.layers} layers of {run.model.embed}, {run.model.heads} heads, "
        f"{run.model.kv_heads} of keys and values, {run.execution.compute}",
        "attention": f"{attention.strategy.replace('_', ' ')}, {attention.layout} layout, "
        f"{attention.kernel} kernel",
        "held out of the toy world": held_out_words(toy_world)
        if isinstance(toy_world, ToyWorldConfig)
        else f"{toy_world.held_out:,} documents with needles and {toy_world.haystacks:,} of filler alone",
        "training tokens": f"{sum(row['tokens'] for row in rows):,}",
        "peak memory of the last call": f"{peak_memory_bytes() / 2**30:.2f} GiB",
        "processor": machine(),
    }
    return Metrics(
        title=f"ringworld: from files to a {'world model' if run.frame_tokenizer else 'model of text'}",
        command=typed_command(),
        summary=_summary(run, prepared, rows),
        facts=facts,
        versions=versions(),
        inputs=_inputs(examples, sources),
        quarantined=tuple(UnusableFile(name=one.path, reason=one.reason) for one in prepared.quarantined),
        questions_left_out=prepared.questions_too_long,
        text_tokenizer=TextTokenizerMetrics(
            vocabulary_size=tokenizers.text_tokenizer.vocabulary,
            bytes_per_token=bytes_per_token,
            judged_on=tokenizers.text_tokenizer.judged_on,
        ),
        frame_tokenizer=_frame_tokenizer(run.frame_tokenizer, tokenizers.frame_tokenizer),
        stages=tuple(stage_metrics(stage, rows, left_out=_left_out(stage, examples)) for stage in stages),
        losses=tuple(
            LossPoint(**{name: row[name] for name in ("step", "stage", "text_loss", "vision_loss")})
            for row in rows
        ),
        evaluations=(
            read_evaluation(evaluation_folder(train, stages[0].name, "before")),
            *(read_evaluation(evaluation_folder(train, stage.name, "after")) for stage in stages),
        ),
        extended=extended,
        phases=phases,
        **{part.name: getattr(shown, part.name) for part in fields(shown)},
    )


def _summary(run: RunConfig, prepared: PrepareReport, rows: Sequence[dict]) -> str:
    stages = run.training.stages
    contexts = ", ".join(f"{stage.context_tokens:,}" for stage in stages)
    tokens, batches = sum(one.tokens for one in prepared.parts), sum(row["steps"] for row in rows)
    return (
        f"{prepared.files:,} files became {tokens:,} tokens; a model was trained on {batches:,} batches of "
        f"them with ring attention over {stages[-1].mesh.sequence_members} devices, at contexts of "
        f"{contexts} tokens, each stage from the weights of the last."
    )


def _inputs(examples: Path, sources: Sequence[Source]) -> tuple[InputFile, ...]:
    """Return the files by name; examples say which name they come from, but not below which folder."""
    named: dict[str, list[Source]] = {}
    for source in sources:
        named.setdefault(source.relative, []).append(source)
    store = ExampleStore(examples)
    made: dict[str, list[int]] = {}
    for name, tokens in zip(store.column("source"), store.column("tokens")):
        # One of many samples adds its name to that of its file.
        made.setdefault(name if name in named else name.rpartition("#")[0], []).append(int(tokens))
    return tuple(
        InputFile(
            name=name,
            kind=of_name[0].reader.name,
            files=len(of_name),
            bytes=sum(source.path.stat().st_size for source in of_name),
            examples=len(made.get(name, ())),
            tokens=sum(made.get(name, ())),
        )
        for name, of_name in named.items()
    )


def _frame_tokenizer(
    shape: FrameTokenizerConfig | None, report: FrameTokenizerReport | None
) -> FrameTokenizerMetrics | None:
    if shape is None or report is None:
        return None
    trained, unlike = report.trained, report.unlike
    return FrameTokenizerMetrics(
        resolution=shape.resolution,
        codes_per_frame=shape.codes_per_frame,
        codebook_size=shape.codebook_size,
        codebook_used=round(trained.codebook_usage * shape.codebook_size),
        held_out_frames=report.held_out_frames,
        held_out_of=report.held_out_of,
        psnr_db=trained.psnr_db,
        resembling_db=unlike.threshold_db,
        unlike_frames=unlike.frames,
        unlike_psnr_db=unlike.psnr_db,
        nearest_psnr_db=unlike.nearest_db,
        steps=trained.steps,
    )


def stage_metrics(stage: Stage, rows: Sequence[dict[str, Any]], *, left_out: dict[str, int]) -> StageMetrics:
    """Add up the rows of a stage, each of which covers the steps since the one before it.

    Among the rows of `metrics.jsonl` are those of other stages; `left_out` are examples that are too long.
    """
    rows = [row for row in rows if row["stage"] == stage.name]
    steps, tokens, seconds = (sum(row[name] for row in rows) for name in ("steps", "tokens", "seconds"))
    return StageMetrics(
        name=stage.name,
        context_tokens=stage.context_tokens,
        rope_base=stage.rope_base,
        steps=steps,
        tokens=tokens,
        seconds=seconds,
        fill=tokens / (steps * stage.batch_sequences * stage.context_tokens),
        examples=sum(row["examples"] for row in rows),
        ring_efficiency=sum(row["ring_efficiency"] * row["steps"] for row in rows) / steps,
        model_flops_per_second=sum(row["model_flops_per_second"] * row["seconds"] for row in rows) / seconds,
        left_out=left_out,
    )


def _left_out(stage: Stage, examples: Path) -> dict[str, int]:
    loader = PackedLoader(
        examples,
        split="train",
        context_tokens=stage.context_tokens,
        batch_sequences=stage.batch_sequences,
        mixture=stage.mixture,
        clips=stage.clips,
        seed=0,
    )
    return {kind: many for kind, many in loader.left_out.items() if many}
