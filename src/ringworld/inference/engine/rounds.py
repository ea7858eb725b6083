"""What the thread of an engine does: rounds, in which prompts are read and tokens written."""

import math

from ringworld.inference.batches import not_finite
from ringworld.inference.engine.cache_size import CacheSize
from ringworld.inference.engine.pages import Pages
from ringworld.inference.engine.programs import Programs
from ringworld.inference.engine.scheduler import Scheduler
from ringworld.inference.engine.sequence import LiveSequence, Piece, ScoredToken


class Rounds:
    """The sequences of one engine, and what is done with them; for its thread alone, under `jax.set_mesh`.

    Attributes:
        programs: what reads and writes.
        scheduler: of the sequences; another one since the cache was emptied last.
        read_tokens: of prompts, so far.
        reused_tokens: of prompts that were found in the cache, so far.
        written_tokens: so far.
        steps: so far.
    """

    def __init__(self, programs: Programs, *, size: CacheSize) -> None:
        """Begin without sequences."""
        self.programs, self._size = programs, size
        self.scheduler = self._new_scheduler()
        self.read_tokens = self.reused_tokens = self.written_tokens = self.steps = 0
        self._preempted_before = 0

    @property
    def preempted(self) -> int:
        """How often a sequence gave up its pages."""
        return self._preempted_before + self.scheduler.preempted

    @property
    def everyone(self) -> list[LiveSequence]:
        """All sequences."""
        return [*self.scheduler.running, *self.scheduler.waiting]

    def forget_cancelled(self) -> None:
        """Do nothing more for those that nobody waits for."""
        for sequence in self.everyone:
            if sequence.cancelled:
                self.scheduler.remove(sequence)

    def run(self) -> None:
        """Read a chunk's worth of prompts, and write a token of each sequence that is read.

        Raises:
            Exception: of the device; what the cache holds is not known any more.
        """
        for sequence in self.scheduler.admit():
            self.programs.join(sequence)
        for chunk in self.scheduler.chunks():
            scores = self.programs.read(chunk)
            self.read_tokens += chunk.tokens
            self.scheduler.was_read(chunk)
            chunk.sequence.scores += scores
            if not all(math.isfinite(token.logprob) for token in scores):
                self._deliver(chunk.sequence, not_finite())
                return self.begin_again(None)
        for sequence in [*self.scheduler.running]:
            if sequence.finished:
                scores = tuple(sequence.scores)
                self._deliver(sequence, Piece(prompt=scores, finish="length"))
        ready = self.scheduler.steppable()
        if not ready:
            return
        drawn = self.programs.step(ready)
        self.steps += 1
        for sequence in ready:
            self.scheduler.was_stepped(sequence)
        for sequence, (token, finite) in zip(ready, drawn):
            if sequence.leads:
                self._write(sequence, token, finite=finite)
        if not all(finite for _, finite in drawn):
            # Numbers that are not finite would stay in pages, and spoil what is multiplied with zero.
            self.begin_again(None)

    def begin_again(self, error: Exception | None) -> None:
        """Empty the pool; those that run end with the error, or read again where there is none."""
        # First: where even this fails, the engine ends those that the old scheduler still knows.
        self.programs.clear()
        old, self.scheduler = self.scheduler, self._new_scheduler()
        self._preempted_before += old.preempted
        for sequence in old.running:
            sequence.give_up()
            if error is not None:
                sequence.deliver(error)
            elif sequence.leads:
                self.scheduler.waiting.append(sequence)
        self.scheduler.waiting.extend(old.waiting)

    def _write(self, sequence: LiveSequence, token: ScoredToken, *, finite: bool) -> None:
        if not finite:
            self._deliver(sequence, not_finite())
            return
        self.written_tokens += 1
        self._deliver(sequence, sequence.write(token))

    def _deliver(self, sequence: LiveSequence, piece: Piece | BaseException) -> None:
        if isinstance(piece, BaseException) or piece.finish is not None:
            self.reused_tokens += sequence.reused
            self.scheduler.remove(sequence)
        if not sequence.cancelled:
            sequence.deliver(piece)

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(
            Pages(self._size.pages),
            page_tokens=self._size.page_tokens,
            chunk_tokens=self._size.chunk_tokens,
            max_sequences=self._size.max_sequences,
        )
