"""Needles in a haystack: facts hidden in a long text, and a question that asks for some of them.

The protocol is LWM's (`scripts/eval_needle.py`, `eval_needle_multi.py`): the wording of needle, question and
prompt, seven-digit numbers, a score by substring. Three things are mended. Cities are unique, so that no two
needles contradict. All needles go in at once, at ends of sentences, into a haystack cut beforehand, so that
none is truncated or moved by another. Lengths are counted with the model's own tokenizer.

Every choice is derived by hashing the cell, so that a run that was interrupted asks the same again.
"""

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from jaxtyping import Int32

from ringworld.core.errors import InputError
from ringworld.evaluation.config import NeedleConfig
from ringworld.text import chat
from ringworld.text import needles as wording
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary

_LONGEST_SENTENCE_CHARACTERS = 400
# The space before a sentence belongs to it, as a byte-level BPE has it: counts of sentences then add up.
_SENTENCE = re.compile(r"\s*\S.*?(?:[.!?][\"'\u2019\u201d)\]]*(?=\s)|(?=\n\s*\n)|$)", re.DOTALL)


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
class NeedleTask:
    """One prompt, with what is needed to score the answer."""

    context_tokens: int
    depth_percent: float
    round: int
    seed: int
    context: str
    """The haystack with its needles."""
    question: str
    prompt: Int32[np.ndarray, " tokens"]
    """Ids of context, question and template."""
    needles: tuple[Needle, ...]
    asked: int
    """The question asks for the first `asked` of the needles."""


@dataclass(frozen=True, kw_only=True, slots=True)
class NeedleResult:
    """Whether one needle that was asked for was found; a question that asks for two yields two."""

    context_tokens: int
    depth_percent: float
    round: int
    seed: int
    question: str
    response: str
    answer: str
    correct: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class NeedleAccuracy:
    """Share of needles found in one cell of the grid."""

    context_tokens: int
    depth_percent: float
    accuracy: float
    asked: int


class Haystack:
    """A text in sentences, each with its length in tokens; read round and round where a context is longer."""

    def __init__(self, text: str, *, tokenizer: TextTokenizer) -> None:
        """Cut the text, without any needle that it holds already, and count every sentence once.

        Raises:
            InputError: the text is empty.
        """
        self.sentences = _sentences(wording.without_needles(text))
        if not self.sentences:
            raise InputError(
                what="haystack",
                got="a text without words",
                expected="some prose to hide needles in",
                remedy="Choose another file with --texts.",
            )
        self.tokens = [len(tokenizer.encode(sentence)) for sentence in self.sentences]

    def cut(self, budget_tokens: int, *, start: int) -> list[int]:
        """Return which sentences, from sentence `start` on, fill at most `budget_tokens`.

        Example:
            With sentences of 5, 3 and 4 tokens, `cut(10, start=1)` is `[1, 2]`.
        """
        chosen, used = [], 0
        while True:
            index = (start + len(chosen)) % len(self.sentences)
            used += max(1, self.tokens[index])
            if used > budget_tokens:
                return chosen
            chosen.append(index)


def build_task(
    haystack: Haystack,
    *,
    config: NeedleConfig,
    context_tokens: int,
    depth_percent: float,
    round: int,
    tokenizer: TextTokenizer,
    vocabulary: Vocabulary,
) -> NeedleTask:
    """Hide the needles of one cell and ask for them.

    Args:
        haystack: the text to hide them in, counted with the same tokenizer.
        config: how many needles, how many asked for, the seed and the room kept for the answer.
        context_tokens: prompt and answer together take at most these.
        depth_percent: where the first needle lies; the others lie at depths drawn from the cell.
        round: repetition, which draws anew.
        tokenizer: the model's.
        vocabulary: the model's.

    Raises:
        InputError: the context is too short for the needles and the question.
    """
    cell = (config.seed, context_tokens, float(depth_percent), round)
    needles = _draw_needles(cell, config=config)
    question = wording.question([needle.city for needle in needles[: config.asked]])
    answers = "one" if config.asked == 1 else "several"

    def encode(context: str) -> Int32[np.ndarray, " tokens"]:
        prompt = chat.document_question_prompt(context, question, answers=answers)
        return chat.encode(prompt, tokenizer=tokenizer, vocabulary=vocabulary).tokens

    limit = context_tokens - config.max_new_tokens
    bare = len(encode("".join(needle.text for needle in needles)))
    start = _draw(*cell, "haystack") % len(haystack.sentences)
    budget = limit - bare
    while chosen := haystack.cut(budget, start=start):
        context = _hide(haystack, chosen, needles=needles)
        prompt = encode(context)
        if len(prompt) <= limit:
            return NeedleTask(
                context_tokens=context_tokens,
                depth_percent=depth_percent,
                round=round,
                seed=config.seed,
                context=context,
                question=question,
                prompt=prompt,
                needles=needles,
                asked=config.asked,
            )
        budget -= len(prompt) - limit
    raise InputError(
        what=f"needle test of {context_tokens} tokens",
        got=f"{bare} tokens of needles, question and template, {config.max_new_tokens} for the answer",
        expected="room for at least one sentence of the haystack",
        remedy="Use a longer context, fewer needles or a shorter answer.",
    )


def score(task: NeedleTask, response: str) -> tuple[NeedleResult, ...]:
    """Say of each needle asked for whether its number stands anywhere in the response."""
    return tuple(
        NeedleResult(
            context_tokens=task.context_tokens,
            depth_percent=needle.depth_percent,
            round=task.round,
            seed=task.seed,
            question=task.question,
            response=response,
            answer=needle.number,
            correct=needle.number in response,
        )
        for needle in task.needles[: task.asked]
    )


def accuracy(
    results: Iterable[NeedleResult], *, depth_percents: Sequence[float]
) -> tuple[NeedleAccuracy, ...]:
    """Average by context length and depth; a needle between two depths of the grid counts for the nearest."""
    cells: dict[tuple[int, float], list[bool]] = {}
    for result in results:
        depth = min(depth_percents, key=lambda depth: abs(depth - result.depth_percent))
        cells.setdefault((result.context_tokens, depth), []).append(result.correct)
    return tuple(
        NeedleAccuracy(
            context_tokens=context, depth_percent=depth, accuracy=sum(found) / len(found), asked=len(found)
        )
        for (context, depth), found in sorted(cells.items())
    )


def _draw(*key: object) -> int:
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _draw_needles(cell: tuple[int, int, float, int], *, config: NeedleConfig) -> tuple[Needle, ...]:
    cities = sorted(wording.CITIES, key=lambda city: _draw(*cell, "city", city))[: config.needles]
    depths = [cell[2]] + [_draw(*cell, "depth", i) % 10001 / 100 for i in range(1, config.needles)]
    return tuple(
        Needle(
            city=city,
            number=str(1_000_000 + _draw(*cell, "number", city) % 9_000_000),
            depth_percent=depth,
        )
        for city, depth in zip(cities, depths)
    )


def _hide(haystack: Haystack, chosen: Sequence[int], *, needles: Iterable[Needle]) -> str:
    ends = [0, *accumulate(haystack.tokens[index] for index in chosen)]
    before: dict[int, list[str]] = {}
    for needle in needles:
        before.setdefault(_nearest(ends, ends[-1] * needle.depth_percent / 100), []).append(needle.text)
    pieces = [*(haystack.sentences[index] for index in chosen), ""]
    return "".join("".join(before.get(i, ())) + piece for i, piece in enumerate(pieces))


def _nearest(ends: Sequence[int], target: float) -> int:
    after = min(bisect_left(ends, target), len(ends) - 1)
    return min(max(after - 1, 0), after, key=lambda i: abs(ends[i] - target))


def _sentences(text: str) -> list[str]:
    sentences = []
    for match in _SENTENCE.finditer(text.strip()):
        sentence = match.group()
        while len(sentence) > _LONGEST_SENTENCE_CHARACTERS:
            space = sentence.rfind(" ", 1, _LONGEST_SENTENCE_CHARACTERS)
            end = space if space > 0 else _LONGEST_SENTENCE_CHARACTERS
            sentences.append(sentence[:end])
            sentence = sentence[end:]
        sentences.append(sentence)
    return sentences
