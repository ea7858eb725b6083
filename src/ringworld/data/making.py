"""From one sample to its examples, in ids, with the codes of the clips that they show."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ringworld.data.clips import ClipCodes, ClipEncoder, FrameEncoder
from ringworld.data.config import PrepareConfig, Split
from ringworld.data.examples import Example
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.recipe import Draft, PreparationContext, Recipe, Shown
from ringworld.data.recipes import RECIPES
from ringworld.data.samples import Sample
from ringworld.data.sources import Source
from ringworld.text import chat
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.training_template import Wording
from ringworld.text.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Unfilled:
    """An example in whose ids `chat.FRAMES` stands for each clip."""

    example: Example
    shown: tuple[Shown, ...] = ()
    """What each clip is, in order."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Group:
    """Examples with the clips that they share: what is written as one record."""

    split: Split
    clips: tuple[ClipCodes, ...]
    examples: tuple[Unfilled, ...]


@dataclass(kw_only=True, slots=True)
class Problems:
    """What had to be left out; filled while files are read."""

    quarantined: list[Quarantined]
    questions_unanswered: int = 0
    """Questions that are empty, or whose answer is."""
    questions_too_long: int = 0
    """Questions about documents that are longer than an example, or whose end is held out."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExampleMaker:
    """Turns files into examples."""

    tokenizer: TextTokenizer
    vocabulary: Vocabulary
    config: PrepareConfig
    frame_tokenizer: FrameEncoder | None = None
    """None where all is text."""
    recipes: tuple[Recipe, ...] = field(default=RECIPES)
    conversation: Wording = chat.conversation
    """Lays out conversations; see `text.training_template`."""

    def of_file(
        self, source: Source, problems: Problems, *, alive: Callable[[], None] = lambda: None
    ) -> Iterator[Group]:
        """Yield the examples of one file; what cannot be used goes to `problems`.

        `alive` is called with each sample and each frame, which may take long to come.
        """
        quarantined = problems.quarantined
        with quarantine(source.relative, into=quarantined):
            for sample in source.reader.read(source, config=self.config, quarantined=quarantined):
                alive()
                if sample.key in source.left_out:
                    continue
                # All of a sample or nothing: a video may turn out to be damaged at its end.
                made: list[Group] = []
                with quarantine(sample.key, into=quarantined):
                    made = list(self.of_sample(sample, problems, dataset=source.dataset, alive=alive))
                yield from made

    def of_sample(
        self,
        sample: Sample,
        problems: Problems,
        *,
        dataset: str = "",
        alive: Callable[[], None] = lambda: None,
    ) -> Iterator[Group]:
        """Yield the examples of one sample, in a data set of this name; `alive` is called with each frame.

        Raises:
            InputError: a clip cannot be read.
        """
        encoder = ClipEncoder(
            config=self.config, vocabulary=self.vocabulary, frame_tokenizer=self.frame_tokenizer, alive=alive
        )
        shown = (
            [(clip,) for clip in encoder.windows(sample)]
            if sample.is_footage
            else [tuple(map(encoder.spread, sample.clips))]
        )
        start_token = 0
        for clips in shown:
            drafts = self._drafts(sample, clips, problems)
            yield from self._groups(sample, clips, drafts, dataset=dataset, start_token=start_token)
            start_token += sum(len(clip.codes) for clip in clips) * self.vocabulary.frame_tokens
        problems.questions_unanswered += sample.unanswered
        problems.questions_too_long += sample.unasked

    def _drafts(
        self, sample: Sample, clips: Sequence[ClipCodes], problems: Problems
    ) -> Iterator[tuple[str, Draft]]:
        context = PreparationContext(
            config=self.config,
            frames=tuple(len(clip.codes) for clip in clips),
            count_tokens=lambda segments: len(self._encode(segments).tokens),
            conversation=self.conversation,
        )
        for recipe in self.recipes:
            for draft in recipe.drafts(sample, context):
                if isinstance(draft, Draft):
                    yield recipe.kind, draft
                else:
                    problems.questions_too_long += 1

    def _groups(
        self,
        sample: Sample,
        clips: tuple[ClipCodes, ...],
        drafts: Iterator[tuple[str, Draft]],
        *,
        dataset: str,
        start_token: int,
    ) -> Iterator[Group]:
        """Yield each piece of what may be cut between tokens alone, and all else together."""
        together: list[Unfilled] = []
        for kind, draft in drafts:
            encoded = self._encode(draft.segments)
            example = Example(
                tokens=encoded.tokens,
                loss=encoded.loss,
                kind=kind,
                source=sample.key,
                dataset=dataset,
                start_token=start_token,
                cut=draft.cut,
            )
            if draft.cut != "tokens":
                together.append(Unfilled(example=example, shown=draft.shown))
                continue
            assert not draft.shown, "what shows a clip is not cut between tokens"
            longest = self.config.document_tokens
            for start in range(0, len(example), longest):
                piece = Unfilled(example=example.part(start=start, stop=start + longest))
                yield Group(split=sample.split, clips=(), examples=(piece,))
        if together:
            yield Group(split=sample.split, clips=clips, examples=tuple(together))

    def _encode(self, segments: chat.Segments) -> chat.Encoded:
        return chat.encode_words(segments, tokenizer=self.tokenizer)
