"""Where a process finds the others, and what it says where it cannot."""

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


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("node001", "node001"), ("n1,n2", "n1"), ("gpu[03-06],x", "gpu03"), ("a-b[7,9]", "a-b7")],
)
def test_under_slurm_the_first_node_coordinates(environment, monkeypatch, nodes, host):
    called = []
    monkeypatch.setattr(processes, "call_roll", lambda *where, **of: called.append((*where, of)))
    monkeypatch.setattr(processes.jax.distributed, "initialize", lambda *args, **kwargs: None)
    monkeypatch.setattr(processes.jax.config, "update", lambda *args: None)
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


def test_a_process_alone_does_what_the_writer_does():
    assert by_writer(lambda: {"a": [1]}) == {"a": [1]}
