"""What turns a sample into examples of one kind."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ringworld.data.config import PrepareConfig
from ringworld.data.examples import Cut
from ringworld.data.samples import Question, Sample
from ringworld.text.chat import Segments
from ringworld.text.training_template import Wording


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A clip of a sample, or one of its frames, in the place of one `frames` segment."""

    clip: int
    """Index among `Sample.clips`."""
    frame: int | None = None
    """Index among the frames that were prepared; None shows those that a stage draws."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """An example in words, before it has ids."""

    segments: Segments
    shown: tuple[Shown, ...] = ()
    """What each `frames` segment shows, in order."""
    cut: Cut = "never"
    """Where it may be cut; `frames` needs exactly one clip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparationContext:
    """What a recipe may ask."""

    config: PrepareConfig
    frames: tuple[int, ...]
    """How many frames were prepared of each clip of the sample."""
    count_tokens: Callable[[Segments], int]
    """Return how long a template is, with one token for each of its clips."""
    conversation: Wording
    """Lays out turns, what the assistant says with loss, by the template that `config.chat_template`
    names."""


class Recipe(ABC):
    """One kind of example: of which samples, in which words, and what of them carries loss."""

    kind: str
    """What a mixture calls its examples."""
    version: int = 1
    """Rises when what it makes changes, so that examples are made anew."""

    @abstractmethod
    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft | Question]:
        """Yield its examples of a sample, none where it is not for such samples; a pure function.

        A question in place of an example is one that is left out, since it does not fit.
        """
