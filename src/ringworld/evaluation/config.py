"""What is evaluated: which contexts, depths, rounds and positions."""

from dataclasses import dataclass, field

from ringworld.core.ranges import check_range, require


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
        contexts, depths = self.context_tokens, self.depth_percents
        long_enough = len(contexts) > 0 and min(contexts) >= 1
        require(long_enough, "context_tokens", got=contexts, expected="one or more positive lengths")
        percentages = len(depths) > 0 and all(0 <= depth <= 100 for depth in depths)
        require(percentages, "depth_percents", got=depths, expected="one or more from 0 to 100")
        check_range(self, "rounds", "max_new_tokens", least=1)
        check_range(self, "needles", least=1, most=64)
        check_range(self, "asked", least=1, most=self.needles)


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOutConfig:
    """How held-out loss is measured."""

    examples_per_kind: int = 256
    """Most held-out examples of each kind; where there are more, evenly spread ones are measured."""
    position_edges: tuple[int, ...] = (0, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576)
    """Positions inside an example, in tokens, at which a bin of the loss by position begins or ends."""

    def __post_init__(self) -> None:
        """Refuse no examples and edges that do not rise."""
        edges = self.position_edges
        rising = all(a < b for a, b in zip(edges[:-1], edges[1:]))
        check_range(self, "examples_per_kind", least=1, what="held-out {}".format)
        from_zero = len(edges) >= 2 and rising and edges[0] == 0
        require(from_zero, "position_edges", got=edges, expected="0 and rising from there")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """Everything that is measured before and after a stage."""

    needles: tuple[NeedleConfig, ...]
    """Needle grids, the single-needle one first."""
    held_out: HeldOutConfig = field(default_factory=HeldOutConfig)
