"""Ranges of the numbers in a configuration."""

import math
from collections.abc import Callable
from operator import ge, gt, le, lt

from ringworld.core.errors import InputError


def check_range(
    config: object,
    *fields: str,
    least: float | int | None = None,
    above: float | int | None = None,
    most: float | int | None = None,
    below: float | int | None = None,
    what: Callable[[str], str] = str,
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

    Raises:
        InputError: the first field that is outside.
    """
    bounds = (("at least", ge, least), ("more than", gt, above), ("at most", le, most), ("below", lt, below))
    asked = [(words, holds, bound) for words, holds, bound in bounds if bound is not None]
    for field in fields:
        value = getattr(config, field)
        if not (math.isfinite(value) and all(holds(value, bound) for _, holds, bound in asked)):
            raise InputError(
                what=what(field),
                got=str(value),
                expected=" and ".join(f"{words} {bound}" for words, _, bound in asked),
                remedy="Change the configuration.",
            )
