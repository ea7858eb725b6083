"""What the user can fix, what a run did, and what a signal that was held back becomes."""

import difflib
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_LISTED = 8
"""Most problems that a message names."""
_LONGEST_REASON = 400


class InputError(ValueError):
    """A file, parameter or value that the user can fix.

    The message is one sentence that names the thing, the value and the rule, then what to do where there is
    something to do: "kv_heads is 3, which does not divide heads=8; set kv_heads=heads for attention without
    groups".
    """

    def __init__(
        self,
        problem: str,
        *,
        remedy: str = "",
        field: str = "",
        value: Any = None,
        path: Path | None = None,
        suggested: Any = None,
    ) -> None:
        """Join the problem and the remedy, and keep the parts that programs need.

        Args:
            problem: what is wrong, without a period.
            remedy: what to do, in the imperative.
            field: the parameter at fault, as the library names it: `temperature`, `model.heads`.
            value: what it holds.
            path: the file or folder at fault.
            suggested: what the remedy names, if it does: a value that would do, or a command.
        """
        super().__init__(f"{problem}; {remedy}" if remedy else problem)
        self.problem, self.remedy = problem, remedy
        self.field, self.value, self.path, self.suggested = field, value, path, suggested


class Diverged(RuntimeError):
    """A loss or a gradient is NaN or infinite, or far too large. No input is wrong: it is no `InputError`."""

    def __init__(self, name: str, *, value: float, step: int, of: str, in_a_row: int = 1) -> None:
        """Keep the number, by a name such as `loss`, the update and, as `train 4K`, what is trained.

        `in_a_row` is how many updates up to this one were skipped.
        """
        skipped, look = "", ""
        if in_a_row > 1:
            skipped = f", the last of {in_a_row} updates in a row that were skipped"
            look = f"look at the rows and examples of steps {step - in_a_row + 1} to {step}, "
        super().__init__(
            f"{of}: {name} is {value} at step {step}{skipped}; {look}lower the learning rate or lengthen the "
            "warm-up, and train in a new folder"
        )
        self.name, self.value, self.step, self.of, self.in_a_row = name, value, step, of, in_a_row


class Busy(RuntimeError):
    """More is asked than can wait. No input is wrong: the same may be asked again later."""

    def __init__(self, *, waiting: int) -> None:
        """Keep how many wait already."""
        super().__init__(f"{waiting} requests wait already, which is as many as may; ask again later")
        self.waiting = waiting


class RenderTimeout(RuntimeError):
    """The machine is too busy to render a chat template. No input is wrong: the same may be asked again."""


class Stopped(KeyboardInterrupt):
    """A signal asked to stop, and what was done until then is saved; the message says up to where."""

    def __init__(self, message: str, *, number: signal.Signals) -> None:
        """Keep which signal it was: the exit code of the process follows from it."""
        super().__init__(message)
        self.number = number


def not_a_choice(field: str, value: str, *, choices: Iterable[str]) -> InputError:
    """Return the error for a name that is none of `choices`; it suggests the nearest, if one is near.

    Example:
        `not_a_choice("layout", "zigzog", choices=("contiguous", "zigzag"))` reads "'zigzog' is not a layout;
        did you mean zigzag? There are: contiguous, zigzag".
    """
    choices = list(choices)
    near = next(iter(difflib.get_close_matches(value, choices, n=1)), None)
    there = f"here are: {', '.join(choices)}"
    remedy = f"did you mean {near}? T{there}" if near else f"t{there}"
    problem = f"{value!r} is not a {field}"
    return InputError(problem, field=field, value=value, remedy=remedy, suggested=near)


def plain(reason: str) -> str:
    r"""Return what a file or a library says in a line of printable characters, of a long one the beginning.

    Example:
        `"no\n  such \x1b[2Jkey"` becomes `"no such \\x1b[2Jkey"`, which does not clear a terminal.
    """
    begin = reason[:_LONGEST_REASON]
    line = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in " ".join(begin.split())
    )
    return line if len(reason) <= _LONGEST_REASON else f"{line} ..."


def listed(problems: Sequence[str]) -> str:
    """Join what a loader found wrong, each as `plain` shows it; of a long list, the beginning and a count."""
    more = f"; and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return f"{'; '.join(map(plain, problems[:_LISTED]))}{more}"
