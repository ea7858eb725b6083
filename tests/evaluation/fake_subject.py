"""A model without weights: it finds the numbers of some needles, and gives every target its own number."""

import re
from collections.abc import Callable

import numpy as np

from ringworld.core.errors import InputError
from ringworld.evaluation.task import Subject
from ringworld.inference.prompts import Prompts
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary


class FakeSubject:
    """Counts what it is asked; `stop_after` prompts or batches it is interrupted, as a killed process is."""

    def __init__(
        self,
        tokenizer: TextTokenizer,
        vocabulary: Vocabulary,
        *,
        longest: int = 10**9,
        finds: Callable[[str], bool] = lambda number: True,
    ) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.longest, self.finds = longest, finds
        self.asked = self.scored = 0
        self.stop_after: int | None = None

    @property
    def subject(self) -> Subject:
        prompts = Prompts(self.tokenizer, vocabulary=self.vocabulary, frame_tokenizer=None)
        return Subject(
            tokenizer=self.tokenizer,
            vocabulary=self.vocabulary,
            ask=prompts.question,
            continue_ids=self.continue_ids,
            score=self.score,
        )

    def continue_ids(self, prompts, *, max_new_tokens, sampling):
        self._count(asked=len(prompts))
        if any(len(prompt) + max_new_tokens > self.longest for prompt in prompts):
            raise InputError("longer than the context", field="prompt")
        numbers = [
            [number for number in re.findall(r"\d{7}", self.tokenizer.decode(prompt.tolist()))]
            for prompt in prompts
        ]
        return [
            np.array(self.tokenizer.encode(" ".join(filter(self.finds, found))), np.int32)
            for found in numbers
        ]

    def score(self, tokens, targets, *, order, first, lengths):
        self._count(scored=1)
        return targets.astype(np.float32)

    def _count(self, *, asked: int = 0, scored: int = 0) -> None:
        if self.stop_after is not None and self.asked + self.scored + asked + scored > self.stop_after:
            raise KeyboardInterrupt
        self.asked += asked
        self.scored += scored
