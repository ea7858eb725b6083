"""What a task is, what it is asked of, and what it is made from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32

from ringworld.core.results import Result
from ringworld.data.config import ClipConfig, MixtureConfig, PackingConfig
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary

ContentT = TypeVar("ContentT")
Outcome = Mapping[str, Any]
"""What came of one item, as JSON."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Subject:
    """What is evaluated: a model that continues ids and scores them."""

    tokenizer: TextTokenizer
    vocabulary: Vocabulary
    ask: Callable[..., Int32[np.ndarray, " _"]]
    """Return the ids of a question about a document; called as `Prompts.question` is."""
    continue_ids: Callable[..., Sequence[Int32[np.ndarray, " _"]]]
    """Return the text ids that follow each prompt; called as `Generator.generate` is."""
    score: Callable[..., Float32[np.ndarray, "batch seq"]]
    """Return the negative log-likelihood of each target in nats; called as `Scorer.score` is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationData:
    """Prepared examples, and how those that are held out are packed; and a text to hide things in."""

    folder: Path | None
    """What `prepare` wrote; None where nothing is scored."""
    context_tokens: int
    """Length of a packed sequence."""
    haystack: str | None = None
    """A text; None takes those that are held out."""
    batch_sequences: int = 1
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    """Which examples are measured; the shares play no part."""
    clips: ClipConfig = field(default_factory=ClipConfig)
    """Which of the prepared frames of each clip are shown."""
    packing: PackingConfig = field(default_factory=PackingConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmeasured:
    """An item that could not be measured, in place of its outcome."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Item(Generic[ContentT]):
    """One thing that is asked."""

    key: str
    """Unlike that of any other item of the task, and the same in every run."""
    tokens: int
    """Its length; items of one length are asked together."""
    content: ContentT


class Task(ABC, Generic[ContentT]):
    """Items, how one is scored, and what the scores come to."""

    name: str

    @abstractmethod
    def items(self) -> Iterable[Item[ContentT]]:
        """Yield what is asked, in a fixed order; the runner calls it once."""

    @abstractmethod
    def score(self, subject: Subject, items: Sequence[Item[ContentT]]) -> Iterable[Outcome | Unmeasured]:
        """Yield the outcome of each of some items of one length, in their order.

        Raises:
            InputError: those that are left cannot be measured; the runner reports why.
        """

    @abstractmethod
    def aggregate(self, outcomes: Mapping[str, Outcome | Unmeasured]) -> Iterable[Result]:
        """Return the results, from the outcome of every item by its key, in the order of the items."""


@runtime_checkable
class TaskConfig(Protocol):
    """What a task is made from: a frozen dataclass that `core.config.to_json` accepts."""

    @property
    def longest_context_tokens(self) -> int:
        """Longest prompt with its answer; 0 where nothing is asked."""
        ...

    def build(self, subject: Subject, *, data: EvaluationData) -> Task[Any]:
        """Return the task."""
        ...
