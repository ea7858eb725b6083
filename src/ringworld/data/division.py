"""Large files of many samples in parts, which several processes read at the same time, each like a file."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ringworld.data.quarantine import quarantine
from ringworld.data.reading import Reading
from ringworld.data.sources import Files, Source, Span, version_of
from ringworld.data.workers import OnFile


def divide(sources: Sequence[Source], *, most_bytes: int, reading: Reading) -> tuple[Source, ...]:
    """Return the same files in their order, those of more bytes in parts where their reader can divide them.

    What is wrong with a file is said when it is read, as a whole then.

    Args:
        sources: files.
        most_bytes: about so many has a part.
        reading: by whom large files are looked through, on which the parts do not depend.
    """
    large = [at for at, source in enumerate(sources) if _is_large(source, most_bytes)]
    count = reading.count("dividing", total=len(large))
    work = partial(_spans, most_bytes=most_bytes)
    parts: list[Files] = [(source,) for source in sources]
    for index, (source,), spans in reading.read([parts[at] for at in large], work, count=count):
        count.ends()
        divided = tuple(replace(source, span=span) for span in spans)
        parts[large[index]] = divided if len(divided) > 1 else (source,)
    return tuple(part for of_file in parts for part in of_file)


def _is_large(source: Source, most_bytes: int) -> bool:
    return source.reader.holds == "many" and (version_of(source.path) or (0,))[0] > most_bytes


def _spans(index: int, files: Files, on_file: OnFile, *, most_bytes: int) -> tuple[Span, ...]:
    """Return the spans of the one file of a group; none where it is damaged, or has none."""
    (source,) = files
    found: list[Span] = []
    on_file(source)
    if source.unread:
        return ()
    with quarantine(source.relative, into=[]):
        for span in source.reader.spans(source, most_bytes=most_bytes):
            on_file(source)
            found.append(span)
        return tuple(found)
    return ()
