"""How many floating-point operations a model takes: matrix products and visible attention, nothing else."""

from collections.abc import Iterable

from ringworld.model.config import ModelConfig

BACKWARD_RATIO = 2
"""Backward multiplies each pair of matrices twice: for the gradient of the one and of the other."""


def visible_pairs(lengths: Iterable[int]) -> int:
    """Return the number of (query, key) pairs that examples of these lengths see.

    Example:
        `visible_pairs([2, 3])` is 3 + 6 = 9.
    """
    return sum(length * (length + 1) // 2 for length in lengths)


def parameters(config: ModelConfig) -> int:
    """Return the number of parameters, embedding and head included."""
    norms = (2 * config.layers + 1) * config.embed
    return config.layers * _layer_weights(config) + 2 * config.vocab * config.embed + norms


def forward_flops(config: ModelConfig, *, tokens: int, pairs: int) -> int:
    """Return the FLOPs of reading `tokens` tokens that see `pairs` keys in all.

    A weight costs two FLOPs a token, a visible pair four a component: two for the score, two for the sum. The
    embedding is a look-up and costs none.
    """
    weights = config.layers * _layer_weights(config) + config.vocab * config.embed
    return 2 * weights * tokens + 4 * config.layers * config.heads * config.head * pairs


def training_flops(config: ModelConfig, *, tokens: int, pairs: int) -> int:
    """Return the FLOPs that a training step needs; what rematerialisation repeats is not counted."""
    return (1 + BACKWARD_RATIO) * forward_flops(config, tokens=tokens, pairs=pairs)


def _layer_weights(config: ModelConfig) -> int:
    attention = 2 * config.embed * config.head * (config.heads + config.kv_heads)
    return attention + 3 * config.embed * config.mlp
