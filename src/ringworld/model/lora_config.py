"""Which low-rank adapter is trained in place of all weights; without importing jax."""

import math
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.ranges import check_range
from ringworld.model.config import Architecture, WeightType

Target = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""A matrix that each layer has, by its name in Hugging Face's models and in peft."""
TARGETS: Final[tuple[Target, ...]] = get_args(Target)


class Matrix(NamedTuple):
    """A matrix of a layer: where it is, and its dimensions, by their names in `Architecture`."""

    path: str
    """From the layer, such as `attention.wq`."""
    inputs: tuple[str, ...]
    """Dimensions that are summed over."""
    channels: tuple[str, ...]
    """Dimensions of what comes out."""


MATRICES: Final[dict[Target, Matrix]] = {
    "q_proj": Matrix("attention.wq", ("embed",), ("heads", "head")),
    "k_proj": Matrix("attention.wk", ("embed",), ("kv_heads", "head")),
    "v_proj": Matrix("attention.wv", ("embed",), ("kv_heads", "head")),
    "o_proj": Matrix("attention.wo", ("heads", "head"), ("embed",)),
    "gate_proj": Matrix("mlp.gate", ("embed",), ("mlp",)),
    "up_proj": Matrix("mlp.up", ("embed",), ("mlp",)),
    "down_proj": Matrix("mlp.down", ("mlp",), ("embed",)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adaptation (LoRA, arXiv 2106.09685): a model stays as it is, and an adapter learns.

    To a matrix of each layer `alpha / rank * A @ B` is added, where `A` has `rank` columns and `B` as many
    rows. `B` begins as zeros, so that training begins with the model itself.
    """

    rank: int = 0
    """Columns of `A`; 0 trains all weights of the model and no adapter."""
    alpha: float = 16.0
    """The product is scaled by `alpha / rank`, so that a learning rate suits several ranks."""
    targets: tuple[Target, ...] = TARGETS
    """Matrices that gain a product, in every layer."""
    base: WeightType = "bfloat16"
    """Type in which the weights that stay are kept; int8 rounds matrices by output channel, and the rest is
    bfloat16."""

    def __post_init__(self) -> None:
        """Refuse an adapter of no matrix, or of one that a layer does not have."""
        check_range(self, "rank", of="lora", least=0, below=2**15)
        check_range(self, "alpha", of="lora", above=0)
        for field, values, choices in (
            ("targets", self.targets, TARGETS),
            ("base", (self.base,), get_args(WeightType)),
        ):
            for value in values:
                if value not in choices:
                    raise not_a_choice(f"lora.{field}", str(value), choices=choices)
        if len(set(self.targets)) < len(self.targets) or not self.targets:
            problem = f"lora.targets is {self.targets}, but must name at least one matrix, and each once"
            raise InputError(problem, field="lora.targets", value=self.targets)

    def parameters(self, architecture: Architecture) -> int:
        """Return how many numbers the adapter of a model has."""

        def thin(matrix: Matrix) -> int:
            return sum(
                math.prod(getattr(architecture, name) for name in side)
                for side in (matrix.inputs, matrix.channels)
            )

        return architecture.layers * self.rank * sum(thin(MATRICES[target]) for target in self.targets)
