"""From files to examples, in ids, with the codes of the clips that they show."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from ringworld.data.clips import ClipCodes, ClipEncoder, ReadClip
from ringworld.data.config import PrepareConfig, Split
from ringworld.data.examples import Example
from ringworld.data.frame_batches import FrameBatches, FrameEncoder
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.recipe import Draft, PreparationContext, Recipe, Shown
from ringworld.data.recipes import RECIPES
from ringworld.data.samples import Sample
from ringworld.data.sources import Source
from ringworld.data.workers import OnFile
from ringworld.text import chat
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.training_template import Wording
from ringworld.text.vocabulary import Vocabulary

_MOST_WAITING = 256
"""Samples that wait until their frames fill a batch, texts between pictures among them."""


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
class _Waiting:
    """A sample whose clips are read, but perhaps not all encoded."""

    sample: Sample
    source: Source
    shown: Sequence[Sequence[ReadClip | ClipCodes]]
    """See `ClipEncoder.read`."""
    frames: int
    """How many frames were read up to its end."""


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

    def of_files(
        self, sources: Sequence[Source], problems: Problems, *, on_file: OnFile = lambda source: None
    ) -> Iterator[Group]:
        """Yield the examples of files, in their order; what cannot be used goes to `problems`.

        Clips are encoded while the next ones are read, short ones together, in whatever files they are.
        `on_file` is called with a file before anything is done with it, and with each of its samples and
        frames, which may take long to come.
        """
        quarantined = problems.quarantined
        waiting: deque[_Waiting] = deque()
        with closing(FrameBatches(self.frame_tokenizer)) as batches:
            clips = ClipEncoder(
                config=self.config,
                vocabulary=self.vocabulary,
                frame_tokenizer=self.frame_tokenizer,
                batches=batches,
            )
            for source in sources:
                on_file(source)
                if source.unread:
                    quarantined.append(Quarantined(path=source.relative, reason=source.unread))
                    continue
                with quarantine(source.relative, into=quarantined):
                    for sample in source.reader.read(source, config=self.config, quarantined=quarantined):
                        on_file(source)
                        if sample.key in source.left_out:
                            continue
                        # All of a sample or nothing: a video may turn out to be damaged at its end.
                        with quarantine(sample.key, into=quarantined):
                            shown = clips.read(sample, alive=partial(on_file, source))
                            one = _Waiting(sample=sample, source=source, shown=shown, frames=batches.added)
                            waiting.append(one)
                        if len(waiting) > _MOST_WAITING:
                            batches.flush()
                        yield from self._encoded(waiting, clips, problems, on_file)
                        on_file(source)
            batches.flush()
            yield from self._encoded(waiting, clips, problems, on_file)
            assert not waiting

    def _encoded(
        self, waiting: deque[_Waiting], clips: ClipEncoder, problems: Problems, on_file: OnFile
    ) -> Iterator[Group]:
        """Yield the examples of the samples that wait for no frame any longer, up to the first that does."""
        while waiting and waiting[0].frames <= clips.batches.encoded:
            one = waiting.popleft()
            on_file(one.source)
            made: list[Group] = []
            with quarantine(one.sample.key, into=problems.quarantined):
                shown = [[*map(clips.encoded, together)] for together in one.shown]
                made = [*self.of_sample(one.sample, problems, shown=shown, dataset=one.source.dataset)]
            clips.batches.forget(before=one.frames)
            yield from made

    def of_sample(
        self,
        sample: Sample,
        problems: Problems,
        *,
        shown: Sequence[Sequence[ClipCodes]] = ((),),
        dataset: str = "",
    ) -> Iterator[Group]:
        """Yield the examples of one sample.

        Args:
            sample: what is said.
            problems: are appended to.
            shown: its clips with their codes, as `ClipEncoder.read` gives them.
            dataset: name of the data set.

        Raises:
            InputError: the chat template refuses a conversation.
        """
        start_token = 0
        for clips in shown:
            drafts = self._drafts(sample, clips, problems)
            yield from self._groups(sample, tuple(clips), drafts, dataset=dataset, start_token=start_token)
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
