"""A table as lines of plain text."""

from collections.abc import Sequence


def aligned(rows: Sequence[Sequence[str]], *, words: int) -> list[str]:
    """Return a line for each row, its columns two spaces apart: the first `words` to the left, numbers right.

    Example:
        `aligned([("run", "loss"), ("a long name", "2.5")], words=1)`:

            run          loss
            a long name   2.5
    """
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]
