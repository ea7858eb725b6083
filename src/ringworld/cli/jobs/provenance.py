"""What stands beside a measurement: the command, the versions and the machine."""

import os
import platform
import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from typing import Any

from ringworld import __version__


def command_of(name: str, options: Any) -> str:
    """Return the command that was given, without what only changes how its result is shown.

    Args:
        name: such as `ringworld bench layouts`.
        options: its dataclass; those that have their default are left out.
    """
    return " ".join([name, *_words(options, type(options)())])


def _words(options: Any, defaults: Any) -> Iterator[str]:
    for option in fields(options):
        value, default = getattr(options, option.name), getattr(defaults, option.name)
        if option.name in ("out", "json") or value == default:
            continue
        flag = option.name.replace("_", "-")
        if is_dataclass(value):
            yield from _words(value, default)
        elif isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield f"--{flag}"
            yield from map(shlex.quote, map(str, value if isinstance(value, tuple) else (value,)))


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of this package, Python, and others."""
    return {
        "ringworld": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def machine() -> str:
    """Say what processors the measurement had."""
    return f"{os.cpu_count()} cores {platform.machine()}"
