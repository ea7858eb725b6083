"""Files that ended the process that read them, or held it up: remembered, so that none does so again."""

import os
from dataclasses import replace
from pathlib import Path

from ringworld.core.files import read_jsonl, write_jsonl_atomic
from ringworld.data.sources import Source, version_of


class UnreadFiles:
    """Files that are not read any more until they change."""

    def __init__(self, file: Path | None = None) -> None:
        """Take what an earlier run wrote into a file; without one, nothing is kept for a later run.

        Raises:
            InputError: the file is damaged.
        """
        self._file = file
        self._rows = read_jsonl(file) if file else []

    def marked(self, source: Source) -> Source:
        """Return a source with why it is not read, where it is one of these files."""
        if source.unread or not self._rows:
            return source
        described = _described(source)
        why = (str(row.get("why", "")) for row in self._rows if described.items() <= row.items())
        return replace(source, unread=next(why, ""))

    def add(self, source: Source) -> None:
        """Remember why a source is not read any more."""
        self._rows.append({**_described(source), "why": source.unread})
        if self._file:
            write_jsonl_atomic(self._file, self._rows)


def _described(source: Source) -> dict[str, object]:
    name = os.fsencode(source.path.resolve()).decode("utf-8", "backslashreplace")
    start = source.span.start if source.span else None
    return {"path": name, "version": list(version_of(source.path) or ()), "start": start}
