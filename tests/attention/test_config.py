import dataclasses
import subprocess
import sys
from functools import partial

import pytest

from ringworld.attention.config import (
    AttentionConfig,
    SequenceAxes,
    Sharing,
    advised_sharing,
    advised_strategy,
    kept_together_tokens,
    sequence_axes,
)
from ringworld.core.errors import InputError


@pytest.mark.parametrize(("name", "tokens"), [("block_q_tokens", -1), ("block_kv_tokens", 0)])
def test_empty_blocks_are_refused(name, tokens):
    with pytest.raises(InputError) as refused:
        dataclasses.replace(AttentionConfig(), **{name: tokens})
    assert refused.value.field == name


@pytest.mark.parametrize(
    ("kv_heads", "members", "strategy", "ring", "ulysses"),
    [
        (8, 1, "head_parallel", 1, 1),
        (8, 8, "head_parallel", 1, 8),
        (32, 8, "head_parallel", 1, 8),
        (8, 64, "hybrid", 8, 8),
        (6, 4, "hybrid", 2, 2),
        (8, 3, "ring", 3, 1),
        (1, 8, "ring", 8, 1),
    ],
)
def test_heads_are_exchanged_as_far_as_they_go(kv_heads, members, strategy, ring, ulysses):
    advised = advised_sharing(kv_heads=kv_heads, members=members)
    assert advised == Sharing(strategy=strategy, ring=ring, ulysses=ulysses)


def test_on_a_mesh_that_is_given_heads_are_exchanged_where_they_divide():
    assert advised_strategy(kv_heads=8, ring=2, ulysses=4) == "head_parallel"
    assert advised_strategy(kv_heads=4, ring=2, ulysses=4) == "hybrid"
    assert advised_strategy(kv_heads=2, ring=2, ulysses=4) == "ring"
    assert advised_strategy(kv_heads=3, ring=2, ulysses=1) == "ring"


def test_a_strategy_that_is_given_gets_the_mesh_that_suits_it():
    of = partial(advised_sharing, kv_heads=8, members=8)
    assert of(strategy="ring") == Sharing(strategy="ring", ring=8, ulysses=1)
    assert of(strategy="all_gather") == Sharing(strategy="all_gather", ring=8, ulysses=1)
    assert of(strategy="hybrid") == Sharing(strategy="hybrid", ring=2, ulysses=4)


@pytest.mark.parametrize(("kv_heads", "members"), [(8, 3), (8, 2), (1, 8), (8, 1)])
def test_a_hybrid_needs_a_divisor_in_common_and_a_ring(kv_heads, members):
    with pytest.raises(InputError) as refused:
        advised_sharing(kv_heads=kv_heads, members=members, strategy="hybrid")
    assert (refused.value.field, refused.value.value) == ("strategy", "hybrid")


_WITH_WRONG_NAMES = """
from functools import partial
from ringworld.attention.config import AttentionConfig, advised_sharing
from ringworld.attention.layouts import place

names = "kernel", "pallas_mode", "strategy", "layout"
calls = [partial(AttentionConfig, **{name: "rin"}) for name in names]
calls.append(partial(advised_sharing, kv_heads=8, members=8, strategy="rin"))
calls.append(partial(place, "rin", seq=8, members=2))
for call in calls:
    try:
        call()
    except ValueError as error:
        print(error.field, error.value)
"""


def test_names_that_are_no_choice_are_refused_where_nothing_checks_types():
    ran = subprocess.run(
        [sys.executable, "-c", _WITH_WRONG_NAMES], capture_output=True, text=True, check=True
    )
    names = ["kernel", "pallas_mode", "strategy", "layout", "strategy", "layout"]
    assert ran.stdout.splitlines() == [f"{name} rin" for name in names]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"kv_heads": 0, "members": 4}, "kv_heads"),
        ({"kv_heads": 4, "members": -1}, "members"),
        ({"kv_heads": 3, "members": 2, "strategy": "head_parallel"}, "strategy"),
    ],
)
def test_advice_that_cannot_be_given_is_refused(arguments, field):
    with pytest.raises(InputError) as refused:
        advised_sharing(**arguments)
    assert refused.value.field == field


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
