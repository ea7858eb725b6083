"""Which files share a shard, and its name: both follow from these files, not from how many there are."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from ringworld.core.config import to_json
from ringworld.data.readers.media import MediaReader
from ringworld.data.sources import Files, Source, version_of


def cut_into_groups(sources: Sequence[Source], *, most: int, most_bytes: int) -> list[Files]:
    """Cut files, in their order, into groups of at most `most`, about half as many on the average.

    What has more, or files of more bytes, is cut before the file whose name has the smallest hash, and so
    again. So a file that comes or goes changes its own group, now and then a neighbor, and no other, wherever
    in the order it stands.

    Example: files with the hashes 5 9 1 7 3 8, two a group at most, are `5 9 | 1 7 | 3 8`. With another file
    in front they are `2 | 5 9 | 1 7 | 3 8`.

    Args:
        sources: all files.
        most: files of a group.
        most_bytes: of the files of a group, unless it is one file or a part of one.
    """
    ends = [0, *accumulate((version_of(source.path) or (0,))[0] for source in sources)]
    parts = [f"#{source.span.before}" if source.span else "" for source in sources]
    hashes = [_hash(f"{one.dataset}/{one.relative}{part}") for one, part in zip(sources, parts)]
    groups: list[Files] = []
    left = [(0, len(sources))]
    while left:
        start, stop = left.pop()
        if stop - start > 1 and (stop - start > most or ends[stop] - ends[start] > most_bytes):
            at = min(range(start + 1, stop), key=hashes.__getitem__)
            left += [(at, stop), (start, at)]
        elif start < stop:
            groups.append(tuple(sources[start:stop]))
    return groups


def name_groups(groups: Sequence[Files], *, made_by: dict[str, Any]) -> list[str]:
    """Return a name for each group: a hash of its files and of what makes examples of them.

    Groups that agree in all of this, as of two copies of a folder, are told apart by their order.

    Args:
        groups: files that share a shard.
        made_by: everything else that decides the bytes of the shard.
    """
    seen = Counter[str]()
    names = []
    for group in groups:
        described = json.dumps([[_described(source) for source in group], made_by])
        seen[described] += 1
        names.append(_hash(f"{seen[described]} {described}"))
    return names


def _described(source: Source) -> list[Any]:
    changes = [version_of(path) for path in (source.path, *source.sidecars)]
    # One that ended a process before it was known for a video or an image, or after, has one name.
    reader = "media" if isinstance(source.reader, MediaReader) else source.reader.name
    named = [source.relative, source.dataset, reader, source.reader.version, source.split, changes]
    by_sample = [source.samples, source.settled, to_json(source.said), sorted(source.left_out)]
    return [*named, *by_sample, to_json(source.span)]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
