"""Figures of a run, in one style: direct labels, axes from zero.

A figure is drawn in its light form; `svg` replaces each color by a CSS variable, so that a page can show the
same figure on a dark ground.
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from ringworld.core.files import writing
from ringworld.core.results import Evaluation, Result
from ringworld.report import grids
from ringworld.report.schema import LossPoint, StageMetrics
from ringworld.report.style import ACCENT, GROUND, INK, LINES, MUTED, RULE, short

FEWEST_TARGETS = 30
"""Of a position, for its loss to be drawn."""
VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    GROUND: "ground",
    ACCENT: "accent",
    **{color: f"line{i}" for i, color in enumerate(LINES)},
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "savefig.transparent": True,
}


def loss_curve(
    losses: Sequence[LossPoint], *, stages: Sequence[StageMetrics], modality: grids.Modality
) -> Figure:
    """Training loss of one modality: every step pale, a running mean dark, a rule where a stage ends."""
    figure, axes = _figure(width=4.6, height=2.9)
    points = [(point.step, getattr(point, f"{modality}_loss")) for point in losses]
    steps, values = np.array([(step, loss) for step, loss in points if loss is not None]).T
    axes.plot(steps, values, color=LINES[1], linewidth=0.7, alpha=0.5)
    axes.plot(steps, running_mean(values), color=ACCENT, linewidth=1.6)
    axes.set_xlim(0, max(losses[-1].step, 1))
    axes.set_ylim(0, 1.08 * max(values))
    start = 0
    for stage in stages:
        if start:
            axes.axvline(start, color=RULE, linewidth=1, zorder=0)
        axes.text(
            start + stage.steps / 2,
            1.03,
            short(stage.context_tokens),
            transform=axes.get_xaxis_transform(),
            ha="center",
            color=MUTED,
            fontsize=9,
        )
        start += stage.steps
    axes.set_xlabel("step (above: context in tokens)")
    axes.set_ylabel(f"{modality} loss (nats)")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def loss_by_position(evaluations: Sequence[Evaluation], *, modality: grids.Modality) -> Figure:
    """Held-out loss of one modality over the position in the example, a line for each evaluation.

    Positions with fewer than `FEWEST_TARGETS` targets are left out: their mean says little.
    """
    figure, axes = _figure(width=4.6, height=2.9)
    rows = grids.losses(evaluations, by="start")
    starts = sorted({row.cell["start"] for row in rows})
    rows = [row for row in rows if row.metric == f"{modality}_loss"]
    for index, evaluation in enumerate(evaluations):
        drawn = [
            (starts.index(row.cell["start"]), one.value)
            for row in rows
            if (one := row.columns[index]) and one.value is not None and one.count >= FEWEST_TARGETS
        ]
        before = evaluation.label.get("when") == "before"
        axes.plot(
            [at for at, _ in drawn],
            [loss for _, loss in drawn],
            color=LINES[0] if before else LINES[1 + (index - 1) % (len(LINES) - 1)],
            linewidth=1.6,
            marker="o",
            markersize=4,
            label=_clipped(evaluation.name),
        )
    axes.set_xlim(-0.3, len(starts) - 0.7)
    axes.set_ylim(0, 1.08 * axes.dataLim.ymax)
    axes.set_xticks(range(len(starts)), [short(start) for start in starts])
    axes.set_xlabel("position in the example, from (tokens)")
    axes.set_ylabel(f"{modality} loss (nats)")
    axes.legend(
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=3,
        handlelength=1.4,
    )
    return figure


def needle_map(cells: Sequence[Result]) -> Figure:
    """Share of needles found, context length by depth: the number in every cell, the shade for the eye.

    A dash stands for what was not measured.
    """
    contexts = sorted({int(cell.cell["context_tokens"]) for cell in cells})
    depths = sorted({float(cell.cell["depth_percent"]) for cell in cells})
    figure, axes = _figure(width=1.1 + 0.52 * len(contexts), height=0.75 + 0.3 * len(depths))
    for cell in cells:
        left = contexts.index(int(cell.cell["context_tokens"]))
        top = depths.index(float(cell.cell["depth_percent"]))
        share = 0.0 if cell.value is None else cell.value
        axes.add_patch(Rectangle((left, top), 1, 1, facecolor=ACCENT, alpha=share, linewidth=0))
        axes.text(
            left + 0.5,
            top + 0.5,
            "\N{EN DASH}" if cell.value is None else f"{100 * share:.0f}",
            ha="center",
            va="center",
            fontsize=9,
            color=GROUND if share > 0.5 else INK,
        )
    for edge in range(len(contexts) + 1):
        axes.axvline(edge, color=RULE, linewidth=1)
    for edge in range(len(depths) + 1):
        axes.axhline(edge, color=RULE, linewidth=1)
    axes.set_xlim(0, len(contexts))
    axes.set_ylim(len(depths), 0)
    axes.set_xticks([i + 0.5 for i in range(len(contexts))], [short(context) for context in contexts])
    axes.set_yticks([i + 0.5 for i in range(len(depths))], [f"{depth:g}" for depth in depths])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("context (tokens)")
    axes.set_ylabel("depth (%)")
    return figure


def frame_strip(
    rows: Sequence[UInt8[np.ndarray, "_ height width 3"]], *, scale: int = 1, gap_pixels: int = 2
) -> bytes:
    """Return rows of frames one above the other as a PNG, such as originals above their reconstructions.

    Frames are of one size; what a row is shorter than the longest stays transparent. Each pixel becomes a
    square of side `scale`, with `gap_pixels` of the result, transparent, between frames.
    """
    height, width = (side * scale for side in rows[0].shape[1:3])
    columns = max(map(len, rows))
    down, right = height + gap_pixels, width + gap_pixels
    sheet = Image.new("RGBA", (columns * right - gap_pixels, len(rows) * down - gap_pixels))
    for i, row in enumerate(rows):
        for j, frame in enumerate(row):
            enlarged = Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (j * right, i * down))
    stream = io.BytesIO()
    sheet.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def svg(figure: Figure, *, name: str) -> str:
    """Return a figure as an `<svg>` element for a page that defines the CSS variables of `VARIABLES`.

    The name is unlike that of any other figure on the page, since ids inside derive from it.
    """
    stream = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", text)
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var(--{variable})")
    return text


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure in its light form, on its ground."""
    with matplotlib.rc_context(STYLE), writing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=200, facecolor=GROUND, transparent=False)


def _figure(*, width: float, height: float) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.add_subplot()


def _clipped(name: str) -> str:
    return name if len(name) <= 18 else name[:17] + "\N{HORIZONTAL ELLIPSIS}"


def running_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over a window round each value, narrower towards both ends, so that no curve lags."""
    widest = min(len(values) // 40, 25)
    sums = np.cumsum(np.concatenate([[0.0], values]))
    indices = np.arange(len(values))
    reach = np.minimum(widest, np.minimum(indices, indices[::-1]))
    return (sums[indices + reach + 1] - sums[indices - reach]) / (2 * reach + 1)
