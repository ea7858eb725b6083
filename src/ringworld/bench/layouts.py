"""Layouts compared: a table, an object of JSON, a picture."""

import io
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from ringworld.attention.config import LayoutName
from ringworld.attention.efficiency import ring_work, total_balance
from ringworld.attention.layouts import MOST_TOKENS, place
from ringworld.attention.work import by_step, efficiency_of
from ringworld.core.errors import InputError
from ringworld.core.origin import machine, versions
from ringworld.core.ranges import check_number
from ringworld.core.version import __version__
from ringworld.report.style import ACCENT, GROUND, INK, LINES, MUTED, short

_REPEATS = 5
_MOST_MEMBERS = 4096  # the work between any two is a number
_COLORS = LinearSegmentedColormap.from_list("work", [GROUND, ACCENT, INK])


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """How evenly one layout spreads one packed sequence."""

    layout: LayoutName
    efficiency: float
    """Of the ring, with work in visible pairs of a query and a key."""
    efficiency_in_blocks: float
    """The same where a kernel computes whole blocks."""
    total_balance: float
    """Mean over members of all their work over the largest: the efficiency of all-gather."""
    place_seconds: float
    """Median processor time to find the layout."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayoutBench:
    """Layouts compared over one packed sequence."""

    lengths: tuple[int, ...]
    """Tokens of each document."""
    members: int
    block_tokens: int
    balances: tuple[Balance, ...]
    times: tuple[Float[np.ndarray, "members steps"], ...]
    """What each member computes at each step under each layout, in blocks; 1 is what it would be, were all
    visible pairs spread evenly and no block half seen."""

    @property
    def title(self) -> str:
        """The workload in words."""
        documents, seq = len(self.lengths), sum(self.lengths)
        of = f"{documents} documents, the longest {max(self.lengths)}" if documents > 1 else "one document"
        return f"{short(seq)} tokens over {self.members} members: {of}"

    def table(self) -> str:
        """Return a line for each layout."""
        lines = [
            self.title,
            f"{'layout':12}{'efficiency':>12}{f'in blocks of {self.block_tokens}':>25}{'of all-gather':>16}"
            f"{'found in':>12}",
        ]
        lines += [
            f"{one.layout:12}{one.efficiency:12.4f}{one.efficiency_in_blocks:25.4f}{one.total_balance:16.4f}"
            f"{one.place_seconds * 1e3:9.1f} ms"
            for one in self.balances
        ]
        return "\n".join(lines)

    def json(self, *, command: str) -> str:
        """Return one JSON object, with the command that it comes from."""
        made = {
            "command": command,
            "seq": sum(self.lengths),
            "members": self.members,
            "documents": len(self.lengths),
            "longest_document_tokens": max(self.lengths),
            "block_tokens": self.block_tokens,
            "layouts": [asdict(one) for one in self.balances],
            "versions": {"ringworld": __version__, **versions("numpy")},
            "machine": machine(),
        }
        return json.dumps(made, indent=2)

    def picture(self) -> bytes:
        """Draw the time of each member at each step, and below it that of the slowest, as a PNG."""
        figure = Figure(figsize=(3.1 * len(self.balances) + 0.6, 4.6), layout="constrained", facecolor=GROUND)
        figure.suptitle(f"{self.title}\nshare of the machine that does useful work", fontsize=11, color=INK)
        axes = figure.subplots(
            2, len(self.balances), squeeze=False, height_ratios=(3, 1), sharex="col", sharey="row"
        )
        for (upper, lower), one, times in zip(axes.T, self.balances, self.times):
            steps = np.arange(len(times))
            shown = upper.imshow(times, cmap=_COLORS, vmin=0, vmax=2, aspect="auto")
            upper.set_title(f"{one.layout}: {one.efficiency_in_blocks:.0%}", fontsize=11, color=INK)
            lower.bar(steps, times.max(axis=0), width=1, color=LINES[0])
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


def bench_layouts(
    lengths: Sequence[int], *, members: int, layouts: Sequence[LayoutName], block_tokens: int = 256
) -> LayoutBench:
    """Compare how evenly layouts spread the attention of one packed sequence over a ring.

    Nothing is attended to: the work follows from the lengths.

    Args:
        lengths: tokens of each document; together they are the sequence.
        members: of the ring.
        layouts: which to compare.
        block_tokens: side of a block of the kernel, and tokens that the balanced layout keeps together.

    Raises:
        InputError: there is no layout or one does not divide the sequence, or a number is out of range.
    """
    check_number("block_tokens", block_tokens, least=1, most=MOST_TOKENS)
    check_number("members", members, least=1, most=_MOST_MEMBERS)
    if not layouts:
        raise InputError("there is no layout to compare", field="layouts", value=())
    measured = [_measure(layout, lengths, members=members, block_tokens=block_tokens) for layout in layouts]
    return LayoutBench(
        lengths=tuple(lengths),
        members=members,
        block_tokens=block_tokens,
        balances=tuple(balance for balance, _ in measured),
        times=tuple(time for _, time in measured),
    )


def _measure(
    layout: LayoutName, lengths: Sequence[int], *, members: int, block_tokens: int
) -> tuple[Balance, Float[np.ndarray, "members steps"]]:
    taken = []
    for _ in range(_REPEATS):
        begun = time.process_time()
        placement = place(
            layout, seq=sum(lengths), members=members, lengths=lengths, chunk_tokens=block_tokens
        )
        taken.append(time.process_time() - begun)
    work = ring_work(lengths, placement)
    in_blocks = ring_work(lengths, placement, block_tokens=block_tokens)
    balance = Balance(
        layout=layout,
        efficiency=efficiency_of(work, lengths),
        efficiency_in_blocks=efficiency_of(in_blocks, lengths),
        total_balance=total_balance(work),
        place_seconds=statistics.median(taken),
    )
    return balance, by_step(in_blocks) / work.mean()
