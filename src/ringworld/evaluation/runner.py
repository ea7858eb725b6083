"""Asks a model the items of every task; what an earlier call asked is not asked again."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from ringworld.core.config import read_as, to_json
from ringworld.core.errors import InputError
from ringworld.core.files import append_jsonl, keep_jsonl, read_jsonl, write_json_atomic
from ringworld.core.origin import Origin, claim
from ringworld.core.results import Evaluation
from ringworld.data.store import ExampleStore
from ringworld.evaluation.task import EvaluationData, Item, Outcome, Subject, Task, TaskConfig, Unmeasured

SUMMARY_FILE = "evaluation.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Summary:
    asked: list[dict[str, Any]]
    evaluation: Evaluation


def evaluate(
    subject: Subject,
    tasks: Sequence[TaskConfig],
    *,
    data: EvaluationData,
    out: Path,
    label: Mapping[str, str],
    identity: Mapping[str, Any],
    call_tokens: int = 2**17,
) -> Evaluation:
    """Measure what is not measured yet; of several processes all compute, and one writes.

    Args:
        subject: the model.
        tasks: what to measure.
        data: held-out examples to score, and texts to hide needles in.
        out: folder of this model's results: `evaluation.json`, and for each task the outcomes of its items,
            one a line, written as soon as they are there.
        label: what the results are called.
        identity: JSON that is equal for equal models, and only for those.
        call_tokens: most that are asked in one call, but for a longer prompt: what a killed process may have
            to ask again.

    Raises:
        InputError: `out` holds results of another model or of other data, or there is no prepared data where
            a task needs some. What cannot be measured is no error: its results say why.
    """
    from ringworld.core.processes import by_all, by_writer  # which imports jax

    measured_of = dict(identity)
    if data.folder is not None:
        measured_of["data"] = ExampleStore(data.folder).fingerprint
    if data.haystack is not None:
        measured_of["haystack"] = hashlib.sha256(data.haystack.encode()).hexdigest()
    by_writer(lambda: claim(out, Origin(kind="evaluation", identity=measured_of)))
    packed = {name: value for name, value in to_json(data).items() if name not in ("folder", "haystack")}
    asked = [{"task": type(task).__name__, "config": to_json(task), "data": packed} for task in tasks]
    if by_writer((out / SUMMARY_FILE).exists):
        summary = read_as(_Summary, out / SUMMARY_FILE)
        if summary.asked == asked and summary.evaluation.label == dict(label):
            return summary.evaluation
    results = []
    for config, of_task in zip(tasks, asked):
        task = by_all(partial(config.build, subject, data=data))
        digest = hashlib.sha256(json.dumps(of_task).encode()).hexdigest()[:8]
        file = out / f"{task.name}-{digest}.jsonl"
        results += task.aggregate(_outcomes(subject, task, file=file, call_tokens=call_tokens))
    evaluation = Evaluation(label=dict(label), results=tuple(results))
    by_writer(
        lambda: write_json_atomic(out / SUMMARY_FILE, to_json(_Summary(asked=asked, evaluation=evaluation)))
    )
    return evaluation


def read_evaluation(out: Path) -> Evaluation:
    """Read what `evaluate` wrote.

    Raises:
        InputError: it is missing or damaged.
    """
    return read_as(_Summary, out / SUMMARY_FILE).evaluation


def _outcomes(
    subject: Subject, task: Task[Any], *, file: Path, call_tokens: int
) -> dict[str, Outcome | Unmeasured]:
    """Return the outcome of each item by its key; `file` gains those that it lacks."""
    from ringworld.core.processes import by_all, by_writer  # which imports jax

    def known() -> dict[str, Any]:
        keep_jsonl(file, lambda row: isinstance(row["item"], str) and isinstance(row["outcome"], dict))
        return {row["item"]: row["outcome"] for row in read_jsonl(file)}

    outcomes: dict[str, Outcome | Unmeasured] = by_writer(known)
    keys = []

    def waiting() -> Iterator[Item[Any]]:
        for item in task.items():
            keys.append(item.key)
            if item.key not in outcomes:
                yield item

    def batches() -> Iterator[list[Item[Any]]]:
        for tokens, alike in groupby(waiting(), key=lambda item: item.tokens):
            while batch := list(islice(alike, max(1, call_tokens // tokens))):
                yield batch

    each = batches()
    while batch := by_all(lambda: next(each, None)):
        for item, outcome in zip(batch, _scored(subject, task, batch)):
            outcomes[item.key] = outcome
            if not isinstance(outcome, Unmeasured):
                by_writer(partial(append_jsonl, file, {"item": item.key, "outcome": outcome}))
    return {key: outcomes[key] for key in keys}


def _scored(subject: Subject, task: Task[Any], items: Sequence[Item[Any]]) -> Iterator[Outcome | Unmeasured]:
    done = 0
    try:
        for outcome in task.score(subject, items):
            done += 1
            yield outcome
    except InputError as error:
        yield from [Unmeasured(reason=str(error))] * (len(items) - done)
