r"""A text in passages of about equally many tokens, which end where sentences do."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_ENDS = (re.compile(r"(?<=[.!?。！？][\"'”’)\s])\s*|(?<=[。！？])|\n\s*\n"), re.compile(r"(?<=\s)(?=\S)"))
"""Where a text may be cut: after sentences and paragraphs; where these are long, between words."""
_LONGEST_PIECE = 0.25
"""Of a passage; what is longer is cut further."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Passage:
    """A part of a text."""

    text: str
    tokens: int
    """About; those of its sentences, each by itself."""


def passages_of(text: str, *, passage_tokens: int, count_tokens: Callable[[str], int]) -> list[Passage]:
    """Cut a text into passages, which joined are the text.

    Of a text of 2,600 tokens three passages of about 867 are made where `passage_tokens` is 1,000; each ends
    where the sentence does that holds the end of its third.

    Args:
        text: a document.
        passage_tokens: to which the mean length of the passages comes as near as it can.
        count_tokens: how long a text is.
    """
    longest = max(1, int(passage_tokens * _LONGEST_PIECE))
    pieces = [(piece, count_tokens(piece)) for piece in _pieces(text, longest, count_tokens, _ENDS)]
    total = sum(tokens for _, tokens in pieces)
    count = max(1, round(total / passage_tokens))
    made: list[Passage] = []
    begun: list[str] = []
    before = within = 0
    for piece, tokens in pieces:
        begun.append(piece)
        within += tokens
        if len(made) < count - 1 and before + within >= total * (len(made) + 1) / count - longest / 2:
            made.append(Passage(text="".join(begun), tokens=within))
            before, within, begun = before + within, 0, []
    if begun:
        made.append(Passage(text="".join(begun), tokens=within))
    return made


def _pieces(
    text: str, longest: int, count_tokens: Callable[[str], int], ends: tuple[re.Pattern[str], ...]
) -> Iterator[str]:
    """Yield pieces of a text of at most about `longest` tokens, cut where it may be."""
    if not ends:
        yield from (text[start : start + longest] for start in range(0, len(text), longest))
        return
    cuts = [0, *(found.end() for found in ends[0].finditer(text)), len(text)]
    for start, stop in zip(cuts, cuts[1:]):
        piece = text[start:stop]
        if len(piece) <= longest or count_tokens(piece) <= longest:
            yield from [piece] if piece else []
        else:
            yield from _pieces(piece, longest, count_tokens, ends[1:])
