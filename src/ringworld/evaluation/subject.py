"""A loaded model as tasks ask it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32

from ringworld.inference.config import SamplingConfig
from ringworld.inference.world import World
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, eq=False)
class WorldSubject:
    """What `ringworld.evaluation.task.Subject` describes, over a `World`."""

    world: World

    @property
    def tokenizer(self) -> TextTokenizer:
        """The model's."""
        return self.world.prompts.tokenizer

    @property
    def vocabulary(self) -> Vocabulary:
        """The model's."""
        return self.world.prompts.vocabulary

    def continue_ids(
        self,
        prompts: Sequence[Int32[np.ndarray, " _"]],
        *,
        max_new_tokens: int,
        sampling: SamplingConfig,
    ) -> Sequence[Int32[np.ndarray, " _"]]:
        """Return the text ids that follow each prompt."""
        written = self.world.generator.generate(prompts, max_new_tokens=max_new_tokens, sampling=sampling)
        return [continuation.tokens for continuation in written]

    def score(
        self,
        tokens: Int32[np.ndarray, "batch seq"],
        targets: Int32[np.ndarray, "batch seq"],
        *,
        order: Int32[np.ndarray, "batch seq"],
        first: Int32[np.ndarray, "batch seq"],
        lengths: Sequence[Sequence[int]],
    ) -> Float32[np.ndarray, "batch seq"]:
        """Return the negative log-likelihood of each target in nats."""
        return self.world.scorer.score(tokens, targets, order=order, first=first, lengths=lengths)
