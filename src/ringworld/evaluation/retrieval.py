"""Runs a grid of needle tests, one file a context length; what is on disk already is not asked again."""

from pathlib import Path
from typing import Any

from ringworld.core.config import from_json, read_as, to_json
from ringworld.core.files import write_json_atomic
from ringworld.evaluation.config import NeedleConfig
from ringworld.evaluation.needles import Haystack, NeedleResult, build_task, score
from ringworld.inference.config import GREEDY
from ringworld.inference.engine import Engine


def run_needles(
    engine: Engine, config: NeedleConfig, *, haystack: Haystack, out: Path
) -> tuple[NeedleResult, ...]:
    """Ask every cell of the grid, greedily, all cells of a context length together.

    Args:
        engine: the model.
        config: the grid.
        haystack: the text to hide needles in.
        out: folder of this grid and this model, such as `evaluation/after-1K/needles-4-2`; holds
            `{context_tokens}.json`, each with the configuration and the results.

    Returns:
        Results of all context lengths, in the order of the grid.

    Raises:
        InputError: a context is too short for its needles, or longer than the model's.
    """
    results = []
    for context_tokens in config.context_tokens:
        path = out / f"{context_tokens}.json"
        found = _read(path, config)
        if found is None:
            found = _ask(engine, config, context_tokens=context_tokens, haystack=haystack)
            write_json_atomic(path, {"config": to_json(config), "results": to_json(found)})
        results += found
    return tuple(results)


def _read(path: Path, config: NeedleConfig) -> tuple[NeedleResult, ...] | None:
    """Return what was measured before under the same configuration, or None."""
    if not path.exists():
        return None
    stored = read_as(dict[str, Any], path)
    if stored.get("config") != to_json(config):
        return None
    return from_json(tuple[NeedleResult, ...], stored.get("results"), where=str(path))


def _ask(
    engine: Engine, config: NeedleConfig, *, context_tokens: int, haystack: Haystack
) -> tuple[NeedleResult, ...]:
    tasks = [
        build_task(
            haystack,
            config=config,
            context_tokens=context_tokens,
            depth_percent=depth,
            round=round,
            tokenizer=engine.tokenizer,
            vocabulary=engine.vocabulary,
        )
        for depth in config.depth_percents
        for round in range(config.rounds)
    ]
    answers = engine.continue_ids(
        [task.prompt for task in tasks],
        max_new_tokens=config.max_new_tokens,
        sampling=GREEDY,
    )
    return tuple(
        result
        for task, ids in zip(tasks, answers)
        for result in score(task, engine.tokenizer.decode(ids.tolist()))
    )
