"""How many floating-point operations a model takes: matrix products and visible attention, nothing else."""

from ringworld.attention.work import attention_flops
from ringworld.model.config import ModelConfig

BACKWARD_RATIO = 2
"""Backward multiplies each pair of matrices twice: for the gradient of the one and of the other."""


def parameters(config: ModelConfig) -> int:
    """Return the number of parameters, embedding and head included."""
    norms = (2 * config.layers + 1) * config.embed
    return config.layers * _layer_weights(config) + 2 * config.vocab * config.embed + norms


def forward_flops(config: ModelConfig, *, tokens: int, pairs: int) -> int:
    """Return the FLOPs of reading `tokens` tokens that see `pairs` keys in all.

    A weight costs two FLOPs a token; the embedding is a look-up and costs none.
    """
    weights = config.layers * _layer_weights(config) + config.vocab * config.embed
    attention = attention_flops(pairs, heads=config.heads, head=config.head, backward=False)
    return 2 * weights * tokens + config.layers * attention


def training_flops(config: ModelConfig, *, tokens: int, pairs: int) -> int:
    """Return the FLOPs that a training step needs; what rematerialisation repeats is not counted."""
    return (1 + BACKWARD_RATIO) * forward_flops(config, tokens=tokens, pairs=pairs)


def _layer_weights(config: ModelConfig) -> int:
    attention = 2 * config.embed * config.head * (config.heads + config.kv_heads)
    return attention + 3 * config.embed * config.mlp
