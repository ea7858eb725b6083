"""What is held out. Content decides, so that a copy is on the side of its original, in whatever file."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig, Split
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.reading import Reading
from ringworld.data.sources import HELD_OUT_FOLDER, Files, Source
from ringworld.data.workers import OnFile
from ringworld.text.read_text import decode_file, strip_gutenberg

_SAMPLE_BYTES = 16 * 2**10


def hold_out(
    kinds: Sequence[Sequence[Sequence[Source]]], config: PrepareConfig, *, reading: Reading
) -> list[Source]:
    """Give each file its split, and to those of many samples what decides about these (`split_of`).

    | files below a root | held out |
    |---|---|
    | some in a folder `held_out` | those, and nothing else of the root |
    | of one sample, of all other roots together | those that `is_drawn` draws by their content |
    | of many samples, of these roots | of their samples those that it draws |
    | whose content is held out elsewhere | those, too |

    Of the second group, where two files or more differ, each split is given one that can be read: that of the
    smallest hash is held out, and that of the largest is not.

    Args:
        kinds: of the roots of each parameter, videos and texts, the files of each.
        config: what is held out.
        reading: by whom files are opened.
    """
    content = _contents([one for roots in kinds for sources in roots for one in sources], config, reading)
    held_out: set[str] = set()
    settled: dict[str, Split] = {}
    apart: set[Path] = set()
    """Files of roots that say themselves what is held out."""
    for roots in kinds:
        loose: list[Source] = []
        for sources in roots:
            inside = [s for s in sources if HELD_OUT_FOLDER in Path(s.relative.lower()).parts[:-1]]
            held_out |= {content[source.path] for source in inside}
            apart |= {source.path for source in sources if inside}
            loose += [] if inside else [source for source in sources if source.reader.holds == "one"]
        drawn, exceptions = _draw(loose, content, config, reading)
        held_out |= drawn
        settled |= exceptions
    found = [source for roots in kinds for sources in roots for source in sources]
    return [
        replace(
            source,
            split="held_out" if content[source.path] in held_out else "train",
            samples="as the file" if source.path in apart else "drawn",
            settled=tuple(sorted(settled.items())) if source.reader.holds == "many" else (),
        )
        for source in found
    ]


def split_of(content: str, source: Source, config: PrepareConfig) -> Split:
    """Return the split of one sample of a file of many.

    Args:
        content: `text_content` or `file_content` of the sample, or what else stands for it.
        source: the file.
        config: what is held out.
    """
    if source.split == "held_out" or source.samples == "as the file":
        return source.split
    return dict(source.settled).get(content) or ("held_out" if is_drawn(content, config) else "train")


def is_drawn(content: str, config: PrepareConfig) -> bool:
    """Return whether a content is held out, be it that of a file or of a sample among many of one."""
    return _lot(content, config) < config.held_out_fraction


def text_content(text: str) -> str:
    """Return what stands for a text: the same for a file and for a line of a JSONL file that hold it.

    White space around it, line ends and Project Gutenberg's frame do not count.
    """
    words = strip_gutenberg(text.replace("\r\n", "\n").replace("\r", "\n")).strip()
    return hashlib.sha256(words.encode()).hexdigest()


def file_content(path: Path) -> str:
    """Return what stands for a video or an image: a hash of its size and of a few pieces of it.

    Files that agree in these are held out together.
    """
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


def _contents(sources: Sequence[Source], config: PrepareConfig, reading: Reading) -> dict[Path, str]:
    """Return what stands for the content of each file."""
    count = reading.count("splitting", total=len(sources))
    content: dict[Path, str] = {}
    for source in sources:
        count.begins(source)
        if source.path not in content:  # as a file of records among videos and among texts
            content[source.path] = _content(source, config)
    count.ends(len(sources))
    return content


def _content(source: Source, config: PrepareConfig) -> str:
    if (source.reader.holds, source.reader.shows) == ("one", "text"):
        try:
            return text_content(decode_file(source.path, max_bytes=config.max_text_bytes))
        except InputError:
            pass  # it is no text, or will be quarantined where it is read
    return file_content(source.path)


def _lot(content: str, config: PrepareConfig) -> float:
    """Return where a content stands among all that there could be, from 0 to 1."""
    digest = hashlib.sha256(f"{config.seed} {content}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _draw(
    sources: Sequence[Source], content: dict[Path, str], config: PrepareConfig, reading: Reading
) -> tuple[set[str], dict[str, Split]]:
    """Return the contents that are held out, and the splits of those that are not as `is_drawn` says."""
    copies: dict[str, list[Source]] = {}
    for source in sources:
        copies.setdefault(content[source.path], []).append(source)
    if len(copies) < 2 or config.held_out_fraction == 0:
        # One file alone is trained on.
        return set(), {name: "train" for name in copies if is_drawn(name, config)}
    smallest_first = sorted(copies, key=lambda name: _lot(name, config))

    def first_readable(names: list[str]) -> str:
        return next(
            (name for name in names if any(_is_readable(s, config, reading) for s in copies[name])), names[0]
        )

    drawn = {name for name in copies if is_drawn(name, config)}
    held_out = (drawn | {first_readable(smallest_first)}) - {first_readable(smallest_first[::-1])}
    exceptions: dict[str, Split] = {
        name: "held_out" if name in held_out else "train" for name in held_out ^ drawn
    }
    return held_out, exceptions


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
