import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.model.rope import frequencies, rotate, rotation


@pytest.mark.parametrize("base", [1e4, 5e7])
def test_angles_are_exact_at_a_million_tokens(base):
    positions = np.array([[0, 1, 257, 65_537, 1_048_575]], np.int32)
    turn = rotation(jnp.asarray(positions), frequencies(head=128, base=base))
    angle = positions[:, :, None].astype(np.float64) * base ** (-np.arange(0, 128, 2) / 128)
    # The phase is rounded to 2^-32 of a turn (1.5e-9 rad), the angle to 1.2e-7, the cosine to 6e-8.
    np.testing.assert_allclose(turn.cos, np.cos(angle), rtol=0, atol=3e-7)
    np.testing.assert_allclose(turn.sin, np.sin(angle), rtol=0, atol=3e-7)


def test_scores_depend_on_distance_alone():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 16)), jnp.float32) for _ in range(2))

    def score(q_position: int, k_position: int) -> float:
        turns = [
            rotation(jnp.full((1, 1), p, jnp.int32), frequencies(head=16, base=1e4))
            for p in (q_position, k_position)
        ]
        return float(jnp.sum(rotate(q, turns[0]) * rotate(k, turns[1])))

    assert score(1_000_007, 1_000_000) == pytest.approx(score(7, 0), abs=1e-5)
    assert abs(score(7, 0) - score(8, 0)) > 1e-3
