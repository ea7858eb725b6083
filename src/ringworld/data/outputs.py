"""Which folders are ours: results below a folder of inputs are no inputs, unless they are named."""

from collections.abc import Collection
from pathlib import Path

from ringworld.core.files import parse_json

# A key that other programs have no reason to write.
_FILE, _KEY = "origin.json", "ringworld"


def is_output_folder(folder: Path, names: Collection[str]) -> bool:
    """Return whether ringworld wrote a folder.

    Args:
        folder: any folder.
        names: of the files in it.
    """
    if _FILE not in names:
        return False
    try:
        value = parse_json((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and _KEY in value
