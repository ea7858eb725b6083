"""Who waits, who reads and who writes: the decisions of an engine, without a device.

| a sequence | has a row | holds pages | each round |
|---|---|---|---|
| waits | no | no | may be admitted, the first that asked first |
| reads | yes | those read so far | is given a part of the round's chunk |
| writes | yes | all of its own | one token more |

Where pages run out, the sequence that was admitted last gives up its own, waits in front of all others and
reads again what is not known any more. The one that was admitted first always continues, so all come to
an end. What is guided is two sequences, which are admitted and give up their pages together, and draw once
both are read; in a text with clips the second one waits, read, outside of them.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ringworld.inference.batches import chunk_size
from ringworld.inference.engine.pages import ROOT, Pages
from ringworld.inference.engine.sequence import LiveSequence


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Chunk:
    """Tokens of one sequence that are read together."""

    sequence: LiveSequence
    start: int
    """Of its tokens, the first that is read; a page begins there."""
    tokens: int
    """How many are read."""
    size: int
    """How many the program reads, in whole pages; the rest is padding."""


class Scheduler:
    """Sequences of one engine; the caller reads and steps as it says.

    Attributes:
        waiting: sequences without a row; the caller puts new ones at the end.
        running: sequences with one, in the order in which they were admitted.
        preempted: how often a sequence gave up its pages.
    """

    def __init__(self, pages: Pages, *, page_tokens: int, chunk_tokens: int, max_sequences: int) -> None:
        """Begin without sequences; `chunk_tokens` is a power of two of pages."""
        self.pages, self.preempted = pages, 0
        self.waiting: deque[LiveSequence] = deque()
        self.running: list[LiveSequence] = []
        self._page, self._chunk = page_tokens, chunk_tokens
        self._served = 0
        self._rows = [*range(max_sequences - 1, -1, -1)]

    def hold(self, ids: Sequence[int]) -> list[int]:
        """Hold the pages that are known to begin with these ids, and return them in order."""
        held: list[int] = []
        for start in range(0, len(ids) - self._page + 1, self._page):
            before = held[-1] if held else ROOT
            page = self.pages.find(ids[start : start + self._page], before=before)
            if page is None:
                break
            self.pages.hold(page)
            held.append(page)
        return held

    def remove(self, sequence: LiveSequence) -> None:
        """Forget a sequence, wherever it is; what was read of it stays known."""
        if sequence in self.running:
            self._leave(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def admit(self) -> list[LiveSequence]:
        """Give rows to those that wait while there are rows, and pages for what they have to read."""
        admitted = []
        while self.waiting and self._rows:
            ahead = self.waiting[0]
            # What is known costs nothing but is counted, so that few give up their pages soon.
            needed = sum(self._pages_of(len(each.ids)) for each in ahead.pair)
            if len(self._rows) < len(ahead.pair) or (self.running and self.pages.available < needed):
                break
            self.waiting.popleft()
            for each in ahead.pair:
                each.row, each.served = self._rows.pop(), self._count_served()
                self.running.append(each)
                admitted.append(each)
        return admitted

    def chunks(self) -> Iterator[Chunk]:
        """Yield what is read in this round, the next only after the last was read and `was_read`.

        Those that have waited longest for a chunk come first, so that short prompts pass long ones.
        """
        for sequence in self.running:
            if sequence.unread < 0:
                self.pages.release(sequence.pages)
                sequence.unread_all()
        budget = self._chunk
        for sequence in sorted(self.running, key=lambda each: each.served):
            if budget <= 0:
                return
            if sequence.row is None or not sequence.unread:
                continue
            self._reuse(sequence)
            size = chunk_size(sequence.unread, most=self._most(sequence), least=self._page)
            tokens = min(size, sequence.unread)
            if not tokens or not self._reach(sequence, sequence.read + tokens):
                continue
            budget -= size
            sequence.served = self._count_served()
            yield Chunk(sequence=sequence, start=sequence.read, tokens=tokens, size=size)

    def was_read(self, chunk: Chunk) -> None:
        """Count tokens as read, and make their full pages known."""
        self._advance(chunk.sequence, chunk.tokens)

    def steppable(self) -> list[LiveSequence]:
        """Return the sequences that write a token now, each with a page for it."""
        for sequence in [*self.running]:
            if _writes(sequence):
                self._reach(sequence, len(sequence.ids))
        # Only now, because a later one may have had to give up its pages for an earlier one.
        return [sequence for sequence in self.running if _writes(sequence)]

    def was_stepped(self, sequence: LiveSequence) -> None:
        """Count the token that a step has read as read."""
        self._advance(sequence, 1)

    def _most(self, sequence: LiveSequence) -> int:
        # Scores of all tokens of a chunk are as long as the vocabulary.
        return max(self._page, self._chunk // 4) if sequence.scores_prompt else self._chunk

    def _count_served(self) -> int:
        self._served += 1
        return self._served

    def _reuse(self, sequence: LiveSequence) -> None:
        """Hold the pages that are known to come next, in place of reading them."""
        if sequence.scores_prompt or sequence.read % self._page:
            return
        while sequence.unread >= self._page and sequence.known is not None:
            tokens = sequence.ids[sequence.read : sequence.read + self._page]
            page = self.pages.find(tokens, before=sequence.known)
            if page is None:
                return
            self.pages.hold(page)
            sequence.pages.append(page)
            sequence.known = page
            sequence.read += self._page
            sequence.reused += self._page

    def _advance(self, sequence: LiveSequence, tokens: int) -> None:
        before = sequence.read // self._page
        sequence.read += tokens
        for index in range(before, sequence.read // self._page):
            if sequence.known is None:
                return
            page = sequence.pages[index]
            held = sequence.ids[index * self._page : (index + 1) * self._page]
            stored = self.pages.store(page, before=sequence.known, tokens=held)
            sequence.known = page if stored else None

    def _reach(self, sequence: LiveSequence, tokens: int) -> bool:
        """Give a sequence pages for so many tokens; False where it had to give up its own."""
        while len(sequence.pages) < self._pages_of(tokens):
            page = self.pages.take()
            if page is not None:
                sequence.pages.append(page)
                continue
            last = self.running[-1]
            self._leave(last)
            self.waiting.appendleft(last.pair[0])
            self.preempted += 1
            if last in sequence.pair:
                return False
        return True

    def _leave(self, sequence: LiveSequence) -> None:
        for each in sequence.pair:
            assert each.row is not None
            self.running.remove(each)
            self._rows.append(each.row)
            self.pages.release(each.pages)
            each.give_up()

    def _pages_of(self, tokens: int) -> int:
        return -(-tokens // self._page)


def _writes(sequence: LiveSequence) -> bool:
    together = sequence.stepped_with
    return bool(together) and all(
        each.row is not None and not each.unread and not each.finished for each in together
    )
