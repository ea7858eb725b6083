"""Beginnings of sequences out of the cache of an engine, and into it, some pages between two rounds.

Others are read and written meanwhile. What is put is known to nobody before all of it is there.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from ringworld.inference.engine.engine import Engine
from ringworld.inference.engine.inbox import Closed
from ringworld.inference.engine.pages import ROOT
from ringworld.inference.engine.programs import Programs
from ringworld.inference.engine.scheduler import Scheduler
from ringworld.inference.prompts import Ids
from ringworld.model.key_values import KeyValues, cut

Check = Callable[[], object]
"""Called now and then while something takes long; what it raises ends that."""


def unchecked() -> None:
    """Let it take as long as it takes."""


def keep(engine: Engine, ids: Ids, *, check: Check = unchecked) -> Generator[KeyValues, None, None]:
    """Read ids, and yield the keys and values of all whole pages of them, some pages at a time.

    Args:
        engine: that reads.
        ids: of a prompt.
        check: called now and then meanwhile; what it raises ends it.

    Raises:
        InputError, Busy, Closed: as for `Engine.submit`.
    """
    scheduler, pages = engine.hold(ids, check=check)
    beginning = _Beginning(
        engine=engine, ids=ids.tolist(), scheduler=scheduler, pages=pages, known=len(pages)
    )
    try:
        start = 0
        while start < len(pages):
            check()
            span = beginning.fetch(start)
            start += span.shape[2] // engine.size.page_tokens
            yield span
    finally:
        # Not waited for: whoever drops this may be the engine's own thread, when it collects garbage.
        beginning.release(wait=False)


def recall(engine: Engine, ids: Ids, spans: Iterable[KeyValues], *, check: Check = unchecked) -> int:
    """Put what was kept into the cache, but for what is there; return how many of its tokens it holds then.

    Where there is no room for all, it is the beginning. Nothing else changes: what is asked next about it
    begins sooner.

    Args:
        engine: of the model that kept it.
        ids: of the tokens.
        spans: their keys and values; none are read where all are there already.
        check: called before each is put; what it raises ends it, and the cache is as it was.

    Raises:
        Closed: the engine is closed, or emptied its cache meanwhile.
        InputError: as `spans` raise; the cache is then as it was.
    """
    size, every = engine.size.page_tokens, ids.tolist()
    scheduler, pages = engine.between_rounds(lambda now, _: (now, now.hold(every))).result()
    beginning = _Beginning(engine=engine, ids=every, scheduler=scheduler, pages=pages, known=len(pages))
    try:
        start = 0
        for span in cut(spans, multiple=size) if len(pages) < len(ids) // size else ():
            check()
            new = span[:, :, max(0, len(pages) - start) * size :]
            start += span.shape[2] // size
            if new.shape[2] and not beginning.put(new):
                break
        beginning.make_known()
        return len(pages) * size
    finally:
        beginning.release(wait=True)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Beginning:
    """Pages of an engine's cache that hold how a sequence begins, and are held themselves."""

    engine: Engine
    ids: list[int]
    scheduler: Scheduler
    """Whose pages they are."""
    pages: list[int]
    known: int
    """How many of them are known to all."""

    def fetch(self, start: int) -> KeyValues:
        """Return the keys and values of pages from one on, as many as move at once."""

        def fetch(now: Scheduler, programs: Programs) -> KeyValues:
            self._check_same(now)
            stop = start + programs.span_tokens // self.engine.size.page_tokens
            return programs.fetch(self.pages[start:stop])

        return self.engine.between_rounds(fetch).result()

    def put(self, span: KeyValues) -> bool:
        """Add pages of whole tokens; False where there are no pages for all of them."""
        size = self.engine.size.page_tokens
        wanted = span.shape[2] // size

        def put(now: Scheduler, programs: Programs) -> bool:
            self._check_same(now)
            taken: list[int] = []
            while len(taken) < wanted and (page := now.pages.take()) is not None:
                taken.append(page)
            self.pages.extend(taken)
            if taken:
                programs.put(taken, span[:, :, : len(taken) * size])
            return len(taken) == wanted

        return self.engine.between_rounds(put).result()

    def make_known(self) -> None:
        """Let others find the pages."""
        size = self.engine.size.page_tokens

        def store(now: Scheduler, _: Programs) -> None:
            self._check_same(now)
            before = ROOT
            for i, page in enumerate(self.pages):
                tokens = self.ids[i * size : (i + 1) * size]
                if i >= self.known:
                    now.pages.store(page, before=before, tokens=tokens)
                # That of another, where the same was read meanwhile.
                found = now.pages.find(tokens, before=before)
                assert found is not None
                before = found

        self.engine.between_rounds(store).result()

    def release(self, *, wait: bool) -> None:
        """Hold the pages no more."""
        with contextlib.suppress(Closed):
            released = self.engine.between_rounds(lambda _, __: self.scheduler.pages.release(self.pages))
            if wait:
                released.result()

    def _check_same(self, now: Scheduler) -> None:
        if now is not self.scheduler:
            raise Closed("the engine emptied its cache after an error of another request")
