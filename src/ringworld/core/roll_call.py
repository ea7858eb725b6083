"""A roll call of processes before they form a group: whoever is missing after a time is named.

jax ends a process that waits for others in vain with a failed check, which names none of them.
"""

import json
import socket
import time
from contextlib import ExitStack
from typing import Any

from ringworld.core.errors import InputError

_ASK_AGAIN_SECONDS = 0.2
_TO_SAY_SO_SECONDS = 1.0
_LONGEST_BYTES = 4096


def call_roll(coordinator: str, *, count: int, index: int, timeout_seconds: float) -> None:
    """Return when all processes are there; process 0 listens at the port that jax will use afterwards.

    | process | not there after `timeout_seconds` | raises |
    |---|---|---|
    | 0 | some others | an error that names them |
    | another | some others | the same error, by what process 0 says |
    | another | process 0 | an error that names the coordinator |

    Args:
        coordinator: `host:port` of process 0, as the others reach it.
        count: number of processes.
        index: of this one, from 0.
        timeout_seconds: how long to wait.

    Raises:
        InputError: not all came, they disagree about their number, or the port is taken.
    """
    host, _, port = coordinator.rpartition(":")
    if index == 0:
        verdict = _gather(int(port), count=count, deadline=time.monotonic() + timeout_seconds)
    else:
        address = host.strip("[]"), int(port)
        verdict = _answer(address, count=count, index=index, timeout_seconds=timeout_seconds)
    if verdict is None:
        raise InputError(
            f"process 0 did not answer at {coordinator} to process {index} within {timeout_seconds:g} s",
            field="coordinator",
            value=coordinator,
            remedy="start it, and check the address and that the port is open between the machines",
        )
    if verdict["counts"]:
        raise InputError(
            f"count is {count} for process 0, and differs for the processes {_named(verdict['counts'])}",
            field="count",
            value=verdict["counts"],
            remedy="start all of them with the same count",
        )
    if verdict["missing"]:
        raise InputError(
            f"of {count} processes, these did not join at {coordinator} within {timeout_seconds:g} s: "
            f"{_named(verdict['missing'])}",
            field="index",
            value=verdict["missing"],
            remedy="look at their logs, and start all of them, each with an index of its own",
        )


def _gather(port: int, *, count: int, deadline: float) -> dict[str, Any]:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    there: dict[int, socket.socket] = {}
    counts: list[int] = []
    both = family == socket.AF_INET6
    with ExitStack() as stack:
        try:
            listener = socket.create_server(("", port), family=family, backlog=count, dualstack_ipv6=both)
        except OSError as error:
            raise InputError(
                f"process 0 cannot listen at port {port} ({error.strerror})",
                field="coordinator",
                value=port,
                remedy="give a port that is free on its machine",
            ) from None
        stack.enter_context(listener)
        while len(there) < count - 1 and (left := deadline - time.monotonic()) > 0:
            listener.settimeout(left)
            try:
                connection = stack.enter_context(listener.accept()[0])
                connection.settimeout(min(left, 5.0))
                said = _received(connection)
            except (OSError, ValueError):
                continue  # who only looks at the port is not one of us
            if not isinstance(said, dict) or not isinstance(said.get("index"), int):
                continue
            if said.get("count") != count:
                counts.append(said["index"])
            there[said["index"]] = connection
        missing = sorted(set(range(1, count)) - set(there))
        verdict = {"missing": missing, "counts": sorted(counts)}
        for connection in there.values():
            try:
                connection.sendall(json.dumps(verdict).encode() + b"\n")
            except OSError:
                pass  # it is gone: jax will say so
    return verdict


def _answer(
    coordinator: tuple[str, int], *, count: int, index: int, timeout_seconds: float
) -> dict[str, Any] | None:
    deadline = time.monotonic() + timeout_seconds
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(coordinator, timeout=left) as connection:
                connection.sendall(json.dumps({"index": index, "count": count}).encode() + b"\n")
                # Process 0 may have begun to wait just now.
                connection.settimeout(timeout_seconds + _TO_SAY_SO_SECONDS)
                return _received(connection)
        except (OSError, ValueError):
            time.sleep(_ASK_AGAIN_SECONDS)
    return None


def _received(connection: socket.socket) -> Any:
    line = connection.makefile("rb").readline(_LONGEST_BYTES)
    if not line.endswith(b"\n"):
        raise ValueError("nothing was said")
    return json.loads(line)


def _named(indices: list[int], *, most: int = 16) -> str:
    more = f" and {len(indices) - most} more" if len(indices) > most else ""
    return ", ".join(map(str, indices[:most])) + more
