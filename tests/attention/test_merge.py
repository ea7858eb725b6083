import jax.numpy as jnp
import numpy as np

from ringworld.attention.merge import Partial, merge, nothing_seen


def _attend(scores: np.ndarray, values: np.ndarray) -> Partial:
    weights = np.exp(scores)
    total = weights.sum(axis=-1)
    out = weights @ values / np.where(total == 0, 1, total)[:, None]
    with np.errstate(divide="ignore"):
        return Partial(out=jnp.asarray(out), lse=jnp.asarray(np.log(total)))


def test_two_parts_merge_to_the_whole():
    log = np.log(np.array([[1.0, 3.0, 4.0]], np.float32))
    values = np.array([[8.0], [0.0], [16.0]], np.float32)
    left, right = _attend(log[:, :2], values[:2]), _attend(log[:, 2:], values[2:])
    np.testing.assert_allclose(left.out, [[2.0]], rtol=1e-6)  # (1 x 8 + 3 x 0) / 4
    np.testing.assert_allclose(left.lse, np.log([4.0]), rtol=1e-6)
    whole = merge(left, right)
    np.testing.assert_allclose(whole.out, [[9.0]], rtol=1e-6)  # (8 + 0 + 4 x 16) / 8
    np.testing.assert_allclose(whole.lse, np.log([8.0]), rtol=1e-6)


def test_a_part_that_sees_nothing_changes_nothing():
    part = _attend(np.array([[0.5, -1.0]], np.float32), np.array([[1.0], [2.0]], np.float32))
    nothing = _attend(np.full((1, 2), -np.inf, np.float32), np.array([[1.0], [2.0]], np.float32))
    for ours, start in zip(nothing, nothing_seen(part.out)):
        np.testing.assert_array_equal(ours, start)
    assert (float(nothing.out[0, 0]), float(nothing.lse[0])) == (0, -np.inf)
    for merged in (merge(part, nothing), merge(nothing, part)):
        np.testing.assert_array_equal(merged.out, part.out)
        np.testing.assert_allclose(merged.lse, part.lse, rtol=1e-6)
    none = merge(nothing, nothing)
    assert (float(none.out[0, 0]), float(none.lse[0])) == (0, -np.inf)


def test_scores_that_would_overflow_alone_do_not():
    huge, tiny = jnp.float32([300.0]), jnp.float32([-300.0])
    merged = merge(Partial(out=jnp.ones((1, 1)), lse=huge), Partial(out=jnp.zeros((1, 1)), lse=tiny))
    assert (float(merged.out[0, 0]), float(merged.lse[0])) == (1, 300)
