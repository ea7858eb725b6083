"""Ranges of the numbers in a configuration."""

import dataclasses
import math
from numbers import Real
from operator import ge, gt, index, le, lt
from typing import Any, Final, TypedDict, Unpack

from ringworld.core.errors import InputError

_LARGEST_INTEGER = 2**63 - 1
_RULES: Final = (
    ("least", "at least", ge),
    ("above", "more than", gt),
    ("most", "at most", le),
    ("below", "below", lt),
)


class Bounds(TypedDict, total=False):
    """The ends of a range; one that is missing or None bounds nothing."""

    least: float | int | None
    """The smallest number in the range."""
    above: float | int | None
    """A number below the range."""
    most: float | int | None
    """The largest number in the range."""
    below: float | int | None
    """A number above the range."""


def check_number(field: str, value: Any, *, remedy: str = "", **bounds: Unpack[Bounds]) -> None:
    """Refuse a number outside a range.

    NaN and infinity, which no JSON holds, and integers of more than 64 bits, which no array holds, are
    outside every range. Numbers of NumPy are numbers; a bool and a string are not.

    Args:
        field: what the number is called.
        value: the number.
        remedy: what to do instead.
        bounds: `least`, `above`, `most`, `below`.

    Raises:
        InputError: it is outside, or no number.
    """
    given, value = value, _number(value)
    if value is None:
        raise _not_a(field, given, "a number")
    asked = [
        (words, holds, bound) for name, words, holds in _RULES if (bound := bounds.get(name)) is not None
    ]
    storable = abs(value) <= _LARGEST_INTEGER if isinstance(value, int) else math.isfinite(value)
    if not (storable and all(holds(value, bound) for _, holds, bound in asked)):
        rules = [f"{words} {bound}" for words, _, bound in asked]
        rules += [] if storable else ["of 64 bits" if isinstance(value, int) else "finite"]
        rule = " and ".join(rules)
        shown = value if storable else "an integer of more than 64 bits" if isinstance(value, int) else value
        raise InputError(f"{field} is {shown}, but must be {rule}", field=field, value=given, remedy=remedy)


def whole_number(field: str, value: Any, *, remedy: str = "", **bounds: Unpack[Bounds]) -> int:
    """Return a whole number, of Python or NumPy, as an `int`; arguments as for `check_number`.

    Raises:
        InputError: it is outside the range, or not an integer.
    """
    whole = _number(value)
    if not isinstance(whole, int):
        raise _not_a(field, value, "a whole number")
    check_number(field, whole, remedy=remedy, **bounds)
    return whole


def check_range(config: Any, *fields: str, of: str = "", remedy: str = "", **bounds: Unpack[Bounds]) -> None:
    """Refuse fields of a dataclass that lie outside a range; see `check_number`.

    Args:
        config: a dataclass, in its `__post_init__`.
        fields: names of fields that hold a number; a whole one where the field is declared as `int`.
        of: what the dataclass describes; `model` makes the field `model.heads`.
        remedy: what to do instead.
        bounds: as for `check_number`.

    Raises:
        InputError: the first field that is outside, or no such number.
    """
    types = {field.name: field.type for field in dataclasses.fields(config)}
    for field in fields:
        name, value = f"{of}.{field}" if of else field, getattr(config, field)
        if types[field] is int and not isinstance(_number(value), int):
            raise _not_a(name, value, "a whole number")
        check_number(name, value, remedy=remedy, **bounds)


def _number(value: Any) -> Any:
    """Return a number, as Python's own where it is an integer; None where it is no number."""
    if isinstance(value, bool):
        return None
    try:
        return index(value)
    except TypeError:
        return value if isinstance(value, Real) else None


def _not_a(field: str, value: Any, kind: str) -> InputError:
    shown = f"{value!r:.80}, {type(value).__name__}"
    return InputError(f"{field} is {shown}, but must be {kind}", field=field, value=value)
