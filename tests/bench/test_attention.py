"""Attention measured: what is counted, how peers are compared, and what is shown of both."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ringworld.attention.config import AttentionConfig
from ringworld.bench.attention import AttentionBench, bench_attention
from ringworld.bench.peers import Failed, Timing
from ringworld.core.errors import InputError
from tests.bench.fake_peer import OF_PEER, PROBLEM, write_peer

CONFIG = AttentionConfig(layout="balanced", block_q_tokens=32, block_kv_tokens=32)
OVER_8 = replace(PROBLEM, devices=8, repeats=2)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> AttentionBench:
    folder = tmp_path_factory.mktemp("peers")
    peers = (
        "no-such-program",
        write_peer(folder, json.dumps(OF_PEER)),
        write_peer(folder, json.dumps(OF_PEER | {"memory": "guessed", "name": r"a $\frac$ b"})),
    )
    return bench_attention(OVER_8, config=CONFIG, peers=peers, rounds=2)


def test_the_rate_counts_what_is_visible(made):
    shown = json.loads(made.json(command="the command"))
    pairs = 4 * 128 * 129 // 2
    assert shown["seconds"] * shown["visible_flops_per_second"] == pytest.approx(14 * pairs * 4 * 16)
    assert shown["problem"]["lengths"] == [128] * 4
    assert shown["versions"].keys() >= {"ringworld", "jax", "jaxlib", "python"}
    # What one member holds of q, out, dout and dq, and of k, v, dk and dv, of half as many heads.
    assert shown["peak_bytes"] > (4 + 4 * 0.5) * (512 // 8) * 4 * 16 * 4


def test_peers_are_compared_and_one_that_fails_leaves_the_others(made):
    assert [type(one) for one in made.peers] == [Failed, Timing, Timing]
    shown = json.loads(made.json(command="the command"))
    failed, row, other = shown["peers"]
    assert failed.keys() == {"name", "failed"}
    assert row["times_the_seconds"] == pytest.approx(60 / shown["seconds"])
    assert row["times_the_bytes"] == pytest.approx(2**40 / shown["peak_bytes"])
    # What was found in another way is not compared.
    assert "times_the_bytes" not in other


def test_all_are_shown_in_a_table_and_those_that_were_measured_in_a_picture(made):
    title, _, ours, failed, theirs, _ = made.table().splitlines()
    assert "8 devices" in title
    assert ours.startswith("ringworld, hybrid ") and ours.endswith("1.00 x")
    assert failed.startswith("no-such-program ")
    assert theirs.split()[:3] == ["a", "peer", "60.0000"]
    with Image.open(io.BytesIO(made.picture())) as image:
        assert np.unique(np.asarray(image.convert("L"))).size > 16


def test_where_all_peers_fail_the_measurement_is_refused(tmp_path):
    peers = ("no-such-program", write_peer(tmp_path, "no JSON"))
    problem = replace(OVER_8, backward=False, repeats=1)
    with pytest.raises(InputError) as refused:
        bench_attention(problem, config=CONFIG, peers=peers)
    assert (refused.value.field, refused.value.value) == ("peers", peers)


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"peer_timeout_seconds": 0.0}, {"peers": ("",)}], ids=str)
def test_what_cannot_be_measured_is_refused_before_anything_is_compiled(wrong):
    with pytest.raises(InputError) as refused:
        bench_attention(PROBLEM, config=CONFIG, **wrong)
    assert refused.value.field == next(iter(wrong))


@pytest.mark.parametrize("wrong", [{"seq": 500, "lengths": [500]}, {"heads": 4, "kv_heads": 3}], ids=str)
def test_what_does_not_divide_is_refused(wrong):
    with pytest.raises(InputError):
        bench_attention(replace(OVER_8, **wrong), config=CONFIG)
