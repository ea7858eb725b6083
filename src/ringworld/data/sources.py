"""The user's files: which there are, what each is, what is written beside it, and which are held out."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ringworld.core.errors import InputError
from ringworld.core.files import parse_json
from ringworld.data.config import PrepareConfig, Split
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.read_text import is_text, read_lines, read_text
from ringworld.vision.media import read_image, stream_video

VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".webm", ".mkv", ".mov", ".m4v", ".gif"})
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
TEXT_SUFFIXES = frozenset({".txt", ".md"})
LINES_SUFFIXES = frozenset({".jsonl"})
HELD_OUT_FOLDER = "held_out"
Format = Literal["video", "image", "text", "lines"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file to learn from."""

    path: Path
    relative: str
    """Path below the folder that was named, with `/`; the split hangs on it, not on where the folder is."""
    format: Format
    split: Split = "train"


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question about a file, and its answer."""

    question: str
    answer: str
    answers: Literal["one", "several"] = "one"
    """Whether the answer names one thing or several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """What is written beside a file: `clip.json`, or `clip.txt` with only the caption of a video or image."""

    caption: str | None = None
    questions: tuple[Question, ...] = ()


def find_sources(
    *,
    videos: Sequence[Path],
    texts: Sequence[Path],
    config: PrepareConfig,
    set_aside: list[Quarantined] | None = None,
) -> tuple[Source, ...]:
    """List the usable files of folders (with all below them) or single files, sorted, each with its split.

    Hidden files are left out, and so is a `.txt` beside a video or image of the same name: it is its caption.
    A file that is found twice counts once. What is named like a usable file and is none (a link to nothing, a
    pipe) is left out too; where there is a list `set_aside`, it is appended there with the reason.

    Raises:
        InputError: no path is given, one does not exist, or there is no usable file under one.
    """
    if not (videos or texts):
        raise InputError(
            what="--videos, --texts",
            got="neither",
            expected="folders or files to learn from",
            remedy="Name at least one of either.",
        )
    media = VIDEO_SUFFIXES | IMAGE_SUFFIXES
    aside: list[Quarantined] = []
    found = [source for root in videos for source in _split(_find(root, "--videos", media, aside), config)]
    media_stems = {source.path.with_suffix("") for source in found}
    for root in texts:
        files = _find(root, "--texts", TEXT_SUFFIXES | LINES_SUFFIXES, aside)
        words = [s for s in files if s.path.suffix != ".txt" or s.path.with_suffix("") not in media_stems]
        found += _split(words, config)
    if set_aside is not None:
        set_aside += dict.fromkeys(aside)
    once = {source.path.resolve(): source for source in reversed(found)}
    return tuple(source for source in found if once[source.path.resolve()] is source)


def read_sidecar(source: Source) -> Sidecar:
    """Read what stands beside a file; nothing beside it gives an empty sidecar.

        {"caption": "A red circle moves right.", "questions": [{"question": "What color?", "answer": "red"}]}

    Other keys are left alone, so that a folder which another program wrote can be read.

    Raises:
        InputError: the sidecar is not JSON, or `caption` or `questions` are of another form.
    """
    path = source.path.with_suffix(".json")
    if path.exists():
        return _parse_sidecar(path)
    caption = source.path.with_suffix(".txt")
    if source.format in ("video", "image") and caption.exists():
        return Sidecar(caption=read_utf8(caption).strip() or None)
    return Sidecar()


def read_utf8(path: Path) -> str:
    """Read a small UTF-8 file.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            what=str(path),
            got=f"bytes that are not UTF-8 at byte {error.start}",
            expected="UTF-8",
            remedy="Convert it: iconv -f LATIN1 -t UTF-8 FILE > NEW_FILE.",
        ) from None


def _find(root: Path, option: str, suffixes: frozenset[str], aside: list[Quarantined]) -> list[Source]:
    if problem := why_no_file(root) or ("" if root.exists() else "no such folder"):
        raise InputError(
            what=f"{option} {root}",
            got=problem,
            expected="a folder of files, or one file",
            remedy="Check its name.",
        )
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    base = root if root.is_dir() else root.parent
    named = [path for path in files if path.suffix.lower() in suffixes and not _is_hidden(path, base)]
    usable = [path for path in named if path.is_file()]
    unusable = [(_shown(path.relative_to(base)), problem) for path in named if (problem := why_no_file(path))]
    aside += [Quarantined(path=path, reason=f"{path}: {problem}") for path, problem in unusable]
    if not usable:
        reasons = "; ".join(f"{path}: {problem}" for path, problem in unusable[:3])
        raise InputError(
            what=f"{option} {root}",
            got=f"no usable file ({reasons})" if reasons else "no usable file",
            expected=f"files that end in {', '.join(sorted(suffixes))}",
            remedy="Name another folder.",
        )
    return [
        Source(path=path, relative=_shown(path.relative_to(base)), format=_format(path)) for path in usable
    ]


def _shown(path: Path) -> str:
    """Return a path as text; bytes of a name that are not UTF-8 are spelt out."""
    return os.fsencode(path.as_posix()).decode("utf-8", "backslashreplace")


def _is_hidden(path: Path, base: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(base).parts)


def why_no_file(path: Path) -> str:
    """Say why what has the name of a file is none that can be read; empty for files, folders and nothing."""
    if not path.exists():
        return "a link to nothing" if path.is_symlink() else ""
    return "" if path.is_file() or path.is_dir() else "not a regular file"


def _format(path: Path) -> Format:
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if suffix in IMAGE_SUFFIXES:
        return "image"
    return "lines" if suffix in LINES_SUFFIXES else "text"


def _split(sources: list[Source], config: PrepareConfig) -> list[Source]:
    """Hold out what lies in a folder `held_out`; where there is none, the files of the smallest hashes.

    Then each split is seen to have a file that can be read to its end: the one of the smallest hash is held
    out, and that of the largest is not.
    """
    chosen = [HELD_OUT_FOLDER in Path(source.relative).parts[:-1] for source in sources]
    if any(chosen):
        return [replace(s, split="held_out") if out else s for s, out in zip(sources, chosen)]
    if len(sources) < 2 or config.held_out_fraction == 0:
        return sources
    in_order = sorted(sources, key=lambda source: _place(source, config))
    readable = [
        next((s for s in way if _is_readable(s, config)), way[0]) for way in (in_order, in_order[::-1])
    ]
    held_out = {s.path for s in in_order if _place(s, config) < config.held_out_fraction}
    held_out = (held_out | {readable[0].path}) - {readable[1].path}
    return [replace(s, split="held_out") if s.path in held_out else s for s in sources]


def _is_readable(source: Source, config: PrepareConfig) -> bool:
    """Say whether a file can be read to its end, with what stands beside it, as preparation will read it."""
    problems: list[Quarantined] = []
    with quarantine(source.relative, into=problems):
        if source.format != "lines":
            read_sidecar(source)
        match source.format:
            case "video":
                for _ in stream_video(source.path, frames_per_second=config.frames_per_second, resolution=8):
                    pass
            case "image":
                read_image(source.path, resolution=8)
            case "text":
                read_text(source.path, max_bytes=config.max_text_bytes)
            case "lines":
                next(line for line in read_lines(source.path) if not line.problem)
    return not problems


def _place(source: Source, config: PrepareConfig) -> float:
    digest = hashlib.sha256(f"{config.seed} {source.relative}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _parse_sidecar(path: Path) -> Sidecar:
    text = read_utf8(path)
    try:
        value = parse_json(text, numbers="any")
    except ValueError as error:
        raise _bad_sidecar(path, f"text that is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise _bad_sidecar(path, f"a {type(value).__name__}")
    caption, asked = value.get("caption"), value.get("questions", [])
    if not (caption is None or is_text(caption)):
        raise _bad_sidecar(path, "a caption that is not text")
    if not isinstance(asked, list) or not all(map(_is_question, asked)):
        raise _bad_sidecar(path, "questions of another form")
    questions = tuple(
        Question(question=q["question"], answer=q["answer"], answers=q.get("answers", "one")) for q in asked
    )
    return Sidecar(caption=(caption or "").strip() or None, questions=questions)


def _is_question(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("answers", "one") not in ("one", "several"):
        return False
    return is_text(value.get("question")) and is_text(value.get("answer"))


def _bad_sidecar(path: Path, got: str) -> InputError:
    return InputError(
        what=str(path),
        got=got,
        expected='{"caption": TEXT, "questions": [{"question": TEXT, "answer": TEXT}]}, either left out',
        remedy="Mend it or delete it.",
    )
