r"""Files of many records: JSON lines, and tables of Parquet.

A record is one of these; its other keys are ignored:

    {"text": "A whole document.", "questions": [{"question": "...", "answer": "..."}]}
    {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}
    {"fields": "[instruction],[vision],output", "instruction": "...", "vision": [5, 17, ...], "output": "..."}

The second is OpenAI's form, see `ringworld.data.readers.messages`; the third LWM's own, see
`ringworld.data.readers.lwm_fields`.
"""

import hashlib
import json
import tempfile
from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ringworld.core.errors import InputError
from ringworld.data.config import PrepareConfig
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.readers.location import Location
from ringworld.data.readers.lwm_fields import parse_fields
from ringworld.data.readers.messages import parse_messages
from ringworld.data.samples import Sample
from ringworld.data.sidecars import parse_sidecar
from ringworld.data.sources import Reader, Source, Span, version_of
from ringworld.data.splits import split_of, text_content
from ringworld.text.read_text import LineRun, is_text, read_lines, runs_of_lines

Records = Generator[tuple[int, Mapping[str, Any] | InputError], None, None]
_ROWS_AT_ONCE, _BUFFER_BYTES = 64, 2**20
_COLUMNS = ("messages", "text", "questions")
_PARQUET_DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError)


class RecordsReader(Reader):
    """A file of many samples, each with the split that its content has anywhere; see `splits.split_of`."""

    version, holds, shows = 3, "many", "either"
    part: str
    """What a record is called."""

    @abstractmethod
    def records(self, source: Source, *, config: PrepareConfig) -> Records:
        """Yield the number of each record, counted from 1, and what it holds or what is wrong with it.

        Of a part of a file its records alone, numbered as in the whole file.
        """

    def read(
        self, source: Source, *, config: PrepareConfig, quarantined: list[Quarantined]
    ) -> Iterator[Sample]:
        """Yield the sample of each record that is one."""
        usable = 0
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(self.records(source, config=config)) as all,
        ):
            for number, record in all:
                key = f"{source.relative}#{number}"
                location = Location(source.path, part=f"{self.part} {number}", scratch=Path(folder))
                with quarantine(key, into=quarantined):
                    if isinstance(record, InputError):
                        raise record
                    sample = sample_of(record, location, source=source, key=key, config=config)
                    usable += 1
                    yield sample
        if not usable and source.span is None:
            problem = f'{source.path} has no {self.part} with "text", "messages" or "fields" that can be used'
            raise InputError(problem, path=source.path)


def sample_of(
    record: Mapping[str, Any], location: Location, *, source: Source, key: str, config: PrepareConfig
) -> Sample:
    """Return what a record says.

    Raises:
        InputError: it has none of the three forms; `path` and `field` name where.
    """
    record = {name: value for name, value in record.items() if value is not None}
    content: dict[str, Any]
    if "messages" in record:
        content = {"turns": parse_messages(record["messages"], location)}
    elif "fields" in record:
        content = {"parts": parse_fields(record, location, seed=f"{config.seed} {key}")}
    else:
        text = record.get("text")
        if not is_text(text):
            raise location.wrong('has no "text" that is valid Unicode', field="text", value=text)
        if not text.strip():
            raise location.wrong('has an empty "text"', field="text", value=text)
        if len(text) > config.max_text_bytes:
            problem = f"has a text of {len(text)} characters; at most {config.max_text_bytes} are read"
            raise location.wrong(problem, field="text", remedy="split it, or raise max_text_bytes")
        said = parse_sidecar({"questions": record.get("questions")}, path=location.path, part=location.part)
        content = {"text": text, "questions": said.questions, "unanswered": said.unanswered}
    return Sample(key=key, split=split_of(_content(record), source, config), **content)


class LinesReader(RecordsReader):
    """JSON lines, in any encoding that texts may have."""

    name, part = "lines", "line"

    def spans(self, source: Source, *, most_bytes: int) -> Iterator[Span]:
        """Yield spans of whole lines; a file of UTF-16 or UTF-32 has none."""
        for run in runs_of_lines(source.path, most_bytes=most_bytes):
            yield Span(start=run.start_byte, before=run.before, records=run.lines)

    def records(self, source: Source, *, config: PrepareConfig) -> Records:
        """Yield the object of each line that is not blank."""
        path, run = source.path, None
        if span := source.span:
            run = LineRun(start_byte=span.start, before=span.before, lines=span.records)
        for line in read_lines(path, longest=config.max_text_bytes, run=run):
            wrong = InputError(f"in {path}, {line.problem}", path=path, field=f"line {line.number}")
            yield line.number, wrong if line.problem else line.value


class ParquetReader(RecordsReader):
    """A table of Parquet with a column `text`, `messages` or `fields`; rows are read a few at a time."""

    name, part = "parquet", "row"

    def spans(self, source: Source, *, most_bytes: int) -> Iterator[Span]:
        """Yield spans of whole row groups, and of rows of a large group.

        Of the latter, the rows before are decoded to be passed over.
        """
        of_file, _ = version_of(source.path) or (0, 0)
        with _opened(source.path) as file:
            start = before = rows = size = 0
            for index in range(file.num_row_groups):
                group = file.metadata.row_group(index)
                said = sum(group.column(i).total_compressed_size for i in range(group.num_columns))
                more = min(said, of_file)
                if rows and size + more > most_bytes:
                    yield Span(start=start, before=before, records=rows)
                    start, before, rows, size = index, before + rows, 0, 0
                rows, size = rows + group.num_rows, size + more
                if size > most_bytes:
                    parts = -(-size // most_bytes)
                    for at, end in pairwise(rows * part // parts for part in range(parts + 1)):
                        if end > at:
                            yield Span(start=index, before=before + at, records=end - at)
                    start, before, rows, size = index + 1, before + rows, 0, 0
            if rows:
                yield Span(start=start, before=before, records=rows)

    def records(self, source: Source, *, config: PrepareConfig) -> Records:
        """Yield each row."""
        path = source.path
        with _opened(path) as file:
            # Of `fields` any column may be one; else the others need not be what Python can hold.
            named = set(file.schema_arrow.names)
            columns = None if "fields" in named else [name for name in _COLUMNS if name in named] or None
            groups, chosen = _rows_of(file, source.span)
            batches = file.iter_batches(_ROWS_AT_ONCE, row_groups=groups, columns=columns, use_threads=False)
            rows = (batch.slice(i, 1) for batch in batches for i in range(len(batch)))
            of_span = islice(rows, chosen.start, chosen.stop)
            for number, row in enumerate(of_span, start=1 + (source.span.before if source.span else 0)):
                try:
                    (record,) = row.to_pylist()
                except (ValueError, OverflowError) as error:  # such as a time in nanoseconds
                    problem = f"in {path}, row {number} cannot be read ({error})"
                    yield number, InputError(problem, path=path, field=f"row {number}")
                else:
                    yield number, record


def _content(record: Mapping[str, Any]) -> str:
    if not record.keys() & {"messages", "fields"}:
        return text_content(record["text"])
    said = record.get("messages", record)  # whatever else stands beside it
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """Open a table of Parquet.

    Raises:
        InputError: it is none, or damaged, which may show while it is open.
    """
    try:
        # With a buffer, or a row group is in memory as a whole.
        with pq.ParquetFile(
            path, page_checksum_verification=True, pre_buffer=False, buffer_size=_BUFFER_BYTES
        ) as file:
            yield file
    except _PARQUET_DAMAGE as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is no table of Parquet, or damaged ({reason})", path=path) from None


def _rows_of(file: pq.ParquetFile, span: Span | None) -> tuple[list[int], slice]:
    """Return which row groups a span is in, and which of their rows it is; all, where there is none."""
    if span is None:
        return [*range(file.num_row_groups)], slice(0, None)
    counts = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    over = span.before - sum(counts[: span.start])
    ends = accumulate(counts[span.start :])
    groups = 1 + sum(end < over + span.records for end in ends)
    return [*range(span.start, min(span.start + groups, len(counts)))], slice(over, over + span.records)


LINES, PARQUET = LinesReader(), ParquetReader()
