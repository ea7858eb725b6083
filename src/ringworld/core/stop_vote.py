"""Between two steps, several processes agree whether all of them stop."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from signal import Signals
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int32

from ringworld.core.processes import is_alone, raise_in_all

_FAILED = 1 << 8
"""More than the number of any signal."""


class StopVote:
    """Agrees, between two steps, whether a signal to any process, or what one failed with, stops all of them.

    Each step every process puts its signal into a maximum over all devices, queued behind the step, and reads
    that of the step before, which is there when that step is. So no host waits for another one, and all stop
    after the same step, at the latest one after the signal. How far each is with writing goes along.

    `multihost_utils.reached_preemption_sync_point` would do so for SIGTERM alone: its handler, in C++, takes
    the signal from Python, so that Ctrl-C would stop one process and a second signal none, and every step
    would ask the coordinator.
    """

    def __init__(self) -> None:
        """Begin without a vote."""
        self._votes: Int32[Array, " values"] | None = None
        self._failure: Exception | None = None
        self.written = 0
        """The number that every process gave at least, as of the vote that was read."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep what this process fails with until all of them raise it; where it is alone, it does at once.

        Until then it takes part in every step, with a batch that it has already where there is no other.
        """
        try:
            yield
        except Exception as error:
            if is_alone():
                raise
            self._failure = self._failure or error

    def agreed(self, signal: Signals | None, *, last: bool, behind: Any, written: int) -> Signals | None:
        """Return the signal that stops all processes after this step.

        Args:
            signal: that came to this process, if any.
            last: whether no step follows, so that this vote is waited for.
            written: how many checkpoints this process has written its part of.
            behind: what is being computed, for which all wait before they raise.

        Raises:
            InputError, RuntimeError: what a process held; see `raise_in_all`.
        """
        if is_alone():
            return signal
        mine = _FAILED if self._failure else int(signal or 0)
        before, self._votes = self._votes, _most(_vote(mine, -written))
        counted = self._votes if last else before
        most, least = (0, 0) if counted is None else np.asarray(counted).tolist()
        self.written = -least
        if most == _FAILED:
            # XLA on a CPU lets collectives of programs that run at once wait for each other for ever.
            jax.block_until_ready((behind, self._votes))
            self.settle()
        return Signals(most) if most else None

    def settle(self) -> None:
        """Raise in all processes what any of them held; all of them must get here."""
        raise_in_all(self._failure)


_most = jax.jit(partial(jnp.max, axis=0))


def _vote(*values: int) -> Int32[Array, "devices values"]:
    """Return the values of each process on its devices of the mesh that is set."""
    mesh = jax.sharding.get_mesh()
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names, None))
    mine = np.array([values], np.int32)
    return jax.make_array_from_callback((mesh.size, len(values)), sharding, lambda index: mine)
