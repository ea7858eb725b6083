"""What is copied out of another file to be read: what is wrong with it is said of that file."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ringworld.core.errors import InputError
from ringworld.data.samples import MediaFile


@contextmanager
def named_as(names: Mapping[Path, str], *, path: Path) -> Iterator[None]:
    """Say errors about copies, which are gone when they are read, of the file that they came from.

    Args:
        names: of each copy what messages call it, such as `a.tar, entry 1.mp4`.
        path: the file that they were copied out of.

    Raises:
        InputError: what was raised, with these names.
    """
    try:
        yield
    except InputError as error:
        problem, remedy = error.problem, error.remedy
        for copy, name in names.items():
            problem = problem.replace(str(copy), name)
            remedy = "" if str(copy.parent) in remedy else remedy  # such as a command that converts the copy
        of = path if error.path in names else error.path
        raise InputError(problem, remedy=remedy, field=error.field, value=error.value, path=of) from None


def named_as_held(clip: MediaFile) -> AbstractContextManager[None]:
    """Return `named_as` for a clip, which is perhaps a copy."""
    if clip.holder is None:
        return named_as({}, path=clip.path)
    return named_as({clip.path: f"{clip.holder}, {clip.part}"}, path=clip.holder)
