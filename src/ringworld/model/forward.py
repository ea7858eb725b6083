"""What a forward pass needs besides weights and tokens."""

from dataclasses import replace

import equinox as eqx

from ringworld.model.config import Architecture, Execution
from ringworld.model.rope import Frequencies, frequencies


class Forward(eqx.Module):
    """Rotary frequencies, and the static configuration that compiled programs depend on.

    Frequencies are values and not part of a program: stages that differ in their rope base share programs.
    """

    frequencies: Frequencies
    architecture: Architecture = eqx.field(static=True)
    execution: Execution = eqx.field(static=True)

    @staticmethod
    def of(architecture: Architecture, execution: Execution, *, rope_base: float | None = None) -> "Forward":
        """Return the forward pass of an architecture, or that of a stage with a rope base of its own."""
        rope = architecture.rope
        if rope_base is not None:
            rope = replace(rope, base=rope_base)
        # Without its rope an architecture is the same for all stages, and so is a program.
        return Forward(
            frequencies=frequencies(rope, head=architecture.head),
            architecture=replace(architecture, rope=type(rope)()),
            execution=execution,
        )
