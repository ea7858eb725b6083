"""Files that cannot be used are quarantined, each with its reason, and the rest is used."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ringworld.core.errors import InputError
from ringworld.core.files import DISK_FULL

_SHOWN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Quarantined:
    """One file, or a part of one, that could not be used."""

    path: str
    """Path relative to the folder that was named, and `#line` for a line of JSONL."""
    reason: str
    field: str = ""
    """What of it is wrong, such as `line 3.questions[12].answer`; empty where it is all of it."""


@contextmanager
def quarantine(path: str, *, into: list[Quarantined]) -> Iterator[None]:
    """Catch what is wrong with the file `path` and append it to `into`."""
    try:
        yield
    except InputError as error:
        into.append(Quarantined(path=path, reason=str(error), field=error.field))
    except OSError as error:
        if error.errno in DISK_FULL:
            raise  # nothing is wrong with the file
        into.append(Quarantined(path=path, reason=f"{path}: {error.strerror or error}"))
    except (ValueError, OverflowError, SyntaxError, RecursionError) as error:
        # What libraries raise on names, tags, numbers and trees that nobody should write.
        into.append(Quarantined(path=path, reason=f"{path}: damaged or hostile ({error})"))


def nothing_usable(what: str, quarantined: Sequence[Quarantined], *, field: str = "") -> InputError:
    """Return the error for a folder in which no file could be used."""
    reasons = "; ".join(item.reason for item in quarantined[:_SHOWN])
    more = f"; and {len(quarantined) - _SHOWN} more" if len(quarantined) > _SHOWN else ""
    found = f"no usable file ({reasons}{more})" if quarantined else "no file"
    return InputError(f"{found} among {what}", field=field, remedy="use another folder, or repair the files")
