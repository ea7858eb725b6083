"""Where the processes of a run are, as Slurm, GKE and Cloud TPU say; without importing jax.

jax finds them, too, but ends a process that waits for others in vain without naming them. With what is
read here the processes can call the roll first.
"""

import os
import re
import time
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.error import HTTPError

from ringworld.core.errors import InputError

_TPU_PORT: Final = 8482
"""At which jax lets the processes of a TPU slice meet."""
_METADATA_TRIES, _METADATA_SECONDS, _ASK_AGAIN_SECONDS = 6, 10.0, 0.5


class ProcessGroup(NamedTuple):
    """The processes of a run, and which of them this is."""

    coordinator: str
    """`host:port` of process 0."""
    count: int
    """Number of processes."""
    index: int
    """Of this one, from 0."""


def slurm() -> ProcessGroup:
    """Return what `srun` says.

    Example:
        `SLURM_STEP_NODELIST=gpu[03-06],x` begins with the host gpu03.

    Raises:
        InputError: it does not say everything.
    """
    job, nodes, count, index = _all_of(
        "slurm",
        "SLURM_JOB_ID",
        "SLURM_STEP_NODELIST",
        "SLURM_NTASKS",
        "SLURM_PROCID",
        remedy="start the processes with srun",
    )
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    host = re.sub(r"\[([^,\-\]]*)[^\]]*\]", r"\1", first[0] if first else nodes)
    # The ports that systems hand out themselves are above 32768, and jobs of one machine should differ.
    port = 20000 + _number("slurm", "SLURM_JOB_ID", job) % 10000
    return ProcessGroup(
        f"{host}:{port}", _number("slurm", "SLURM_NTASKS", count), _number("slurm", "SLURM_PROCID", index)
    )


def gke_tpu() -> ProcessGroup:
    """Return what GKE writes into a pod of a TPU node pool; of several slices, what JobSet adds.

    Raises:
        InputError: it does not say everything.
    """
    # Newer pools say addresses, with ports.
    named = "TPU_PROCESS_ADDRESSES" if os.environ.get("TPU_PROCESS_ADDRESSES") else "TPU_WORKER_HOSTNAMES"
    remedy = "run it in an indexed job with a headless service, on a TPU node pool"
    workers, index = _all_of("gketpu", named, "TPU_WORKER_ID", remedy=remedy)
    return _tpu("gketpu", workers.split(","), _number("gketpu", "TPU_WORKER_ID", index), os.environ.get)


def gce_tpu() -> ProcessGroup:
    """Return what the metadata server of a Cloud TPU VM says.

    Raises:
        InputError: it does not answer, or with something else.
    """
    index = _number("gcetpu", "agent-worker-number", _metadata("agent-worker-number"))
    # Names of hosts, or name:id:address of each.
    workers = [one.split(":")[-1] for one in _metadata("worker-network-endpoints").split(",")]
    known = dict(re.findall(r"^(\w+): *'?(.*?)'? *$", _metadata("tpu-env", otherwise=""), re.MULTILINE))
    return _tpu("gcetpu", workers, index, lambda name: os.environ.get(name) or known.get(name))


def _tpu(cluster: str, workers: list[str], index: int, said: Callable[[str], str | None]) -> ProcessGroup:
    """Return the processes of one slice, or of several that Megascale joins; process 0 is of the first."""

    def of_slices(name: str, otherwise: int) -> int:
        value = said(name)
        return _number(cluster, name, value) if value else otherwise

    first = said("MEGASCALE_COORDINATOR_ADDRESS") or workers[0]
    return ProcessGroup(
        f"{first.split(':')[0]}:{_TPU_PORT}",
        len(workers) * of_slices("MEGASCALE_NUM_SLICES", 1),
        len(workers) * of_slices("MEGASCALE_SLICE_ID", 0) + index,
    )


GROUP_OF: Final[dict[str, Callable[[], ProcessGroup]]] = {
    "slurm": slurm,
    "gketpu": gke_tpu,
    "gcetpu": gce_tpu,
}
"""By what `RINGWORLD_CLUSTER` says."""


def _all_of(cluster: str, *names: str, remedy: str) -> list[str]:
    """Return variables of the environment, each of which a cluster sets."""
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        problem = f"cluster is {cluster}, but the environment has no {' and no '.join(missing)}"
        raise InputError(problem, field="cluster", value=cluster, remedy=remedy)
    return [os.environ[name] for name in names]


def _number(cluster: str, name: str, said: str) -> int:
    if not said.strip().isdecimal():
        problem = f"cluster is {cluster}, but {name} is {said!r}, not a number"
        raise InputError(problem, field="cluster", value=cluster)
    return int(said)


def _metadata(name: str, *, otherwise: str | None = None) -> str:
    """Return an attribute of this machine; its server is asked again, since it may be busy at the start.

    Raises:
        InputError: it does not say, and nothing stands for it otherwise.
    """
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    address = f"http://{server}/computeMetadata/v1/instance/attributes/{name}"
    request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    failure = None
    for _ in range(_METADATA_TRIES):
        try:
            with direct.open(request, timeout=_METADATA_SECONDS) as answer:
                return answer.read().decode()
        except OSError as error:
            failure = error
            if isinstance(error, HTTPError):
                error.close()
                if error.code == HTTPStatus.NOT_FOUND:
                    break
        time.sleep(_ASK_AGAIN_SECONDS)
    if otherwise is not None:
        return otherwise
    raise InputError(
        f"cluster is gcetpu, but the metadata server {server} does not say {name} ({failure})",
        field="cluster",
        value="gcetpu",
        remedy="start it on the hosts of a Cloud TPU slice",
    ) from None
