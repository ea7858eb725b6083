"""Which files are held out. The content of a file decides, so that a copy is on the side of its original."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

from ringworld.data.config import PrepareConfig
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.reading import Reading
from ringworld.data.sources import HELD_OUT_FOLDER, Files, Source
from ringworld.data.workers import OnFile

_SAMPLE_BYTES = 16 * 2**10


def hold_out(roots: Sequence[Sequence[Source]], config: PrepareConfig, *, reading: Reading) -> list[Source]:
    """Give each file of one kind its split.

    | files below a root | held out |
    |---|---|
    | some in a folder `held_out` | those |
    | of all other roots together | those with the smallest hashes of their content |
    | whose content is held out elsewhere | those, too |

    Of the second group, where two files or more differ, each split is given one that can be read: that of the
    smallest hash is held out, and that of the largest is not.
    """
    content = _contents([source for sources in roots for source in sources], reading)
    held_out: set[str] = set()
    drawn: list[Source] = []
    for sources in roots:
        inside = [s for s in sources if HELD_OUT_FOLDER in Path(s.relative.lower()).parts[:-1]]
        held_out |= {content[source.path] for source in inside}
        drawn += [] if inside else sources
    held_out |= _draw(drawn, content, config, reading)
    return [
        replace(source, split="held_out") if content[source.path] in held_out else source
        for sources in roots
        for source in sources
    ]


def is_drawn(content: str, config: PrepareConfig) -> bool:
    """Return whether one sample among many of a file is held out, by what it holds."""
    return Random(f"{config.seed} {content}").random() < config.held_out_fraction


def _contents(sources: Sequence[Source], reading: Reading) -> dict[Path, str]:
    """Return what stands for the content of each file."""
    count = reading.count("splitting", total=len(sources))
    content = {}
    for source in sources:
        count.begins(source)
        content[source.path] = _fingerprint(source.path)
    count.ends(len(sources))
    return content


def _draw(
    sources: Sequence[Source], content: dict[Path, str], config: PrepareConfig, reading: Reading
) -> set[str]:
    copies: dict[str, list[Source]] = {}
    for source in sources:
        copies.setdefault(content[source.path], []).append(source)
    if len(copies) < 2 or config.held_out_fraction == 0:
        return set()
    digests = {name: hashlib.sha256(f"{config.seed} {name}".encode()).digest() for name in copies}
    drawn = {name: int.from_bytes(digest[:8], "big") / 2**64 for name, digest in digests.items()}
    smallest_first = sorted(copies, key=lambda name: drawn[name])

    def first_readable(names: list[str]) -> str:
        return next(
            (name for name in names if any(_is_readable(s, config, reading) for s in copies[name])), names[0]
        )

    held_out = {name for name in copies if drawn[name] < config.held_out_fraction}
    return (held_out | {first_readable(smallest_first)}) - {first_readable(smallest_first[::-1])}


def _fingerprint(path: Path) -> str:
    """Hash the size of a file and a few pieces of it; files that agree in these are held out together."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            digest = hashlib.sha256(str(size).encode())
            for at in (0, size // 2, size - _SAMPLE_BYTES):
                stream.seek(max(0, at))
                digest.update(stream.read(_SAMPLE_BYTES))
    except OSError:
        return str(path)  # it will be quarantined where it is read
    return digest.hexdigest()


def _is_readable(source: Source, config: PrepareConfig, reading: Reading) -> bool:
    """Return whether a file can be read, as far as its beginning, its end and its sidecars show."""
    checked = reading.read(
        [(source,)], partial(_check, config=config), count=reading.count("splitting", total=0)
    )
    return all(problem is None for _, _, problem in checked)


def _check(index: int, files: Files, on_file: OnFile, *, config: PrepareConfig) -> str | None:
    """Return what is wrong with the one file of a group."""
    (source,) = files
    problems: list[Quarantined] = []
    on_file(source)
    if source.unread:
        return source.unread
    with quarantine(source.relative, into=problems):
        source.reader.check(source, config=config)
    return problems[0].reason if problems else None
