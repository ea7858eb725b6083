"""Layouts compared: a table, an object of JSON, a picture."""

import io
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ringworld.attention.config import Layout
from ringworld.attention.efficiency import ring_work, total_balance
from ringworld.attention.layouts import MOST_TOKENS, place
from ringworld.attention.work import by_step, efficiency_of
from ringworld.cli.bench_layouts import BenchLayouts
from ringworld.cli.jobs import lengths
from ringworld.cli.jobs.provenance import command_of, machine, versions_of
from ringworld.cli.options import check_option, check_picture
from ringworld.core.files import write_bytes_atomic
from ringworld.core.ranges import require
from ringworld.evaluation.plots import ACCENT, GROUND, INK, LINES, MUTED, short

_REPEATS = 5
_MOST_MEMBERS = 4096  # the work between any two is a number
_COLOURS = LinearSegmentedColormap.from_list("work", [GROUND, ACCENT, INK])


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One layout of one packed sequence."""

    layout: Layout
    efficiency: float
    """Of the ring, with work in visible pairs of a query and a key."""
    efficiency_in_blocks: float
    """The same where a kernel computes whole blocks."""
    total_balance: float
    """Mean over members of all their work over the largest: the efficiency of all-gather."""
    place_seconds: float
    """Median processor time to find the layout."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Panel:
    """What a picture shows of one layout."""

    measured: Measured
    time: Float[np.ndarray, "members steps"]
    """What each member computes at each step, in blocks; 1 is what it would be, were all visible pairs spread
    evenly and no block half seen."""


def bench_layouts(asked: BenchLayouts) -> str:
    """Measure, draw what is asked for, and return the table or the JSON.

    Raises:
        InputError: there is no layout or one does not divide the sequence, a number makes no sense, or
            `--out` is no name of a picture.
    """
    check = partial(check_option, asked)
    check("seq", "median_tokens", "block_tokens", least=1, most=MOST_TOKENS)
    check("members", least=1, most=_MOST_MEMBERS)
    require(
        math.isfinite(asked.sigma),
        "--sigma",
        got=asked.sigma,
        expected="a finite number, at least 0",
        remedy="Choose another spread.",
    )
    check("sigma", "seed", least=0)
    require(
        bool(asked.layouts),
        "--layouts",
        got="none",
        expected="at least one",
        remedy="Name one or leave it out.",
    )
    check_picture(asked.out)
    documents = _lengths(asked)
    panels = [_measure(asked, layout, documents) for layout in asked.layouts]
    if asked.out is not None:
        write_bytes_atomic(asked.out, picture(panels, title=_title(asked, documents)))
    measured = [panel.measured for panel in panels]
    return _as_json(asked, documents, measured) if asked.json else _as_table(asked, documents, measured)


def picture(panels: Sequence[Panel], *, title: str) -> bytes:
    """Draw the time of each member at each step, and below it that of the slowest, as a PNG."""
    figure = Figure(figsize=(3.1 * len(panels) + 0.6, 4.6), layout="constrained", facecolor=GROUND)
    figure.suptitle(f"{title}\nshare of the machine that does useful work", fontsize=11, color=INK)
    axes = figure.subplots(2, len(panels), squeeze=False, height_ratios=(3, 1), sharex="col", sharey="row")
    for (upper, lower), panel in zip(axes.T, panels):
        one, steps = panel.measured, np.arange(len(panel.time))
        shown = upper.imshow(panel.time, cmap=_COLOURS, vmin=0, vmax=2, aspect="auto")
        upper.set_title(f"{one.layout}: {one.efficiency_in_blocks:.0%}", fontsize=11, color=INK)
        lower.bar(steps, panel.time.max(axis=0), width=1, color=LINES[0])
        lower.axhline(1, color=ACCENT, linewidth=1)
        lower.set_xlabel("step", fontsize=9, color=MUTED)
        for axis in (upper, lower):
            axis.tick_params(length=0, labelsize=8, labelcolor=MUTED)
            axis.spines[:].set_visible(False)
    axes[0, 0].set_ylabel("member", fontsize=9, color=MUTED)
    axes[1, 0].set_ylabel("slowest member", fontsize=9, color=MUTED)
    bar = figure.colorbar(shown, ax=axes[0].tolist(), extend="max", pad=0.01, ticks=(0, 1, 2))
    bar.ax.spines[:].set_visible(False)
    bar.ax.tick_params(length=0, labelsize=8, labelcolor=MUTED)
    bar.set_label("time, 1 is ideal", fontsize=9, color=MUTED)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def _measure(asked: BenchLayouts, layout: Layout, documents: Sequence[int]) -> Panel:
    taken = []
    for _ in range(_REPEATS):
        begun = time.process_time()
        placement = place(
            layout,
            seq=asked.seq,
            members=asked.members,
            lengths=documents,
            chunk_tokens=asked.block_tokens,
        )
        taken.append(time.process_time() - begun)
    work = ring_work(documents, placement)
    in_blocks = ring_work(documents, placement, block_tokens=asked.block_tokens)
    measured = Measured(
        layout=layout,
        efficiency=efficiency_of(work, documents),
        efficiency_in_blocks=efficiency_of(in_blocks, documents),
        total_balance=total_balance(work),
        place_seconds=statistics.median(taken),
    )
    return Panel(measured=measured, time=by_step(in_blocks) / work.mean())


def _lengths(asked: BenchLayouts) -> list[int]:
    drawn: Any = {
        "seq": asked.seq,
        "seed": asked.seed,
        "median_tokens": asked.median_tokens,
        "sigma": asked.sigma,
    }
    match asked.lengths:
        case "one":
            return [asked.seq]
        case "equal":
            return lengths.equal(asked.documents, seq=asked.seq)
        case "random":
            return lengths.random_cuts(asked.documents, seq=asked.seq, seed=asked.seed)
        case "lognormal":
            return lengths.lognormal(**drawn)
        case "book":
            return lengths.lognormal(**drawn, book=0.4)


def _title(asked: BenchLayouts, documents: Sequence[int]) -> str:
    of = f"{len(documents)} documents, the longest {max(documents)}" if len(documents) > 1 else "one document"
    return f"{short(asked.seq)} tokens over {asked.members} members: {of}"


def _as_table(asked: BenchLayouts, documents: Sequence[int], measured: Sequence[Measured]) -> str:
    lines = [
        _title(asked, documents),
        f"{'layout':12}{'efficiency':>12}{f'in blocks of {asked.block_tokens}':>25}{'of all-gather':>16}"
        f"{'found in':>12}",
    ]
    lines += [
        f"{one.layout:12}{one.efficiency:12.4f}{one.efficiency_in_blocks:25.4f}{one.total_balance:16.4f}"
        f"{one.place_seconds * 1e3:9.1f} ms"
        for one in measured
    ]
    return "\n".join(lines)


def _as_json(asked: BenchLayouts, documents: Sequence[int], measured: Sequence[Measured]) -> str:
    return json.dumps(
        {
            "command": command_of("ringworld bench layouts", asked),
            "seq": asked.seq,
            "members": asked.members,
            "documents": len(documents),
            "longest_document_tokens": max(documents),
            "block_tokens": asked.block_tokens,
            "layouts": [asdict(one) for one in measured],
            "versions": versions_of("numpy"),
            "machine": machine(),
        },
        indent=2,
    )
