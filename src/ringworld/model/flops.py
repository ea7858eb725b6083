"""How many floating-point operations a model takes: matrix products and visible attention, nothing else."""

from ringworld.attention.work import attention_flops
from ringworld.model.config import Architecture
from ringworld.model.lora_config import LoraConfig

BACKWARD_RATIO = 2
"""Backward multiplies each pair of matrices twice: for the gradient of the one and of the other."""


def parameters(architecture: Architecture) -> int:
    """Return the number of parameters, embedding and output head included."""
    norms = (2 * architecture.layers + 1) * architecture.embed
    tables = (1 if architecture.tied else 2) * architecture.vocab * architecture.embed
    small = 0
    if architecture.qkv_bias:
        small += architecture.head * (architecture.heads + 2 * architecture.kv_heads)
    if architecture.qk_norm:
        small += 2 * architecture.head
    return architecture.layers * (layer_parameters(architecture) + small) + tables + norms


def layer_parameters(architecture: Architecture) -> int:
    """Return the numbers of the matrices of one layer."""
    attention = 2 * architecture.embed * architecture.head * (architecture.heads + architecture.kv_heads)
    return attention + 3 * architecture.embed * architecture.mlp


def forward_flops(architecture: Architecture, *, tokens: int, pairs: int) -> int:
    """Return the FLOPs of reading `tokens` tokens that see `pairs` keys in all.

    A weight costs two FLOPs a token; the embedding is a look-up and costs none.
    """
    attention = attention_flops(pairs, heads=architecture.heads, head=architecture.head, backward=False)
    return 2 * _multiplied(architecture) * tokens + architecture.layers * attention


def training_flops(
    architecture: Architecture, *, tokens: int, pairs: int, lora: LoraConfig | None = None
) -> int:
    """Return the FLOPs that a training step needs; what rematerialization repeats is not counted.

    Where an adapter is trained, its matrices are multiplied besides, and the others have no gradient.
    """
    flops = (1 + BACKWARD_RATIO) * forward_flops(architecture, tokens=tokens, pairs=pairs)
    if lora is None or lora.rank == 0:
        return flops
    besides = (1 + BACKWARD_RATIO) * lora.parameters(architecture) - _multiplied(architecture)
    return flops + 2 * besides * tokens


def _multiplied(architecture: Architecture) -> int:
    """Return the numbers of all matrices that a token is multiplied with."""
    return architecture.layers * layer_parameters(architecture) + architecture.vocab * architecture.embed
