"""What is asked of an engine, what comes of it step by step, and the sequence between the two."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Int32

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_range
from ringworld.inference.batches import checksum
from ringworld.inference.clip_grammar import ClipGrammar
from ringworld.inference.config import GREEDY, SamplingConfig
from ringworld.inference.engine.pages import ROOT
from ringworld.text.stream import TextStream

MOST_ALTERNATIVES = 20
"""Ids whose log-probabilities can be asked for beside that of the token."""
Finish = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GenerationRequest:
    """How one prompt is to be continued."""

    prompt: Int32[np.ndarray, " prompt"]
    """Ids."""
    max_new_tokens: int
    """Most ids that follow; 0 only scores the prompt."""
    sampling: SamplingConfig = GREEDY
    """How they are drawn."""
    sample: int = 0
    """Which of several continuations of one prompt this is; each draws differently."""
    ends: tuple[int, ...] = ()
    """Ids that finish it, besides those that finish any text."""
    ignores_ends: bool = False
    """Whether neither these ids nor those finish it."""
    stop: tuple[str, ...] = ()
    """Strings before which it ends."""
    alternatives: int = 0
    """Of each token, the log-probabilities of so many likeliest ids."""
    score_prompt: bool = False
    """Whether the prompt's own log-probabilities are wanted, for which all of it is read."""
    frames: int = 0
    """Frames to draw; 0 writes text. `max_new_tokens` is then that of all of them, ends included."""
    unconditional: Int32[np.ndarray, " unconditional"] | None = None
    """The prompt that guidance compares frames and clips with; none leaves guidance out."""
    clips: "Clips | None" = None
    """Lets a text hold images and videos; the prompt may end with what begins one."""

    def __post_init__(self) -> None:
        """Refuse what cannot be continued.

        Raises:
            InputError: nothing is asked, a number is out of range, or a stop string is empty.
        """
        check_range(self, "max_new_tokens", "sample", "frames", least=0)
        check_range(self, "alternatives", least=0, most=MOST_ALTERNATIVES)
        if "" in self.stop:
            raise InputError("a stop string is empty", field="stop", value=self.stop, remedy="leave it out")
        if self.clips is not None and self.frames:
            raise InputError("clips stand within a text, and frames in none", field="clips")
        if not self.max_new_tokens and not self.score_prompt:
            raise InputError("max_new_tokens is 0, so nothing is asked", field="max_new_tokens", value=0)

    @property
    def most_tokens(self) -> tuple[int, ...]:
        """Most tokens of each of its sequences, prompts included: one, and where it is guided a second."""
        new = self.max_new_tokens
        own = len(self.prompt) + new
        if self.unconditional is None:
            return (own,)
        beside = new if self.clips is None else min(new, self.clips.most_tokens)
        return own, len(self.unconditional) + beside


@dataclass(frozen=True, kw_only=True, slots=True)
class Clips:
    """How images and videos within a text are drawn."""

    grammar: ClipGrammar
    sampling: SamplingConfig
    """Of their codes; the seed is the text's."""

    @property
    def most_tokens(self) -> int:
        """Of one, with those that close it."""
        grammar = self.grammar
        return grammar.most_frames * grammar.vocabulary.frame_tokens + len(grammar.close)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ScoredToken:
    """A token, and how likely the model finds it among the legal ids, before all that sampling changes."""

    id: int
    logprob: float
    """In nats."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """The likeliest ids, the likeliest first, and their log-probabilities."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Piece:
    """What comes of a request at one moment."""

    text: str = ""
    """What is certain now; a part of a character, or of a stop string, is held back."""
    token: ScoredToken | None = None
    """The token that was written; none where the text ended before it."""
    prompt: tuple[ScoredToken, ...] = ()
    """The prompt's tokens but the first, if they were to be scored, with the first piece."""
    finish: Finish | None = None
    """Why nothing follows: `stop` at an end, a stop string or the last frame, `length` at the most tokens."""
    reused_tokens: int = 0
    """Of the prompt, those that were found in the cache."""


class LiveSequence:
    """A request on its way.

    Attributes:
        ids: the prompt, and what was written.
        pages: those that hold the keys and values of `ids`, in order.
        read: how many of `ids` they hold.
        row: of the batch; None while it waits.
        served: when it was admitted or given a chunk last.
        known: the page after which the next full one is stored; None once another sequence has stored it.
        reused: tokens of the prompt that were found in pages.
        pair: itself; where drawing is guided, the sequence that leads and the one that it is compared with.
            They are admitted and removed together, and both hold the tokens that the first one draws.
    """

    def __init__(
        self,
        request: GenerationRequest,
        *,
        ends: frozenset[int],
        decode: Callable[[Sequence[int]], str],
        deliver: Callable[["Piece | BaseException"], None],
    ) -> None:
        """Begin with the prompt.

        Args:
            request: what is asked.
            ends: ids that finish any text.
            decode: the text of ids.
            deliver: takes each piece, or the error that ends the request.
        """
        self.request, self.deliver = request, deliver
        self.ids: list[int] = request.prompt.tolist()
        self.checksum = checksum(request.prompt, sample=request.sample)
        self.pages: list[int] = []
        self.read = self.reused = 0
        self.row: int | None = None
        self.served = 0
        self.known: int | None = ROOT
        self.scores: list[ScoredToken] = []
        self.cancelled = False
        self._ends = frozenset() if request.ignores_ends else ends | set(request.ends)
        self._stream = TextStream(decode, stop=request.stop)
        self._clip: list[int] | None = None
        self._beginning: list[int] = []
        if request.clips is not None and self.ids[-len(request.clips.grammar.begin) :] == [
            *request.clips.grammar.begin
        ]:
            self._clip = []
        self.pair: tuple[LiveSequence, ...] = (self,)
        if request.unconditional is not None:
            compared = replace(
                request, prompt=request.unconditional, unconditional=None, score_prompt=False, clips=None
            )
            beside = LiveSequence(compared, ends=ends, decode=decode, deliver=lambda piece: None)
            self.pair = beside.pair = (self, beside)

    @property
    def leads(self) -> bool:
        """Whether it draws its own tokens."""
        return self.pair[0] is self

    @property
    def stepped_with(self) -> "tuple[LiveSequence, ...]":
        """Those of `pair` that a step reads for the next token; none for one that waits for a clip."""
        leader = self.pair[0]
        if leader.request.clips is None or leader._clip is not None:
            return self.pair
        return self.pair[:1] if self.leads else ()

    @property
    def written(self) -> int:
        """Number of tokens that follow the prompt."""
        return len(self.ids) - len(self.request.prompt)

    @property
    def clip_ids(self) -> range | None:
        """The ids that may follow within a clip; None outside of one."""
        clips = self.request.clips
        return None if clips is None or self._clip is None else clips.grammar.at(self._clip)

    @property
    def sampling(self) -> SamplingConfig:
        """How the next token is drawn."""
        clips = self.request.clips
        return self.request.sampling if clips is None or self._clip is None else clips.sampling

    @property
    def unread(self) -> int:
        """Number of tokens to be read before one can be written: all but the last, which a step reads.

        Below zero where a clip has ended that was compared: what was read of it stands for nothing any more.
        """
        return len(self.ids) - 1 - self.read

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's log-probabilities are wanted still."""
        return self.request.score_prompt and not self.written

    @property
    def finished(self) -> bool:
        """Whether nothing is to be written, because nothing was asked but scores."""
        return not self.unread and not self.request.max_new_tokens

    def give_up(self) -> None:
        """Hold neither a row nor pages, as at the beginning."""
        self.row, self.scores = None, []
        self.unread_all()

    def unread_all(self) -> None:
        """Hold no pages, and keep the row."""
        self.pages, self.known = [], ROOT
        self.read = self.reused = 0

    def write(self, token: ScoredToken) -> Piece:
        """Add a token that was drawn, and return what comes of it."""
        scores, self.scores = tuple(self.scores), []
        for each in self.stepped_with:
            each.ids.append(token.id)
        if self.request.frames:
            whole = self.written == self.request.max_new_tokens
            return Piece(
                token=token, prompt=scores, finish="stop" if whole else None, reused_tokens=self.reused
            )
        if self._clip is not None:
            return self._draw(token, scores)
        if token.id in self._ends:
            text = self._push_beginning() + self._stream.close()
            return Piece(text=text, prompt=scores, finish="stop", reused_tokens=self.reused)
        text = self._push(token.id)
        finish: Finish | None = None
        if self._stream.stopped:
            finish = "stop"
        elif self.written == self.request.max_new_tokens:
            text += self._push_beginning() + self._stream.close()
            finish = "stop" if self._stream.stopped else "length"
        return Piece(text=text, token=token, prompt=scores, finish=finish, reused_tokens=self.reused)

    def _draw(self, token: ScoredToken, scores: tuple[ScoredToken, ...]) -> Piece:
        """Add a token to the clip that is drawn."""
        assert self.request.clips is not None and self._clip is not None
        self._clip.append(token.id)
        if self.request.clips.grammar.is_whole(self._clip):
            self._clip = None
            for each in self.pair[1:]:  # The next one is compared with the same prompt.
                each.ids = each.request.prompt.tolist()
        finish: Finish | None = None
        text = ""
        if self.written == self.request.max_new_tokens:
            finish, text = "length", self._stream.close()
        return Piece(text=text, token=token, prompt=scores, finish=finish, reused_tokens=self.reused)

    def _push(self, id: int) -> str:
        """Add an id of text, and return what is certain; what may begin a clip is held back."""
        if self.request.clips is None:
            return self._stream.push(id)
        begin, text = [*self.request.clips.grammar.begin], ""
        self._beginning.append(id)
        while self._beginning and self._beginning != begin[: len(self._beginning)]:
            text += self._stream.push(self._beginning.pop(0))
        if self._beginning == begin:
            self._beginning, self._clip = [], []
        return text

    def _push_beginning(self) -> str:
        """Return what was held back, and begins no clip."""
        held, self._beginning = self._beginning, []
        return "".join(map(self._stream.push, held))
