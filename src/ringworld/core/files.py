"""Files whole or absent, folders of one process and run, damaged files, full disks, JSON and JSON lines."""

import errno
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ringworld.core.errors import InputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says where there is no room left, or none left to this user."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What it says where the file system has no locks; a run there goes without."""
LOCK_FILE = ".lock"


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a path to write to, which becomes `path` when the block ends and vanishes when the block fails.

    A reader sees the old file or the new one. Missing folders are made.

    Raises:
        InputError: the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("r+b") as stream:
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep other processes of ringworld out of a folder, which is made where it is missing.

    The lock is on `folder/.lock`, and ends with the process, however that ends; the file stays.

    Raises:
        InputError: another process is at work in the folder, or it is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(
            what=str(folder), got="a file", expected="a folder to write into", remedy="Give another name."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                what=str(folder),
                got="another ringworld at work in it",
                expected="a folder of its own",
                remedy="Wait for it, or choose another folder.",
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


@contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Turn a full disk, whichever library runs into it, into an error that names `path`.

    Raises:
        InputError: the disk is full.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise InputError(
            what=str(path),
            got="no space left on the disk",
            expected="room to write it",
            remedy="Free some. What is already written stays usable, and the same command goes on from it.",
        ) from error


def is_disk_full(error: BaseException | None) -> bool:
    """Look through the causes: TensorStore, ArrayRecord and safetensors have errors of their own for it."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in DISK_FULL
        if full or "no space left on device" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def reading(
    what: Path | str,
    *,
    expected: str,
    damage: type[Exception] | tuple[type[Exception], ...],
    remedy: str = "Delete it and run the command that wrote it again.",
) -> Iterator[None]:
    """Turn a missing file, and what a library raises on a damaged one, into an error that names it.

    Args:
        what: the file, or a part of it.
        expected: what it should be.
        damage: what the library raises.
        remedy: of the damage.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(
            what=str(what), got="no such file", expected=expected, remedy="Check the folder's name."
        ) from None
    except damage as error:
        reason = " ".join(str(error).split())
        raise InputError(
            what=str(what), got=f"a damaged file ({reason})", expected=expected, remedy=remedy
        ) from None


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; see `writing`."""
    with writing(path) as temporary:
        temporary.write_bytes(content)


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text as `write_bytes_atomic` does.

    Names of files that are not UTF-8 hold halves of surrogate pairs. They are spelt out, as JSON spells them.
    """
    write_bytes_atomic(path, text.encode("utf-8", "backslashreplace"))


def write_json_atomic(path: Path, value: Any) -> None:
    """Write indented JSON; NaN and infinity are refused, since no JSON reader need accept them."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file of ours.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    with reading(path, expected="a JSON file", damage=ValueError):
        return parse_json(path.read_text(encoding="utf-8"))


def parse_json(text: str, *, numbers: Literal["finite", "any"] = "finite") -> Any:
    """Parse JSON.

    Args:
        text: the whole of it.
        numbers: `finite` refuses NaN and infinity, which no writer of ours makes; `any` is for what other
            programs write, in fields that are no concern of ours.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    number = _finite if numbers == "finite" else float
    try:
        return json.loads(text, parse_float=number, parse_constant=number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def claim_folder(path: Path, identity: Mapping[str, Any], *, holds: str, results: Path | None = None) -> None:
    """Write into the file `path` what its folder is made of, or compare with what stands there.

    Args:
        path: a JSON file of the folder to be claimed.
        identity: JSON that is equal for calls that may go on with each other's work, and only for those.
        holds: what the folder holds where the identities differ, such as "the evaluation of another model".
        results: what appears with the first result; a folder without it can be claimed anew. None: with the
            claim itself.

    Raises:
        InputError: the folder is of another identity; the message names what differs, as in `model.layers`.
    """
    if not path.exists() or (results is not None and not results.exists()):
        write_json_atomic(path, identity)
        return
    theirs = read_json(path)
    with reading(path, expected="what its folder is made of", damage=TypeError):
        differing = list(_differing(identity, theirs))
    if differing:
        raise InputError(
            what=str(path.parent),
            got=f"{holds}: another {', '.join(differing)}",
            expected="a new folder, or the same command as before",
            remedy="Choose another folder, or delete this one.",
        )


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of values that are not equal, those within an object after its own and a dot."""
    if not isinstance(theirs, Mapping):
        raise TypeError(f"a {type(theirs).__name__} where an object should be")
    for name in sorted({*ours, *theirs}):
        one, other = ours.get(name), theirs.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _differing(one, other, f"{prefix}{name}.")
        elif one != other:
            yield prefix + name


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one object as one line."""
    with room_for(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(_line(row))


def sync(path: Path) -> None:
    """Wait until what was appended to a file is on the disk; a missing file is let be."""
    if path.exists():
        with room_for(path), path.open("rb") as stream:
            os.fsync(stream.fileno())


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; a missing file is empty.

    A last line without its end of line is what a killed process leaves, so it is left out.

    Raises:
        InputError: another line is not a JSON object.
    """
    if not path.exists():
        return []
    lines = enumerate(path.read_bytes().split(b"\n")[:-1], start=1)
    return [_parse_line(line, where=f"{path}, line {number}") for number, line in lines if line.strip()]


def write_jsonl_atomic(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one object a line, whole or not at all."""
    write_text_atomic(path, "".join(map(_line, rows)))


def keep_jsonl(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a JSON lines file with only the rows that `keep` accepts.

    Raises:
        InputError: a line is not a JSON object, or lacks what `keep` looks at.
    """
    if path.exists():
        rows = read_jsonl(path)
        with reading(path, expected="rows as they were written", damage=(KeyError, TypeError)):
            rows = [row for row in rows if keep(row)]
        write_jsonl_atomic(path, rows)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"the number {number}")
    return value


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _parse_line(line: bytes, *, where: str) -> dict[str, Any]:
    with reading(where, expected="a JSON object", damage=ValueError, remedy="Delete that line."):
        row = parse_json(line.decode("utf-8"))
        if not isinstance(row, dict):
            raise ValueError(f"a {type(row).__name__}")
    return row
