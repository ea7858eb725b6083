"""Frozen dataclasses to JSON and back, and the command as it was typed."""

import dataclasses
import shlex
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from reprlib import repr as short
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from ringworld.core.errors import InputError, plain
from ringworld.core.files import read_json

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Turn a tree of dataclasses, tuples, lists, mappings, paths and scalars into plain JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_json(cls: Callable[..., T], value: Any, *, where: Path | str = "configuration") -> T:
    """Build `cls`, a class or an alias such as `dict[str, float]`, from what `to_json` wrote.

    Raises:
        InputError: a key is unknown or missing, or a value has another type or is out of its range; where
            `where` is a file, `path` is that file and `field` is within it.
    """
    try:
        return _build(cls, value, str(where))
    except InputError as error:
        if isinstance(where, Path):
            error.path, error.field = where, error.field.removeprefix(str(where)).removeprefix(".")
        raise


def parts(cls: type[Any]) -> dict[str, list[str]]:
    """Return the names of the fields of a dataclass, and of all that are in it, by the name of each.

    Example:
        `parts(Run)` of a `Run(model: Model, seed: int)` is `{"Run": ["model", "seed"], "Model": [...]}`.
    """
    found: dict[str, list[str]] = {}
    waiting: list[Any] = [cls]
    while waiting:
        one = waiting.pop()
        if not dataclasses.is_dataclass(one):
            waiting += get_args(one)
        elif isinstance(one, type) and one.__name__ not in found:
            found[one.__name__] = [field.name for field in dataclasses.fields(one)]
            waiting += typing.get_type_hints(one).values()
    return found


def read_as(cls: Callable[..., T], path: Path) -> T:
    """Read a JSON file that holds what `to_json` made of a `cls`.

    Raises:
        InputError: the file is missing, is not JSON, or holds something else.
    """
    return from_json(cls, read_json(path), where=path)


def typed_command() -> str:
    """Return the command line of this process, quoted so that a shell reads it back as it was typed."""
    program = Path(sys.argv[0])
    ours = program.name == "ringworld" or program.parts[-2:] == ("ringworld", "__main__.py")
    return shlex.join([*(["ringworld"] if ours else ["python", sys.argv[0]]), *sys.argv[1:]])


def _build(expected: Any, value: Any, where: str) -> Any:
    origin = get_origin(expected)
    if expected is Any:
        return value
    if dataclasses.is_dataclass(expected):
        return _build_dataclass(expected, value, where)
    if origin is Literal:
        if value not in get_args(expected):
            raise _mismatch(where, short(value), f"one of {', '.join(map(repr, get_args(expected)))}")
        return value
    if origin in (Union, types.UnionType):
        return _build_union(get_args(expected), value, where)
    if origin is tuple:
        return _build_tuple(get_args(expected), value, where)
    if origin is list:
        return list(_build_tuple((*get_args(expected), ...), value, where))
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise _mismatch(where, type(value).__name__, "an object")
        item = get_args(expected)[1]
        return {key: _build(item, entry, f"{where}.{key}") for key, entry in value.items()}
    return _build_scalar(expected, value, where)


def _build_dataclass(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _mismatch(where, type(value).__name__, f"the fields of {cls.__name__}")
    hints = typing.get_type_hints(cls)
    names = {field.name for field in dataclasses.fields(cls) if field.init}
    unknown, missing = sorted(value.keys() - names), sorted(names - value.keys())
    if unknown or missing:
        raise _mismatch(
            where, f"unknown {unknown}, missing {missing}", f"exactly the fields of {cls.__name__}"
        )
    built = {name: _build(hints[name], value[name], f"{where}.{name}") for name in names}
    try:
        return cls(**built)
    except InputError as error:
        raise InputError(
            f"{where}: {error.problem}",
            remedy=error.remedy,
            field=f"{where}.{error.field}",
            value=error.value,
        ) from None


def _build_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    for option in options:
        try:
            return _build(option, value, where)
        except InputError:
            continue
    raise _mismatch(where, short(value), " or ".join(getattr(one, "__name__", str(one)) for one in options))


def _build_tuple(items: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, list):
        raise _mismatch(where, type(value).__name__, "a list")
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise _mismatch(where, f"{len(value)} items", f"{len(items)} items")
    return tuple(_build(item, entry, f"{where}[{i}]") for i, (item, entry) in enumerate(zip(items, value)))


def _build_scalar(cls: Any, value: Any, where: str) -> Any:
    if cls is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    if cls is type(None) and value is None:
        return None
    if cls is Path and isinstance(value, str):
        return Path(value)
    if type(value) is not cls:
        raise _mismatch(where, f"{type(value).__name__} {short(value)}", getattr(cls, "__name__", str(cls)))
    return value


def _mismatch(where: str, got: str, expected: str) -> InputError:
    return InputError(
        f"{plain(where)} holds {plain(got)}, but should hold {expected}",
        field=where,
        value=got,
        remedy="it was written by another version or edited: write it again with this one",
    )
