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
from contextlib import closing
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
from ringworld.data.sources import Reader, Source
from ringworld.data.splits import split_of, text_content
from ringworld.text.read_text import is_text, read_lines

Records = Generator[tuple[int, Mapping[str, Any] | InputError], None, None]
_ROWS_AT_ONCE = 64
_COLUMNS = ("messages", "text", "questions")
_PARQUET_DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError)


class RecordsReader(Reader):
    """A file of many samples, each with the split that its content has anywhere; see `splits.split_of`."""

    version, holds, shows = 3, "many", "either"
    part: str
    """What a record is called."""

    @abstractmethod
    def records(self, path: Path, *, config: PrepareConfig) -> Records:
        """Yield the number of each record, counted from 1, and what it holds or what is wrong with it."""

    def read(
        self, source: Source, *, config: PrepareConfig, quarantined: list[Quarantined]
    ) -> Iterator[Sample]:
        """Yield the sample of each record that is one."""
        usable = 0
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(self.records(source.path, config=config)) as all,
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
        if not usable:
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
        if not is_text(text) or not text.strip():
            raise location.wrong('has no "text" that is valid Unicode', field="text", value=text)
        if len(text) > config.max_text_bytes:
            problem = f"has a text of {len(text)} characters; at most {config.max_text_bytes} are read"
            raise location.wrong(problem, field="text", remedy="split it, or raise max_text_bytes")
        said = parse_sidecar({"questions": record.get("questions")}, path=location.path, part=location.part)
        content = {"text": text, "questions": said.questions, "unanswered": said.unanswered}
    return Sample(key=key, split=split_of(_content(record), source, config), **content)


class LinesReader(RecordsReader):
    """JSON lines, in any encoding that texts may have."""

    name, part = "lines", "line"

    def records(self, path: Path, *, config: PrepareConfig) -> Records:
        """Yield the object of each line that is not blank."""
        for line in read_lines(path, longest=config.max_text_bytes):
            wrong = InputError(f"in {path}, {line.problem}", path=path, field=f"line {line.number}")
            yield line.number, wrong if line.problem else line.value


class ParquetReader(RecordsReader):
    """A table of Parquet with a column `text`, `messages` or `fields`; rows are read a few at a time."""

    name, part = "parquet", "row"

    def records(self, path: Path, *, config: PrepareConfig) -> Records:
        """Yield each row."""
        try:
            with pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False) as file:
                # Of `fields` any column may be one; else the others need not be what Python can hold.
                named = set(file.schema_arrow.names)
                columns = None if "fields" in named else [name for name in _COLUMNS if name in named] or None
                rows = (
                    batch.slice(i, 1)
                    for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns, use_threads=False)
                    for i in range(len(batch))
                )
                for number, row in enumerate(rows, start=1):
                    try:
                        (record,) = row.to_pylist()
                    except (ValueError, OverflowError) as error:  # such as a time in nanoseconds
                        problem = f"in {path}, row {number} cannot be read ({error})"
                        yield number, InputError(problem, path=path, field=f"row {number}")
                    else:
                        yield number, record
        except _PARQUET_DAMAGE as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path} is no table of Parquet, or damaged ({reason})", path=path) from None


def _content(record: Mapping[str, Any]) -> str:
    if not record.keys() & {"messages", "fields"}:
        return text_content(record["text"])
    said = record.get("messages", record)  # whatever else stands beside it
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


LINES, PARQUET = LinesReader(), ParquetReader()
