"""How long prepared examples are, by data set, kind and split."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from jaxtyping import Shaped

from ringworld.core.tables import aligned
from ringworld.data.config import Split
from ringworld.data.store import ExampleStore

_NAMES = ["split", "dataset", "kind"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LengthStats:
    """The examples of one kind of one data set in one split, where each clip is shown with all its frames."""

    dataset: str
    kind: str
    split: Split
    examples: int
    tokens: int
    vision_tokens: int
    shortest: int
    """In tokens, as are the next two."""
    median: int
    longest: int
    histogram: tuple[int, ...]
    """Examples of 1, of 2 to 3, of 4 to 7 tokens and so on, each bin from one power of two to the next."""
    shortest_seconds: float
    """Of its videos, each as a whole; 0 where it has none, as is the next."""
    longest_seconds: float
    seconds_histogram: tuple[int, ...]
    """Examples with videos of less than 2 s, of 2 to 4, of 4 to 8 s and so on; empty where it has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataStats:
    """What an examples folder holds."""

    parts: tuple[LengthStats, ...]
    quarantined: int
    """Inputs that could not be used; `quarantine.jsonl` has the reasons."""
    duplicates: int
    """Samples that were left out, since another is the same; `duplicates.jsonl` names both."""

    def lines(self) -> list[str]:
        """Return a table, and how much was left out."""
        lines = length_table(self.parts)
        return [*lines, f"quarantined: {self.quarantined}", f"duplicates left out: {self.duplicates}"]


def length_table(parts: Sequence[LengthStats]) -> list[str]:
    """Return a line for each kind of example of each data set in each split, below one that names columns."""
    titles = ("split", "data set", "kind", "examples", "tokens", "vision")
    titles += ("shortest", "median", "longest", "video seconds")
    rows = [
        (one.split, one.dataset, one.kind)
        + tuple(f"{n:,}" for n in (one.examples, one.tokens))
        + (f"{one.vision_tokens / max(1, one.tokens):.0%}",)
        + tuple(f"{n:,}" for n in (one.shortest, one.median, one.longest))
        + (_shown(one.shortest_seconds, one.longest_seconds),)
        for one in parts
    ]
    return aligned([titles, *rows], words=3)


def length_stats(store: ExampleStore) -> tuple[LengthStats, ...]:
    """Measure prepared examples, where each clip is shown with all its frames."""
    lengths, vision, seconds = store.lengths(), store.column("vision_tokens"), store.video_seconds()
    numbered = store.manifest.select(_NAMES).append_column("row", pa.array(np.arange(len(store))))
    grouped = numbered.group_by(_NAMES).aggregate([("row", "list")])
    parts: list[LengthStats] = []
    for i, names in enumerate(grouped.select(_NAMES).to_pylist()):
        chosen = grouped["row_list"][i].values.to_numpy()
        of_part, of_videos = lengths[chosen], seconds[chosen][seconds[chosen] > 0]
        parts.append(
            LengthStats(
                **names,
                examples=len(of_part),
                tokens=int(of_part.sum()),
                vision_tokens=int(vision[chosen].sum()),
                shortest=int(of_part.min()),
                median=int(np.median(of_part)),
                longest=int(of_part.max()),
                histogram=_octaves(of_part),
                shortest_seconds=float(of_videos.min()) if len(of_videos) else 0.0,
                longest_seconds=float(of_videos.max(initial=0.0)),
                seconds_histogram=_octaves(of_videos),
            )
        )
    return tuple(sorted(parts, key=lambda one: (one.split, one.dataset, one.kind)))


def _shown(shortest: float, longest: float) -> str:
    if not longest:
        return ""
    return f"{shortest:g}" if shortest == longest else f"{shortest:g} to {longest:g}"


def _octaves(lengths: Shaped[np.ndarray, " _"]) -> tuple[int, ...]:
    """Count what lies between one power of two and the next; of `0.5 1 3 5`, 2 below 2, 1 to 4, 1 to 8."""
    return tuple(np.bincount(np.log2(np.maximum(1, lengths)).astype(int)).tolist())
