"""What is evaluated: which contexts, depths, rounds and positions."""

from dataclasses import dataclass, field

from ringworld.core.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class NeedleConfig:
    """A grid of needle tests: context lengths, depths and rounds; `needles` hidden, `asked` asked for.

    LWM's single-needle grid is `needles=1, asked=1` over 20 lengths, 20 depths and 3 rounds; its multi-needle
    tests use `needles=4, asked=2` and the like over 10 rounds.
    """

    context_tokens: tuple[int, ...]
    """Lengths that a prompt and its answer must fit in, in tokens."""
    depth_percents: tuple[float, ...] = (0.0, 25.0, 50.0, 75.0, 100.0)
    """Where the first needle that is asked for lies, in percent of the haystack's tokens."""
    rounds: int = 1
    """Repetitions of every cell, each with its own cities, numbers, depths of other needles and haystack."""
    needles: int = 1
    """Needles hidden in each haystack."""
    asked: int = 1
    """How many of them one question asks for."""
    max_new_tokens: int = 24
    """Longest answer, in tokens."""
    seed: int = 0
    """Decides cities, numbers and positions, together with the cell."""

    def __post_init__(self) -> None:
        """Refuse an empty grid, a depth that is no percentage and more questions than needles."""
        rules = (
            (
                "context tokens",
                self.context_tokens,
                all(n >= 1 for n in self.context_tokens),
                "positive lengths",
            ),
            ("context tokens", self.context_tokens, len(self.context_tokens) > 0, "at least one length"),
            ("depth percents", self.depth_percents, len(self.depth_percents) > 0, "at least one depth"),
            (
                "depth percents",
                self.depth_percents,
                all(0 <= d <= 100 for d in self.depth_percents),
                "0 to 100",
            ),
            ("rounds", self.rounds, self.rounds >= 1, "at least 1"),
            ("needles", self.needles, 1 <= self.needles <= 64, "1 to 64"),
            ("asked", self.asked, 1 <= self.asked <= self.needles, "1 up to the number of needles"),
            ("max new tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
        )
        _require(*rules)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutConfig:
    """How held-out loss is measured."""

    batches: int = 8
    """Packed batches that are read from the held-out split."""
    position_edges: tuple[int, ...] = (0, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
    """Positions inside an example, in tokens, at which a bin of the loss by position begins or ends."""

    def __post_init__(self) -> None:
        """Refuse no batches and edges that do not rise."""
        edges = self.position_edges
        rising = all(a < b for a, b in zip(edges[:-1], edges[1:]))
        _require(
            ("held-out batches", self.batches, self.batches >= 1, "at least 1"),
            (
                "position edges",
                edges,
                len(edges) >= 2 and rising and edges[0] == 0,
                "0 and rising from there",
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Everything that is measured before and after a stage."""

    needles: tuple[NeedleConfig, ...]
    """Needle grids, the single-needle one first."""
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)


def _require(*rules: tuple[str, object, bool, str]) -> None:
    for what, got, holds, expected in rules:
        if not holds:
            raise InputError(
                what=what, got=str(got), expected=expected, remedy="Change the evaluation's configuration."
            )
