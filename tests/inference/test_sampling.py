"""From logits to tokens: guidance, top-k, temperature, and draws that depend on seed and prompt alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.inference.config import EngineConfig, SamplingConfig
from ringworld.inference.sampling import guide, likeliest, row_keys, sample

ROWS = 4096
LOGITS = np.array([2.0, -np.inf, 1.0, 0.0, 1.5], np.float32)


@jax.jit
def draw(logits, *, checksums, seed=0, place=0, temperature=1.0, top_k=0):
    keys = row_keys(jnp.uint32(seed), checksums)
    return sample(
        logits,
        keys=keys,
        place=jnp.int32(place),
        temperature=jnp.float32(temperature),
        top_k=jnp.int32(top_k),
    )


def rows_of(logits, rows=ROWS):
    return jnp.tile(jnp.asarray(logits)[None], (rows, 1)), jnp.arange(rows, dtype=jnp.uint32)


def test_guidance_moves_from_the_unconditional_scores_through_the_conditional_ones():
    given, free = jnp.array([[1.0, 4.0]]), jnp.array([[2.0, 2.0]])
    for scale, expected in ((0.0, [2.0, 2.0]), (1.0, [1.0, 4.0]), (2.0, [0.0, 6.0])):
        np.testing.assert_allclose(guide(given, free, scale=jnp.float32(scale)), [expected], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_draws_follow_the_softmax_at_a_temperature(temperature):
    logits, checksums = rows_of(LOGITS)
    drawn = np.bincount(draw(logits, checksums=checksums, temperature=temperature), minlength=5) / ROWS
    expected = np.exp(LOGITS / temperature) / np.exp(LOGITS / temperature).sum()
    # Five standard deviations of a share.
    assert (np.abs(drawn - expected) <= 5 * np.sqrt(expected * (1 - expected) / ROWS)).all()


def test_temperature_zero_takes_the_likeliest():
    logits, checksums = rows_of(LOGITS, rows=8)
    assert draw(logits, checksums=checksums, temperature=0.0).tolist() == [0] * 8


@pytest.mark.parametrize(("top_k", "kept"), [(1, {0}), (2, {0, 4}), (3, {0, 2, 4}), (5, {0, 2, 3, 4})])
def test_top_k_keeps_the_likeliest(top_k, kept):
    logits, checksums = rows_of(LOGITS)
    assert set(draw(logits, checksums=checksums, top_k=top_k).tolist()) == kept


def test_the_likeliest_are_those_of_a_sort_whatever_their_sign():
    draws = np.random.default_rng(0)
    logits = (draws.normal(size=(6, 40)) * 10.0 ** draws.integers(-3, 4, size=(6, 40))).astype(np.float32)
    logits[0, :30] = -np.inf
    for count in (1, 2, 11, 39, 40):
        least = np.sort(logits, axis=1)[:, -count][:, None]
        kept = likeliest(jnp.asarray(logits), count=jnp.int32(count))
        assert (np.asarray(kept) == (logits >= least)).all()


def test_a_row_draws_the_same_in_any_batch_and_otherwise_for_another_seed_place_or_prompt():
    logits, checksums = rows_of(np.zeros(1000, np.float32), rows=4)
    together = draw(logits, checksums=checksums)
    alone = draw(logits[2:3], checksums=checksums[2:3])
    assert together[2] == alone[0]
    assert len(set(together.tolist())) == 4
    for other in ({"seed": 1}, {"place": 1}):
        assert draw(logits, checksums=checksums, **other).tolist() != together.tolist()


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
    ],
)
def test_a_sampling_that_cannot_be_drawn_is_refused(wrong, name):
    with pytest.raises(InputError, match=name):
        SamplingConfig(**wrong)


@pytest.mark.parametrize("name", ["max_context_tokens", "max_rows", "max_cache_tokens"])
def test_an_engine_without_room_is_refused(name):
    with pytest.raises(InputError, match=name):
        EngineConfig(**{"max_context_tokens": 64, name: 0})
