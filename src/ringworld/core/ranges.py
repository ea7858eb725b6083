"""Ranges of the numbers in a configuration, and numbers that training may not leave."""

import math
from collections.abc import Callable, Mapping
from operator import ge, gt, le, lt

from ringworld.core.errors import InputError

_REMEDY = "Change the configuration."


def check_range(
    config: object,
    *fields: str,
    least: float | int | None = None,
    above: float | int | None = None,
    most: float | int | None = None,
    below: float | int | None = None,
    what: Callable[[str], str] = str,
    remedy: str = _REMEDY,
) -> None:
    """Refuse fields that lie outside a range; NaN and infinity, which no JSON holds, lie outside every range.

    Args:
        config: a dataclass, in its `__post_init__`.
        fields: names of fields that hold a number.
        least: the smallest number in the range.
        above: a number below the range.
        most: the largest number in the range.
        below: a number above the range.
        what: how the message calls a field.
        remedy: what to do instead.

    Raises:
        InputError: the first field that is outside.
    """
    bounds = (("at least", ge, least), ("more than", gt, above), ("at most", le, most), ("below", lt, below))
    asked = [(words, holds, bound) for words, holds, bound in bounds if bound is not None]
    for field in fields:
        value = getattr(config, field)
        require(
            math.isfinite(value) and all(holds(value, bound) for _, holds, bound in asked),
            what(field),
            got=value,
            expected=" and ".join(f"{words} {bound}" for words, _, bound in asked),
            remedy=remedy,
        )


def check_counts(**numbers: int) -> None:
    """Refuse numbers of what there must be one of at least, such as tokens or members.

    Args:
        numbers: by name.

    Raises:
        InputError: the first that is below 1.
    """
    for name, number in numbers.items():
        require(number >= 1, name, got=number, expected="at least 1", remedy="Give another number.")


def require(holds: bool, what: str, *, got: object, expected: str, remedy: str = _REMEDY) -> None:
    """Refuse a configuration in which a rule that is no range does not hold.

    Raises:
        InputError: it does not.
    """
    if not holds:
        raise InputError(what=what, got=str(got), expected=expected, remedy=remedy)


def check_finite(values: Mapping[str, float | int], *, where: str) -> None:
    """Stop a training whose numbers have left all bounds, before they reach its files.

    Args:
        values: by name, such as `loss`.
        where: the step, as the message says it.

    Raises:
        InputError: the first value that is NaN or infinite.
    """
    for name, value in values.items():
        require(
            math.isfinite(value),
            f"{name} at {where}",
            got=value,
            expected="a finite number",
            remedy="Lower the learning rate or lengthen the warm-up, and train in a new folder.",
        )
