"""Where a process finds the others, and what it says where it cannot."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from ringworld.core import processes
from ringworld.core.errors import InputError
from ringworld.core.processes import by_writer, join


@pytest.fixture
def environment(monkeypatch):
    """Return a function that sets variables, with none of them set before."""
    for name in (
        processes.COORDINATOR,
        processes.COUNT,
        processes.INDEX,
        processes.CLUSTER,
        processes.TIMEOUT,
        "TPU_PROCESS_ADDRESSES",
        *TWO_SLICES,
    ):
        monkeypatch.delenv(name, raising=False)
    return lambda **variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]


def test_without_a_word_a_process_is_alone(environment):
    environment(SLURM_JOB_ID="7", SLURM_NTASKS="4", SLURM_PROCID="1", SLURM_STEP_NODELIST="a[1-4]")
    assert join() == 1


def test_one_of_one_is_alone(environment):
    environment(RINGWORLD_COORDINATOR="a:1", RINGWORLD_PROCESSES="1", RINGWORLD_PROCESS="0")
    assert join() == 1


@pytest.mark.parametrize(
    ("variables", "field"),
    [
        ({"RINGWORLD_PROCESSES": "2"}, "coordinator"),
        ({"RINGWORLD_COORDINATOR": "a:1", "RINGWORLD_PROCESSES": "2"}, "index"),
        ({"RINGWORLD_PROCESSES": "two"}, "count"),
        ({"RINGWORLD_PROCESSES": "0"}, "count"),
        ({"RINGWORLD_JOIN_SECONDS": "-1"}, "timeout_seconds"),
        (dict(RINGWORLD_COORDINATOR="a:1", RINGWORLD_PROCESSES="2", RINGWORLD_PROCESS="2"), "index"),
        (dict(RINGWORLD_COORDINATOR="a", RINGWORLD_PROCESSES="2", RINGWORLD_PROCESS="1"), "coordinator"),
        (
            dict(RINGWORLD_COORDINATOR="a:99999", RINGWORLD_PROCESSES="2", RINGWORLD_PROCESS="1"),
            "coordinator",
        ),
        ({"RINGWORLD_CLUSTER": "slrum"}, "cluster"),
        ({"RINGWORLD_CLUSTER": "slurm"}, "cluster"),
    ],
)
def test_what_is_missing_or_wrong_is_named(environment, variables, field):
    environment(**variables)
    with pytest.raises(InputError) as refusal:
        join()
    assert refusal.value.field == field


@pytest.fixture
def called(monkeypatch):
    """What processes that jax does not join say when they call the roll."""
    said = []
    monkeypatch.setattr(processes, "call_roll", lambda *where, **of: said.append((*where, of)))
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda *args, **kwargs: None)
    monkeypatch.setattr(processes.jax.config, "update", lambda *args: None)
    return said


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("node001", "node001"),
        ("n1,n2", "n1"),
        ("gpu[03-06],x", "gpu03"),
        ("a-b[7,9]", "a-b7"),
        ("rack[2-3]gpu[08-15]", "rack2gpu08"),
        ("rack[2,4]gpu-ib,x[1-2]", "rack2gpu-ib"),
    ],
)
def test_under_slurm_the_first_node_coordinates(environment, called, nodes, host):
    environment(
        RINGWORLD_CLUSTER="slurm",
        RINGWORLD_JOIN_SECONDS="9",
        SLURM_JOB_ID="120034",
        SLURM_NTASKS="8",
        SLURM_PROCID="3",
        SLURM_STEP_NODELIST=nodes,
    )
    assert join() == 8
    assert called == [(f"{host}:20034", {"count": 8, "index": 3, "timeout_seconds": 9.0})]


TWO_SLICES = {
    "MEGASCALE_COORDINATOR_ADDRESS": "job-0-0.job:8080",
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
}


@pytest.mark.parametrize(
    ("more", "coordinator", "count", "index"),
    [
        ({"TPU_WORKER_HOSTNAMES": "job-0.job,job-1.job"}, "job-0.job", 2, 1),
        ({"TPU_PROCESS_ADDRESSES": "10.0.0.7:8471,10.0.0.8:8471,c:1"}, "10.0.0.7", 3, 1),
        ({"TPU_WORKER_HOSTNAMES": "x,y"} | TWO_SLICES, "job-0-0.job", 4, 3),
    ],
)
def test_on_gke_the_first_worker_coordinates(environment, called, more, coordinator, count, index):
    environment(RINGWORLD_CLUSTER="gketpu", TPU_WORKER_ID="1", **more)
    assert join() == count
    assert called == [(f"{coordinator}:8482", {"count": count, "index": index, "timeout_seconds": 300.0})]


@pytest.mark.parametrize(
    "workers", ["10.0.0.2,10.0.0.3", "unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3"]
)
def test_on_cloud_tpu_the_metadata_server_says_who_there_is(environment, called, workers):
    with metadata_server({"agent-worker-number": "1", "worker-network-endpoints": workers}) as address:
        environment(RINGWORLD_CLUSTER="gcetpu", GCE_METADATA_IP=address)
        assert join() == 2
    assert called == [("10.0.0.2:8482", {"count": 2, "index": 1, "timeout_seconds": 300.0})]


def test_slices_that_are_joined_are_counted_together(environment, called):
    slices = "".join(f"{name}: '{value}'\n" for name, value in TWO_SLICES.items())
    attributes = {"agent-worker-number": "0", "worker-network-endpoints": "a,b,c", "tpu-env": slices}
    with metadata_server(attributes) as address:
        environment(RINGWORLD_CLUSTER="gcetpu", GCE_METADATA_IP=address)
        assert join() == 6
    assert called[0][0] == "job-0-0.job:8482" and called[0][1]["index"] == 3


@pytest.mark.parametrize(
    "variables", [{"TPU_WORKER_ID": "1"}, {"TPU_WORKER_ID": "x", "TPU_WORKER_HOSTNAMES": "a,b"}]
)
def test_a_tpu_cluster_that_says_too_little_is_named(environment, variables):
    environment(RINGWORLD_CLUSTER="gketpu", **variables)
    with pytest.raises(InputError) as refusal:
        join()
    assert (refusal.value.field, refusal.value.value) == ("cluster", "gketpu")


def test_a_machine_that_is_no_cloud_tpu_is_named(environment):
    with metadata_server({}) as address:
        environment(RINGWORLD_CLUSTER="gcetpu", GCE_METADATA_IP=address)
        with pytest.raises(InputError) as refusal:
            join()
    assert (refusal.value.field, refusal.value.value) == ("cluster", "gcetpu")


@contextmanager
def metadata_server(attributes: dict[str, str]) -> Iterator[str]:
    """Answer as the metadata server of a virtual machine does, to those who ask as it wants it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            known = asked in attributes and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write(attributes[asked].encode() if known else b"<title>404</title>")

        def log_message(self, *args: object) -> None:
            """Say nothing on stderr."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_process_alone_does_what_the_writer_does():
    assert by_writer(lambda: {"a": [1]}) == {"a": [1]}
