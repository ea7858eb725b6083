"""What stands beside a measurement: the command, the versions and the machine."""

import os
import platform
import shlex
from dataclasses import fields
from importlib.metadata import version
from typing import Any

from ringworld import __version__
from ringworld.cli.options import option_name


def command_of(name: str, options: Any) -> str:
    """Return the command that was given, without what only changes how its result is shown.

    Args:
        name: such as `ringworld bench layouts`.
        options: its dataclass; those that have their default are left out.
    """
    words = [name]
    for option in fields(options):
        value, flag = getattr(options, option.name), option_name(option.name)
        if option.name in ("out", "json") or value == option.default:
            continue
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [flag, *(shlex.quote(str(x)) for x in values)]
    return " ".join(words)


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
