"""`ringworld.runs`: what several runs reached, in one table and one figure."""

from pathlib import Path

from ringworld.api.machine import PathArgument, Paths, as_paths
from ringworld.core.errors import InputError
from ringworld.core.files import check_picture
from ringworld.report.plots import write_png
from ringworld.report.runs import RunsReport, read_runs


def runs(folders: Paths, *, out: PathArgument | None = None) -> RunsReport:
    """Compare runs, finished, running or killed: loss, held-out loss, needles, tokens a second.

    Args:
        folders: of runs, or of what holds some, such as a quickstart; one of anything else is named in the
            problems of the report.
        out: PNG to write, with loss and tokens a second over the tokens trained on.

    Raises:
        InputError: no folder holds a run, or `out` cannot be written.
    """
    picture = None if out is None else Path(out)
    check_picture(picture)
    report = read_runs(as_paths(folders))
    if not report.runs:
        raise InputError(
            "; ".join(report.problems) or "no folder is named",
            field="folders",
            remedy="name folders that train or quickstart wrote",
        )
    if picture is not None:
        write_png(report.figure(), picture)
    return report
