"""A long text, cut at ends of sentences, to hide things in."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from ringworld.core.errors import InputError
from ringworld.evaluation.task import EvaluationData
from ringworld.text.needles import without_needles
from ringworld.text.tokenizer import TextTokenizer

_LONGEST_CHARACTERS = 400
_LONGEST_TOKENS = 64
"""Of a piece: what has no end of a sentence within these is cut where it can be."""
# The space before a sentence belongs to it, as a byte-level BPE has it: counts of sentences then add up.
# Chinese, Japanese and the scripts of India set no space after a sentence.
_SENTENCE = re.compile(
    r"""\s*\S.*?(?:
        [.!?\u061f\u06d4]["'\u2019\u201d)\]]*(?=\s)
        | [\u3002\uff01\uff1f\uff1b\uff0e\uff61\u2026\u0964\u0965]["'\u2019\u201d\u300d\u300f\uff09\u3011]*
        | (?=\n\s*\n)
        | $
    )""",
    re.DOTALL | re.VERBOSE,
)


class Haystack:
    """A text in sentences, each with its length in tokens; read round and round where a context is longer."""

    def __init__(self, text: str, *, tokenizer: TextTokenizer) -> None:
        """Cut the text, without any needle that it holds already, and count every sentence once."""
        self._tokenizer = tokenizer
        self.sentences: list[str] = []
        self.tokens: list[int] = []
        for match in _SENTENCE.finditer(without_needles(text).strip()):
            for piece, tokens in self._pieces(match.group()):
                self.sentences.append(piece)
                self.tokens.append(tokens)

    def _pieces(self, sentence: str) -> Iterator[tuple[str, int]]:
        """Cut what is too long: at ends of lines or spaces if it has any, or between characters.

        Yields:
            Each piece with its tokens.
        """
        start = 0
        while len(sentence) - start > _LONGEST_CHARACTERS:
            piece = sentence[start : start + _LONGEST_CHARACTERS]
            end = max(_spaces(piece), default=len(piece))
            yield from self._halves(piece[:end])
            start += end
        yield from self._halves(sentence[start:])

    def _halves(self, piece: str) -> Iterator[tuple[str, int]]:
        tokens = len(self._tokenizer.encode(piece))
        if len(piece) < 2 or tokens <= _LONGEST_TOKENS:
            yield piece, tokens
            return
        middle = len(piece) // 2
        end = min(_spaces(piece), key=lambda space: abs(space - middle), default=middle)
        yield from self._halves(piece[:end])
        yield from self._halves(piece[end:])

    def cut(self, budget_tokens: int, *, start: int) -> list[int]:
        """Return which sentences, from sentence `start` on, fill at most `budget_tokens`.

        If that one is too long already, the first that is not comes in its place.

        Example:
            With sentences of 5, 3 and 4 tokens, `cut(10, start=1)` is `[1, 2]` and `cut(4, start=0)` `[1]`.
        """
        count = len(self.sentences)
        fitting = (i for i in range(count) if self.tokens[(start + i) % count] <= budget_tokens)
        start += next(fitting, 0)
        chosen, used = [], 0
        while count:
            index = (start + len(chosen)) % count
            used += max(1, self.tokens[index])
            if used > budget_tokens:
                break
            chosen.append(index)
        return chosen

    def hide(self, chosen: Sequence[int], needles: Iterable[tuple[float, str]]) -> str:
        """Return the chosen sentences, with each needle between the two that are nearest to its depth.

        Args:
            chosen: which sentences.
            needles: depth, in percent of the tokens, and text of each.
        """
        ends = [0, *accumulate(self.tokens[index] for index in chosen)]
        before: dict[int, list[str]] = {}
        for depth, needle in needles:
            before.setdefault(_nearest(ends, ends[-1] * depth / 100), []).append(needle)
        pieces = [*(self.sentences[index] for index in chosen), ""]
        return "".join("".join(before.get(i, ())) + piece for i, piece in enumerate(pieces))


def haystack_of(data: EvaluationData, *, tokenizer: TextTokenizer) -> Haystack:
    """Return the text that is given, or the held-out texts of prepared data, or those trained on.

    Raises:
        InputError: what is given is nothing but needles.
    """
    from ringworld.data.store import read_examples  # which configuration should not have to import

    if data.haystack is not None:
        given = Haystack(data.haystack, tokenizer=tokenizer)
        if not given.sentences:
            problem = "the haystack holds nothing but needles"
            raise InputError(problem, field="haystack", remedy="give a text to hide them in")
        return given
    if data.folder is None:
        return Haystack("", tokenizer=tokenizer)
    for split in ("held_out", "train"):
        texts = [
            tokenizer.decode(example.tokens.tolist())
            for example in read_examples(data.folder, split=split, kinds=("text",))
        ]
        if texts:
            return Haystack("\n".join(texts), tokenizer=tokenizer)
    return Haystack("", tokenizer=tokenizer)


def _spaces(piece: str) -> list[int]:
    return [match.start() for match in re.finditer(r"(?<=\S)\s", piece)]


def _nearest(ends: Sequence[int], target: float) -> int:
    after = min(bisect_left(ends, target), len(ends) - 1)
    return min(max(after - 1, 0), after, key=lambda i: abs(ends[i] - target))
