r"""Tars as WebDataset writes them: the entries of one sample stand together and share a name up to the dot.

    000001.mp4   000001.json   000001.txt

`.json` is a record as in JSON lines, or holds a caption and questions as a sidecar does; `.txt` is a caption
of the video or image beside it, or a document where there is none. A conversation names what is beside it,
`"image": "000001.jpg"`. Entries are read one after the other, and none is ever written under the name that it
has.
"""

import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
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
from ringworld.data.sources import Reader, Source, Span
from ringworld.data.splits import file_content, split_of
from ringworld.text.read_text import decode_file, read_text
from ringworld.vision.media import media_format

_DAMAGE = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError)
_ENDS = ("EOFHeaderError", "EmptyHeaderError")
"""What tarfile raises at the end of a tar; stubs of it do not know these classes."""
_MAGIC, _MAGIC_AT = b"ustar", 257
_READS_AT_THE_END = 100
_LONGEST_ENDING = 32
_WRITTEN = (".json", ".txt", ".text", ".md")
_RECORD_KEYS = ("messages", "fields", "text")
_PASSED_OVER = (".cls", ".id", ".key", "__key__")


@dataclass(kw_only=True, slots=True)
class _SampleEntries:
    """The entries of one sample, copied into their own folder."""

    key: str
    most_bytes: int
    """That its entries may have together."""
    files: dict[str, Path] = field(default_factory=dict)
    """By their ending."""
    named: dict[str, Path] = field(default_factory=dict)
    """By the name of the entry, with its folders and without."""
    size: int = 0
    """Bytes of all."""
    problem: str = ""

    def add(self, ending: str, name: str, size: int, *, folder: Path) -> Path | None:
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
        copy = folder / f"{len(self.files)}{ending[:_LONGEST_ENDING]}"
        self.files[ending] = self.named[name] = self.named[name.rpartition("/")[2]] = copy
        return copy


class TarReader(Reader):
    """A tar, compressed or not, of many samples."""

    name, holds, shows, version = "tar", "many", "either", 5

    def __init__(self, *, most_sample_bytes: int = 4 * 2**30) -> None:
        """Bound what the entries of one sample may have together, and so what is copied at once."""
        self._most_sample_bytes = most_sample_bytes

    def spans(self, source: Source, *, most_bytes: int) -> Iterator[Span]:
        """Yield spans of whole groups of entries of a tar that is not compressed."""
        with _damage_named(source.path), source.path.open("rb") as stream:
            if not _is_plain(stream):
                return
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                start = before = groups = 0
                last = ""
                for entry in _entries(tar):
                    key, _ = _sample_entry(entry)
                    if not key or key == last:
                        continue
                    if groups and entry.offset - start >= most_bytes:
                        yield Span(start=start, before=before, records=groups)
                        start, before, groups = entry.offset, before + groups, 0
                    groups, last = groups + 1, key
                if tar.pax_headers:
                    problem = f"{source.path} has headers that are of all entries behind them"
                    raise InputError(problem, path=source.path)
                if groups:
                    yield Span(start=start, before=before, records=groups)

    def read(
        self, source: Source, *, config: PrepareConfig, quarantined: list[Quarantined]
    ) -> Iterator[Sample]:
        """Yield the sample of each group of entries; its files are there until the next is asked for.

        The content of its conversation, or of its video or image, else of its record, decides whether one is
        held out.
        """
        usable = 0
        groups = _groups(source, most_bytes=self._most_sample_bytes)
        for group in islice(groups, source.span.records if source.span else None):
            key = f"{source.relative}#{group.key}"
            with quarantine(key, into=quarantined):
                sample = _sample(group, source=source, key=key, config=config)
                usable += 1
                yield sample
        if not usable and source.span is None:
            raise InputError(f"{source.path} holds no sample that can be used", path=source.path)


def _sample(group: _SampleEntries, *, source: Source, key: str, config: PrepareConfig) -> Sample:
    if group.problem:
        remedy = "give each video or image a name of its own, and what is said of it the same name"
        if group.size > group.most_bytes:
            remedy = "prepare what is so large as files, beside the tar"
        raise _wrong(group, group.problem, source=source, remedy=remedy)
    names = {path: f"{source.path}, entry {group.key}{ending}" for ending, path in group.files.items()}
    with named_as(names, path=source.path):
        media = next((ending for ending in group.files if ending not in _WRITTEN), None)
        record = _record(group, source=source, config=config)
        if media is None:
            return _written_sample(group, record, source=source, key=key, config=config)
        if record.get("messages") is not None:
            talk = _written_sample(group, record, source=source, key=key, config=config)
            if group.files[media] not in [getattr(clip, "path", None) for clip in talk.clips]:
                remedy = "name it in the messages"
                problem = f"has {media[1:]}, which its conversation does not show"
                raise _wrong(group, problem, source=source, remedy=remedy)
            return talk
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


def _record(group: _SampleEntries, *, source: Source, config: PrepareConfig) -> dict[str, Any]:
    """Return what the JSON of a group says; nothing, where it has none."""
    if ".json" not in group.files:
        return {}
    text = decode_file(group.files[".json"], max_bytes=config.max_text_bytes)
    try:
        record = parse_json(text, numbers="any")
    except ValueError as error:
        raise _wrong(group, f"holds no JSON ({error})", source=source) from None
    if not isinstance(record, dict):
        raise _wrong(group, "holds no JSON object", source=source)
    return record


def _written_sample(
    group: _SampleEntries, record: dict[str, Any], *, source: Source, key: str, config: PrepareConfig
) -> Sample:
    """Return the sample of a group without a video or an image, or with a conversation about one."""
    if all(record.get(name) is None for name in _RECORD_KEYS):
        document = next((path for ending, path in group.files.items() if ending != ".json"), None)
        if document is None:
            raise _wrong(group, "has neither a video, an image nor a text", source=source)
        record = {**record, "text": read_text(document, max_bytes=config.max_text_bytes)}
    scratch = next(iter(group.files.values())).parent
    location = Location(source.path, part=f"entry {group.key}", scratch=scratch, entries=group.named)
    return sample_of(record, location, source=source, key=key, config=config)


def _wrong(group: _SampleEntries, problem: str, *, source: Source, remedy: str = "") -> InputError:
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


def _groups(source: Source, *, most_bytes: int) -> Iterator[_SampleEntries]:
    """Yield the groups of entries of a tar, or of a part of it and beyond, each while its files are there.

    Raises:
        InputError: it is no tar, or damaged.
    """
    with _damage_named(source.path), source.path.open("rb") as stream:
        stream.seek(source.span.start if source.span else 0)
        guarded = cast(BinaryIO, _UntilItsEnd(stream))
        with tarfile.open(fileobj=guarded, mode="r|" if source.span else "r|*") as tar:
            group, folder = None, tempfile.TemporaryDirectory()
            try:
                for entry in _entries(tar):
                    key, ending = _sample_entry(entry)
                    if not key:
                        continue
                    if group is not None and key != group.key:
                        yield group
                        folder.cleanup()
                        group, folder = None, tempfile.TemporaryDirectory()
                    group = group or _SampleEntries(key=key, most_bytes=most_bytes)
                    content = tar.extractfile(entry)
                    assert content is not None
                    if copy := group.add(ending, entry.name, entry.size, folder=Path(folder.name)):
                        with copy.open("wb") as written:
                            shutil.copyfileobj(content, written)
                if group is not None:
                    yield group
            finally:
                folder.cleanup()


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Say what tarfile raises as damage of a file; a full disk is none."""
    try:
        yield
    except InputError:
        raise
    except _DAMAGE as error:
        if is_disk_full(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} is no tar, or cut or damaged ({reason})", path=path) from None


def _entries(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the entries of a tar, whose list it does not keep, and which a damaged header does not end.

    Raises:
        tarfile.TarError: a header is damaged, or the file ends within an entry.
    """
    entry = tar.next()  # which opening has read
    stream = cast(BinaryIO, tar.fileobj)
    while entry is not None:
        yield entry
        if stream.tell() > tar.offset:
            raise tarfile.ReadError("an entry has less than nothing")
        if stream.tell() < tar.offset:
            stream.seek(tar.offset - 1)
            if not stream.read(1):
                raise tarfile.ReadError("it ends within an entry")
        try:
            entry = tarfile.TarInfo.fromtarfile(tar)
        except tarfile.HeaderError as error:
            if type(error).__name__ not in _ENDS:
                raise
            return


def _sample_entry(entry: tarfile.TarInfo) -> tuple[str, str]:
    """Return the key and the ending of an entry; no key, where it is of no sample."""
    key, ending = _named(entry.name)
    return (key if entry.isfile() and ending not in _PASSED_OVER else ""), ending


def _is_plain(stream: BinaryIO) -> bool:
    """Return whether a file begins as a tar that is not compressed."""
    block = stream.read(tarfile.BLOCKSIZE)
    stream.seek(0)
    return block[_MAGIC_AT : _MAGIC_AT + len(_MAGIC)] == _MAGIC


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
