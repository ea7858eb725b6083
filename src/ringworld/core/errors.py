"""The one error that is the user's to mend, and what a signal that was held back becomes."""

import difflib
import signal
from collections.abc import Iterable


class InputError(ValueError):
    """A file, option or value that the user can mend; the command line prints it and exits with 2.

    The message has one form everywhere: what is wrong, what was got, what was expected, and the remedy.
    """

    def __init__(self, *, what: str, got: str, expected: str, remedy: str) -> None:
        """Keep the four parts as attributes and join them into the message."""
        super().__init__(f"{what}: got {got}, expected {expected}. {remedy}")
        self.what = what
        self.got = got
        self.expected = expected
        self.remedy = remedy


class Stopped(KeyboardInterrupt):
    """A signal asked to stop, and what was done until then is saved; the message says up to where."""

    def __init__(self, message: str, *, number: signal.Signals) -> None:
        """Keep which signal it was: the exit code of the process follows from it."""
        super().__init__(message)
        self.number = number


def not_a_choice(what: str, got: str, *, choices: Iterable[str]) -> InputError:
    """Return the error for a name that is none of `choices`; it suggests the nearest, if one is near."""
    choices = list(choices)
    near = difflib.get_close_matches(got, choices, n=1)
    return InputError(
        what=what,
        got=repr(got),
        expected=f"one of {', '.join(choices)}",
        remedy=f"Did you mean {near[0]}?" if near else "Choose one of these.",
    )
