"""What stands beside a measurement: the versions and the machine."""

import os
import platform
from importlib.metadata import version

from ringworld.core.version import __version__


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of this package, Python, and others."""
    return {
        "ringworld": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def machine() -> str:
    """Return the processors that the measurement had."""
    return f"{os.cpu_count()} cores {platform.machine()}"
