"""Samples that are there more than once: found before examples are made, in whatever files they are.

Exact copies of a text are those of the same words, and of a video or an image those of the same bytes. Near
ones of a text, such as two editions of a book, share most runs of five words: how large a share is estimated
from MinHash signatures (Broder 1997), among texts that locality-sensitive hashing finds at once, both by the
library datasketch.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from ringworld.core.files import sha256_file
from ringworld.core.packages import import_optional
from ringworld.data.config import PrepareConfig, Split
from ringworld.data.quarantine import quarantine
from ringworld.data.reading import Reading
from ringworld.data.samples import Clip, MediaFile, Sample
from ringworld.data.sources import Files, Source
from ringworld.data.workers import OnFile

_PERMUTATIONS = 128
_RUN_WORDS = 5
_RUNS_AT_ONCE = 2048
_CJK = "\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")
"""Where words are not set apart by blanks, each character counts as one."""
_SHOWN = "\0"
"""Begins what stands for a clip among words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Duplicate:
    """A sample that is left out, since another is the same."""

    path: str
    """Data set and `Sample.key`."""
    of: str
    """Of the sample that is kept."""
    found: Literal["exact", "near"]
    said: int
    """Captions and questions that are left out with it, and that the sample which is kept does not have."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Signature:
    source: int
    key: str
    split: Split
    content: bytes
    """Hash of the words, and of what is shown."""
    runs: Any
    """`LeanMinHash` of runs of words; None where near ones are not looked for."""
    said: frozenset[bytes]
    """Hashes of its caption and of the questions about it."""


def mark_duplicates(
    sources: Sequence[Source], *, config: PrepareConfig, reading: Reading
) -> tuple[tuple[Source, ...], tuple[Duplicate, ...]]:
    """Read all files, and return the sources with the keys of the samples that are to be left out.

    Of those that are the same one is kept: one that is held out, if any is; else one with a caption or
    questions; else the first. A clip by itself is compared by its file alone, whatever is said of it, and a
    conversation by its words and by all that it shows. What cannot be read is found and quarantined later;
    what ended the process that read it is marked as `unread`.

    Args:
        sources: files in their order.
        config: what counts as the same.
        reading: by whom files are read, on which the result does not depend.

    Raises:
        InputError: the package `datasketch` is not installed, but near duplicates are looked for.
    """
    if config.duplicates == "keep":
        return tuple(sources), ()
    if config.duplicates == "near":
        _datasketch()  # or none is found, before all is read
    groups = [(source,) for source in sources]
    count = reading.count("comparing", total=len(groups))
    read = list(sources)
    signed: dict[int, list[_Signature]] = {}
    for i, (source,), of_file in reading.read(groups, partial(_signatures, config=config), count=count):
        count.ends()
        read[i], signed[i] = source, of_file
    signatures = [one for i in sorted(signed) for one in signed[i]]
    left_out: dict[int, set[str]] = {}
    duplicates = []
    for one, kept, found in _pairs(signatures, config):
        left_out.setdefault(one.source, set()).add(one.key)
        names = [f"{sources[each.source].dataset}/{each.key}" for each in (one, kept)]
        said = len(one.said - kept.said)
        duplicates.append(Duplicate(path=names[0], of=names[1], found=found, said=said))
    marked = (
        replace(source, left_out=frozenset(left_out[index])) if index in left_out else source
        for index, source in enumerate(read)
    )
    return tuple(marked), tuple(duplicates)


def _pairs(
    signatures: Sequence[_Signature], config: PrepareConfig
) -> Iterator[tuple[_Signature, _Signature, Literal["exact", "near"]]]:
    """Yield each sample that is to be left out, with the one that is kept in its place."""
    kept: dict[bytes, _Signature] = {}
    similar = _Similar(config.near_similarity) if config.duplicates == "near" else None
    # Stable: else in their order.
    for one in sorted(signatures, key=lambda one: (one.split != "held_out", not one.said)):
        if one.content in kept:
            yield one, kept[one.content], "exact"
        elif similar is not None and one.runs is not None and (near := similar.find(one)) is not None:
            yield one, near, "near"
        else:
            kept[one.content] = one
            if similar is not None and one.runs is not None:
                similar.add(one)


class _Similar:
    """Texts by the similarity of their signatures."""

    def __init__(self, similarity: float) -> None:
        self._index = _datasketch().MinHashLSH(threshold=similarity, num_perm=_PERMUTATIONS)
        self._similarity = similarity
        self._texts: list[_Signature] = []

    def add(self, one: _Signature) -> None:
        self._index.insert(len(self._texts), one.runs)
        self._texts.append(one)

    def find(self, one: _Signature) -> _Signature | None:
        """Return the first text that is as similar as it must be."""
        for index in sorted(self._index.query(one.runs)):
            if one.runs.jaccard(self._texts[index].runs) >= self._similarity:
                return self._texts[index]
        return None


def _signatures(
    group: int,
    files: Files,
    on_file: OnFile,
    *,
    config: PrepareConfig,
) -> list[_Signature]:
    """Return the signature of each sample of the one file of a group, whose number is that of the file."""
    (source,) = files
    made: list[_Signature] = []
    on_file(source)
    if source.unread:
        return made
    with quarantine(source.relative, into=[]):
        for sample in source.reader.read(source, config=config, quarantined=[]):
            on_file(source)
            with quarantine(sample.key, into=[]):
                words = [word for content in _content(sample) for word in _words(content)]
                near = config.duplicates == "near" and not sample.clips
                if words:
                    one = _Signature(
                        source=group,
                        key=sample.key,
                        split=sample.split,
                        content=_hash(" ".join(words)),
                        runs=_minhash(words, partial(on_file, source)) if near else None,
                        said=frozenset(map(_hash, _said(sample))),
                    )
                    made.append(one)
    return made


def _content(sample: Sample) -> Iterator[str | Clip]:
    """Yield what a sample is of, in its order."""
    if sample.text is not None:
        yield sample.text
    if sample.clip is not None:
        yield sample.clip
    for turn in sample.turns:
        yield from turn.content
    yield from (part.content for part in sample.parts)


def _words(content: str | Clip) -> list[str]:
    """Return the words of a text, or what stands for a clip, which is none that a text holds."""
    if isinstance(content, str):
        return [word.casefold() for word in _WORD.findall(content)]
    if isinstance(content, MediaFile):
        return [_SHOWN + sha256_file(content.path)]
    return [_SHOWN + " ".join(map(str, content.codes))]


def _said(sample: Sample) -> Iterator[str]:
    if sample.caption is not None:
        yield sample.caption
    yield from (f"{asked.question}\0{asked.answer}" for asked in sample.questions)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _minhash(words: Sequence[str], alive: Callable[[], None]) -> Any:
    datasketch = _datasketch()
    sketch = datasketch.MinHash(num_perm=_PERMUTATIONS)
    runs = max(1, len(words) - _RUN_WORDS + 1)
    for start in range(0, runs, _RUNS_AT_ONCE):
        alive()
        some = range(start, min(runs, start + _RUNS_AT_ONCE))
        sketch.update_batch([" ".join(words[at : at + _RUN_WORDS]).encode() for at in some])
    return datasketch.LeanMinHash(sketch)


def _datasketch() -> Any:
    return import_optional("datasketch", extra="near", use="duplicates near", field="duplicates")
