"""Lists of prompts to batches of few shapes."""

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.inference.batches import bucket, plan_batches
from ringworld.inference.config import GenerationLimits


def cut(lengths, *, group=1, multiple=1, new_tokens=8, **limits):
    prompts = [np.arange(1, length + 1, dtype=np.int32) for length in lengths]
    return list(
        plan_batches(
            prompts,
            group=group,
            new_tokens=new_tokens,
            multiple=multiple,
            limits=GenerationLimits(**{"max_context_tokens": 100, **limits}),
        )
    )


def test_lengths_are_rounded_up_to_few_sizes():
    assert [bucket(n) for n in (1, 32, 33, 48, 49, 64, 65, 96, 97, 1025)] == [
        32, 32, 48, 48, 64, 64, 96, 96, 128, 1536,
    ]  # fmt: skip


def test_prompts_of_like_length_go_together_and_none_is_lost():
    made = cut([40, 3, 38, 5], max_sequences=2)
    assert [batch.indices for batch in made] == [(0, 2), (3, 1)]
    assert [batch.tokens.shape for batch in made] == [(2, 48), (2, 32)]
    assert [batch.lengths.tolist() for batch in made] == [[40, 38], [5, 3]]


def test_padding_has_no_order():
    (batch,) = cut([3, 2])
    assert batch.tokens[:, :4].tolist() == [[1, 2, 3, 0], [1, 2, 0, 0]]
    assert batch.order[:, :4].tolist() == [[0, 1, 2, -1], [0, 1, -1, -1]]


def test_the_cache_limits_the_sequences_but_never_below_one():
    assert [len(batch.indices) for batch in cut([60] * 3, max_cache_tokens=2 * (64 + 32))] == [2, 1]
    assert [len(batch.indices) for batch in cut([60] * 2, max_cache_tokens=1)] == [1, 1]


def test_sequences_are_a_power_of_two_and_a_multiple_of_the_mesh():
    (batch,) = cut([3] * 3, multiple=2)
    assert batch.tokens.shape[0] == 4
    assert batch.idle.tolist() == [False, False, False, True]
    (batch,) = cut([3], multiple=3)
    assert batch.idle.tolist() == [False, True, True]


def test_a_caption_stays_beside_its_unconditional_prompt():
    made = cut([10, 2, 60, 2, 20, 2], group=2, max_sequences=4)
    assert [batch.indices for batch in made] == [(2, 3, 4, 5), (0, 1)]
    assert [batch.indices for batch in cut([10, 2, 60, 2], group=2, max_sequences=1)] == [(2, 3), (0, 1)]


def test_a_prompt_longer_than_the_context_is_refused():
    cut([92])
    with pytest.raises(InputError) as refused:
        cut([5, 93])
    assert (refused.value.field, refused.value.value) == ("prompt", 93)


def test_a_prompt_of_nothing_is_refused():
    with pytest.raises(InputError) as refused:
        cut([5, 0])
    assert refused.value.field == "prompt"
