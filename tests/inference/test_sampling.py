"""From logits to tokens: guidance, top-k, temperature, and draws that depend on seed and prompt alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.inference.config import GenerationLimits, SamplingConfig, WatchingConfig
from ringworld.inference.request import sampling_of
from ringworld.inference.sampling import Sampling, guide, likeliest, nucleus, row_keys, sample
from tests.inference.warpers import warped

ROWS = 4096
LOGITS = np.array([2.0, -np.inf, 1.0, 0.0, 1.5], np.float32)


@jax.jit
def draw(logits, *, checksums, legal=None, seen=None, seed=0, index=0, top_k=0, **changes):
    values = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, **changes}
    return sample(
        logits,
        legal=jnp.isfinite(logits[0]) if legal is None else legal,
        seen=jnp.zeros(logits.shape, bool) if seen is None else seen,
        keys=row_keys(jnp.full(len(logits), seed, jnp.uint32), checksums),
        index=jnp.full(len(logits), index, jnp.int32),
        sampling=Sampling(
            top_k=jnp.full(len(logits), top_k, jnp.int32),
            **{name: jnp.full(len(logits), value, jnp.float32) for name, value in values.items()},
        ),
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
        kept = likeliest(jnp.asarray(logits), count=jnp.full((1, 1), count, jnp.int32))
        assert (np.asarray(kept) == (logits >= least)).all()


CHANGES = [
    {"top_p": 0.7},
    {"min_p": 0.2},
    {"top_p": 1e-9},
    {"min_p": 1.0},
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.5, "temperature": 0.6},
    {"temperature": 1.8, "top_k": 9, "top_p": 0.6, "min_p": 0.15, "repetition_penalty": 1.3},
    {"temperature": 0.5, "top_p": 0.9, "min_p": 0.05},
]


@pytest.mark.parametrize("changes", CHANGES, ids=repr)
def test_draws_follow_the_distribution_that_numpy_changes_step_by_step(changes):
    draws = np.random.default_rng(3)
    logits = (2 * draws.normal(size=16)).astype(np.float32)
    seen = draws.random(16) < 0.4
    expected = warped(logits, seen=seen, **changes)
    rows, checksums = rows_of(logits)
    drawn = draw(rows, checksums=checksums, seen=jnp.tile(seen[None], (ROWS, 1)), **changes)
    shares = np.bincount(drawn, minlength=16) / ROWS
    assert set(np.flatnonzero(shares)) <= set(np.flatnonzero(expected))
    # Five standard deviations of a share.
    assert (np.abs(shares - expected) <= 5 * np.sqrt(expected * (1 - expected) / ROWS)).all()


@pytest.mark.parametrize("mass", [1e-6, 0.1, 0.5, 0.9, 0.999])
def test_the_nucleus_is_that_of_a_sort(mass):
    draws = np.random.default_rng(1)
    logits = (draws.normal(size=(6, 40)) * 10.0 ** draws.integers(-2, 2, size=(6, 1))).astype(np.float32)
    kept = np.asarray(nucleus(jnp.asarray(logits), mass=jnp.full((1, 1), mass, jnp.float32)))
    for row, scores in zip(kept, logits):
        assert (row == (warped(scores, top_p=mass) > 0)).all()


def test_ids_that_tie_with_the_last_of_the_nucleus_are_kept():
    kept = nucleus(jnp.log(jnp.array([[0.5, 0.1, 0.3, 0.1]])), mass=jnp.full((1, 1), 0.85, jnp.float32))
    assert kept.tolist() == [[True, True, True, True]]


def test_a_row_draws_the_same_in_any_batch_and_otherwise_for_another_seed_token_or_prompt():
    logits, checksums = rows_of(np.zeros(1000, np.float32), rows=4)
    together = draw(logits, checksums=checksums)
    alone = draw(logits[2:3], checksums=checksums[2:3])
    assert together[2] == alone[0]
    assert len(set(together.tolist())) == 4
    for other in ({"seed": 1}, {"index": 1}):
        assert draw(logits, checksums=checksums, **other).tolist() != together.tolist()


def test_each_row_is_drawn_in_its_own_way():
    draws = np.random.default_rng(3)
    logits = jnp.asarray((2 * draws.normal(size=(4, 64))).astype(np.float32))
    checksums, seen = jnp.arange(4, dtype=jnp.uint32), jnp.asarray(draws.random((4, 64)) < 0.4)
    ways = [
        SamplingConfig(temperature=0.0, repetition_penalty=1.4),
        SamplingConfig(temperature=1.5, seed=7),
        SamplingConfig(top_k=5, min_p=0.01, seed=7),
        SamplingConfig(top_p=0.6, temperature=0.7),
    ]

    @jax.jit
    def draw_rows(rows, sampling, seeds, index):
        return sample(
            logits[rows],
            legal=jnp.ones(64, bool),
            seen=seen[rows],
            keys=row_keys(seeds, checksums[rows]),
            index=index,
            sampling=sampling,
        )

    def drawn(rows, index):
        each = [ways[row] for row in rows]
        seeds = jnp.array([way.seed for way in each], jnp.uint32)
        return draw_rows(jnp.asarray(rows), sampling_of(each), seeds, jnp.asarray(index, jnp.int32)).tolist()

    index = np.array([0, 3, 1, 9])
    together = drawn(np.arange(4), index)
    assert together == [drawn(np.full(4, i), np.full(4, index[i]))[0] for i in range(4)]


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"min_p": 1.5}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty"),
        ({"guidance_scale": -1.0}, "guidance_scale"),
        ({"guidance_scale": float("nan")}, "guidance_scale"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
    ],
)
def test_a_sampling_that_cannot_be_drawn_is_refused(wrong, name):
    with pytest.raises(InputError) as refused:
        SamplingConfig(**wrong)
    assert refused.value.field == name


@pytest.mark.parametrize("name", ["max_context_tokens", "max_sequences", "max_cache_tokens"])
def test_a_generator_without_room_is_refused(name):
    with pytest.raises(InputError) as refused:
        GenerationLimits(**{"max_context_tokens": 64, name: 0})
    assert refused.value.field == name


@pytest.mark.parametrize(("name", "none"), [("max_frames", 0), ("frames_per_second", 0.0)])
def test_a_video_without_frames_is_refused(name, none):
    with pytest.raises(InputError) as refused:
        WatchingConfig(**{name: none})
    assert refused.value.field == f"watching.{name}"


EXTREME = [0.0, -1e-30, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("temperature", [0.0, 1e-45, 1e-38, 1e-37, 1.0, 1e37, 1e38, 3.4e38])
@pytest.mark.parametrize(
    "others",
    [
        {},
        {"top_k": 1},
        {"top_k": 2},
        {"top_p": 1e-30},
        {"top_p": 0.999999, "min_p": 1.0},
        {"repetition_penalty": 1e-38},
        {"repetition_penalty": 3e38},
    ],
    ids=repr,
)
def test_no_logits_and_no_sampling_draw_what_is_not_legal(temperature, others):
    """Illegal ids stand first and have the greatest scores, so that a tie or a NaN would show."""
    rows = [[100.0, np.inf, a, b] for a in EXTREME for b in EXTREME]
    rows += [[np.nan, 100.0, -a, b] for a in EXTREME for b in EXTREME]
    legal = jnp.array([False, False, True, True])
    drawn = draw(
        jnp.array(rows, jnp.float32),
        checksums=jnp.arange(len(rows), dtype=jnp.uint32),
        legal=legal,
        seen=jnp.ones((len(rows), 4), bool),
        temperature=temperature,
        **others,
    )
    assert set(drawn.tolist()) <= {2, 3}


def test_a_temperature_near_zero_is_greedy_and_a_vast_one_draws_evenly():
    logits, checksums = rows_of(LOGITS)
    for temperature in (1e-45, 1e-37, 1e-3):
        assert set(draw(logits, checksums=checksums, temperature=temperature).tolist()) == {0}
    for temperature in (1e37, 1e38, 3e38):
        drawn = np.bincount(draw(logits, checksums=checksums, temperature=temperature), minlength=5) / ROWS
        # Five standard deviations of a share.
        assert (np.abs(drawn - [0.25, 0, 0.25, 0.25, 0.25]) <= 5 * np.sqrt(0.25 * 0.75 / ROWS)).all()
