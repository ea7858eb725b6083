"""What is written beside a file: its caption and questions about it."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ringworld.core.errors import InputError
from ringworld.core.files import parse_json
from ringworld.data.samples import Question
from ringworld.text.read_text import decode_file, is_text

BESIDE_MEDIA, BESIDE_TEXT = (".json", ".txt"), (".json",)
"""Endings of the files that say something about a video or an image, and about a text."""
_MOST_SIDECAR_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class Sidecar:
    """What is written beside a file."""

    caption: str | None = None
    """Never blank."""
    questions: tuple[Question, ...] = ()
    unanswered: int = 0
    """Questions that were left out, since they or their answers are empty."""


def sidecars_of(
    path: Path, suffixes: Sequence[str], *, beside: Callable[[str], Path | None]
) -> tuple[Path, ...]:
    """Return the files that say something about `path`, the most specific first.

    | file | beside it |
    |---|---|
    | `clip.mp4` | `clip.mp4.json`, `clip.json`, `clip.mp4.txt`, `clip.txt` (only a caption) |
    | `book.txt` | `book.txt.json`, `book.json` |

    Args:
        path: a file.
        suffixes: endings of what may stand beside it.
        beside: finds a file of its folder by name; see `FolderNames`.
    """
    found = (beside(stem + suffix) for suffix in suffixes for stem in (path.name, path.stem))
    return tuple(dict.fromkeys(file for file in found if file is not None and file != path))


class FolderNames:
    """The files of one folder by name: the exact name, else that which differs in case alone."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._exact = {path.name: path for path in files}
        self._folded = {_folded(path.name): path for path in reversed(files)}

    def __call__(self, name: str) -> Path | None:
        """Return the file of a name, or None."""
        return self._exact.get(name) or self._folded.get(_folded(name))


def read_sidecars(paths: Sequence[Path]) -> Sidecar:
    """Read what stands beside a file; nothing beside it gives an empty sidecar.

        {"caption": "A red circle moves right.", "questions": [{"question": "What color?", "answer": "red"}]}

    What is empty, blank or null is as good as absent. Other keys are ignored, so that a folder which another
    program wrote can be read. Of several captions the first counts; questions are joined.

    Raises:
        InputError: a sidecar is not text or not JSON, or `parse_sidecar` refuses it.
    """
    read = [_read(path) for path in paths]
    return Sidecar(
        caption=next((sidecar.caption for sidecar in read if sidecar.caption), None),
        questions=tuple(question for sidecar in read for question in sidecar.questions),
        unanswered=sum(sidecar.unanswered for sidecar in read),
    )


def parse_sidecar(value: Mapping[str, Any], *, path: Path, part: str = "") -> Sidecar:
    """Return the caption and the questions of a JSON object.

    Args:
        value: the object; keys besides `caption` and `questions` are ignored, but for a conversation.
        path: the file in which it stands.
        part: of that file, such as `line 3`.

    Raises:
        InputError: `caption` or `questions` are of another form, or `messages` are there, which only a record
            has; `field` is such as `questions[12].answer`, after the part and a dot where there is one.
    """
    location = _Location(path=path, part=part)
    caption, asked = value.get("caption"), value.get("questions")
    if value.get("messages") is not None:
        remedy = "write it into a .jsonl file beside, as a record that names the file"
        raise location.wrong("messages", "is a conversation, which is a separate record", remedy=remedy)
    if not (caption is None or is_text(caption)):
        raise location.wrong("caption", "is not text", value=caption)
    if not (asked is None or isinstance(asked, list)):
        raise location.wrong("questions", "is not a list", value=asked)
    read = [_question(one, location, field=f"questions[{i}]") for i, one in enumerate(asked or [])]
    questions = tuple(question for question in read if question is not None)
    return Sidecar(
        caption=(caption or "").strip() or None,
        questions=questions,
        unanswered=len(read) - len(questions),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Location:
    """A JSON object in a file."""

    path: Path
    part: str = ""

    def wrong(self, field: str, problem: str, *, value: Any = None, remedy: str = "") -> InputError:
        """Return the error for a field of the object."""
        where = f"{self.path}, {self.part}" if self.part else str(self.path)
        named = f"{self.part}.{field}" if self.part else field
        return InputError(
            f"in {where}, {field} {problem}", path=self.path, field=named, value=value, remedy=remedy
        )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _read(path: Path) -> Sidecar:
    text = decode_file(path, max_bytes=_MOST_SIDECAR_BYTES)
    if path.suffix.lower() != ".json":
        return Sidecar(caption=text.strip() or None)
    try:
        value = parse_json(text, numbers="any")
    except ValueError as error:
        raise InputError(f"{path} holds no JSON ({error})", path=path) from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object, but {type(value).__name__}", path=path)
    return parse_sidecar(value, path=path)


def _question(value: Any, location: _Location, *, field: str) -> Question | None:
    """Return a question with its answer; None where either is empty."""
    if not isinstance(value, dict):
        raise location.wrong(field, 'is not of the form {"question": TEXT, "answer": TEXT}', value=value)
    for name in ("question", "answer"):
        if name not in value:
            raise location.wrong(f"{field}.{name}", "is missing")
        if not (value[name] is None or is_text(value[name])):
            raise location.wrong(f"{field}.{name}", "is not text", value=value[name])
    answers = "one" if value.get("answers") in (None, "") else value["answers"]
    if answers not in ("one", "several"):
        raise location.wrong(
            f"{field}.answers", f"is {answers!r}, neither 'one' nor 'several'", value=answers
        )
    question, answer = ((value[name] or "").strip() for name in ("question", "answer"))
    return Question(question=question, answer=answer, answers=answers) if question and answer else None
