import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.model.config import Linear, Llama3, Rope, Yarn
from ringworld.model.rope import frequencies, inverse_frequencies, rotate, rotation


@pytest.mark.parametrize("base", [1e4, 5e7])
def test_angles_are_exact_at_a_million_tokens(base):
    positions = np.array([[0, 1, 257, 65_537, 1_048_575]], np.int32)
    rotated = rotation(jnp.asarray(positions), frequencies(Rope(base=base), head=128))
    angle = positions[:, :, None].astype(np.float64) * base ** (-np.arange(0, 128, 2) / 128)
    # The phase is rounded to 2^-32 of a revolution (1.5e-9 rad), the angle to 1.2e-7, the cosine to 6e-8.
    np.testing.assert_allclose(rotated.cos, np.cos(angle), rtol=0, atol=3e-7)
    np.testing.assert_allclose(rotated.sin, np.sin(angle), rtol=0, atol=3e-7)


def test_scores_depend_on_distance_alone():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 16)), jnp.float32) for _ in range(2))

    def score(q_position: int, k_position: int) -> float:
        turns = [
            rotation(jnp.full((1, 1), p, jnp.int32), frequencies(Rope(base=1e4), head=16))
            for p in (q_position, k_position)
        ]
        return float(jnp.sum(rotate(q, turns[0]) * rotate(k, turns[1])))

    assert score(1_000_007, 1_000_000) == pytest.approx(score(7, 0), abs=1e-5)
    assert abs(score(7, 0) - score(8, 0)) > 1e-3


def scaled(scaling, *, base=1e4, head=8):
    plain = inverse_frequencies(Rope(base=base), head=head)
    return inverse_frequencies(Rope(base=base, scaling=scaling), head=head) / plain


def test_linear_scaling_divides_every_frequency():
    np.testing.assert_allclose(scaled(Linear(factor=4.0)), 0.25, rtol=1e-15)


def test_llama3_keeps_high_frequencies_divides_low_ones_and_blends_between():
    # Wavelengths 6.3, 63, 628 and 6283 positions: over 64 / 4 nothing is kept whole, over 64 all is divided.
    ratios = scaled(Llama3(factor=8.0, original_context_tokens=64))
    kept = (64 / (2 * np.pi * 10) - 1) / 3
    np.testing.assert_allclose(ratios, [1, kept + (1 - kept) / 8, 1 / 8, 1 / 8], rtol=1e-12)


def test_yarn_blends_by_pair_and_sharpens():
    yarn = Yarn(factor=4.0, original_context_tokens=64, beta_fast=8.0)
    # Pairs that rotate 8 times and once within 64 positions: 8 ln(64 / 16 pi) / (2 ln 1e4) = 0.1 and 1.01.
    np.testing.assert_allclose(scaled(yarn), [1, 5 / 8, 1 / 4, 1 / 4], rtol=1e-12)
    turned = rotation(jnp.zeros((1, 1), jnp.int32), frequencies(Rope(scaling=yarn), head=8))
    np.testing.assert_allclose(turned.cos, 1 + 0.1 * np.log(4), rtol=1e-7)
