import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.attention.merge import Partial, merge, merge_over, nothing_seen


def _attend(scores: np.ndarray, values: np.ndarray) -> Partial:
    highest = np.where(np.isfinite(scores.max(axis=-1)), scores.max(axis=-1), 0)
    weights = np.exp(scores - highest[:, None])
    total = weights.sum(axis=-1)
    out = weights @ values / np.where(total == 0, 1, total)[:, None]
    with np.errstate(divide="ignore"):
        return Partial(
            out=jnp.asarray(out, jnp.float32), lse=jnp.asarray(highest + np.log(total), jnp.float32)
        )


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


@pytest.mark.parametrize("high", [100.0, 300.0])
def test_parts_far_apart_merge_to_the_larger_in_either_order(high):
    # exp(high) overflows, and so does exp(2 x high): only the maximum of both keeps the weights finite.
    large = Partial(out=jnp.full((1, 1), 2.0), lse=jnp.float32([high]))
    small = Partial(out=jnp.full((1, 1), 5.0), lse=jnp.float32([-high]))
    for merged in (merge(large, small), merge(small, large)):
        assert (float(merged.out[0, 0]), float(merged.lse[0])) == (2, high)


def test_members_merge_as_parts_do():
    # Scores of 8 keys, of which members hold 1, 3 and 4; the third sees none of its own.
    log = np.array([[100.0, -100.0, 99.0, 98.0, -np.inf, -np.inf, -np.inf, -np.inf]])
    values = np.arange(8.0)[:, None]
    weights = np.exp(log - log.max())
    parts = [_attend(log[:, part], values[part]) for part in (slice(0, 1), slice(1, 4), slice(4, 8))]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *parts)
    merged = jax.vmap(lambda part: merge_over(part, ("members",)), axis_name="members")(stacked)
    for member in range(3):
        np.testing.assert_allclose(merged.out[member], weights @ values / weights.sum(), rtol=1e-6)
        np.testing.assert_allclose(merged.lse[member], log.max() + np.log(weights.sum(axis=1)), rtol=1e-6)


def test_members_that_see_nothing_merge_to_nothing():
    nothing = jax.tree.map(lambda x: jnp.stack([x, x]), nothing_seen(jnp.zeros((1, 2))))
    merged = jax.vmap(lambda part: merge_over(part, ("members",)), axis_name="members")(nothing)
    assert not merged.out.any()
    assert (merged.lse == -jnp.inf).all()
