"""Weights rounded to int8, against the numbers that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.model.weights import in_use, product, quantized

SHAPE = (4, 8, 16)  # heads, head, embed, of which the first two are summed over


@pytest.fixture(scope="module")
def mesh():
    return mesh_of(MeshConfig(fsdp=2, tensor=2))


def put(mesh, array, *dimensions):
    return jax.device_put(array, jax.NamedSharding(mesh, spec(*dimensions)))


@pytest.fixture
def weight(mesh):
    """Channels of sizes from 1e-3 to 1e3, one of zeros, heads cut over the tensor axis."""
    drawn = np.random.default_rng(0).normal(size=SHAPE) * np.logspace(-3, 3, SHAPE[-1])
    drawn[..., 5] = 0
    with jax.set_mesh(mesh):
        yield put(mesh, drawn.astype(np.float32), "heads", "head", "embed")


def test_no_number_is_off_by_more_than_half_a_step_of_its_channel(weight):
    wanted, where = np.asarray(weight), weight.sharding
    rounded = quantized(weight, inputs=2)
    assert rounded.values.dtype == jnp.int8 and rounded.values.sharding == where
    assert rounded.scale.shape == SHAPE[-1:]
    half = np.abs(wanted).max((0, 1)) / 254
    # The step itself is rounded, and is 127 times as long as it is off.
    assert (np.abs(np.asarray(rounded.to("float32")) - wanted) <= half * (1 + 1e-5)).all()
    assert not np.asarray(rounded.to("float32"))[..., 5].any()
    # The largest of a channel uses all of the range.
    assert (np.abs(np.asarray(rounded.values)).max((0, 1)) == np.where(half > 0, 127, 0)).all()


def test_what_is_no_number_does_not_become_one(weight):
    broken = np.array(weight)
    broken[0, 0, 3], broken[0, 0, 4] = np.nan, -np.inf
    shown = np.asarray(quantized(jax.device_put(broken, weight.sharding), inputs=2).to("float32"))
    assert np.flatnonzero(~np.isfinite(shown).all((0, 1))).tolist() == [3, 4]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_a_product_is_that_of_what_they_stand_for(weight, mesh, compute):
    x = np.random.default_rng(1).normal(size=(2, 4, *SHAPE[:2])).astype(np.float32)
    rounded = quantized(weight, inputs=2)
    # int8 numbers are exact in bfloat16, so only the result is rounded to it.
    x = np.asarray(jnp.asarray(x, compute).astype(jnp.float32))
    wanted = np.einsum("bshd,hde->bse", x.astype(np.float64), np.asarray(rounded.to("float32"), np.float64))

    @jax.jit
    def multiply(x, rounded):
        ready = in_use(rounded, "heads", "head", "embed", compute=compute)
        out = spec("batch", "seq", "embed")
        return product("bshd,hde->bse", x, ready, wide=True, out_sharding=out)

    there = put(mesh, jnp.asarray(x, compute), "batch", "seq", "heads", "head")
    found = np.asarray(multiply(there, rounded))
    # 32 terms, added in float32.
    bound = 32 * 2**-24 * np.einsum("bshd,hde->bse", np.abs(x), np.abs(np.asarray(rounded.to("float32"))))
    assert (np.abs(found - wanted) <= bound + 1e-30).all()
