"""Text files as they are found: byte-order marks, line ends, Project Gutenberg's frame, binary files.

Documents, captions and sidecars are all decoded here, by one rule.
"""

import codecs
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, TypeGuard

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
_PIECE_BYTES = 2**20
_GUTENBERG_START = re.compile(
    r"\*\*\* ?START OF TH(?:E|IS) PROJECT GUTENBERG EBOOK.{0,400}?\*\*\*[ \t]*\n", re.DOTALL
)
_GUTENBERG_END = re.compile(
    r"\n(?:End of (?:the )?Project Gutenberg|\*\*\* ?END OF TH(?:E|IS) PROJECT GUTENBERG EBOOK)",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line of a JSONL file: its object, or why it has none."""

    number: int
    """Counted from 1."""
    value: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_text(path: Path, *, max_bytes: int) -> str:
    r"""Read a document whole, without Project Gutenberg's frame.

    Raises:
        InputError: see `decode_file`; or there is nothing but white space.
    """
    text = strip_gutenberg(decode_file(path, max_bytes=max_bytes))
    if not text.strip():
        raise InputError(f"{path} is empty", path=path)
    return text


def decode_file(
    path: Path, *, max_bytes: int, remedy: str = "split it; what prepare reads, max_text_bytes bounds"
) -> str:
    r"""Read a text file: UTF-8, or what its byte-order mark says, with `\n` line ends and without the mark.

    Args:
        path: of the file.
        max_bytes: how large it may be.
        remedy: what to do about one that is larger.

    Raises:
        InputError: the file is missing, larger than `max_bytes`, binary, or in another encoding; then
            `value` is the index of the byte, and `suggested` a command that converts the file.
    """
    try:
        size = path.stat().st_size
        raw = b"" if size > max_bytes else _beginning(path, max_bytes=max_bytes)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})", path=path) from None
    if (size := max(size, len(raw))) > max_bytes:
        raise InputError(
            f"{path} has {size} bytes or more; at most {max_bytes} are read",
            path=path,
            value=size,
            remedy=remedy,
        )
    return _decode(path, raw).replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True, kw_only=True, slots=True)
class LineRun:
    """Lines of a file that follow each other."""

    start_byte: int
    before: int
    """Lines that stand before them."""
    lines: int


def read_lines(path: Path, *, longest: int, run: LineRun | None = None) -> Iterator[Line]:
    r"""Yield the lines of a file of one JSON object a line; a bad line says why. Blank ones are passed over.

    Args:
        path: in any encoding of `decode_file`.
        longest: most characters of a line.
        run: which of them are read, of those that `runs_of_lines` gives; by default all.
    """
    with path.open("rb") as raw:
        encoding, _ = _encoding(raw.read(4))
        raw.seek(run.start_byte if run else 0)
        # Bytes that are not UTF-8 then spoil their own line alone, as halves of surrogate pairs.
        errors = "surrogateescape" if encoding == "utf-8" else "surrogatepass"
        with io.TextIOWrapper(raw, encoding=encoding, errors=errors, newline="\n") as stream:
            lines = _bounded_lines(stream, longest)
            before = run.before if run else 0
            for number, words in enumerate(islice(lines, run.lines if run else None), start=before + 1):
                words = words.removeprefix("\ufeff") if number == 1 else words
                if words.strip():
                    yield _parse_line(number, words, encoding, longest)


def runs_of_lines(path: Path, *, most_bytes: int) -> Iterator[LineRun]:
    """Yield runs that hold all lines of a file, each of the lines that begin within so many bytes.

    There are none of a file that is not UTF-8.
    """
    with path.open("rb") as raw:
        if _encoding(raw.read(4))[0] != "utf-8":
            return
        raw.seek(0)
        start = before = lines = at = 0
        is_open = False
        while block := raw.read(_PIECE_BYTES):
            begin = 0
            while True:
                cut = block.find(b"\n", max(begin, start + most_bytes - 1 - at)) + 1
                if not cut:
                    break
                lines += block.count(b"\n", begin, cut)
                yield LineRun(start_byte=start, before=before, lines=lines)
                start, before, lines, begin = at + cut, before + lines, 0, cut
            lines += block.count(b"\n", begin)
            is_open = len(block) > begin and not block.endswith(b"\n")
            at += len(block)
        if lines or is_open:
            yield LineRun(start_byte=start, before=before, lines=lines + is_open)


def strip_gutenberg(text: str) -> str:
    """Return what stands between the lines with which Project Gutenberg begins and ends a book, if any."""
    start = _GUTENBERG_START.search(text)
    if start is None:
        return text
    end = _GUTENBERG_END.search(text, start.end())
    return text[start.end() : end.start() if end else None].strip("\n") + "\n"


def is_text(value: Any) -> TypeGuard[str]:
    """Return whether a value of JSON is text; halves of surrogate pairs, which JSON can spell, are none."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _beginning(path: Path, *, max_bytes: int) -> bytes:
    """Read a file, or more than `max_bytes` of one that has no end, as a device or a pipe."""
    with path.open("rb") as stream:
        pieces = iter(partial(stream.read, _PIECE_BYTES), b"")
        return b"".join(islice(pieces, max_bytes // _PIECE_BYTES + 1))


def _encoding(beginning: bytes) -> tuple[str, bytes]:
    return next(((name, mark) for mark, name in _MARKS if beginning.startswith(mark)), ("utf-8", b""))


def _decode(path: Path, raw: bytes) -> str:
    encoding, mark = _encoding(raw)
    if encoding == "utf-8" and b"\0" in raw:
        at, command = raw.index(0), _iconv(path, "UTF-16LE")
        raise InputError(
            f"{path} is not text, or is UTF-16 without a byte-order mark: byte {at} is NUL",
            path=path,
            value=at,
            remedy=f"remove it if it is a binary file, or convert it: {command}",
            suggested=command,
        )
    try:
        return raw[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        at, command = error.start + len(mark), _iconv(path, "LATIN1")
        raise InputError(
            f"{path} is not {encoding.upper()} at byte {at}",
            path=path,
            value=at,
            remedy=f"convert it to UTF-8 from what it is in, such as {command}",
            suggested=command,
        ) from None


def _iconv(path: Path, encoding: str) -> str:
    old, new = shlex.quote(str(path)), shlex.quote(str(path.with_stem(f"{path.stem}-utf8")))
    return f"iconv -f {encoding} -t UTF-8 {old} > {new} && mv {new} {old}"


def _bounded_lines(stream: TextIO, longest: int) -> Iterator[str]:
    """Yield the lines of a file, no more than `longest` + 1 characters of each."""
    begin = stream.readline(longest + 1)
    while begin:
        rest = begin
        while rest and not rest.endswith("\n"):
            rest = stream.readline(longest)
        yield begin
        begin = stream.readline(longest + 1)


def _parse_line(number: int, words: str, encoding: str, longest: int) -> Line:
    if len(words.removesuffix("\n")) > longest:
        return Line(number=number, problem=f"line {number} has more than {longest} characters")
    if not is_text(words):
        return Line(number=number, problem=f"line {number} is not {encoding.upper()}")
    try:
        value = parse_json(words, numbers="any")
    except ValueError as error:
        return Line(number=number, problem=f"line {number} is not JSON ({error})")
    if not isinstance(value, dict):
        return Line(number=number, problem=f"line {number} is no JSON object, but {type(value).__name__}")
    return Line(number=number, value=value)
