"""One run over several processes: how they find each other, who writes, and what all of them raise.

Every process runs the same program and takes part in every computation; the folders of the run lie on a file
system that all of them see. Process 0 alone writes, but for checkpoints, of which each writes its shards.
"""

import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, UInt8

from ringworld.core.clusters import GROUP_OF
from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.failures import heard, told
from ringworld.core.ranges import check_number
from ringworld.core.roll_call import call_roll

COORDINATOR, COUNT, INDEX = "RINGWORLD_COORDINATOR", "RINGWORLD_PROCESSES", "RINGWORLD_PROCESS"
CLUSTER, TIMEOUT = "RINGWORLD_CLUSTER", "RINGWORLD_JOIN_SECONDS"
_FOUND_BY_JAX = ("k8s", "ompi", "mpi4py")
CLUSTERS = (*GROUP_OF, *_FOUND_BY_JAX)
"""Whose own variables or services say where the processes are."""
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
            where the processes call the roll: with explicit places, under Slurm, on GKE and Cloud TPU. Of
            the other clusters, jax ends a process that waits in vain.
    """
    if jax.distributed.is_initialized():
        return jax.process_count()
    coordinator = coordinator or os.environ.get(COORDINATOR)
    cluster = cluster or os.environ.get(CLUSTER)
    count, index = _number("count", count, COUNT, least=1), _number("index", index, INDEX, least=0)
    seconds = timeout_seconds or _number("timeout_seconds", None, TIMEOUT, least=1) or 300
    if cluster is not None and cluster not in CLUSTERS:
        raise not_a_choice("cluster", cluster, choices=CLUSTERS)
    if cluster in GROUP_OF:
        coordinator, count, index = GROUP_OF[cluster]()
    if cluster is None or cluster in GROUP_OF:
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
    # Under Slurm jax finds which GPU a task has.
    detected = cluster if cluster in (*_FOUND_BY_JAX, "slurm") else "deactivate"
    # Its handler of SIGTERM would take the signal from ours, and from a process that only waits.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            cluster_detection_method=detected,
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
    return is_alone() or jax.process_index() == 0


def by_writer(action: Callable[[], T]) -> T:
    """Call `action` in process 0 alone, and return its result in every process.

    The result is JSON. Every process must get here, and none continues before `action` is done.

    Raises:
        InputError: `action` raised it, wherever this is called.
        RuntimeError: in the other processes, where `action` raised something else.
    """
    if is_alone():
        return action()
    said: dict[str, Any] = {}
    failure = None
    if is_writer():
        try:
            said = {"result": action()}
        except Exception as error:
            failure = error
            said = told(error)
    answer = _broadcast(said)
    if "result" not in answer:
        raise failure or heard(answer)
    return answer["result"]


def by_all(action: Callable[[], T]) -> T:
    """Call `action` in every process, and raise in all of them where it failed in any.

    Every process must get here. `action` computes nothing together with the others, since they would wait
    for one that failed.

    Raises:
        InputError: `action` raised it in one process, which the message names, or in all of them.
        RuntimeError: it raised something else.
    """
    if is_alone():
        return action()
    results: list[T] = []
    failure = None
    try:
        results.append(action())
    except Exception as error:
        failure = error
    raise_in_all(failure)
    return results[0]


def raise_in_all(failure: Exception | None) -> None:
    """Raise in every process what one of them failed with; all of them must get here.

    | failed | raised |
    |---|---|
    | none | nothing |
    | all, with the same | what each has |
    | some | what the first of them has, with the number of its process |

    Args:
        failure: of this process, if any.
    """
    if is_alone():
        if failure is not None:
            raise failure
        return
    said = _gathered(None if failure is None else told(failure))
    if failure is not None and all(one == said[0] for one in said):
        raise failure
    failed = [(process, one) for process, one in enumerate(said) if one is not None]
    if failed:
        process, first = failed[0]
        raise heard(first, process=process) from failure


def fetched(tree: Any) -> Any:
    """Return arrays as NumPy in every process, also those whose shards lie with others; all must ask."""

    def whole(x: Array) -> Any:
        gathers = not (x.is_fully_addressable or x.is_fully_replicated)
        return multihost_utils.process_allgather(x, tiled=True) if gathers else x

    return jax.device_get(jax.tree.map(whole, tree))


def is_alone() -> bool:
    """Return whether there is one process; where none joined, no backend is begun to find out."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def _broadcast(said: dict[str, Any]) -> Any:
    """Return what process 0 says, as JSON, in every process."""
    content = json.dumps(said).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(content))))
    return _read(multihost_utils.broadcast_one_to_all(_padded(content, size)))


def _gathered(said: dict[str, Any] | None) -> list[Any]:
    """Return what each process says, as JSON or None, in every process."""
    content = json.dumps(said).encode() if said else b""
    size = int(multihost_utils.process_allgather(np.int32(len(content))).max())
    if size == 0:
        return [None] * jax.process_count()
    rows = multihost_utils.process_allgather(_padded(content, size))
    return [_read(row) if row.any() else None for row in rows]


def _padded(content: bytes, size: int) -> UInt8[np.ndarray, " _"]:
    """Return bytes with zeros behind them, in one of few sizes, so that few programs are compiled."""
    padded = np.zeros(max(1024, 1 << (size - 1).bit_length()), np.uint8)
    padded[: len(content)] = np.frombuffer(content, np.uint8)
    return padded


def _read(padded: Any) -> Any:
    return json.loads(np.asarray(padded).tobytes().rstrip(b"\0"))


def _number(name: str, given: int | None, variable: str, *, least: int) -> int | None:
    said = os.environ.get(variable)
    if given is None and said is not None:
        if not said.isdecimal():
            raise InputError(f"{variable} is {said!r}, not a number", field=name, value=said)
        given = int(said)
    if given is not None:
        check_number(name, given, least=least)
    return given
