"""The command `ringworld`, also as `python -m ringworld`; Ctrl-C ends it in silence, whatever it imports."""

import os
import signal
import sys
from types import FrameType

_INTERRUPTED = 128 + signal.SIGINT
_IMPORTING = "<frozen importlib._bootstrap>"


def main() -> None:
    """Import and run the command line."""
    signal.signal(signal.SIGINT, _interrupt)
    from ringworld.cli.main import main

    try:
        main()
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            _leave()
        raise


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Leave at once while a module is imported: libraries of C++ swallow an exception there, or abort."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            _leave()
        frame = frame.f_back
    raise KeyboardInterrupt


def _leave() -> None:
    """End the process without what libraries do at its end, which threads at work may crash."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
