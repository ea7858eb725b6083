"""What one of several processes fails with, as JSON, so that all of them end with one sentence."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ringworld.core.errors import InputError


def told(error: Exception) -> dict[str, Any]:
    """Return what the others need to raise the same."""
    if isinstance(error, InputError):
        path = None if error.path is None else str(error.path)
        return {"problem": error.problem, "remedy": error.remedy, "field": error.field, "path": path}
    if isinstance(error, OSError) and error.filename is not None:
        path = os.fsdecode(error.filename)
        remedy = "check the path, and that it can be read or written"
        return {"problem": f"{path}: {error.strerror}", "remedy": remedy, "field": "", "path": path}
    return {"failed": f"{type(error).__name__}: {error}"}


def heard(said: Mapping[str, Any], *, process: int | None = None) -> Exception:
    """Return the error that `told` described; one by which process is named where it is given."""
    if "failed" in said:
        return RuntimeError(f"process {process or 0} failed: {said['failed']}")
    by = "" if process is None else f"process {process}: "
    path = None if said["path"] is None else Path(said["path"])
    return InputError(f"{by}{said['problem']}", remedy=said["remedy"], field=said["field"], path=path)
