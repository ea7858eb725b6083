"""The user's files: which there are, what each is, and what of a folder is not used, and why."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ringworld.core.errors import InputError
from ringworld.core.files import parse_json
from ringworld.core.origin import ORIGIN_FILE
from ringworld.data.config import PrepareConfig
from ringworld.data.quarantine import Quarantined, nothing_usable
from ringworld.data.sources import (
    LINES_SUFFIXES,
    TEXT_SUFFIXES,
    FolderNames,
    Format,
    Source,
    sidecars_of,
)
from ringworld.data.splits import hold_out
from ringworld.vision.media import media_format

_WRITTEN = TEXT_SUFFIXES | LINES_SUFFIXES | {".json"}
_Names = Callable[[Path], FolderNames]


@dataclass(kw_only=True, slots=True)
class _Root:
    """One folder or file that the user named, and what was found of it."""

    path: Path
    parameter: str
    files: list[Path] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    problems: dict[Path, str] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    def relative(self, path: Path) -> str:
        """Return a path as text; bytes of a name that are not UTF-8 are spelled out."""
        below = path.relative_to(self.base).as_posix()
        return os.fsencode(below).decode("utf-8", "backslashreplace")

    def add(self, path: Path, format: Format, names: _Names) -> tuple[Path, ...]:
        """Make a file a source, unless it has a problem, and return what belongs to it either way."""
        beside = sidecars_of(path, format, beside=names(path.parent))
        if path not in self.problems:
            relative = self.relative(path)
            self.sources.append(Source(path=path, relative=relative, format=format, sidecars=beside))
        return beside


def find_sources(
    *,
    videos: Sequence[Path] = (),
    texts: Sequence[Path] = (),
    config: PrepareConfig,
    quarantined: list[Quarantined] | None = None,
) -> tuple[Source, ...]:
    """List the usable files of folders (with all below them) or single files, sorted, each with its split.

    What is inside decides whether a file among `videos` is a video or an image. Among `texts` the ending
    decides: .txt, .text, .md and .markdown are documents; .jsonl and .ndjson hold one a line. Files that say
    something about another (see `ringworld.data.sources.sidecars_of`) belong to it. A file found twice
    counts once. Hidden files are passed over; every other file that is not used, and every folder below that
    ringworld wrote, is appended to `quarantined`, with the reason.

    Raises:
        InputError: no path is given, one does not exist, or there is no usable file under one.
    """
    if not (videos or texts):
        raise InputError(
            "neither videos nor texts are given", field="videos", remedy="name at least one of either"
        )
    media = [_walk(path, "videos") for path in videos]
    words = [_walk(path, "texts") for path in texts]
    roots = (*media, *words)
    names = cache(lambda folder: FolderNames(sorted(file for file in folder.iterdir() if file.is_file())))
    captions = {sidecar for root in media for sidecar in _find_media(root, names)}
    sidecars = captions | {sidecar for root in words for sidecar in _find_texts(root, names, captions)}
    known = {source.path for root in roots for source in root.sources} | sidecars
    inputs = {root.path.resolve() for root in roots}
    for root in roots:
        known |= {path for path in root.problems if path.is_dir() and path.resolve() in inputs}
    if quarantined is not None:
        unused = {path: item for root in (*words, *media) for path, item in _unused(root, known)}
        quarantined += unused.values()
    for root in roots:
        if not root.sources and not (root.files and known.issuperset(root.files)):
            problems = [item for _, item in _unused(root, known)]
            raise nothing_usable(f"the {root.parameter} {root.path}", problems, field=root.parameter)
    once: dict[Path, Source] = {}
    for of_kind in (media, words):
        for source in hold_out([root.sources for root in of_kind], config):
            once.setdefault(source.path.resolve(), source)
    return tuple(once.values())


def why_no_file(path: Path) -> str:
    """Return why a path that is neither file nor folder cannot be read; empty where it is one, or nothing."""
    if not path.exists():
        return "a link to nothing" if path.is_symlink() else ""
    return "" if path.is_file() or path.is_dir() else "not a regular file"


def _walk(path: Path, parameter: str) -> _Root:
    problem = why_no_file(path) or ("" if path.exists() else "no such file or folder")
    if problem:
        raise InputError(f"{path} is {problem}", field=parameter, path=path, value=path)
    root = _Root(path=path, parameter=parameter)
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


def _is_output_folder(folder: Path) -> bool:
    """Return whether ringworld wrote a folder: its origin has a key that other programs do not write."""
    try:
        value = parse_json((folder / ORIGIN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and "ringworld" in value


def _find_media(root: _Root, names: _Names) -> Iterator[Path]:
    """Find the videos and images of a root, and yield what belongs to one, be it usable or not."""
    for path in root.files:
        if path in root.problems or (path.suffix.lower() in _WRITTEN and path != root.path):
            continue
        format_: Format = "video"
        try:
            format_ = media_format(path)
        except (InputError, OSError) as error:
            root.problems[path] = str(error)
        yield from root.add(path, format_, names)


def _find_texts(root: _Root, names: _Names, captions: set[Path]) -> Iterator[Path]:
    """Find the texts of a root, and yield what belongs to one."""
    for path in root.files:
        suffix = path.suffix.lower()
        is_text = suffix in TEXT_SUFFIXES or (path == root.path and suffix not in LINES_SUFFIXES)
        if path in root.problems or path in captions or not (is_text or suffix in LINES_SUFFIXES):
            continue
        yield from root.add(path, "text" if is_text else "lines", names)


def _unused(root: _Root, known: set[Path]) -> Iterator[tuple[Path, Quarantined]]:
    """Yield what of a root neither is used nor belongs to what is."""
    for path in dict.fromkeys((*root.files, *root.problems)):
        if path in known:
            continue
        if problem := root.problems.get(path):
            reason = problem if str(path) in problem else f"{path} {problem}"
        elif root.parameter == "texts":
            endings = ", ".join(sorted(TEXT_SUFFIXES | LINES_SUFFIXES))
            reason = f"{path} is not used as a text; the names of texts end in {endings}"
        else:
            reason = f"{path} is not used: it belongs to no video or image"
        yield path, Quarantined(path=root.relative(path), reason=reason)
