"""`origin.json`, one in every folder that ringworld writes: what the folder is and what it was made of."""

import os
import platform
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ringworld.core.config import from_json, to_json, typed_command
from ringworld.core.errors import InputError
from ringworld.core.files import (
    differences,
    fitted,
    is_empty,
    only_one,
    parse_json,
    reading,
    write_json_atomic,
)
from ringworld.core.version import __version__

ORIGIN_FILE = "origin.json"
Kind = Literal[
    "tokenizer",
    "examples",
    "questions",
    "run",
    "model",
    "adapter",
    "memory",
    "evaluation",
    "generation",
    "toy world",
    "quickstart",
]
"""What a folder holds."""
_LIBRARIES = (
    "jax",
    "jaxlib",
    "equinox",
    "optax",
    "orbax-checkpoint",
    "grain",
    "av",
    "pillow",
    "pyarrow",
    "array-record",
    "tokenizers",
    "gguf",
    "numpy",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a folder comes from."""

    kind: Kind
    ringworld: str = __version__
    """Version that wrote it."""
    command: str = field(default_factory=typed_command)
    """Command line of the process that wrote it."""
    versions: dict[str, str] = field(default_factory=lambda: versions())
    """Of Python and the libraries that decide results."""
    identity: dict[str, Any] = field(default_factory=dict)
    """Equal for calls that may resume each other's work, and only for those."""
    configuration: Any = None
    """Everything that was configured, as plain JSON."""
    parents: dict[str, Any] = field(default_factory=dict)
    """The folders that it was made from, each with its path and fingerprint."""


def versions(*libraries: str) -> dict[str, str]:
    """Return the versions of Python and of libraries, by default of those that decide results."""
    return {"python": platform.python_version()} | library_versions(*(libraries or _LIBRARIES))


def library_versions(*libraries: str) -> dict[str, str]:
    """Return the versions of libraries alone."""
    return {name: version(name) for name in libraries}


def machine() -> str:
    """Return the processors of this machine: `2 cores x86_64, Intel(R) Xeon(R) Processor @ 2.60GHz`."""
    cpu = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.+)", cpu.read_text()) if cpu.exists() else None
    return f"{os.cpu_count()} cores {platform.machine()}" + (f", {named.group(1)}" if named else "")


def read_origin(folder: Path, *, kind: Kind | None = None) -> Origin:
    """Read the origin of a folder.

    Args:
        folder: that ringworld wrote.
        kind: what it should hold.

    Raises:
        InputError: it has no origin, or holds something else.
    """
    path = folder / ORIGIN_FILE
    if not folder.is_dir():
        raise InputError(f"the folder {folder} does not exist", path=folder)
    if not path.exists():
        what = f"a {kind} folder" if kind else "a folder"
        raise InputError(f"{folder} is not {what} of ringworld: it has no {ORIGIN_FILE}", path=folder)
    blank = Origin(kind="run", ringworld="unknown", command="unknown", versions={})
    whole = "name another folder, or put the file back as it was"
    with reading(path, expected=f"an {ORIGIN_FILE} of ringworld", damage=ValueError, remedy=whole):
        parsed = parse_json(path.read_text(encoding="utf-8"))
    found = from_json(dict[str, Any], parsed, where=path)
    # The one key without a default must be there.
    origin = from_json(Origin, fitted(to_json(blank), found | {"kind": found.get("kind")}), where=path)
    if kind not in (None, origin.kind):
        problem = f"the kind of {folder}, which ringworld wrote, is {origin.kind!r}, not {kind!r}"
        raise InputError(problem, path=folder, remedy="name another folder")
    return origin


def write_origin(folder: Path, origin: Origin) -> None:
    """Write `origin.json`, whole or not at all."""
    write_json_atomic(folder / ORIGIN_FILE, to_json(origin))


def check_free(folder: Path, *, kind: Kind) -> None:
    """Refuse to write into a folder that holds something else; one that is new, empty or of the kind is free.

    Hidden files do not count: no input of ours is one, and a folder that was only locked has some.

    Raises:
        InputError: the folder is of another kind, or holds files and no origin; `value` is the name of one.
    """
    if (folder / ORIGIN_FILE).exists():
        read_origin(folder, kind=kind)
    elif folder.is_dir():
        held = next((entry.name for entry in folder.iterdir() if not entry.name.startswith(".")), None)
        if held is not None:
            raise InputError(
                f"{folder} holds {held} and no {ORIGIN_FILE}, so it is no folder that ringworld began",
                path=folder,
                value=held,
                remedy="name a new folder, or an empty one",
            )


@contextmanager
def working_in(folder: Path, *, kind: Kind) -> Iterator[None]:
    """Make a folder where it is missing, and keep other processes of ringworld out of it.

    Raises:
        InputError: the folder holds something else, another process is at work in it, or it is a file.
    """
    check_free(folder, kind=kind)
    with only_one(folder):
        yield


def claim(folder: Path, origin: Origin, *, results: str = "") -> None:
    """Write the origin of a folder that is begun, or compare with the one that stands there.

    Args:
        folder: to be claimed.
        origin: whose identity decides; what else changed since the first call is written anew.
        results: glob of what appears with the first result: a folder of this kind without it can be claimed
            anew. By default the claim itself binds.

    Raises:
        InputError: the folder is not free (`check_free`), or of another identity; then `value` lists what
            differs, as `model.layers`.
    """
    check_free(folder, kind=origin.kind)
    if (folder / ORIGIN_FILE).exists():
        theirs = read_origin(folder)
        binding = not results or any(folder.glob(results))
        if binding and (differing := differences(to_json(origin.identity), theirs.identity)):
            raise InputError(
                f"{folder} holds another {origin.kind}, which differs in {', '.join(differing)}",
                path=folder,
                field=differing[0],
                value=differing,
                remedy="choose another folder, or repeat the command that began it",
            )
        ours = (origin.identity, origin.configuration, origin.parents)
        if [theirs.identity, theirs.configuration, theirs.parents] == to_json(ours):
            return
    write_origin(folder, origin)


def check_replaceable(folder: Path, *, kind: Kind) -> None:
    """Refuse to put a folder in the place of what ringworld did not write, or of another kind.

    An empty one may be replaced.

    Raises:
        InputError: something stands there that is no such folder of ringworld.
    """
    if is_empty(folder):
        return
    if folder.exists() and not (folder / ORIGIN_FILE).exists():
        article = "an" if kind[0] in "aeiou" else "a"
        problem = f"{folder} is where {article} {kind} is to be saved, but has no {ORIGIN_FILE} of ringworld"
        raise InputError(problem, path=folder, remedy="move it away, or name another folder")
    if folder.exists():
        read_origin(folder, kind=kind)


def made_by(saved: Origin | None, origin: Origin) -> bool:
    """Return whether a folder of weights has an origin already, but for the fingerprint of the weights."""
    if saved is None:
        return False
    theirs = {name: value for name, value in saved.identity.items() if name != "weights"}
    return theirs == origin.identity and saved.parents == origin.parents


def parent(folder: Path, fingerprint: str) -> Mapping[str, str]:
    """Return how an origin names a folder that something was made from."""
    return {"path": str(folder.resolve()), "fingerprint": fingerprint}
