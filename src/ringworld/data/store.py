"""Examples on disk: shards of records, and a manifest that says where each came from and what it hashes to.

    DIR/origin.json            the inputs and the configuration of this folder; it holds examples of no others
    DIR/manifest.parquet       one row per record; written last: it commits the whole
    DIR/shards/b3f6cda12c2b0e7a.array_record
    DIR/shards/b3f6cda12c2b0e7a.parquet    the manifest of one shard; commits the shard
    DIR/quarantine.jsonl       files that could not be used, and why
    DIR/duplicates.jsonl       samples that were left out, since another is the same
    DIR/.unread.jsonl          files that ended the process that read them; where there are any

A record holds the examples of one sample; see `ringworld.data.record`.
"""

import hashlib
import resource
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from jaxtyping import Bool, Float, Int, Shaped

from ringworld.core.config import from_json
from ringworld.core.errors import InputError, listed
from ringworld.core.files import reading, writing
from ringworld.core.origin import read_origin
from ringworld.data.clips import ClipCodes, count_shown, shown
from ringworld.data.config import ClipConfig, Split
from ringworld.data.examples import Cut, Example
from ringworld.data.making import Group, Unfilled
from ringworld.data.recipe import Shown
from ringworld.data.record import decode_example, encode_group
from ringworld.text import chat
from ringworld.text.vocabulary import Vocabulary
from ringworld.vision.sampling import evenly

FORMAT = 3
ALL_FRAMES = ClipConfig()
MANIFEST_FILE, QUARANTINE_FILE, DUPLICATES_FILE = "manifest.parquet", "quarantine.jsonl", "duplicates.jsonl"
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
    """One example."""

    dataset: str
    kind: str
    split: Split
    source: str
    start_token: int
    cut: Cut
    shard: str
    """Name of the shard, without suffix."""
    record: int
    """Index in the shard."""
    example: int
    """Index in the record."""
    words: int
    """Tokens besides those of frames."""
    frames: list[int]
    """Of each clip that it shows, the frames that were prepared."""
    frames_per_second: list[float]
    """Of each clip."""
    seconds: list[float]
    """How long the whole video of each clip is; 0 for an image, or one frame of a video."""
    tokens: int
    """All tokens, where each clip is shown with all its frames."""
    vision_tokens: int
    text_loss_tokens: int
    vision_loss_tokens: int
    checksum: str
    """BLAKE2b of the record, 16 bytes in hexadecimal."""


_TYPES = {int: pa.int64(), list[int]: pa.list_(pa.int64()), list[float]: pa.list_(pa.float64())}
_SCHEMA = pa.schema([(row.name, _TYPES.get(row.type, pa.string())) for row in fields(ManifestRow)])  # type: ignore[arg-type]


def write_shard(stem: Path, groups: Iterable[Group], *, vocabulary: Vocabulary) -> pa.Table:
    """Write `stem.array_record`, whole or not at all, and return the manifest of these records.

    Writing that manifest as `stem.parquet` commits the shard.
    """
    rows: list[ManifestRow] = []
    with (
        writing(stem.with_suffix(".array_record")) as temporary,
        closing(ArrayRecordWriter(str(temporary), _WRITER_OPTIONS)) as writer,
    ):
        for index, group in enumerate(groups):
            record = encode_group(group)
            writer.write(record)
            at = {"split": group.split, "shard": stem.name, "record": index, "checksum": _checksum(record)}
            for number, unfilled in enumerate(group.examples):
                rows.append(ManifestRow(example=number, **at, **_described(unfilled, group, vocabulary)))
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=_SCHEMA)


def _described(unfilled: Unfilled, group: Group, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return what a manifest says of an example itself."""
    example, clips = unfilled.example, [group.clips[one.clip] for one in unfilled.shown]
    frames = [1 if one.frame is not None else len(clip.codes) for one, clip in zip(unfilled.shown, clips)]
    words = len(example) - len(clips)
    vision = sum(frames) * vocabulary.frame_tokens
    slots = example.tokens == chat.FRAMES
    in_clips = sum(
        count * vocabulary.frame_tokens for count, loss in zip(frames, example.loss[slots].tolist()) if loss
    )
    is_vision = vocabulary.is_vision(example.tokens)
    return {
        "dataset": example.dataset,
        "kind": example.kind,
        "source": example.source,
        "start_token": example.start_token,
        "cut": example.cut,
        "words": words,
        "frames": frames,
        "frames_per_second": [clip.frames_per_second for clip in clips],
        "seconds": [clip.seconds if one.frame is None else 0.0 for one, clip in zip(unfilled.shown, clips)],
        "tokens": words + vision,
        "vision_tokens": vision + int(is_vision.sum()),
        "text_loss_tokens": int((example.loss & ~is_vision & ~slots)[1:].sum()),
        "vision_loss_tokens": in_clips + int((example.loss & is_vision)[1:].sum()),
    }


def write_manifest(path: Path, manifest: pa.Table) -> None:
    """Write a manifest whole or not at all, with checksums; its bytes follow from its rows alone."""
    with writing(path) as temporary:
        pq.write_table(manifest.combine_chunks(), temporary, write_page_checksum=True)


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
    # Parquet gives the items of lists another name than Arrow does.
    return manifest.cast(_SCHEMA.with_metadata(manifest.schema.metadata))


class ExampleStore:
    """The examples of prepared data, read in any order, each checked against the manifest."""

    def __init__(self, directory: Path, *, most_open: int | None = None) -> None:
        """Open the data that `prepare` wrote.

        Args:
            directory: the folder.
            most_open: shards that are open at the same time; by default half of the files that a process may
                open.

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
            raise InputError(
                f"{directory} holds examples in format {self.dataset.format}, not in format {FORMAT} as this "
                "version writes them",
                path=directory,
                field="format",
                value=self.dataset.format,
                remedy="prepare the data again, into another folder",
            )
        self.manifest = read_manifest(path).combine_chunks()
        self._columns = {name: self.manifest[name].combine_chunks() for name in self.manifest.column_names}
        self._readers: dict[str, ArrayRecordReader] = {}
        """Those of the shards that were read last, in this order."""
        self._most_open = most_open or resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2

    def __len__(self) -> int:
        return len(self.manifest)

    def column(self, name: str) -> Shaped[np.ndarray, " records"]:
        """Return one column of the manifest."""
        return self.manifest[name].to_numpy()

    @property
    def fingerprint(self) -> str:
        """Hash of all records and their order."""
        return _checksum("".join(self.manifest["checksum"].to_pylist()).encode())

    def lengths(self, clips: ClipConfig = ALL_FRAMES) -> Int[np.ndarray, " examples"]:
        """Return the tokens of each example, where of its clips what `clips` says is shown."""
        frames, rates = (self._flat(name) for name in ("frames", "frames_per_second"))
        counts = count_shown(frames, rates, clips=clips)
        vision = np.bincount(self._example_of_clips(), weights=counts, minlength=len(self)).astype(int)
        return self.column("words") + vision * self.dataset.vocabulary.frame_tokens

    def document_lengths(self, clips: ClipConfig = ALL_FRAMES) -> Int[np.ndarray, " examples"]:
        """Return the tokens of the whole document that each example is a piece of; of others, their own."""
        lengths = self.lengths(clips)
        pieces = np.flatnonzero(self.column("cut") == "tokens")
        # Pieces of a document follow each other, and the first begins with its first token.
        document = np.cumsum(self.column("start_token")[pieces] == 0) - 1
        lengths[pieces] = np.bincount(document, weights=lengths[pieces]).astype(int)[document]
        return lengths

    def shows_clips(self) -> Bool[np.ndarray, " examples"]:
        """Return which examples show a video or an image."""
        return self._columns["frames"].value_lengths().to_numpy() > 0

    def video_seconds(self) -> Float[np.ndarray, " examples"]:
        """Return how long the video of each example is as a whole, of several the longest; 0 without one."""
        seconds = np.zeros(len(self))
        np.maximum.at(seconds, self._example_of_clips(), self._flat("seconds"))
        return seconds

    def frames_at_rate(
        self, records: Int[np.ndarray, " _"], clips: ClipConfig = ALL_FRAMES
    ) -> Int[np.ndarray, " _"]:
        """Return how many frames each of some examples with one clip has at the rate of a stage."""
        lengths = self._columns["frames"].value_lengths().to_numpy()
        first_clip = (np.cumsum(lengths) - lengths)[records]
        frames, rates = (self._flat(name)[first_clip] for name in ("frames", "frames_per_second"))
        return count_shown(frames, rates, clips=replace(clips, max_frames=0))

    def _example_of_clips(self) -> np.ndarray:
        return np.repeat(np.arange(len(self)), self._columns["frames"].value_lengths().to_numpy())

    def _flat(self, name: str) -> np.ndarray:
        return self._columns[name].flatten().to_numpy()

    def read(
        self, index: int, *, clips: ClipConfig = ALL_FRAMES, start: int = 0, stop: int | None = None
    ) -> Example:
        """Read example `index` of the manifest, or a piece of it; see `read_all`."""
        return next(self.read_all([(index, start, stop)], clips=clips))

    def read_all(
        self, parts: Sequence[tuple[int, int, int | None]], *, clips: ClipConfig = ALL_FRAMES
    ) -> Iterator[Example]:
        """Read examples, or pieces of them, in this order; the records of each shard are read at once.

        Args:
            parts: of each, its row of the manifest, and where a piece begins and ends: a token, or a frame of
                what is cut between frames. None reads to the end.
            clips: which of the prepared frames of their clips are shown.

        Raises:
            InputError: a shard is missing, or a record is not what was written.
        """
        rows = [index for index, _, _ in parts]
        for (_, start, stop), record, number in zip(
            parts, self._records(rows), self._values("example", rows)
        ):
            yield self._filled(*decode_example(record, number), clips, start, stop)

    def _filled(
        self,
        of_group: tuple[ClipCodes, ...],
        unfilled: Unfilled,
        clips: ClipConfig,
        start: int,
        stop: int | None,
    ) -> Example:
        """Return an example or a piece of it, with the frames of its clips that are shown."""
        example, window = unfilled.example, slice(0, None)
        if not unfilled.shown:
            return _piece(example, start, stop)
        if example.cut == "frames":
            window, clips = slice(start, stop), replace(clips, max_frames=0)
        codes = [_chosen(of_group[one.clip], one, clips, window) for one in unfilled.shown]
        encoded = chat.Encoded(tokens=example.tokens, loss=example.loss)
        filled = chat.fill(encoded, codes, vocabulary=self.dataset.vocabulary)
        whole = replace(example, tokens=filled.tokens, loss=filled.loss)
        if example.cut == "frames":
            before = example.start_token + start * self.dataset.vocabulary.frame_tokens
            return replace(whole, start_token=before)
        return _piece(whole, start, stop)

    def _values(self, name: str, rows: Sequence[int]) -> list[Any]:
        return self._columns[name].take(pa.array(rows, pa.int64())).to_pylist()

    def _records(self, rows: Sequence[int]) -> list[bytes]:
        found = [b""] * len(rows)
        numbers, checksums = self._values("record", rows), self._values("checksum", rows)
        of_shard: dict[str, list[int]] = {}
        for at, shard in enumerate(self._values("shard", rows)):
            of_shard.setdefault(shard, []).append(at)
        for shard, wanted in of_shard.items():
            file = self._directory / SHARDS_FOLDER / f"{shard}.array_record"
            reader = self._reader(shard, file)
            of_file = [numbers[at] for at in wanted]
            if max(of_file) >= reader.num_records():
                raise _damaged(file, f"is cut before record {max(of_file)}")
            try:
                records = reader.read(of_file)
            except (RuntimeError, ValueError) as error:
                named = listed(list(map(str, of_file)))
                raise _damaged(file, f"is damaged at one of the records {named} ({error})") from None
            for at, record in zip(wanted, records):
                if _checksum(record) != checksums[at]:
                    raise _damaged(file, f"has another checksum at record {numbers[at]} than {checksums[at]}")
                found[at] = record
        return found

    def _reader(self, shard: str, file: Path) -> ArrayRecordReader:
        reader = self._readers.pop(shard, None)
        if reader is None:
            if not file.exists():
                raise _damaged(file, "does not exist, but the manifest names it")
            if len(self._readers) == self._most_open:
                self._readers.pop(next(iter(self._readers))).close()
            reader = ArrayRecordReader(str(file))
        self._readers[shard] = reader
        return reader


def read_examples(
    directory: Path, *, split: Split, kinds: Collection[str] | None = None, clips: ClipConfig = ALL_FRAMES
) -> Iterator[Example]:
    """Yield the examples of one split in the order in which they were written, or those of some kinds.

    Raises:
        InputError: there is no prepared data in `directory`, or it is damaged.
    """
    store = ExampleStore(directory)
    for index, (kind, of) in enumerate(zip(store.column("kind"), store.column("split"))):
        if of == split and (kinds is None or kind in kinds):
            yield store.read(index, clips=clips)


def _piece(example: Example, start: int, stop: int | None) -> Example:
    if start == 0 and stop in (None, len(example)):
        return example
    return example.part(start=start, stop=len(example) if stop is None else stop)


def _chosen(clip: ClipCodes, one: Shown, clips: ClipConfig, window: slice) -> Int[np.ndarray, "frames codes"]:
    if one.frame is not None:
        return clip.codes[one.frame : one.frame + 1]
    at_rate = shown(len(clip.codes), clip.frames_per_second, clips=clips)[window]
    return clip.codes[evenly(at_rate.tolist(), clips.max_frames or len(at_rate))]


def _checksum(record: bytes) -> str:
    return hashlib.blake2b(record, digest_size=16).hexdigest()


def _damaged(path: Path, how: str) -> InputError:
    return InputError(f"{path} {how}", path=path, remedy=_REMEDY)
