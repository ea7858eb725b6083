"""Text files as they are found: byte-order marks, line ends, Project Gutenberg's frame, binary files."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ringworld.core.errors import InputError
from ringworld.core.files import parse_json

# The mark of UTF-32 begins with that of UTF-16, so it comes first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_GUTENBERG_START = re.compile(
    r"\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG EBOOK.{0,400}?\*\*\*[ \t]*\n", re.DOTALL
)
_GUTENBERG_END = re.compile(
    r"\n(?:End of (?:the )?Project Gutenberg|\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG EBOOK)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a JSONL file: its text, or why it has none."""

    number: int
    """Counted from 1."""
    text: str = ""
    problem: str = ""


def read_text(path: Path, *, max_bytes: int) -> str:
    r"""Read a text file whole, with `\n` line ends and without byte-order mark or Project Gutenberg's frame.

    Raises:
        InputError: the file is missing, empty, larger than `max_bytes`, binary, or in another encoding; the
            message names the file and, for an encoding, the byte.
    """
    text = _decode(path, _read_bytes(path, max_bytes))
    text = strip_gutenberg(text.replace("\r\n", "\n").replace("\r", "\n"))
    if not text.strip():
        raise _bad(path, "an empty file", "text", "Remove it.")
    return text


def read_lines(path: Path) -> Iterator[Line]:
    r"""Yield the lines of a JSONL file of `{"text": ...}` objects (LWM's format); a bad line says why.

    Raises:
        InputError: the file has not one line with text.
    """
    usable = 0
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            if raw.strip(codecs.BOM_UTF8 + b" \t\r\n"):
                line = _parse_line(number, raw.removeprefix(codecs.BOM_UTF8))
                usable += not line.problem
                yield line
    if not usable:
        raise _bad(path, "no line with text", 'lines such as {"text": "..."}', "Mend or remove it.")


def strip_gutenberg(text: str) -> str:
    """Return what stands between the lines with which Project Gutenberg begins and ends a book, if any."""
    start = _GUTENBERG_START.search(text)
    if start is None:
        return text
    end = _GUTENBERG_END.search(text, start.end())
    return text[start.end() : end.start() if end else None].strip("\n") + "\n"


def is_text(value: Any) -> TypeGuard[str]:
    """Say whether a value of JSON is text; JSON can also spell halves of surrogate pairs, which is none."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise _bad(path, f"{size} bytes", f"at most {max_bytes}", "Split it, or raise max_text_bytes.")
        return path.read_bytes()
    except OSError as error:
        raise _bad(path, error.strerror or str(error), "a readable file", "Check the file.") from None


def _decode(path: Path, raw: bytes) -> str:
    encoding, mark = next(((name, mark) for mark, name in _MARKS if raw.startswith(mark)), ("utf-8", b""))
    if encoding == "utf-8" and b"\0" in raw:
        raise _bad(
            path,
            f"a NUL at byte {raw.index(0)}",
            "text",
            "Remove it if it is a binary file; if it is UTF-16, convert it: iconv -f UTF-16LE -t UTF-8.",
        )
    try:
        return raw[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        raise _bad(
            path,
            f"bytes that are not {encoding.upper()} at byte {error.start + len(mark)}",
            "UTF-8, or UTF-16 or UTF-32 with a byte-order mark",
            "Convert it to UTF-8: iconv -f LATIN1 -t UTF-8 FILE > NEW_FILE (or whatever it is in).",
        ) from None


def _parse_line(number: int, raw: bytes) -> Line:
    try:
        value = parse_json(raw.decode("utf-8"), numbers="any")
    except UnicodeDecodeError:
        return Line(number=number, problem=f"line {number} is not UTF-8")
    except ValueError as error:
        return Line(number=number, problem=f"line {number} is not JSON ({error})")
    text = value.get("text") if isinstance(value, dict) else None
    if not is_text(text) or not text.strip():
        return Line(number=number, problem=f'line {number} has no "text" that is valid Unicode')
    return Line(number=number, text=text)


def _bad(path: Path, got: str, expected: str, remedy: str) -> InputError:
    return InputError(what=str(path), got=got, expected=expected, remedy=remedy)
