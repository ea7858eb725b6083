"""The user's files: which there are, what each is, and what of a folder is not used, and why."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal

from ringworld.core.errors import InputError
from ringworld.core.files import parse_json
from ringworld.core.origin import ORIGIN_FILE
from ringworld.data.config import PrepareConfig
from ringworld.data.quarantine import Quarantined, nothing_usable, quarantine
from ringworld.data.readers.manifest import MANIFEST_NAME, read_media_manifest
from ringworld.data.readers.media import IMAGE, VIDEO
from ringworld.data.readers.records import LINES, PARQUET
from ringworld.data.readers.tar import TAR
from ringworld.data.readers.text import TEXT
from ringworld.data.reading import Reading
from ringworld.data.samples import MediaForm
from ringworld.data.sidecars import BESIDE_MEDIA, BESIDE_TEXT, FolderNames, Sidecar, sidecars_of
from ringworld.data.sources import Files, Reader, Source
from ringworld.data.splits import hold_out
from ringworld.data.workers import OnFile
from ringworld.vision.media import media_format

TEXT_SUFFIXES = frozenset({".txt", ".text", ".md", ".markdown"})
RECORD_READERS: dict[str, Reader] = {
    ".jsonl": LINES,
    ".ndjson": LINES,
    ".parquet": PARQUET,
    ".tar": TAR,
    ".tgz": TAR,
    ".tar.gz": TAR,
}
"""By the end of a name, what reads a file of many samples, among videos as among texts."""
_WRITTEN = TEXT_SUFFIXES | {".json"}
_OPENED_TOGETHER = 64
_BY_THIS_PROCESS = Reading()
_Names = Callable[[Path], FolderNames]


@dataclass(kw_only=True, slots=True)
class _Root:
    """One folder or file that the user named, and what was found of it."""

    path: Path
    parameter: Literal["videos", "texts"]
    readers: Mapping[str, Reader]
    files: list[Path] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    problems: dict[Path, str] = field(default_factory=dict)
    listed: list[Quarantined] = field(default_factory=list)
    """What is wrong with a manifest's lines."""

    @property
    def base(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    def relative(self, path: Path) -> str:
        """Return a path as text; bytes of a name that are not UTF-8 are spelled out."""
        path = path if path.is_relative_to(self.base) else Path(os.path.relpath(path, self.base))
        below = (path.relative_to(self.base) if path.is_relative_to(self.base) else path).as_posix()
        return os.fsencode(below).decode("utf-8", "backslashreplace")

    @property
    def dataset(self) -> str:
        """What a mixture calls it: the name of the folder, or of the file without its ending."""
        path = self.path.resolve()
        named = path.name if path.is_dir() else path.name.partition(".")[0]
        return os.fsencode(named or "data").decode("utf-8", "backslashreplace").replace("/", "_")

    def reader_of(self, path: Path) -> Reader | None:
        """Return what reads a file of many samples; None for any other."""
        name = path.name.lower()
        return next((reader for ending, reader in self.readers.items() if name.endswith(ending)), None)

    def add(
        self, path: Path, reader: Reader, *, sidecars: tuple[Path, ...] = (), said: Sidecar | None = None
    ) -> None:
        """Make a file a source, unless it has a problem."""
        if path not in self.problems:
            source = Source(
                path=path,
                relative=self.relative(path),
                reader=reader,
                dataset=self.dataset,
                sidecars=sidecars,
                said=said,
            )
            self.sources.append(source)


def find_sources(
    *,
    videos: Sequence[Path] = (),
    texts: Sequence[Path] = (),
    config: PrepareConfig,
    readers: Mapping[str, Reader] = RECORD_READERS,
    quarantined: list[Quarantined] | None = None,
    reading: Reading = _BY_THIS_PROCESS,
) -> tuple[Source, ...]:
    """List the usable files of folders (with all below them) or single files, sorted, each with its split.

    What is inside decides whether a file among `videos` is a video or an image. Among `texts` the ending
    decides: .txt, .text, .md and .markdown are documents. Files of many samples (`readers`) are read among
    either. Files that say something about another (see `ringworld.data.sidecars.sidecars_of`) belong to
    it; where a folder of videos has a `manifest.jsonl`, that says what of the folder is used. A file found
    twice counts once. Hidden files are passed over; every other file that is not used, and every folder below
    that ringworld wrote, is appended to `quarantined`, with the reason.

    Args:
        videos: folders or files of videos and images.
        texts: folders or files of text.
        config: what is held out.
        readers: what reads a file of many samples, by the end of its name in lower case.
        quarantined: what is not used is appended here.
        reading: by whom files are opened. One that ended its process is a source that is `unread`.

    Raises:
        InputError: no path is given, one does not exist, or there is no usable file under one.
    """
    if not (videos or texts):
        raise InputError(
            "neither videos nor texts are given", field="videos", remedy="name at least one of either"
        )
    media = [_walk(path, "videos", readers) for path in videos]
    words = [_walk(path, "texts", readers) for path in texts]
    roots = (*media, *words)
    reading = reading.of(path for root in roots for path in root.files)
    names = cache(_names_in)
    captions = {sidecar for root in media for sidecar in _find_media(root, names, config)}
    _tell_apart(media, reading)
    sidecars = captions | {sidecar for root in words for sidecar in _find_texts(root, names, captions)}
    known = {source.path for root in roots for source in root.sources} | sidecars
    inputs = {root.path.resolve() for root in roots}
    for root in roots:
        known |= {path for path in root.problems if path.is_dir() and path.resolve() in inputs}
    if quarantined is not None:
        unused = {path: item for root in (*words, *media) for path, item in _unused(root, known)}
        quarantined += unused.values()
        quarantined += dict.fromkeys(item for root in media for item in root.listed)
    for root in roots:
        if not root.sources and not (root.files and known.issuperset(root.files) and not root.listed):
            problems = root.listed + [item for _, item in _unused(root, known)]
            raise nothing_usable(f"the {root.parameter} {root.path}", problems, field=root.parameter)
    once: dict[Path, Source] = {}
    kinds = [[root.sources for root in of_kind] for of_kind in (media, words)]
    for source in hold_out(kinds, config, reading=reading):
        once.setdefault(source.path.resolve(), source)
    return tuple(map(reading.unread.marked, once.values()))


def why_no_file(path: Path) -> str:
    """Return why a path that is neither file nor folder cannot be read; empty where it is one, or nothing."""
    if not path.exists():
        return "a link to nothing" if path.is_symlink() else ""
    return "" if path.is_file() or path.is_dir() else "not a regular file"


def _walk(path: Path, parameter: Literal["videos", "texts"], readers: Mapping[str, Reader]) -> _Root:
    problem = why_no_file(path) or ("" if path.exists() else "no such file or folder")
    if problem:
        raise InputError(f"{path} is {problem}", field=parameter, path=path, value=path)
    root = _Root(path=path, parameter=parameter, readers=readers)
    if not path.is_dir():
        root.files.append(path)
        return root

    def unreadable(error: OSError) -> None:
        root.problems[Path(error.filename)] = f"cannot be listed ({error.strerror})"

    for folder, folders, files in os.walk(path, onerror=unreadable):
        here = Path(folder)
        if here != path and _is_output_folder(here):
            folders.clear()
            root.problems[here] = (
                "is a folder that ringworld wrote; if its files are wanted, name it as an input"
            )
            continue
        for name in [*folders]:
            if name.startswith("."):
                folders.remove(name)
            elif (here / name).is_symlink():
                root.problems[here / name] = "is a link to a folder, which is not followed; name that folder"
        for name in files:
            if not name.startswith("."):
                root.files.append(here / name)
                if reason := why_no_file(here / name):
                    root.problems[here / name] = f"is {reason}"
    root.files.sort()
    return root


def _names_in(folder: Path) -> FolderNames:
    try:
        return FolderNames(sorted(file for file in folder.iterdir() if file.is_file()))
    except OSError:  # it is gone since it was walked
        return FolderNames(())


def _is_output_folder(folder: Path) -> bool:
    """Return whether ringworld wrote a folder: its origin has a key that other programs do not write."""
    try:
        value = parse_json((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and "ringworld" in value


def _find_media(root: _Root, names: _Names, config: PrepareConfig) -> Iterator[Path]:
    """Find the videos and images of a root, and yield what belongs to one, be it usable or not."""
    manifests = [
        path for path in root.files if path.name.lower() == MANIFEST_NAME and path not in root.problems
    ]
    for manifest in manifests:
        yield manifest
        for path, said in read_media_manifest(manifest, root.relative(manifest), config, into=root.listed):
            yield path
            root.add(path, VIDEO, said=said)
    for path in root.files:
        if path in root.problems or any(manifest.parent in path.parents for manifest in manifests):
            continue
        if reader := root.reader_of(path):
            root.add(path, reader)
        elif path.suffix.lower() not in _WRITTEN or path == root.path:
            beside = sidecars_of(path, BESIDE_MEDIA, beside=names(path.parent))
            root.add(path, VIDEO, sidecars=beside)
            yield from beside


def _tell_apart(roots: Sequence[_Root], reading: Reading) -> None:
    """Open what was taken for a video: some are images, and some neither."""
    media = {one.path: one for root in roots for one in root.sources if one.reader is VIDEO}
    files = list(media.values())
    groups = [tuple(files[i : i + _OPENED_TOGETHER]) for i in range(0, len(files), _OPENED_TOGETHER)]
    count = reading.count("finding", total=len(files))
    found: dict[Path, tuple[MediaForm, str]] = {}
    for _, group, forms in reading.read(groups, _forms, count=count):
        count.ends(len(group))
        found |= {source.path: form for source, form in zip(group, forms)}
    for root in roots:
        known, root.sources = root.sources, []
        for source in known:
            form, problem = found.get(source.path, ("video", ""))
            if problem:
                root.problems.setdefault(source.path, problem)
            else:
                root.sources.append(replace(source, reader=IMAGE) if form == "image" else source)


def _forms(index: int, files: Files, on_file: OnFile) -> list[tuple[MediaForm, str]]:
    """Return what each file is, or what is wrong with it; what is not read stays what it was taken for."""
    found: list[tuple[MediaForm, str]] = []
    for source in files:
        on_file(source)
        form: MediaForm = "video"
        problems: list[Quarantined] = []
        with quarantine(str(source.path), into=problems):
            form = "video" if source.unread else media_format(source.path)
        found.append((form, problems[0].reason if problems else ""))
    return found


def _find_texts(root: _Root, names: _Names, captions: set[Path]) -> Iterator[Path]:
    """Find the texts of a root, and yield what belongs to one."""
    for path in root.files:
        if path in root.problems or path in captions:
            continue
        if reader := root.reader_of(path):
            root.add(path, reader)
        elif path.suffix.lower() in TEXT_SUFFIXES or path == root.path:
            beside = sidecars_of(path, BESIDE_TEXT, beside=names(path.parent))
            root.add(path, TEXT, sidecars=beside)
            yield from beside


def _unused(root: _Root, known: set[Path]) -> Iterator[tuple[Path, Quarantined]]:
    """Yield what of a root neither is used nor belongs to what is."""
    for path in dict.fromkeys((*root.files, *root.problems)):
        if path in known:
            continue
        if problem := root.problems.get(path):
            reason = problem if str(path) in problem else f"{path} {problem}"
        elif root.parameter == "texts":
            endings = ", ".join(sorted(TEXT_SUFFIXES | root.readers.keys()))
            reason = f"{path} is not used as a text; the names of texts end in {endings}"
        else:
            reason = f"{path} is not used: it belongs to no video or image"
        yield path, Quarantined(path=root.relative(path), reason=reason)
