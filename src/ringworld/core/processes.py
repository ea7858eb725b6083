"""One run over several processes: how they find each other, who writes, and when all of them stop.

Every process runs the same program and takes part in every computation; the folders of the run lie on a file
system that all of them see. Process 0 alone writes, but for checkpoints, of which each writes its shards.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from signal import Signals
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int32

from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.ranges import check_number
from ringworld.core.roll_call import call_roll

COORDINATOR, COUNT, INDEX = "RINGWORLD_COORDINATOR", "RINGWORLD_PROCESSES", "RINGWORLD_PROCESS"
CLUSTER, TIMEOUT = "RINGWORLD_CLUSTER", "RINGWORLD_JOIN_SECONDS"
CLUSTERS = ("slurm", "gketpu", "gcetpu", "k8s", "ompi", "mpi4py")
"""Whose own variables or services say where the processes are; but for Slurm's, jax reads them."""
_SHUTDOWN_SECONDS = 30
T = TypeVar("T")


def join(
    *,
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    cluster: str | None = None,
    timeout_seconds: float | None = None,
) -> int:
    """Make this process one of several, and return how many there are; call it before any array exists.

    What is not given is taken from the environment. Without any of it the process stays alone, also within
    an allocation of Slurm, where one may only want to try something.

    | argument | variable | |
    |---|---|---|
    | `coordinator` | `RINGWORLD_COORDINATOR` | `host:port` of process 0, where the others reach it |
    | `count` | `RINGWORLD_PROCESSES` | number of processes |
    | `index` | `RINGWORLD_PROCESS` | of this one, from 0 |
    | `cluster` | `RINGWORLD_CLUSTER` | one of `CLUSTERS`, instead of the three above |
    | `timeout_seconds` | `RINGWORLD_JOIN_SECONDS` | how long to wait for the others; 300 by default |

    Which devices belong to a process is what jax says: all of its machine, or one a task under Slurm and Open
    MPI, or those of `$JAX_LOCAL_DEVICE_IDS`.

    Raises:
        InputError: something is missing or no number, or a process does not come in time, which is named
            where the processes call the roll: with explicit places and under Slurm. Of the other clusters,
            jax ends a process that waits in vain.
    """
    if jax.distributed.is_initialized():
        return jax.process_count()
    coordinator = coordinator or os.environ.get(COORDINATOR)
    cluster = cluster or os.environ.get(CLUSTER)
    count, index = _number("count", count, COUNT, least=1), _number("index", index, INDEX, least=0)
    seconds = timeout_seconds or _number("timeout_seconds", None, TIMEOUT, least=1) or 300
    if cluster is not None and cluster not in CLUSTERS:
        raise not_a_choice("cluster", cluster, choices=CLUSTERS)
    if cluster == "slurm":
        coordinator, count, index = _slurm()
    if cluster in (None, "slurm"):
        given = {"coordinator": coordinator, "count": count, "index": index}
        missing = [name for name, value in given.items() if value is None]
        if len(missing) == len(given):
            return 1
        if coordinator is None or count is None or index is None:
            raise InputError(
                f"{' and '.join(missing)} of this process must be given, since others are",
                field=missing[0],
                remedy=f"give all of {COORDINATOR}, {COUNT} and {INDEX}, or none",
            )
        _, _, port = coordinator.rpartition(":")
        named = port.isdecimal() and 0 < int(port) < 2**16 and coordinator != f":{port}"
        if not named or index >= count:
            wrong = "coordinator" if index < count else "index"
            raise InputError(
                f"{wrong} is {given[wrong]!r}, of {count} processes",
                field=wrong,
                value=given[wrong],
                remedy="an index counts from 0, and a coordinator is HOST:PORT",
            )
        if count == 1:
            return 1
        call_roll(coordinator, count=count, index=index, timeout_seconds=float(seconds))
    # Its handler of SIGTERM would take the signal from ours, and from a process that only waits.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            cluster_detection_method=cluster or "deactivate",
            initialization_timeout=int(seconds),
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (ImportError, KeyError, OSError, ValueError) as error:  # of ours, values were looked at above
        raise InputError(
            f"cluster is {cluster}, but jax finds none ({error})",
            field="cluster",
            value=cluster,
            remedy=f"start it as that cluster wants it, or give {COORDINATOR}, {COUNT} and {INDEX}",
        ) from None
    return count or jax.process_count()


def is_writer() -> bool:
    """Return whether this process is the one that writes files and shows progress."""
    return _alone() or jax.process_index() == 0


def by_writer(action: Callable[[], T]) -> T:
    """Call `action` in process 0 alone, and return its result in every process.

    The result is JSON. Every process must get here, and none continues before `action` is done.

    Raises:
        InputError: `action` raised it, wherever this is called.
        RuntimeError: in the other processes, where `action` raised something else.
    """
    if _alone():
        return action()
    said: dict[str, Any] = {}
    failure = None
    if is_writer():
        try:
            said = {"result": action()}
        except InputError as error:
            failure = error
            said = {"refused": {"problem": error.problem, "remedy": error.remedy, "field": error.field}}
            said["path"] = None if error.path is None else str(error.path)
        except Exception as error:
            failure = error
            said = {"failed": str(error)}
    heard = _broadcast(said)
    if failure is not None:
        raise failure
    if "refused" in heard:
        path = None if heard["path"] is None else Path(heard["path"])
        raise InputError(**heard["refused"], path=path)
    if "failed" in heard:
        raise RuntimeError(f"process 0 failed: {heard['failed']}")
    return heard["result"]


def all_agree(good: bool) -> bool:
    """Return whether `good` is true in every process; all of them must ask."""
    if _alone():
        return good
    return bool(multihost_utils.process_allgather(np.int32(good)).all())


def fetched(tree: Any) -> Any:
    """Return arrays as NumPy in every process, also those whose shards lie with others; all must ask."""

    def whole(x: Array) -> Any:
        gathers = not (x.is_fully_addressable or x.is_fully_replicated)
        return multihost_utils.process_allgather(x, tiled=True) if gathers else x

    return jax.device_get(jax.tree.map(whole, tree))


class StopVote:
    """Agrees, between two steps, whether a signal that came to any process stops all of them.

    Each step every process puts its signal into a maximum over all devices, queued behind the step, and reads
    that of the step before, which is there when that step is. So no host waits for another one, and all stop
    after the same step, at the latest one after the signal.

    `multihost_utils.reached_preemption_sync_point` would do so for SIGTERM alone: its handler, in C++, takes
    the signal from Python, so that Ctrl-C would stop one process and a second signal none, and every step
    would ask the coordinator.
    """

    def __init__(self) -> None:
        """Begin without a vote."""
        self._votes: Int32[Array, ""] | None = None

    def agreed(self, signal: Signals | None, *, last: bool) -> Signals | None:
        """Return the signal that stops all processes after this step.

        Args:
            signal: that came to this process, if any.
            last: whether no step follows, so that this vote is waited for.
        """
        if _alone():
            return signal
        before, self._votes = self._votes, _most(_vote(int(signal or 0)))
        counted = self._votes if last else before
        return None if counted is None or int(counted) == 0 else Signals(int(counted))


def _alone() -> bool:
    """Return whether there is one process; where none joined, no backend is begun to find out."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


_most = jax.jit(jnp.max)


def _vote(value: int) -> Int32[Array, " devices"]:
    """Return the value of each process on its devices of the mesh that is set."""
    mesh = jax.sharding.get_mesh()
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    mine = np.full(1, value, np.int32)
    return jax.make_array_from_callback((mesh.size,), sharding, lambda index: mine)


def _broadcast(said: dict[str, Any]) -> Any:
    """Return what process 0 says, as JSON, in every process."""
    content = np.frombuffer(json.dumps(said).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(content.size)))
    # One of few sizes, so that few programs are compiled.
    padded = np.zeros(max(1024, 1 << (size - 1).bit_length()), np.uint8)
    padded[: content.size] = content
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded))[:size].tobytes())


def _slurm() -> tuple[str, int, int]:
    """Return the coordinator, the number of tasks and the index of this one, as `srun` says."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID")
    missing = [name for name in names if name not in os.environ]
    if missing:
        problem = f"cluster is slurm, but the environment has no {' and no '.join(missing)}"
        raise InputError(problem, field="cluster", value="slurm", remedy="start the processes with srun")
    job, nodes, count, index = (os.environ[name] for name in names)
    first = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    assert first is not None, nodes
    # The ports that systems hand out themselves are above 32768, and jobs of one machine should differ.
    port = 20000 + int(job) % 10000
    return f"{first.group(1)}{first.group(2) or ''}:{port}", int(count), int(index)


def _number(name: str, given: int | None, variable: str, *, least: int) -> int | None:
    said = os.environ.get(variable)
    if given is None and said is not None:
        if not said.isdecimal():
            raise InputError(f"{variable} is {said!r}, not a number", field=name, value=said)
        given = int(said)
    if given is not None:
        check_number(name, given, least=least)
    return given
