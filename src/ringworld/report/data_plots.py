"""Pictures of data: how long examples are, and what a packed sequence holds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from jaxtyping import Bool, UInt8
from matplotlib.figure import Figure, SubFigure

from ringworld.report.plots import STYLE
from ringworld.report.style import ACCENT, INK, LINES, MUTED, RULE, short

_COLORS = LINES[1:]
MOST_PICTURES, MOST_STRIPS = 12, 12
"""Frames of an example that are shown, and examples of a sequence of which any are."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PackedExample:
    """One example of a packed sequence, as it is shown."""

    name: str
    loss: Bool[np.ndarray, " tokens"]
    """Which of its tokens are targets."""
    pictures: UInt8[np.ndarray, "pictures side side 3"] | None = None
    """Its first frames, at most `MOST_PICTURES`; None where none is shown."""
    frames: int = 0
    """How many it has."""


def length_histograms(tokens: Mapping[str, Sequence[int]], seconds: Mapping[str, Sequence[int]]) -> Figure:
    """Draw, for each name, how many examples lie between one power of two and the next.

    Args:
        tokens: counts by name, the i-th of examples of 2^i tokens or more.
        seconds: likewise of the seconds of their videos; none where there are none.
    """
    parts = [(tokens, "tokens of an example"), (seconds, "seconds of its video")]
    shown = [(counts, label) for counts, label in parts if counts]
    heights = [0.5 + 0.62 * len(counts) for counts, _ in shown]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.4, sum(heights)), layout="constrained")
        areas = figure.subfigures(len(shown), 1, height_ratios=heights, squeeze=False)[:, 0]
        for area, (counts, label) in zip(areas, shown):
            _histograms(area, counts, label=label)
    return figure


def _histograms(area: SubFigure, parts: Mapping[str, Sequence[int]], *, label: str) -> None:
    bins = max(map(len, parts.values()))
    low = min(next(i for i, count in enumerate(counts) if count) for counts in parts.values())
    rows = area.subplots(len(parts), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, counts) in zip(rows, parts.items()):
        axes.bar(np.arange(len(counts)) + 0.5, counts, width=0.92, color=ACCENT)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", color=INK, fontsize=9)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlim(low, bins)
        for index, count in enumerate(counts):
            if count:
                axes.text(index + 0.5, count, f"{count:,}", ha="center", va="bottom", fontsize=7, color=MUTED)
        axes.set_ylim(0, 1.45 * max(counts))
        axes.tick_params(length=0)
    rows[-1].set_xticks(range(low, bins + 1), [short(2**i) for i in range(low, bins + 1)])
    rows[-1].set_xlabel(label)


def packed_sequence(examples: Sequence[PackedExample], *, context_tokens: int) -> Figure:
    """Draw one packed sequence: a bar for each example, as long as it is, and its pictures.

    The lower half of a bar is dark where a token carries loss; what is left of the context stays pale.
    """
    shown = [(i, one, one.pictures) for i, one in enumerate(examples) if one.pictures is not None]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 1.2 + 0.85 * len(shown)), layout="constrained")
        grid = figure.add_gridspec(1 + len(shown), 1, height_ratios=[0.9] + [0.8] * len(shown))
        axes = figure.add_subplot(grid[0])
    start = 0
    axes.barh(0.5, context_tokens, height=1.0, color=RULE)
    for index, example in enumerate(examples):
        axes.barh(0.5, len(example.loss), left=start, height=1.0, color=_COLORS[index % len(_COLORS)])
        axes.broken_barh(
            [(start + begin, length) for begin, length in _runs(example.loss)], (0, 0.4), color=INK
        )
        axes.text(start + len(example.loss) / 2, 0.7, str(index + 1), ha="center", va="center", fontsize=8)
        start += len(example.loss)
    axes.set_xlim(0, context_tokens)
    axes.set_ylim(0, 1)
    axes.set_yticks([])
    axes.set_xlabel(f"token, of {short(context_tokens)}; black where it carries loss")
    for strip_index, (index, example, pictures) in enumerate(shown, start=1):
        strip = figure.add_subplot(grid[strip_index])
        strip.imshow(np.concatenate(list(pictures), axis=1), interpolation="nearest")
        more = example.frames - len(pictures)
        strip.set_title(
            f"{index + 1}  {example.name}" + (f", and {more} frames more" if more else ""),
            loc="left",
            fontsize=8,
        )
        strip.set_anchor("W")
        strip.set_axis_off()
    return figure


def _runs(marked: Bool[np.ndarray, " tokens"]) -> list[tuple[int, int]]:
    """Return where marked tokens begin, and how many follow each other: `0 1 1 0 1` gives `(1, 2) (4, 1)`."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], marked, [False]]).astype(int)))
    return [(int(begin), int(end - begin)) for begin, end in zip(edges[::2], edges[1::2])]
