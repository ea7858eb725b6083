"""`ringworld COMMAND`: choose the command, run it, and turn what the user can fix into exit code 2."""

import io
import os
import signal
import sys
from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro

from ringworld.cli.bench import Bench
from ringworld.cli.chat import Chat
from ringworld.cli.convert import Convert
from ringworld.cli.data import Data, MakeQa, Runs
from ringworld.cli.evaluate import Evaluate
from ringworld.cli.generate import Generate
from ringworld.cli.options import as_typed, chosen_run, parse, value_of
from ringworld.cli.plan import Plan
from ringworld.cli.prepare import Prepare
from ringworld.cli.quickstart import Quickstart
from ringworld.cli.serve import Serve
from ringworld.cli.train import Train
from ringworld.cli.train_tokenizer import TrainTokenizer
from ringworld.core.errors import Diverged, InputError, RenderTimeout, Stopped, not_a_choice
from ringworld.core.files import is_disk_full
from ringworld.presets.run import load_preset

COMMANDS = {
    "quickstart": Quickstart,
    "train-tokenizer": TrainTokenizer,
    "plan": Plan,
    "prepare": Prepare,
    "data": Data,
    "make-qa": MakeQa,
    "train": Train,
    "runs": Runs,
    "generate": Generate,
    "chat": Chat,
    "serve": Serve,
    "evaluate": Evaluate,
    "convert": Convert,
    "bench": Bench,
}
CONFIGURED = ("train-tokenizer", "prepare", "train")
"""Commands that need a preset, and take every field of its run as an option."""
INPUT_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    | exit code | after |
    |---|---|
    | 0 | success |
    | 1 | a run that diverged, or a machine that is too busy |
    | 2 | what the user can fix |
    | 130, 143 | Ctrl-C, SIGTERM: 128 and the number of the signal, as a shell counts |
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file's name need not be text in the encoding of the terminal, but it must be shown.
            stream.reconfigure(errors="backslashreplace")
    command, typed = None, sys.argv[1:] if arguments is None else arguments
    try:
        command, *config = _parsed(typed)
        command.run(*config)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as error:
        print(f"interrupted{f': {error}' if str(error) else ''}", file=sys.stderr)
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        raise SystemExit(128 + number) from None
    except (Diverged, RenderTimeout) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except InputError as error:
        print(f"error: {as_typed(error, command, typed)}", file=sys.stderr)
        raise SystemExit(INPUT_ERROR) from None
    except Exception as error:
        if is_disk_full(error):
            print(f"error: no space left on the disk ({error})", file=sys.stderr)
            print("Free some space; the same command resumes from what is already written.", file=sys.stderr)
        elif isinstance(error, OSError) and error.filename:
            reason = f"{error.filename}: {error.strerror}"
            print(f"error: {reason}. Check the path, and that it can be read or written.", file=sys.stderr)
        else:
            raise
        raise SystemExit(INPUT_ERROR) from None


def _parsed(arguments: Sequence[str]) -> Sequence[Any]:
    """Return the command and its configuration; tyro prints what is wrong with options, and exits with 2."""
    name, *rest = arguments or ("--help",)
    if not name.startswith("-") and name not in COMMANDS:
        raise not_a_choice("command", name, choices=COMMANDS)
    asks_for_help = {"-h", "--help"} & set(rest)
    if name == "quickstart":
        from ringworld.quickstart.config import QUICKSTARTS

        preset = value_of("--preset", rest) or "quickstart"
        if preset not in QUICKSTARTS:
            raise not_a_choice("preset", preset, choices=QUICKSTARTS)
        return parse(Quickstart, QUICKSTARTS[preset](), rest, prog="ringworld quickstart")
    if name == "plan" and rest and not rest[0].startswith("-"):
        return parse(Plan, load_preset(rest[0]), rest, prog="ringworld plan")
    if name in CONFIGURED and not (asks_for_help and value_of("--preset", rest) is None):
        return parse(COMMANDS[name], chosen_run(rest, command=name), rest, prog=f"ringworld {name}")
    commands: Any = (Annotated[cls, tyro.conf.subcommand(name)] for name, cls in COMMANDS.items())
    command = tyro.cli(
        reduce(or_, commands),
        prog="ringworld",
        description=sys.modules["ringworld"].__doc__,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    return (command,)
