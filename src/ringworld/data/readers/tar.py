r"""Tars as WebDataset writes them: the entries of one sample stand together and share a name up to the dot.

    000001.mp4   000001.json   000001.txt

`.json` is a record as in JSON lines, or holds a caption and questions as a sidecar does; `.txt` is a caption
of the video or image beside it, or a document where there is none. Members are read one after the other, and
none is ever written under the name that it has.
"""

import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from ringworld.core.errors import InputError
from ringworld.core.files import is_disk_full, parse_json
from ringworld.data.config import PrepareConfig
from ringworld.data.copies import named_as
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.readers.location import Location
from ringworld.data.readers.records import sample_of
from ringworld.data.samples import MediaFile, Sample
from ringworld.data.sidecars import read_sidecars
from ringworld.data.sources import Reader, Source
from ringworld.data.splits import file_content, split_of
from ringworld.text.read_text import decode_file, read_text
from ringworld.vision.media import media_format

_DAMAGE = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError)
_READS_AT_THE_END = 100
_LONGEST_ENDING = 32
_WRITTEN = (".json", ".txt", ".text", ".md")
_RECORD_KEYS = ("messages", "fields", "text")
_PASSED_OVER = (".cls", ".id", ".key", "__key__")


@dataclass(kw_only=True, slots=True)
class _Group:
    """The entries of one sample, copied into a folder of their own."""

    key: str
    most_bytes: int
    """That its entries may have together."""
    files: dict[str, Path] = field(default_factory=dict)
    """By their ending."""
    size: int = 0
    """Bytes of all."""
    problem: str = ""

    def add(self, ending: str, size: int, *, folder: Path) -> Path | None:
        """Return where an entry of the group is copied to; None where there is a problem with the group."""
        self.size += size
        if self.size > self.most_bytes:
            self.problem = f"has more than {self.most_bytes} bytes"
        elif ending in self.files:
            self.problem = f"comes twice with the ending {ending}"
        elif ending not in _WRITTEN and (others := self.files.keys() - set(_WRITTEN)):
            self.problem = f"has several videos or images ({', '.join(sorted({ending, *others}))})"
        if self.problem:
            return None
        self.files[ending] = folder / f"{len(self.files)}{ending[:_LONGEST_ENDING]}"
        return self.files[ending]


class TarReader(Reader):
    """A tar, compressed or not, of many samples."""

    name, holds, shows, version = "tar", "many", "either", 3

    def __init__(self, *, most_sample_bytes: int = 4 * 2**30) -> None:
        """Bound what the entries of one sample may have together, and so what is copied at once."""
        self._most_sample_bytes = most_sample_bytes

    def read(
        self, source: Source, *, config: PrepareConfig, quarantined: list[Quarantined]
    ) -> Iterator[Sample]:
        """Yield the sample of each group of entries; its files are there until the next is asked for.

        The content of its video or image, else of its record, decides whether one is held out.
        """
        usable = 0
        for group in _groups(source.path, most_bytes=self._most_sample_bytes):
            key = f"{source.relative}#{group.key}"
            with quarantine(key, into=quarantined):
                sample = _sample(group, source=source, key=key, config=config)
                usable += 1
                yield sample
        if not usable:
            raise InputError(f"{source.path} holds no sample that can be used", path=source.path)


def _sample(group: _Group, *, source: Source, key: str, config: PrepareConfig) -> Sample:
    if group.problem:
        remedy = "give each video or image a name of its own, and what is said of it the same name"
        if group.size > group.most_bytes:
            remedy = "prepare what is so large as files, beside the tar"
        raise _wrong(group, group.problem, source=source, remedy=remedy)
    names = {path: f"{source.path}, entry {group.key}{ending}" for ending, path in group.files.items()}
    with named_as(names, path=source.path):
        media = next((ending for ending in group.files if ending not in _WRITTEN), None)
        if media is None:
            return _written_sample(group, source=source, key=key, config=config)
        written = [path for ending, path in group.files.items() if ending in _WRITTEN]
        said, path = read_sidecars(written), group.files[media]
        part = f"entry {group.key}{media}"
        clip = MediaFile(path=path, form=media_format(path), holder=source.path, part=part)
        return Sample(
            key=key,
            split=split_of(file_content(path), source, config),
            clip=clip,
            caption=said.caption,
            questions=said.questions,
            unanswered=said.unanswered,
        )


def _written_sample(group: _Group, *, source: Source, key: str, config: PrepareConfig) -> Sample:
    """Return the sample of a group without a video or an image: a record, or a document."""
    record: Any = {}
    if ".json" in group.files:
        text = decode_file(group.files[".json"], max_bytes=config.max_text_bytes)
        try:
            record = parse_json(text, numbers="any")
        except ValueError as error:
            raise _wrong(group, f"holds no JSON ({error})", source=source) from None
    if not isinstance(record, dict):
        raise _wrong(group, "holds no JSON object", source=source)
    if all(record.get(name) is None for name in _RECORD_KEYS):
        document = next((path for ending, path in group.files.items() if ending != ".json"), None)
        if document is None:
            raise _wrong(group, "has neither a video, an image nor a text", source=source)
        record = {**record, "text": read_text(document, max_bytes=config.max_text_bytes)}
    scratch = next(iter(group.files.values())).parent
    location = Location(source.path, part=f"entry {group.key}", scratch=scratch)
    return sample_of(record, location, source=source, key=key, config=config)


def _wrong(group: _Group, problem: str, *, source: Source, remedy: str = "") -> InputError:
    part = f"entry {group.key}"
    return InputError(f"{source.path}, {part} {problem}", path=source.path, field=part, remedy=remedy)


class _UntilItsEnd:
    """A file that is not read on and on beyond its end, as tarfile does where a header gives any size."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._left = stream, _READS_AT_THE_END

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes.

        Raises:
            EOFError: the end was read many times.
        """
        content = self._stream.read(size)
        self._left -= not content
        if self._left < 0:
            raise EOFError("it ends within an entry")
        return content


def _groups(path: Path, *, most_bytes: int) -> Iterator[_Group]:
    """Yield the groups of entries of a tar, each while its files are there.

    Raises:
        InputError: it is no tar, or damaged.
    """
    try:
        with (
            path.open("rb") as stream,
            tarfile.open(fileobj=cast(BinaryIO, _UntilItsEnd(stream)), mode="r|*") as tar,
        ):
            group, folder = None, tempfile.TemporaryDirectory()
            try:
                for entry in tar:
                    key, ending = _named(entry.name)
                    if not entry.isfile() or not key or ending in _PASSED_OVER:
                        continue
                    if group is not None and key != group.key:
                        yield group
                        folder.cleanup()
                        group, folder = None, tempfile.TemporaryDirectory()
                    group = group or _Group(key=key, most_bytes=most_bytes)
                    content = tar.extractfile(entry)
                    assert content is not None
                    if copy := group.add(ending, entry.size, folder=Path(folder.name)):
                        with copy.open("wb") as written:
                            shutil.copyfileobj(content, written)
                if group is not None:
                    yield group
            finally:
                folder.cleanup()
    except _DAMAGE as error:
        if is_disk_full(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is no tar, or cut or damaged ({reason})", path=path) from None


def _named(name: str) -> tuple[str, str]:
    """Return the name of an entry up to the first dot of its last part, and the ending in lower case.

    `a/b.c/000001.mp4` is `a/b.c/000001` and `.mp4`; of `x.seg.txt` the ending is `.txt`.
    """
    folder, slash, last = name.rpartition("/")
    stem = last.partition(".")[0]
    ending = Path(last).suffix.lower()
    safe = "".join(letter for letter in ending if letter.isalnum() or letter == ".")
    return (folder + slash + stem if stem and ending else ""), safe


TAR = TarReader()
