"""Examples on disk: shards of records, and a manifest that says where each came from and what it hashes to.

    DIR/origin.json            the inputs and the configuration of this folder; it holds examples of no others
    DIR/manifest.parquet       one row per record; written last: it commits the whole
    DIR/shards/00000-of-00004-b3f6cda12c2b0e7a.array_record
    DIR/shards/00000-of-00004-b3f6cda12c2b0e7a.parquet    the manifest of one shard; commits the shard
    DIR/quarantine.jsonl       files that could not be used, and why

A record is a little-endian uint32 (length of the header), the header as msgpack, the ids as little-endian
int32, and one bit per token that is set where it carries loss.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Shaped

from ringworld.core.config import from_json
from ringworld.core.errors import InputError
from ringworld.core.files import reading, writing
from ringworld.core.origin import read_origin
from ringworld.data.config import KINDS, Kind, Split
from ringworld.data.examples import Example
from ringworld.text.vocabulary import Vocabulary

FORMAT = 1
MANIFEST_FILE, QUARANTINE_FILE = "manifest.parquet", "quarantine.jsonl"
SHARDS_FOLDER = "shards"
# One record per group keeps random access cheap: 63k reads a second, against 14k with groups of 16.
_WRITER_OPTIONS = "group_size:1,zstd:3"
_REMEDY = "delete that file and prepare the data again, which makes only what is missing"


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """What the ids of prepared data mean, and what made them."""

    format: int
    vocabulary: Vocabulary
    text_tokenizer: str
    """Fingerprint of the text tokenizer."""
    frame_tokenizer: str | None
    """Fingerprint of the frame tokenizer; None where all is text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ManifestRow:
    """One record."""

    kind: Kind
    split: Split
    source: str
    start_token: int
    shard: str
    """Name of the shard, without suffix."""
    record: int
    """Index in the shard."""
    tokens: int
    vision_tokens: int
    text_loss_tokens: int
    vision_loss_tokens: int
    checksum: str
    """BLAKE2b of the record, 16 bytes in hexadecimal."""


_SCHEMA = pa.schema(
    [(row.name, pa.int64() if row.type is int else pa.string()) for row in fields(ManifestRow)]
)


def write_shard(stem: Path, examples: Iterable[tuple[Example, Split]], *, vocabulary: Vocabulary) -> pa.Table:
    """Write `stem.array_record`, whole or not at all, and return the manifest of these records.

    Writing that manifest as `stem.parquet` commits the shard.
    """
    rows: list[ManifestRow] = []
    with (
        writing(stem.with_suffix(".array_record")) as temporary,
        closing(ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)) as writer,
    ):
        for example, split in examples:
            record = _encode(example)
            is_vision = vocabulary.is_vision(example.tokens)
            writer.write(record)
            rows.append(
                ManifestRow(
                    kind=example.kind,
                    split=split,
                    source=example.source,
                    start_token=example.start_token,
                    shard=stem.name,
                    record=len(rows),
                    tokens=len(example),
                    vision_tokens=int(is_vision.sum()),
                    text_loss_tokens=int((example.loss & ~is_vision)[1:].sum()),
                    vision_loss_tokens=int((example.loss & is_vision)[1:].sum()),
                    checksum=_checksum(record),
                )
            )
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA)


def write_manifest(path: Path, manifest: pa.Table) -> None:
    """Write a manifest whole or not at all, with checksums."""
    with writing(path) as temporary:
        pq.write_table(manifest, temporary, write_page_checksum=True)


def read_manifest(path: Path) -> pa.Table:
    """Read a manifest, the metadata of its schema included.

    Raises:
        InputError: it is damaged, or another table.
    """
    damage = (pa.ArrowException, OSError, UnicodeDecodeError)
    with path.open("rb") as stream, reading(path, expected="a manifest", damage=damage, remedy=_REMEDY):
        # Without Arrow's threads: one that lets go of Python's memory while the process ends aborts it.
        file = pq.ParquetFile(stream, page_checksum_verification=True, pre_buffer=False)
        manifest = file.read(use_threads=False)
        columns = ", ".join(manifest.column_names)
    if not manifest.schema.equals(_SCHEMA):
        raise _damaged(path, f"has the columns {columns}, not {', '.join(_SCHEMA.names)}")
    return manifest


class ExampleStore:
    """The examples of prepared data, read in any order, each checked against the manifest."""

    def __init__(self, directory: Path) -> None:
        """Open the data that `prepare` wrote.

        Raises:
            InputError: there is none, it is not finished, it is damaged, or another version wrote it.
        """
        path = directory / MANIFEST_FILE
        if not path.exists():
            raise InputError(
                f"{directory} holds no prepared data, since it has no {MANIFEST_FILE}",
                path=directory,
                remedy="prepare the data; a run that was stopped resumes",
            )
        self._directory = directory
        made_by = read_origin(directory, kind="examples").identity["made_by"]
        self.dataset = from_json(Dataset, {field.name: made_by[field.name] for field in fields(Dataset)})
        if self.dataset.format != FORMAT:
            raise _damaged(directory, f"has format {self.dataset.format}, not {FORMAT}")
        self.manifest = read_manifest(path)
        self._readers: dict[str, ArrayRecordReader] = {}

    def __len__(self) -> int:
        return len(self.manifest)

    def column(self, name: str) -> Shaped[np.ndarray, " records"]:
        """Return one column of the manifest."""
        return self.manifest[name].to_numpy()

    @property
    def fingerprint(self) -> str:
        """Hash of all records and their order."""
        return _checksum("".join(self.manifest["checksum"].to_pylist()).encode())

    def read(self, index: int) -> Example:
        """Read record `index` of the manifest.

        Raises:
            InputError: the shard is missing, or the record is not what was written.
        """
        row = ManifestRow(**self.manifest.slice(index, 1).to_pylist()[0])
        file = self._directory / SHARDS_FOLDER / f"{row.shard}.array_record"
        if row.shard not in self._readers:
            if not file.exists():
                raise _damaged(file, "does not exist, but the manifest names it")
            self._readers[row.shard] = ArrayRecordReader(str(file))
        reader = self._readers[row.shard]
        if row.record >= reader.num_records():
            raise _damaged(file, f"is cut before record {row.record}")
        try:
            record = reader.read([row.record])[0]
        except (RuntimeError, ValueError) as error:
            raise _damaged(file, f"is damaged at record {row.record} ({error})") from None
        if _checksum(record) != row.checksum:
            raise _damaged(file, f"has another checksum at record {row.record} than {row.checksum}")
        return _decode(record)


def read_examples(directory: Path, *, split: Split, kinds: Iterable[Kind] = KINDS) -> Iterator[Example]:
    """Yield the examples of one split in the order in which they were written.

    Raises:
        InputError: there is no prepared data in `directory`, or it is damaged.
    """
    store, wanted = ExampleStore(directory), set(kinds)
    for index, (kind, of) in enumerate(zip(store.column("kind"), store.column("split"))):
        if of == split and kind in wanted:
            yield store.read(index)


def _encode(example: Example) -> bytes:
    names = ("kind", "source", "start_token")
    header = msgpack.packb({name: getattr(example, name) for name in names} | {"tokens": len(example)})
    assert header is not None
    ids = example.tokens.astype("<i4").tobytes()
    return struct.pack("<I", len(header)) + header + ids + np.packbits(example.loss).tobytes()


def _decode(record: bytes) -> Example:
    (header_bytes,) = struct.unpack_from("<I", record)
    header = msgpack.unpackb(record[4 : 4 + header_bytes])
    count, start = header.pop("tokens"), 4 + header_bytes
    ids = np.frombuffer(record, "<i4", count=count, offset=start).astype(np.int32)
    bits = np.frombuffer(record, np.uint8, offset=start + 4 * count)
    return Example(tokens=ids, loss=np.unpackbits(bits, count=count).astype(bool), **header)


def _checksum(record: bytes) -> str:
    return hashlib.blake2b(record, digest_size=16).hexdigest()


def _damaged(path: Path, how: str) -> InputError:
    return InputError(f"{path} {how}", path=path, remedy=_REMEDY)
