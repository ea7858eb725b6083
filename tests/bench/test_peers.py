"""Programs of others: what they may answer, and that none of them can hold up or end the measurement."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ringworld.bench.peers import Failed, Problem, Timing, ask, check_one_answered, cut_command, outcome_of
from ringworld.core.errors import InputError
from tests.bench.fake_peer import OF_PEER, PROBLEM, write_peer

NUMBERS = asdict(PROBLEM)
del NUMBERS["sharing"]


def asked(command: str, *, timeout_seconds: float = 60.0) -> Timing | Failed:
    return ask(command, cut_command(command), PROBLEM, timeout_seconds=timeout_seconds)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # Its parent may not have asked for it yet.
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def wait_for(happens) -> None:
    for _ in range(1000):
        if happens():
            return
        time.sleep(0.01)
    raise AssertionError("it does not happen")


def test_a_peer_gets_the_problem_and_its_last_line_counts(tmp_path):
    assert asked(write_peer(tmp_path, json.dumps(OF_PEER))) == Timing(**OF_PEER)
    assert json.loads((tmp_path / "asked.jsonl").read_text()) == asdict(PROBLEM)


@pytest.mark.parametrize(
    "last_line",
    [
        "no JSON",
        '{"seconds": 1.0}',
        json.dumps(OF_PEER | {"seconds": "1"}),
        json.dumps(OF_PEER | {"seconds": 0}),
        json.dumps(OF_PEER | {"name": 3}),
        json.dumps(OF_PEER | {"peak_bytes": -1}),
        json.dumps(OF_PEER | {"seconds": 5e-324}),
        json.dumps(OF_PEER | {"seconds": 10**400}),
        json.dumps(OF_PEER | {"name": "two\nlines"}),
        json.dumps(OF_PEER | {"versions": 7}),
        "[1, 2]",
    ],
)
def test_a_peer_that_answers_something_else_failed(last_line, tmp_path):
    command = write_peer(tmp_path, last_line)
    made = asked(command)
    assert isinstance(made, Failed) and made.name == command


@pytest.mark.parametrize("first", ["raise SystemExit(3)", "1 / 0"])
def test_a_peer_that_ends_with_an_error_failed(first, tmp_path):
    assert isinstance(asked(write_peer(tmp_path, json.dumps(OF_PEER), first=first)), Failed)
    assert isinstance(asked("no-such-program"), Failed)


HANGS = """
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
pathlib.Path({pid!r}).write_text(str(child.pid))
"""


@pytest.mark.parametrize("then", ["time.sleep(600)", ""], ids=["it hangs", "its child keeps the output open"])
def test_a_peer_that_hangs_is_killed_with_all_that_it_started(then, tmp_path):
    pid = tmp_path / "pid"
    hangs = HANGS.format(pid=str(pid)) + then
    made = asked(write_peer(tmp_path, json.dumps(OF_PEER), first=hangs), timeout_seconds=3.0)
    assert isinstance(made, Failed)
    wait_for(lambda: gone(int(pid.read_text())))


def test_an_interruption_leaves_no_peer_behind(tmp_path):
    pid = tmp_path / "pid"
    command = write_peer(tmp_path, "", first=HANGS.format(pid=str(pid)) + "time.sleep(600)")
    program = (
        "from tests.bench.test_peers import asked\n"
        f"try: asked({command!r}, timeout_seconds=600.0)\n"
        "except KeyboardInterrupt: raise SystemExit(7)\n"
    )
    ours = subprocess.Popen([sys.executable, "-c", program])
    wait_for(lambda: pid.exists() and pid.read_text())
    ours.send_signal(signal.SIGINT)
    assert ours.wait(60) == 7
    wait_for(lambda: gone(int(pid.read_text())))


def test_a_peer_that_failed_once_failed():
    fast, slow = (replace(Timing(**OF_PEER), seconds=seconds) for seconds in (1.0, 3.0))
    failed = Failed(name="a peer", failed="no answer")
    assert outcome_of([fast, failed, slow]) == failed
    assert outcome_of([fast, replace(slow, peak_bytes=2**41)]) == replace(fast, seconds=2.0, peak_bytes=2**41)


def test_a_comparison_of_which_nothing_is_left_is_refused():
    failed = Failed(name="a peer", failed="no answer")
    check_one_answered([])
    check_one_answered([failed, Timing(**OF_PEER)])
    with pytest.raises(InputError) as refused:
        check_one_answered([failed])
    assert (refused.value.field, refused.value.value) == ("peers", ("a peer",))


@pytest.mark.parametrize("command", ["", "a 'b"])
def test_what_is_no_command_is_refused(command):
    with pytest.raises(InputError) as refused:
        cut_command(command)
    assert (refused.value.field, refused.value.value) == ("peers", command)


def test_a_command_is_cut_as_a_shell_cuts_it():
    assert cut_command(shlex.join(["a b", "c"])) == ["a b", "c"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"repeats": 0},
        {"head": 0},
        {"kv_heads": 0},
        {"devices": 10**8},
        {"seq": 2**31},
        {"seq": 2**30, "head": 10**6},
    ],
    ids=str,
)
def test_a_problem_that_no_machine_holds_is_refused(wrong):
    with pytest.raises(InputError) as refused:
        Problem(**NUMBERS | wrong)
    assert refused.value.field == next(iter(wrong))


@pytest.mark.parametrize(
    ("strategy", "kv_heads"), [("head_parallel", 4), ("hybrid", 1)], ids=["head_parallel", "hybrid"]
)
def test_a_strategy_that_does_not_suit_heads_and_devices_is_refused(strategy, kv_heads):
    with pytest.raises(InputError):
        Problem(**NUMBERS | {"devices": 8, "strategy": strategy, "kv_heads": kv_heads})
