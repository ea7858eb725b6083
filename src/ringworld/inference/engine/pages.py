"""Which pages are free, which are used, and which hold the beginning of what is asked next.

A page that is full is known by its tokens and by the page before it, so that known pages form a tree of
prefixes. A sequence that begins alike holds the same pages and reads nothing of them again. A page that
nobody holds stays known until its room is needed; then the leaf that was used longest ago goes.

    asked "A B C D E", pages of two:   [A B] -> [C D]    (E stands in a page that is not full)
    asked "A B X Y Z":                 [A B] -> [X Y]    reads X, Y and Z
"""

from collections.abc import Sequence

import numpy as np

ROOT = -1
"""Stands before the first page of a sequence."""


class Pages:
    """The pages of one pool, page 0 of which belongs to no sequence.

    Example:
        >>> page = pages.take()
        >>> pages.store(page, before=ROOT, tokens=prompt[:32])
        >>> pages.release([page])
        >>> pages.find(prompt[:32], before=ROOT) == page
    """

    def __init__(self, count: int) -> None:
        """Begin with `count` pages, all but page 0 free."""
        self.count = count - 1
        self._free = [*range(count - 1, 0, -1)]
        self._holders = np.zeros(count, np.int64)
        self._followers = np.zeros(count, np.int64)
        self._used = np.zeros(count, np.int64)
        self._known = np.zeros(count, bool)
        self._keys: dict[int, tuple[int, bytes]] = {}
        self._pages: dict[tuple[int, bytes], int] = {}
        self._clock = 0

    @property
    def available(self) -> int:
        """Number of pages that could be taken."""
        return len(self._free) + int((self._known & (self._holders == 0)).sum())

    @property
    def held(self) -> int:
        """Number of pages that sequences hold."""
        return int((self._holders > 0).sum())

    def take(self) -> int | None:
        """Return a page to write to, held once; None where all are held."""
        if not self._free and not self._forget_one():
            return None
        page = self._free.pop()
        self._holders[page] = 1
        return page

    def find(self, tokens: Sequence[int], *, before: int) -> int | None:
        """Return the page that is known to hold these tokens after the page `before`."""
        return self._pages.get(_key(tokens, before))

    def hold(self, page: int) -> None:
        """Use a known page too."""
        self._holders[page] += 1

    def store(self, page: int, *, before: int, tokens: Sequence[int]) -> bool:
        """Make a full page known; whoever holds it holds `before`. False where another page is already."""
        key = _key(tokens, before)
        if key in self._pages:
            return False
        self._pages[key], self._keys[page] = page, key
        self._known[page] = True
        if before != ROOT:
            self._followers[before] += 1
        return True

    def release(self, pages: Sequence[int]) -> None:
        """Hold pages once less; those that are not known are free when nobody holds them."""
        self._clock += 1
        for page in pages:
            self._holders[page] -= 1
            self._used[page] = self._clock
            if not self._holders[page] and not self._known[page]:
                self._free.append(page)

    def _forget_one(self) -> bool:
        """Free the leaf that was used longest ago."""
        idle = np.flatnonzero(self._known & (self._holders == 0) & (self._followers == 0))
        if not len(idle):
            return False
        page = int(idle[self._used[idle].argmin()])
        key = self._keys.pop(page)
        del self._pages[key]
        self._known[page] = False
        if key[0] != ROOT:
            self._followers[key[0]] -= 1
        self._free.append(page)
        return True


def _key(tokens: Sequence[int], before: int) -> tuple[int, bytes]:
    return before, np.asarray(tokens, np.int32).tobytes()
