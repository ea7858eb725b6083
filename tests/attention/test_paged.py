"""Attention to pages against the oracle on the same keys laid end to end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ringworld.attention.config import AttentionConfig
from ringworld.attention.int8_pages import rounded
from ringworld.attention.paged import paged_attention
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from tests.attention import reference

CONFIG = AttentionConfig(block_q_tokens=8, block_kv_tokens=8)
ATTEND = jax.jit(functools.partial(paged_attention, config=CONFIG))
PAGE, LENGTHS, WINDOW = 256, (1, 700, 0, 530, 300, 256, 17, 1023), 600
SPECS = {
    "q": ("batch", "heads", None, "head"),
    "k": (None, "kv_heads", "seq", "head"),
    "v": (None, "kv_heads", "seq", "head"),
    "q_order": ("batch", None),
    "q_first": ("batch", None),
    "tables": ("batch", None),
}


def make(q_seq: int, members: int, *, window: int | None = None):
    """Return arrays of pages in any order, and the same keys as rows [batch, seq, heads, head]."""
    rng = np.random.default_rng(0)
    rows = len(LENGTHS)
    shapes = {"q": (rows, 4, q_seq, 8), "k": (rows, 2, 4 * PAGE, 8), "v": (rows, 2, 4 * PAGE, 8)}
    flat = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    order = np.array(LENGTHS, np.int32)[:, None] - 1 - np.arange(q_seq, dtype=np.int32)[::-1]
    order = np.maximum(order, -1)
    first = np.maximum(order - (window - 1), 0) if window else np.zeros_like(order)
    tables = 1 + rng.permutation(4 * rows).reshape(rows, 4).astype(np.int32)
    arrays = {"q": flat["q"], "q_order": order, "q_first": first, "tables": tables}
    for name in ("k", "v"):
        pool = np.full((1 + 4 * rows, 2, PAGE, 8), np.nan, np.float32)
        pages = flat[name].reshape(rows, 2, 4, PAGE, 8).swapaxes(1, 2)
        # Member m keeps the tokens m, m + members and so on of each page.
        pool[tables] = pages.reshape(*pages.shape[:3], -1, members, 8).swapaxes(3, 4).reshape(pages.shape)
        arrays[name] = np.nan_to_num(pool)
    k_order = np.tile(np.arange(4 * PAGE, dtype=np.int32), (rows, 1))
    by_token = {name: x.astype(np.float64).swapaxes(1, 2) for name, x in flat.items()}
    return arrays, by_token | {"q_order": order, "q_first": first, "k_order": k_order}


def attend(arrays, **axes: int):
    sizes = MeshConfig(**axes)
    mesh = make_mesh(sizes, devices=jax.devices()[: sizes.devices])
    placed = {}
    for name, where in SPECS.items():
        leaves, tree = jax.tree.flatten(arrays[name])
        # Scales of rounded pages lack the last dimension.
        shardings = [NamedSharding(mesh, spec(*where[: leaf.ndim])) for leaf in leaves]
        placed[name] = jax.tree.unflatten(tree, map(jax.device_put, leaves, shardings))
    with jax.set_mesh(mesh):
        return np.asarray(ATTEND(**placed))


@pytest.mark.parametrize(
    ("q_seq", "window", "axes"),
    [(1, None, {}), (1, WINDOW, {"ring": 2, "tensor": 2}), (4, WINDOW, {"ulysses": 4})],
    ids=str,
)
def test_each_sequence_attends_to_its_own_pages(q_seq, window, axes):
    members = axes.get("ring", 1) * axes.get("ulysses", 1)
    arrays, flat = make(q_seq, members, window=window)
    expected, _ = reference.forward(**flat)
    out = attend(arrays, **axes)
    np.testing.assert_allclose(
        out.swapaxes(1, 2), expected, rtol=0, atol=4 * np.finfo(np.float32).eps * np.abs(expected).max() * 8
    )


def test_a_sequence_gives_the_same_bits_beside_any_other():
    arrays, _ = make(1, 1)
    together = attend(arrays)
    for row in (1, 3, 7):
        alone = {name: x.copy() for name, x in arrays.items()}
        others = np.arange(len(LENGTHS)) != row
        alone["q_order"][others] = -1
        alone["tables"][others] = 0
        swapped = {name: x if name in "kv" else np.roll(x, 3, axis=0) for name, x in alone.items()}
        assert (attend(swapped)[(row + 3) % len(LENGTHS)] == together[row]).all()


@pytest.mark.parametrize("axes", [{}, {"ring": 2, "tensor": 2}], ids=str)
def test_rounded_pages_give_what_the_numbers_give_that_they_stand_for(axes):
    arrays, _ = make(1, axes.get("ring", 1))
    small = {name: rounded(jnp.asarray(arrays[name])) for name in "kv"}
    wide = {name: np.asarray(each.to("float32")) for name, each in small.items()}
    expected = attend(arrays | wide, **axes)
    found = attend(arrays | {name: jax.tree.map(np.asarray, each) for name, each in small.items()}, **axes)
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=4 * np.finfo(np.float32).eps * np.abs(expected).max()
    )


def test_numbers_are_rounded_by_half_a_step_at_most_and_once():
    numbers = np.random.default_rng(0).normal(size=(3, 4, 64)).astype(np.float32)
    numbers[0] *= 1e-6
    numbers[1, 1] = 0
    small = rounded(jnp.asarray(numbers))
    wide = np.asarray(small.to("float32"))
    step = np.abs(numbers).max(axis=-1, keepdims=True) / 127
    assert (np.abs(wide - numbers) <= step * (0.5 + 1e-4)).all()
    np.testing.assert_array_equal(rounded(jnp.asarray(wide)).values, small.values)


def test_what_is_no_number_does_not_become_one():
    numbers = np.ones((3, 4), np.float32)
    numbers[0, 1], numbers[1, 2] = np.nan, np.inf
    shown = np.asarray(rounded(jnp.asarray(numbers)).to("float32"))
    assert np.isfinite(shown).all(axis=-1).tolist() == [False, False, True]
