"""How many bytes a stage needs on one device, by arithmetic; without importing jax.

Every term follows from what the train step keeps, but for `_RESIDUALS` and `_PROJECTIONS`: how many copies a
layer needs was read off the programs that libtpu's compiler made of the paper's stages.
"""

import math
from dataclasses import dataclass, fields
from typing import Final

from ringworld.attention.config import sequence_axes
from ringworld.model.config import Architecture, Execution
from ringworld.model.flops import layer_parameters, parameters
from ringworld.model.lora_config import MATRICES, LoraConfig
from ringworld.training.config import OptimizerConfig, Stage

_WIDE: Final = 4
"""Bytes of a float32 or an int32."""
_BATCH_FIELDS: Final = 6
"""Numbers of 4 bytes that a batch holds of each token."""
_LOSS_BLOCK_TOKENS: Final = 512
_RESIDUALS: Final = 5
"""Arrays of the size of the residual stream that backward of one layer holds at a time."""
_PROJECTIONS: Final = 2
"""The same of queries, keys and values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryNeeds:
    """Bytes on one device at the moment at which they are most: in the backward pass of one layer."""

    weights: int
    """Float32 masters of what is trained, the share of one device."""
    frozen: int
    """The model that an adapter is trained for, in the type in which it is kept; 0 where all weights are."""
    moments: int
    """Of the optimizer."""
    gradients: int
    """In float32: their sum over pieces, and those of one piece where there are several."""
    batch: int
    """All pieces of a batch, and the weights of their tokens in the loss."""
    kept: int
    """What the forward pass leaves of all layers for backward, by the policy of rematerialization."""
    layer: int
    """Weights in use of one layer with their gradients, and its activations."""
    ring: int
    """Keys and values that arrive while others are in use, and their gradients; none without a ring."""
    output_head: int
    """The output head in use with its gradient, and the scores of a block of tokens."""

    @property
    def total(self) -> int:
        """The sum: a layer and the output head are not in use at once; what XLA reserves for them may be."""
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def largest(self) -> str:
        """Return the name of the part that is largest."""
        return max((field.name for field in fields(self)), key=lambda name: getattr(self, name))


def tokens_of_device(stage: Stage) -> int:
    """Return how many tokens of a piece of a batch one device holds."""
    rows = stage.batch_sequences // (stage.accumulation_steps * stage.mesh.batch_members)
    return rows * stage.context_tokens // stage.mesh.sequence_members


def compute_bytes(execution: Execution) -> int:
    """Return the bytes of a number of the compute type."""
    return 2 if execution.compute == "bfloat16" else 4


def memory_needs(
    stage: Stage,
    *,
    architecture: Architecture,
    execution: Execution,
    optimizer: OptimizerConfig,
    lora: LoraConfig,
) -> MemoryNeeds:
    """Return what the train step of a stage needs on one device.

    Args:
        stage: its mesh must divide the model and the batch; see `training.config.validate`.
        architecture: of the model.
        execution: compute type, rematerialization, blocks and strategy.
        optimizer: whose moments are kept.
        lora: the adapter that is trained in place of all weights, if its rank is above 0.
    """
    tokens, size, tensor = tokens_of_device(stage), compute_bytes(execution), stage.mesh.tensor
    embed, mlp = architecture.embed, architecture.mlp // tensor
    q = architecture.heads * architecture.head // tensor
    kv = architecture.kv_heads * architecture.head // tensor
    heads = architecture.heads // tensor
    trained = _adapter_of_device(stage, architecture, lora) or weights_of_device(stage, architecture)
    vocab = architecture.vocab // tensor
    block = min(execution.mlp_block_tokens or tokens, tokens)
    of_layer = layer_parameters(architecture) // tensor
    thin = lora.rank * len(lora.targets)
    # Of what stays there is no gradient, neither of a layer nor of the output head.
    learned = 0 if lora.rank else 1

    attention, entered = tokens * (size * q + _WIDE * heads), tokens * size * embed
    working = 0
    if execution.remat == "layer":
        kept = entered + attention
    elif execution.remat == "all":
        kept, working = entered, attention
    elif execution.remat == "offload":
        # That of two layers is on its way.
        kept, working = tokens * _WIDE * heads, 2 * (entered + tokens * size * q)
    else:
        # Its input and that of the feed-forward; queries, keys and values; and of the feed-forward, unless it
        # goes by blocks, two products.
        inner = 0 if execution.mlp_block_tokens and block < tokens else 2 * mlp
        kept = 2 * entered + tokens * size * (q + 2 * kv + thin + inner) + attention
    layer = (
        of_layer * size + learned * 3 * embed * mlp * 2 * _WIDE + block * mlp * (2 * size + 2 * _WIDE)
        + tokens * size * (_RESIDUALS * embed + _PROJECTIONS * (q + 2 * kv)) + working
    )  # fmt: skip
    return MemoryNeeds(
        weights=_WIDE * trained,
        frozen=_frozen(stage, architecture, lora),
        moments=_moments(stage, architecture, optimizer, trained=trained),
        gradients=_WIDE * trained * (2 if stage.accumulation_steps > 1 else 1),
        batch=stage.accumulation_steps * tokens * _WIDE * (2 * _BATCH_FIELDS + 2),
        kept=architecture.layers * kept,
        layer=layer,
        ring=_ring(stage, execution, tokens=tokens, kv=kv),
        output_head=embed * vocab * (size + learned * _WIDE)
        + min(tokens, _LOSS_BLOCK_TOKENS) * vocab * 3 * _WIDE,
    )


def weights_of_device(stage: Stage, architecture: Architecture) -> int:
    """Return how many parameters one device holds: norms are not spread over the tensor axis."""
    norms = (2 * architecture.layers + 1) * architecture.embed
    members = stage.mesh.weight_members
    return (parameters(architecture) - norms) // (members * stage.mesh.tensor) + norms // members


def _adapter_of_device(stage: Stage, architecture: Architecture, lora: LoraConfig) -> int:
    """Return how many numbers of an adapter one device holds; a side of width `embed` lies as weights do."""
    sides = [side for target in lora.targets for side in MATRICES[target][1:]]
    numbers = sum(
        math.prod(getattr(architecture, name) for name in side)
        // (stage.mesh.weight_members if side == ("embed",) else stage.mesh.tensor)
        for side in sides
    )
    return architecture.layers * lora.rank * numbers


def _frozen(stage: Stage, architecture: Architecture, lora: LoraConfig) -> int:
    """Return the bytes of the model beside an adapter; of int8, without the one scale a channel."""
    if not lora.rank:
        return 0
    numbers = weights_of_device(stage, architecture)
    if lora.base != "int8":
        return numbers * (_WIDE if lora.base == "float32" else 2)
    output_head = 0 if architecture.tied else architecture.vocab * architecture.embed
    matrices = architecture.layers * layer_parameters(architecture) + output_head
    return 2 * numbers - matrices // (stage.mesh.weight_members * stage.mesh.tensor)


def host_bytes(stage: Stage, *, architecture: Architecture, execution: Execution) -> int:
    """Return the bytes of the host's memory that one device needs for what is offloaded."""
    if execution.remat != "offload":
        return 0
    of_token = architecture.embed + architecture.heads * architecture.head // stage.mesh.tensor
    return architecture.layers * tokens_of_device(stage) * compute_bytes(execution) * of_token


def _moments(stage: Stage, architecture: Architecture, optimizer: OptimizerConfig, *, trained: int) -> int:
    """Return the bytes of two moments, but for matrices of layers, of which Muon has one."""
    numbers = 2 * trained
    if optimizer.kind == "muon":
        matrices = architecture.layers * layer_parameters(architecture)
        numbers -= matrices // (stage.mesh.weight_members * stage.mesh.tensor)
    return numbers * (2 if optimizer.moment_dtype == "bfloat16" else _WIDE)


def _ring(stage: Stage, execution: Execution, *, tokens: int, kv: int) -> int:
    """Return the bytes of keys and values on their way, and of their float32 gradients."""
    strategy = execution.attention.strategy
    axes = sequence_axes(strategy, ring=stage.mesh.ring, ulysses=stage.mesh.ulysses)
    members = math.prod(axes.tokens)
    if members == 1:
        return 0
    of_one = 2 * tokens * kv
    if strategy == "all_gather":
        return members * of_one * (compute_bytes(execution) + _WIDE)
    return 2 * of_one * (compute_bytes(execution) + _WIDE)
