"""Files that are whole or absent: atomic writes, checksums, JSON and JSON lines."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ringworld.core.errors import InputError


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write `content` beside `path` and rename it into place; a reader sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Write UTF-8 text as `write_bytes_atomic` does."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: Path, value: Any) -> None:
    """Write indented JSON; NaN and infinity are refused, since no JSON reader need accept them."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            what=str(path), got="no such file", expected="a JSON file", remedy="Check the folder's name."
        ) from None
    except ValueError as error:
        raise InputError(
            what=str(path),
            got=f"text that is not JSON ({error})",
            expected="a JSON file",
            remedy="Delete it and run the command that wrote it again.",
        ) from None


def claim_folder(path: Path, identity: Any, *, holds: str) -> None:
    """Write into the file `path` what its folder is made of, or compare with what stands there.

    Args:
        path: a JSON file of the folder to be claimed.
        identity: JSON that is equal for calls that may go on with each other's work, and only for those.
        holds: what the folder holds where the identities differ, such as "the evaluation of another model".

    Raises:
        InputError: the folder is of another identity.
    """
    if not path.exists():
        write_json_atomic(path, identity)
    elif read_json(path) != identity:
        raise InputError(
            what=str(path.parent),
            got=holds,
            expected="a new folder, or the same command as before",
            remedy="Choose another folder, or delete this one.",
        )


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one object as one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object a line; a missing file is empty.

    A last line without its end of line is what a killed process leaves, so it is left out.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def keep_jsonl(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a JSON lines file with only the rows that `keep` accepts."""
    if path.exists():
        rows = [row for row in read_jsonl(path) if keep(row)]
        write_text_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
