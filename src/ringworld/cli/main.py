"""`ringworld COMMAND`: choose the command, run it, and turn what the user can mend into exit code 2."""

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from ringworld.cli.evaluate import Evaluate
from ringworld.cli.generate import Generate
from ringworld.cli.prepare import Prepare
from ringworld.cli.quickstart import Quickstart
from ringworld.cli.train import Train
from ringworld.cli.train_tokenizer import TrainTokenizer
from ringworld.core.errors import InputError

Command = (
    Annotated[Quickstart, tyro.conf.subcommand("quickstart")]
    | Annotated[TrainTokenizer, tyro.conf.subcommand("train-tokenizer")]
    | Annotated[Prepare, tyro.conf.subcommand("prepare")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Generate, tyro.conf.subcommand("generate")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
)
INPUT_ERROR, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exits with 0, with 2 for what the user can mend, with 130 after Ctrl-C."""
    try:
        command = tyro.cli(
            Command,  # pyright: ignore[reportArgumentType]
            prog="ringworld",
            description=sys.modules["ringworld"].__doc__,
            args=arguments,
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff),
        )
        command.run()
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has seen enough; Python would complain once more when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(INPUT_ERROR) from None
    except Exception as error:
        if _disk_is_full(error):
            print(f"error: no space left on the disk ({error})", file=sys.stderr)
            print("Free some space; the same command goes on from what is already written.", file=sys.stderr)
        elif isinstance(error, OSError) and error.filename:
            reason = f"{error.filename}: {error.strerror}"
            print(f"error: {reason}. Check the path, and that it can be read or written.", file=sys.stderr)
        else:
            raise
        raise SystemExit(INPUT_ERROR) from None


def _disk_is_full(error: BaseException | None) -> bool:
    """Look through the causes: TensorStore, ArrayRecord and FFmpeg wrap the system's error in their own."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "no space left on device" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    main()
