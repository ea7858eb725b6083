"""What several commands ask for, and what `--help` says of options that something else decides."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ringworld.core.config import read_run
from ringworld.core.errors import InputError
from ringworld.core.ranges import check_range
from ringworld.presets import RunConfig, named


def otherwise(happens: str, *, metavar: str) -> Any:
    """Return the annotation of an option that may be left out; `--help` says what happens then."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {happens})")


Devices = Annotated[
    int | None,
    otherwise("as the configuration says; where there are accelerators, all of them", metavar="INT"),
]
Folders = Annotated[tuple[Path, ...], otherwise("none", metavar="[PATH [PATH ...]]")]


def check_option(asked: object, *fields: str, least: int, most: int | None = None) -> None:
    """Refuse options of a command whose numbers lie outside a range.

    Raises:
        InputError: the first that does.
    """
    check_range(asked, *fields, least=least, most=most, what=option_name, remedy="Give another number.")


def option_name(field: str) -> str:
    """Return the name of an option as it is typed: `--top-k` for `top_k`."""
    return f"--{field.replace('_', '-')}"


def open_folder(out: Path) -> None:
    """Make the folder of a result, before anything slow is done.

    Raises:
        InputError: that is not possible, or nothing can be written to it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            return
    except (FileExistsError, NotADirectoryError):
        problem = "a file where a folder should be"
    except OSError as error:
        problem = error.strerror or str(error)
    raise InputError(
        what=f"--out {out}",
        got=problem,
        expected="a folder that can be made and written to",
        remedy="Give another name.",
    )


def check_picture(out: Path | None) -> None:
    """Refuse an `--out` to which no picture can be written, before what it shows is measured.

    Raises:
        InputError: it is a folder, or does not end in .png, or its folder cannot be made or written to.
    """
    if out is None:
        return
    if out.suffix.lower() != ".png" or out.is_dir():
        raise InputError(
            what=f"--out {out}",
            got="a folder" if out.is_dir() else f"the ending {out.suffix!r}" if out.suffix else "no ending",
            expected="a name of a file that ends in .png",
            remedy="Give another name.",
        )
    open_folder(out.parent)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigOptions:
    """Which configuration a command runs with."""

    preset: str = "quickstart"
    """Name of a configuration: quickstart, smoke or lwm_7b."""
    config: Annotated[Path | None, otherwise("the preset", metavar="PATH")] = None
    """A run.json that a command wrote, edited or not, or its folder; used instead of the preset."""

    def load(self) -> RunConfig:
        """Return the configuration.

        Raises:
            InputError: no such preset, or the file does not hold a configuration.
        """
        if self.config is None:
            return named(self.preset)
        return read_run(self.config, RunConfig)
