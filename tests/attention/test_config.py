import dataclasses

import pytest

from ringworld.attention.config import (
    AttentionConfig,
    SequenceAxes,
    advised_strategy,
    kept_together_tokens,
    sequence_axes,
)
from ringworld.core.errors import InputError


@pytest.mark.parametrize("name", ["block_q_tokens", "block_kv_tokens"])
def test_empty_blocks_are_refused(name):
    with pytest.raises(InputError, match=f"{name}: got 0, expected at least 1 token"):
        dataclasses.replace(AttentionConfig(), **{name: 0})


def test_heads_are_exchanged_where_there_are_enough():
    assert advised_strategy(kv_heads=8, members=8) == "head_parallel"
    assert advised_strategy(kv_heads=8, members=16) == "ring"
    assert advised_strategy(kv_heads=8, members=3) == "ring"


def test_sequence_axes_cut_heads_or_tokens():
    sizes = {"ring": 4, "ulysses": 2}
    assert sequence_axes("ring", **sizes) == SequenceAxes(heads=(), tokens=(4, 2))
    assert sequence_axes("all_gather", **sizes) == SequenceAxes(heads=(), tokens=(4, 2))
    assert sequence_axes("head_parallel", **sizes) == SequenceAxes(heads=(4, 2), tokens=())
    assert sequence_axes("hybrid", **sizes) == SequenceAxes(heads=(2,), tokens=(4,))


@pytest.mark.parametrize(
    ("platform", "options", "tokens"),
    [
        ("cpu", {}, 256),
        ("gpu", {}, 256),
        ("gpu", {"block_q_tokens": 128, "block_kv_tokens": 512}, 512),
        ("gpu", {"block_q_tokens": 64, "block_kv_tokens": 32}, 64),
        ("tpu", {}, 1024),
        ("tpu", {"kernel": "pallas_tpu", "block_q_tokens": 64, "block_kv_tokens": 64}, 1024),
        ("tpu", {"kernel": "xla"}, 256),
        ("tpu", {"pallas_mode": "interpreted"}, 256),
    ],
    ids=str,
)
def test_the_balanced_layout_keeps_together_what_the_kernel_takes_at_once(platform, options, tokens):
    assert kept_together_tokens(AttentionConfig(**options), platform=platform) == tokens
