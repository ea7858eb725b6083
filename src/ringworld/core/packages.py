"""Packages that only some uses need."""

from importlib import import_module
from typing import Any

from ringworld.core.errors import InputError


def import_optional(package: str, *, extra: str, use: str, field: str) -> Any:
    """Import a package that an extra of ringworld installs.

    Args:
        package: its name.
        extra: that has it.
        use: what needs it.
        field: the parameter that asks for this use.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        problem = f"{use} needs the package {error.name}"
        raise InputError(problem, field=field, remedy=f"pip install 'ringworld[{extra}]'") from None
