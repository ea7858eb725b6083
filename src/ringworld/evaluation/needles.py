"""Needles in a haystack: facts hidden in a long text, and a question that asks for some of them.

The protocol is LWM's (`scripts/eval_needle.py`, `eval_needle_multi.py`): the wording of needle, question and
prompt, seven-digit numbers, a score by substring. Three things differ. Cities are unique, so that no two
needles contradict. All needles go in at once, at ends of sentences, into a haystack cut beforehand, so that
none is truncated or moved by another. Lengths are counted with the model's own tokenizer.

Every choice is derived by hashing the cell, so that a run that was interrupted asks the same again.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_number, check_range
from ringworld.core.results import Result
from ringworld.evaluation.haystack import Haystack, haystack_of
from ringworld.evaluation.task import EvaluationData, Item, Outcome, Subject, Task, Unmeasured
from ringworld.inference.config import GREEDY
from ringworld.text import needles as wording

NAME = "needles"


@dataclass(frozen=True, kw_only=True, slots=True)
class NeedleConfig:
    """A grid of needle tests: context lengths, depths and rounds; `needles` hidden, `asked` asked for.

    LWM's single-needle grid is `needles=1, asked=1` over 20 lengths, 20 depths and 3 rounds; its multi-needle
    tests use `needles=4, asked=2` and the like over 10 rounds.
    """

    context_tokens: tuple[int, ...]
    """Lengths that a prompt and its answer must fit in, in tokens."""
    depth_percents: tuple[float, ...] = (0.0, 25.0, 50.0, 75.0, 100.0)
    """Where the first needle that is asked for lies, in percent of the haystack's tokens."""
    rounds: int = 1
    """Repetitions of every cell, each with its own cities, numbers, depths of other needles and haystack."""
    needles: int = 1
    """Needles hidden in each haystack."""
    asked: int = 1
    """How many of them one question asks for."""
    max_new_tokens: int = 24
    """Longest answer, in tokens."""
    seed: int = 0
    """Decides cities, numbers and positions, together with the cell."""

    def __post_init__(self) -> None:
        """Refuse an empty grid, a depth that is no percentage and more questions than needles."""
        contexts, depths = self.context_tokens, self.depth_percents
        if not contexts:
            raise InputError("context_tokens holds no length", field="context_tokens", value=contexts)
        for context in contexts:
            check_number("context_tokens", context, least=1, below=2**31)
        if not depths or not all(0 <= depth <= 100 for depth in depths):
            problem = f"depth_percents is {depths}, but must hold one or more numbers from 0 to 100"
            raise InputError(problem, field="depth_percents", value=depths)
        check_range(self, "rounds", "max_new_tokens", least=1)
        check_range(self, "needles", least=1, most=64)
        check_range(self, "asked", least=1, most=self.needles)

    @property
    def longest_context_tokens(self) -> int:
        """Longest prompt with its answer."""
        return max(self.context_tokens)

    def build(self, subject: Subject, *, data: EvaluationData) -> "NeedleTask":
        """Take a text, or the held-out texts of prepared data, as the haystack."""
        return NeedleTask(self, haystack_of(data, tokenizer=subject.tokenizer), subject=subject)


class Cell(NamedTuple):
    """One question of a grid."""

    context_tokens: int
    depth_percent: float
    round: int

    @property
    def key(self) -> str:
        """What no other question of the grid has: `4096 tokens, depth 50.0, round 0`."""
        return f"{self.context_tokens} tokens, depth {self.depth_percent}, round {self.round}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Needle:
    """One hidden fact."""

    city: str
    number: str
    depth_percent: float
    """Where it lies, in percent of the haystack's tokens; it goes to the nearest end of a sentence."""

    @property
    def text(self) -> str:
        """The line that is hidden."""
        return wording.needle(self.city, self.number)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NeedlePrompt:
    """What is asked in one cell."""

    context: str
    """The haystack with its needles."""
    question: str
    """Asks for the first of the needles."""
    ids: Int32[np.ndarray, " tokens"]
    """Of context, question and template."""
    needles: tuple[Needle, ...]


class NeedleTask(Task[Cell]):
    """A grid over one haystack; a cell that cannot be built is reported, and the others are asked."""

    name = NAME

    def __init__(self, config: NeedleConfig, haystack: Haystack, *, subject: Subject) -> None:
        """Take the grid, the text that needles are hidden in, and how the model is asked."""
        self._config, self._haystack, self._subject = config, haystack, subject

    def items(self) -> Iterator[Item[Cell]]:
        """Yield the cells, context by context."""
        for cell in self._cells():
            yield Item(key=cell.key, tokens=cell.context_tokens, content=cell)

    def _cells(self) -> Iterator[Cell]:
        config = self._config
        grid = itertools.product(config.context_tokens, config.depth_percents, range(config.rounds))
        return itertools.starmap(Cell, grid)

    def score(self, subject: Subject, items: Sequence[Item[Cell]]) -> Iterator[Outcome | Unmeasured]:
        """Ask some cells greedily; each needle asked for is found if its number stands in the answer."""
        built = [self._prompt_or_reason(item.content) for item in items]
        answers = iter(
            subject.continue_ids(
                [prompt.ids for prompt in built if isinstance(prompt, NeedlePrompt)],
                max_new_tokens=self._config.max_new_tokens,
                sampling=GREEDY,
            )
        )
        for prompt in built:
            if isinstance(prompt, Unmeasured):
                yield prompt
                continue
            response = subject.tokenizer.decode(next(answers).tolist())
            asked = prompt.needles[: self._config.asked]
            yield {
                "question": prompt.question,
                "response": response,
                "answers": [needle.number for needle in asked],
                "depth_percents": [needle.depth_percent for needle in asked],
                "found": [needle.number in response for needle in asked],
            }

    def _prompt_or_reason(self, cell: Cell) -> NeedlePrompt | Unmeasured:
        try:
            return self.prompt(cell)
        except InputError as error:
            return Unmeasured(reason=str(error))

    def prompt(self, cell: Cell) -> NeedlePrompt:
        """Hide the needles of one cell and ask for them; prompt and answer together fill its context.

        Raises:
            InputError: there is no text, or the context is too short for the needles and the question.
        """
        config, haystack = self._config, self._haystack
        needles = _draw_needles(cell, config=config)
        question = wording.question([needle.city for needle in needles[: config.asked]])
        hidden = [(needle.depth_percent, needle.text) for needle in needles]
        if not haystack.sentences:
            problem = "there is no text to hide needles in"
            raise InputError(problem, field="haystack", remedy="prepare some texts, or name one")
        limit = cell.context_tokens - config.max_new_tokens
        bare = len(self._encode("".join(needle.text for needle in needles), question))
        start = _draw(config, cell, "haystack") % len(haystack.sentences)
        budget = limit - bare
        while chosen := haystack.cut(budget, start=start):
            context = haystack.hide(chosen, hidden)
            ids = self._encode(context, question)
            if len(ids) <= limit:
                return NeedlePrompt(context=context, question=question, ids=ids, needles=needles)
            budget -= len(ids) - limit
        raise InputError(
            f"{cell.context_tokens} tokens leave no room for a sentence beside {bare} of needles, question "
            f"and template and {config.max_new_tokens} for the answer",
            field="context_tokens",
            value=cell.context_tokens,
            remedy="use a longer context, fewer needles or a shorter answer",
        )

    def _encode(self, context: str, question: str) -> Int32[np.ndarray, " tokens"]:
        answers = "one" if self._config.asked == 1 else "several"
        return self._subject.ask(question, document=context, answers=answers)

    def aggregate(self, outcomes: Mapping[str, Outcome | Unmeasured]) -> Iterator[Result]:
        """Average by context and depth; a needle between two depths of the grid counts for the nearest."""
        config = self._config
        grid = list(itertools.product(sorted(config.context_tokens), sorted(config.depth_percents)))
        found: dict[tuple[int, float], list[bool]] = {cell: [] for cell in grid}
        reasons: dict[tuple[int, float], str] = {}
        for cell in self._cells():
            outcome = outcomes[cell.key]
            if isinstance(outcome, Unmeasured):
                reasons[cell[:2]] = outcome.reason
                continue
            for lies, was_found in zip(outcome["depth_percents"], outcome["found"]):
                nearest = min(config.depth_percents, key=lambda depth: abs(depth - lies))
                found[cell.context_tokens, nearest].append(was_found)
        for (context, depth), of_cell in found.items():
            reason = reasons.get((context, depth), "")
            if of_cell or reason:
                yield Result(
                    task=NAME,
                    metric="found",
                    cell={
                        "needles": config.needles,
                        "asked": config.asked,
                        "context_tokens": context,
                        "depth_percent": depth,
                    },
                    value=sum(of_cell) / len(of_cell) if of_cell else None,
                    count=len(of_cell),
                    reason=reason,
                )


def _draw(config: NeedleConfig, cell: Cell, *what: object) -> int:
    key = (config.seed, cell.context_tokens, float(cell.depth_percent), cell.round, *what)
    return int.from_bytes(hashlib.sha256(json.dumps(key).encode()).digest()[:8], "big")


def _draw_needles(cell: Cell, *, config: NeedleConfig) -> tuple[Needle, ...]:
    cities = sorted(wording.CITIES, key=lambda city: _draw(config, cell, "city", city))[: config.needles]
    others = [_draw(config, cell, "depth", i) % 10001 / 100 for i in range(1, config.needles)]
    return tuple(
        Needle(
            city=city,
            number=str(1_000_000 + _draw(config, cell, "number", city) % 9_000_000),
            depth_percent=depth,
        )
        for city, depth in zip(cities, [cell.depth_percent, *others])
    )
