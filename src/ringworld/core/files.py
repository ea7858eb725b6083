"""Files whole or absent, folders of one process and run, damaged files, full disks, JSON and JSON lines."""

import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from ringworld.core.errors import InputError, plain
from ringworld.core.stop import terminable

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where there is no room left, none left to this user, or none left in one file."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What it says where the file system has no locks; a run there goes without."""
LOCK_FILE = ".lock"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_UNFINISHED = re.compile(r"\..+\.\d+\.tmp", re.DOTALL)
"""Names that `writing` gives to files that are not whole yet."""


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
            _settle(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def clear_unfinished(*folders: Path) -> None:
    """Delete what killed processes left of files that they wrote; into `folders` nobody else writes now."""
    for folder in folders:
        for path in folder.glob(".*.tmp"):
            if _UNFINISHED.fullmatch(path.name) and path.is_file():
                path.unlink()


def is_empty(folder: Path) -> bool:
    """Return whether it is a folder that holds nothing."""
    return folder.is_dir() and not any(folder.iterdir())


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Give a new folder to fill, which becomes `path` when the block ends and vanishes when the block fails.

    A reader finds the new folder whole, or the old one, or between two renames none. What a killed process
    left of the same folder is cleared away. A link stays, and what it points to is the folder.

    Raises:
        InputError: the disk is full, the folder cannot be written, or another process writes the same.
        Stopped: a SIGTERM came.
    """
    target = path.resolve()  # also of `.`, which has no name beside which others could stand
    temporary, replaced = target.with_name(f".{target.name}.tmp"), target.with_name(f".{target.name}.old")

    def clear_replaced() -> None:
        if replaced.exists() and not target.exists():  # what ended here, ended between the two renames
            replaced.replace(target)
        shutil.rmtree(replaced, ignore_errors=True)

    with room_for(path), terminable():
        with only_one(temporary, writes=path):
            clear_replaced()
            for left in temporary.iterdir():
                if left.name != LOCK_FILE:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            try:
                yield temporary
                for file in temporary.rglob("*"):
                    if file.is_file():
                        _settle(file)
                if target.exists():
                    target.replace(replaced)
                (temporary / LOCK_FILE).unlink()
                temporary.replace(target)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
                clear_replaced()


@contextmanager
def only_one(folder: Path, *, writes: Path | None = None) -> Iterator[None]:
    """Keep other processes of ringworld out of a folder, which is made where it is missing.

    The lock is on `folder/.lock`, and ends with the process, however that ends; the file stays.

    Args:
        folder: to be locked.
        writes: what an error names in its place.

    Raises:
        InputError: another process is at work in the folder, it is a file, or it cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder to write into", path=folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / LOCK_FILE).open("ab")
    except OSError as error:
        if is_disk_full(error):
            raise
        problem = f"{writes or folder} cannot be written ({error.strerror})"
        raise InputError(problem, path=writes or folder, remedy="name another folder") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{writes or folder} is in use by another ringworld process",
                path=writes or folder,
                remedy="wait for it, or choose another folder",
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
            f"there is no space left to write {path}",
            path=path,
            remedy="free some; what is already written stays usable, and the same command resumes from it",
        ) from error


def is_disk_full(error: BaseException | None) -> bool:
    """Look through the causes: TensorStore, ArrayRecord and safetensors have errors of their own for it."""
    while error is not None:
        said = str(error).lower()
        full = isinstance(error, OSError) and error.errno in DISK_FULL
        if full or "no space left on device" in said or "file too large" in said:
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def reading(
    path: Path,
    *,
    part: str = "",
    expected: str,
    damage: type[Exception] | tuple[type[Exception], ...],
    remedy: str = "copy it again, or run the command that wrote it again",
) -> Iterator[None]:
    """Turn what the system or a library raises on a file that cannot be read into an error that names it.

    Args:
        path: the file.
        part: of it, such as `line 2`; it becomes the `field` of the error.
        expected: what it should be.
        damage: what the library raises.
        remedy: of the damage.

    Raises:
        InputError: the file is missing, may not be read, is a folder, or is damaged.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; it should be {expected}", path=path) from None
    except damage as error:
        what = f"{path}, {part}," if part else str(path)
        problem = f"{what} is not {expected} ({damage_of(path, error)})"
        raise InputError(problem, path=path, field=part, remedy=remedy) from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})", path=path) from None


def damage_of(path: Path, error: Exception) -> str:
    """Return why a file cannot be used: what a library raised, or that Git left a pointer in its place."""
    with suppress(OSError), path.open("rb") as stream:
        if stream.read(len(_LFS_POINTER)) == _LFS_POINTER:
            return "it is a pointer of Git LFS, and git lfs pull fetches the file itself"
    return plain(str(error))


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; see `writing`."""
    with writing(path) as temporary:
        temporary.write_bytes(content)


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text as `write_bytes_atomic` does.

    Names of files that are not UTF-8 hold halves of surrogate pairs. They are written as JSON escapes them.
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
        ValueError: it is not JSON, nested too deeply, or has a whole number of too many digits.
    """
    number = _finite if numbers == "finite" else float
    try:
        return json.loads(text, parse_float=number, parse_constant=number, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def fitted(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` with the keys of `defaults` and no others: what a file of another version says to ours.

    What is missing is as in `defaults`; an empty object there stands for any keys.
    """

    def fit(default: Any, value: Any) -> Any:
        inside = default and isinstance(default, Mapping) and isinstance(value, Mapping)
        return fitted(default, value) if inside else value

    return {name: fit(default, given.get(name, default)) for name, default in defaults.items()}


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, prefix: str = "") -> list[str]:
    """Return the names of values that are not equal, those within an object after its own and a dot."""
    if not isinstance(theirs, Mapping):
        raise TypeError(f"a {type(theirs).__name__} where an object should be")
    found: list[str] = []
    for name in sorted({*ours, *theirs}):
        one, other = ours.get(name), theirs.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            found += differences(one, other, prefix=f"{prefix}{name}.")
        elif one != other:
            found.append(prefix + name)
    return found


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
    """Wait until what was appended to a file is on the disk; a missing file is ignored."""
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
    return [_parse_line(line, path=path, part=f"line {number}") for number, line in lines if line.strip()]


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


def _settle(file: Path) -> None:
    """Wait until a file is on the disk, and give it the mode of any new one: libraries have their own."""
    umask = os.umask(0o077)
    os.umask(umask)
    file.chmod(0o666 & ~umask)
    with file.open("r+b") as stream:
        os.fsync(stream.fileno())


def _whole(number: str) -> int:
    most = sys.get_int_max_str_digits()
    if most and len(number.removeprefix("-")) > most:
        raise ValueError(f"a number has more than {most} digits")
    return int(number)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"the number {number}")
    return value


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def _parse_line(line: bytes, *, path: Path, part: str) -> dict[str, Any]:
    with reading(path, part=part, expected="a JSON object", damage=ValueError, remedy="delete that line"):
        row = parse_json(line.decode("utf-8"))
        if not isinstance(row, dict):
            raise ValueError(f"a {type(row).__name__}")
    return row


def check_picture(out: Path | None) -> None:
    """Refuse a file to which no picture can be written, before what it shows is measured.

    Raises:
        InputError: it is a folder, does not end in .png, or its folder cannot be made or written to.
    """
    if out is None:
        return
    if out.suffix.lower() != ".png" or out.is_dir():
        raise InputError(
            f"out {out} is not the name of a file that ends in .png", field="out", value=out, path=out
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            return
    except OSError as error:
        problem = f"out {out} cannot be written ({error.strerror or error})"
        raise InputError(problem, field="out", value=out, path=out.parent) from None
