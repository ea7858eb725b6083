"""`ringworld COMMAND`: choose the command, run it, and turn what the user can mend into exit code 2."""

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
from ringworld.cli.evaluate import Evaluate
from ringworld.cli.generate import Generate
from ringworld.cli.prepare import Prepare
from ringworld.cli.quickstart import Quickstart
from ringworld.cli.train import Train
from ringworld.cli.train_tokenizer import TrainTokenizer
from ringworld.core.errors import InputError, Stopped, not_a_choice
from ringworld.core.files import is_disk_full

COMMANDS = {
    "quickstart": Quickstart,
    "train-tokenizer": TrainTokenizer,
    "prepare": Prepare,
    "train": Train,
    "generate": Generate,
    "evaluate": Evaluate,
    "bench": Bench,
}
INPUT_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    | exit code | after |
    |---|---|
    | 0 | success |
    | 2 | what the user can mend |
    | 130, 143 | Ctrl-C, SIGTERM: 128 and the number of the signal, as a shell counts |
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file's name need not be text in the encoding of the terminal, but it must be shown.
            stream.reconfigure(errors="backslashreplace")
    try:
        _parse(sys.argv[1:] if arguments is None else arguments).run()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as error:
        print(f"interrupted: {str(error) or 'the same command goes on from here'}", file=sys.stderr)
        number = error.number if isinstance(error, Stopped) else signal.SIGINT
        raise SystemExit(128 + number) from None
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(INPUT_ERROR) from None
    except Exception as error:
        if is_disk_full(error):
            print(f"error: no space left on the disk ({error})", file=sys.stderr)
            print("Free some space; the same command goes on from what is already written.", file=sys.stderr)
        elif isinstance(error, OSError) and error.filename:
            reason = f"{error.filename}: {error.strerror}"
            print(f"error: {reason}. Check the path, and that it can be read or written.", file=sys.stderr)
        else:
            raise
        raise SystemExit(INPUT_ERROR) from None


def _parse(arguments: Sequence[str]) -> Any:
    """Return the command with its options; tyro prints what is wrong with options, and exits with 2."""
    named = arguments and not arguments[0].startswith("-")
    if named and arguments[0] not in COMMANDS:
        raise not_a_choice("command", arguments[0], choices=COMMANDS)
    commands: Any = (Annotated[cls, tyro.conf.subcommand(name)] for name, cls in COMMANDS.items())
    return tyro.cli(
        reduce(or_, commands),
        prog="ringworld",
        description=sys.modules["ringworld"].__doc__,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )


if __name__ == "__main__":
    main()
