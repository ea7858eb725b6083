"""The least time that a step can take: none of computing, memory and network can be faster than its peak.

Without importing jax. No program reaches it: what overlaps is for the compiler, and kernels have overheads.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ringworld.attention.config import sequence_axes
from ringworld.attention.work import attention_flops, visible_pairs
from ringworld.model.config import Architecture, Execution
from ringworld.model.flops import forward_flops, layer_parameters, training_flops
from ringworld.model.lora_config import LoraConfig
from ringworld.planning.collectives import Collective
from ringworld.planning.machines import Machine
from ringworld.planning.memory import MemoryNeeds, compute_bytes, tokens_of_device
from ringworld.training.config import Stage

_WIDE = 4
_PASSES = 3
"""Forward, forward again where a layer is rematerialized, and backward."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Roofline:
    """Seconds that one step takes at the least, by what limits it."""

    compute_seconds: float
    memory_seconds: float
    network_seconds: float

    @property
    def step_seconds(self) -> float:
        """The longest: all three at one time."""
        return max(self.compute_seconds, self.memory_seconds, self.network_seconds)


def step_flops(stage: Stage, architecture: Architecture, lora: LoraConfig) -> int:
    """Return the FLOPs that a step needs whose rows hold one example each; nothing is counted twice.

    It is the most that rows of this length can cost: shorter examples see fewer keys.
    """
    tokens = stage.batch_sequences * stage.context_tokens
    return training_flops(architecture, tokens=tokens, pairs=_pairs(stage, architecture), lora=lora)


def roofline(
    stage: Stage,
    *,
    architecture: Architecture,
    execution: Execution,
    lora: LoraConfig,
    machine: Machine,
    needs: MemoryNeeds,
    sent: Sequence[Collective] | None = None,
) -> Roofline:
    """Return the least time of a step on a machine.

    Args:
        stage: what is computed, and its mesh.
        architecture: of the model.
        execution: what is computed again, and in which type.
        lora: the adapter that is trained in place of all weights, if its rank is above 0.
        machine: whose peaks count.
        needs: bytes of the stage on one device.
        sent: what the compiled program sends; by default what it must, by arithmetic.
    """
    network = bytes_sent(stage, architecture, execution, lora) if sent is None else sum(map(_sent, sent))
    return Roofline(
        compute_seconds=_computed_flops(stage, architecture, execution, lora)
        / (machine.chips * machine.chip.flops_per_second),
        memory_seconds=_bytes_moved(stage, architecture, execution, needs)
        / machine.chip.hbm_bytes_per_second,
        network_seconds=network / machine.chip.link_bytes_per_second,
    )


def bytes_sent(stage: Stage, architecture: Architecture, execution: Execution, lora: LoraConfig) -> float:
    """Return the bytes that one device sends in a step: weights, gradients, partial sums, keys and values."""
    mesh, size, tokens = stage.mesh, compute_bytes(execution), tokens_of_device(stage)
    layers, tensor, members = architecture.layers, mesh.tensor, mesh.weight_members
    matrices = (layers * layer_parameters(architecture) + architecture.vocab * architecture.embed) / tensor
    learned = lora.parameters(architecture) / tensor if lora.rank else matrices
    at_work = 1 if lora.rank and lora.base == "int8" else size
    gathered = (2 * at_work * matrices + _WIDE * learned) * _others(members)
    of_copies = 2 * _WIDE * learned / members * _others(mesh.data)
    # Both halves of a layer end in a sum over the tensor axis: forward, backward, and once again.
    summed = 2 * 5 * layers * tokens * architecture.embed * size * _others(tensor)
    kv = architecture.kv_heads * architecture.head / tensor
    q = architecture.heads * architecture.head / tensor
    axes = sequence_axes(execution.attention.strategy, ring=mesh.ring, ulysses=mesh.ulysses)
    ring = math.prod(axes.tokens)
    again = 1 if execution.remat == "all" else 0
    hops = 2 * tokens * kv * ((ring - 1) * (2 + again) * size + (ring * _WIDE if ring > 1 else 0))
    # Forward queries, keys, values and results are exchanged; backward the first three, and all gradients.
    exchanged = 5 * q + 6 * kv + again * (2 * q + 2 * kv)
    heads = _others(math.prod(axes.heads)) * tokens * exchanged * size
    return stage.accumulation_steps * (gathered + of_copies + summed + layers * (hops + heads))


def _others(members: int) -> float:
    return (members - 1) / members


def _sent(collective: Collective) -> int:
    # A sum over a ring of devices is a scatter and a gather.
    return collective.bytes_per_chip * (2 if collective.kind == "all-reduce" else 1)


def _pairs(stage: Stage, architecture: Architecture) -> int:
    seq = stage.context_tokens
    window = min(architecture.window_tokens or seq, seq)
    return stage.batch_sequences * (visible_pairs([window]) + (seq - window) * window)


def _computed_flops(stage: Stage, architecture: Architecture, execution: Execution, lora: LoraConfig) -> int:
    """Return the FLOPs of a step with those that are repeated: of layers, and of scores in backward."""
    tokens, pairs = stage.batch_sequences * stage.context_tokens, _pairs(stage, architecture)
    of_attention = architecture.layers * attention_flops(
        pairs, heads=architecture.heads, head=architecture.head, backward=True
    )
    of_weights = training_flops(architecture, tokens=tokens, pairs=0, lora=lora)
    if execution.remat == "none":
        return of_attention + of_weights
    seen = pairs if execution.remat == "all" else 0
    return of_attention + of_weights + forward_flops(architecture, tokens=tokens, pairs=seen)


def _bytes_moved(stage: Stage, architecture: Architecture, execution: Execution, needs: MemoryNeeds) -> int:
    """Return the bytes that go through the memory of one device: its state, weights in use, activations."""
    tensor, size = stage.mesh.tensor, compute_bytes(execution)
    wide = architecture.head * (architecture.heads + 2 * architecture.kv_heads) + 3 * architecture.mlp
    activations = tokens_of_device(stage) * (6 * architecture.embed + 2 * wide // tensor)
    of_layer = size * (layer_parameters(architecture) // tensor + activations)
    state = 2 * (needs.weights + needs.moments) + needs.gradients
    return state + stage.accumulation_steps * _PASSES * architecture.layers * of_layer
