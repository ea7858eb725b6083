"""What several commands ask for, configurations with overrides, and errors that name options as typed."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from ringworld.core.config import from_json
from ringworld.core.errors import InputError
from ringworld.core.origin import read_origin
from ringworld.model.config import WeightType
from ringworld.presets.run import RunConfig, catalog, load_preset

CommandT = TypeVar("CommandT")
ConfigT = TypeVar("ConfigT")


def otherwise(happens: str, *, metavar: str, help: str | None = None) -> Any:
    """Return the annotation of an option that may be left out; `--help` says what happens then."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {happens})", help=help)


Devices = Annotated[
    int | None,
    otherwise("as the configuration says; where there are accelerators, all of them", metavar="INT"),
]
Folders = Annotated[tuple[Path, ...], otherwise("none", metavar="[PATH [PATH ...]]")]
_PRESET = "Configuration, every field of which is an option of this command too."
_HINT = otherwise("none: name one, or a --config", metavar="NAME|MODULE:FUNCTION", help=_PRESET)
PresetName = Annotated[str | None, _HINT]
_CONFIG = "A folder that a command wrote; its configuration is used instead of a preset."
ConfigFolder = Annotated[Path | None, otherwise("the preset", metavar="PATH", help=_CONFIG)]
Stages = Annotated[tuple[str, ...], otherwise("all", metavar="[NAME ...]", help="Some stages, by name.")]
CONFIGURED = "as the model folder says"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenOptions:
    """How tokens are drawn."""

    temperature: Annotated[float | None, otherwise(CONFIGURED, metavar="FLOAT")] = None
    """Divides the logits; 0 takes the likeliest token."""
    top_k: Annotated[int | None, otherwise(CONFIGURED, metavar="INT")] = None
    """Draw among so many of the likeliest tokens; 0 keeps all."""
    top_p: Annotated[float | None, otherwise(CONFIGURED, metavar="FLOAT")] = None
    """Draw among the fewest likeliest tokens that are together at least so likely; 1 keeps all."""
    min_p: Annotated[float | None, otherwise(CONFIGURED, metavar="FLOAT")] = None
    """Draw among tokens at least so likely, as a share of the likeliest; 0 keeps all."""
    repetition_penalty: Annotated[float | None, otherwise(CONFIGURED, metavar="FLOAT")] = None
    """Makes tokens that the prompt or what was written holds less likely; 1 is none."""
    seed: int = 0
    """The same seed gives the same result."""


Sampled = Annotated[TokenOptions, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """How the model is kept, and where."""

    weights: Annotated[
        WeightType | None,
        otherwise("the type in which the model is computed", metavar="{float32,bfloat16,int8}"),
    ] = None
    """Type in which weights are kept; int8 rounds them, each output channel by itself."""
    devices: Devices = None
    """Devices of the ring; without an accelerator they are simulated."""


Loaded = Annotated[LoadOptions, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Show:
    """How a measurement is shown."""

    out: Annotated[Path | None, otherwise("no picture", metavar="PATH")] = None
    """File for a picture (PNG) of it."""
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    """Print one JSON object instead of a table."""


Shown = Annotated[Show, tyro.conf.arg(name="")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Configured(Generic[CommandT, ConfigT]):
    """A command, and the configuration that it runs with, every field of which is an option."""

    command: Annotated[CommandT, tyro.conf.arg(name="")]
    config: Annotated[ConfigT, tyro.conf.arg(name="")]


def given(command: object, *names: str) -> dict[str, Any]:
    """Return options of a command by name, as the library takes them."""
    return {name: getattr(command, name) for name in names}


def parse(cls: type[Any], config: Any, arguments: Sequence[str], *, prog: str) -> tuple[Any, Any]:
    """Return a command and the configuration as overridden; tyro prints what is wrong, and exits with 2."""
    parsed = tyro.cli(
        Configured[cls, type(config)],
        default=Configured(command=tyro.MISSING_NONPROP, config=config),
        args=arguments,
        prog=prog,
        description=cls.__doc__,
        config=(tyro.conf.AvoidSubcommands,),
    )
    return parsed.command, parsed.config


def chosen_run(arguments: Sequence[str], *, command: str) -> RunConfig:
    """Return the run that `--preset` or `--config` name, before it is overridden.

    Raises:
        InputError: neither is given, or there is no such preset or folder.
    """
    folder, name = value_of("--config", arguments), value_of("--preset", arguments)
    if folder is not None and name is not None:
        problem = f"--config {folder} and --preset {name} are two configurations"
        raise InputError(problem, field="preset", value=name, remedy="give one")
    if folder is not None:
        origin = read_origin(Path(folder))
        return from_json(RunConfig, origin.configuration, where=f"the configuration of {folder}")
    if name is None:
        raise InputError(
            f"{command} needs a configuration",
            field="preset",
            remedy="name one with --preset, or a folder that a command wrote with --config. "
            f"A preset is one of these, or MODULE:FUNCTION of your own:\n{catalog()}",
        )
    return load_preset(name)


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """Return what stands after the last such flag, as `--flag value` or `--flag=value`."""
    value = None
    for argument, following in zip(arguments, [*arguments[1:], None]):
        if argument == flag:
            value = following
        elif argument.startswith(f"{flag}="):
            value = argument.partition("=")[2]
    return value


def as_typed(error: InputError, command: object, arguments: Sequence[str]) -> str:
    """Return the message of an error that begins with a parameter, with the option that was typed for it."""
    message, field = str(error), error.field or ""
    option = f"--{field.replace('_', '-')}"
    known = field in _names(command) or "." in field or value_of(option, arguments) is not None
    return option + message.removeprefix(field) if known and message.startswith(f"{field} ") else message


def _names(options: object) -> set[str]:
    """Return the names of options, and of those that are one's parts."""
    if not dataclasses.is_dataclass(options):
        return set()
    names = {field.name for field in dataclasses.fields(options)}
    return names.union(*(_names(getattr(options, name)) for name in names))
