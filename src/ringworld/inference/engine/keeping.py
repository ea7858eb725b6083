"""Beginnings of sequences out of the cache of an engine, and into it, some pages between two rounds.

Others are read and written meanwhile. What is put is known to nobody before all of it is there.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable

from ringworld.inference.engine.engine import Closed, Engine
from ringworld.inference.engine.pages import ROOT
from ringworld.inference.engine.programs import Programs
from ringworld.inference.engine.scheduler import Scheduler
from ringworld.inference.prompts import Ids
from ringworld.model.key_values import KeyValues, cut


def keep(
    engine: Engine, ids: Ids, *, check: Callable[[], object] = lambda: None
) -> Generator[KeyValues, None, None]:
    """Read ids, and yield the keys and values of all whole pages of them, some pages at a time.

    Args:
        engine: that reads.
        ids: of a prompt.
        check: called now and then meanwhile; what it raises ends it.

    Raises:
        InputError, Busy, Closed: as for `Engine.submit`.
    """
    scheduler, pages = engine.hold(ids, check=check)
    try:
        start = 0
        while start < len(pages):
            check()

            def fetch(now: Scheduler, programs: Programs, start: int = start) -> KeyValues:
                _check_same(scheduler, now)
                return programs.fetch(pages[start : start + programs.span_tokens // engine.page_tokens])

            span = engine.between_rounds(fetch).result()
            start += span.shape[2] // engine.page_tokens
            yield span
    finally:
        # Not waited for: whoever drops this may be the engine's own thread, when it collects garbage.
        with contextlib.suppress(Closed):
            engine.between_rounds(lambda _, __: scheduler.pages.release(pages))


def recall(
    engine: Engine, ids: Ids, spans: Iterable[KeyValues], *, check: Callable[[], object] = lambda: None
) -> int:
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
    size, every = engine.page_tokens, ids.tolist()
    scheduler, pages = engine.between_rounds(lambda now, _: (now, now.hold(every))).result()
    known, start = len(pages), 0
    try:
        for span in cut(spans, multiple=size) if known < len(ids) // size else ():
            check()
            count = span.shape[2] // size
            new = span[:, :, max(0, len(pages) - start) * size :]
            start += count
            if not new.shape[2]:
                continue

            def put(now: Scheduler, programs: Programs, new: KeyValues = new) -> bool:
                _check_same(scheduler, now)
                taken: list[int] = []
                while len(taken) * size < new.shape[2] and (page := now.pages.take()) is not None:
                    taken.append(page)
                pages.extend(taken)
                if taken:
                    programs.put(taken, new[:, :, : len(taken) * size])
                return len(taken) * size == new.shape[2]

            if not engine.between_rounds(put).result():
                break

        def make_known(now: Scheduler, _: Programs) -> None:
            _check_same(scheduler, now)
            before = ROOT
            for i, page in enumerate(pages):
                tokens = every[i * size : (i + 1) * size]
                if i >= known:
                    now.pages.store(page, before=before, tokens=tokens)
                # That of another, where the same was read meanwhile.
                found = now.pages.find(tokens, before=before)
                assert found is not None
                before = found

        engine.between_rounds(make_known).result()
        return len(pages) * size
    finally:
        with contextlib.suppress(Closed):
            engine.between_rounds(lambda _, __: scheduler.pages.release(pages)).result()


def _check_same(scheduler: Scheduler, now: Scheduler) -> None:
    if now is not scheduler:
        raise Closed("the engine emptied its cache after an error of another request")
