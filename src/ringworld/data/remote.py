"""Files of other machines, copied here before they are read: whatever fsspec opens."""

import hashlib
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from ringworld.core.errors import InputError
from ringworld.core.files import clear_unfinished, read_json, write_json_atomic, writing
from ringworld.core.packages import import_optional

_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/+(?P<rest>.+)", re.DOTALL)
_KNOWN_FILE = "known.json"
_COPIED_AT_ONCE = 8
"""Files; most of the time of a small one is that of an answer from far away."""


def address_of(path: str | os.PathLike[str]) -> str | None:
    """Return the address that a path is, such as `s3://bucket/videos`; None for a path of this machine.

    A `Path` made of an address has lost a slash, which is put back.
    """
    found = _ADDRESS.fullmatch(os.fspath(path))
    if found is None or Path(path).exists():
        return None
    scheme = found["scheme"].lower()
    return f"{scheme}://{'/' * (scheme == 'file')}{found['rest']}"


def fetch(address: str, *, into: Path) -> Path:
    """Copy the files at an address, those alone that are new or have changed, and return where they are.

    What an address with the same name as before no longer has is deleted here, too. A local address (`file://`)
    is not copied.

    Args:
        address: of a folder or a file, in a form of fsspec's.
        into: folder for the copies of all addresses.

    Raises:
        InputError: fsspec does not know such addresses, there is nothing, or it cannot be read.
    """
    fsspec = import_optional("fsspec", extra="remote", use="an address", field="path")
    with _named(address):
        system, root = fsspec.core.url_to_fs(address)
        if "file" in _protocols(system):
            return Path(root)
        found: dict[str, dict[str, Any]] = system.find(root, detail=True)
    if not found:
        raise InputError(f"there is no file at {address}", field="path", value=address)
    # Size, and what else its system says, such as a time or an ETag.
    versions = {name: _hash(str(sorted(about.items(), key=str))) for name, about in found.items()}
    folder = into / _hash(address)
    base = PurePosixPath(root)
    top = folder / (base.name or "data")
    targets = {name: _target(name, base, top, address) for name in found}
    known_file = folder / _KNOWN_FILE
    known = read_json(known_file) if known_file.exists() else {}
    # A kill at any moment leaves no file that is older than what is known of it.
    for name in known:
        if known[name] != versions.get(name):
            _target(name, base, top, address).unlink(missing_ok=True)
    write_json_atomic(known_file, versions)
    clear_unfinished(folder, *{target.parent for target in targets.values()})

    def copy(name: str) -> None:
        with _named(address), writing(targets[name]) as temporary:
            system.get_file(name, str(temporary))

    missing = [name for name, target in targets.items() if not target.exists()]
    with ThreadPoolExecutor(_COPIED_AT_ONCE) as pool:
        for _ in pool.map(copy, missing):  # of which an error cancels those that are not begun
            pass
    return top


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _target(name: str, base: PurePosixPath, top: Path, address: str) -> Path:
    path = PurePosixPath(name)
    below = path.relative_to(base) if path.is_relative_to(base) else PurePosixPath(path.name)
    if ".." in below.parts:
        raise InputError(f"{address} holds {name}, which is not below it", field="path", value=address)
    return top / below


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


@contextmanager
def _named(address: str) -> Iterator[None]:
    """Say what goes wrong of the address: each file system has its own errors, such as of missing keys."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{address} cannot be read ({reason})", field="path", value=address) from error
