import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ringworld.attention.config import AttentionConfig
from ringworld.attention.decode import decode_attention
from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from tests.attention import reference

Q = ("batch", "heads", None, "head")
KV = ("batch", "kv_heads", "seq", "head")
ARRAYS = {
    "q": Q,
    "k": KV,
    "v": KV,
    "q_order": ("batch", None),
    "q_first": ("batch", None),
    "k_order": ("batch", "seq"),
}
CONFIG = AttentionConfig(block_q_tokens=8, block_kv_tokens=8)
ATTEND = jax.jit(functools.partial(decode_attention, config=CONFIG))


def _mesh(**axes):
    config = MeshConfig(**axes)
    return make_mesh(config, devices=jax.devices()[: config.devices])


def _cache(q_seq: int, slots: int = 64) -> dict[str, np.ndarray]:
    """Two rows, the second padded by five at its beginning; slots from 48 on are empty."""
    rng = np.random.default_rng(0)
    order = np.tile(np.arange(slots, dtype=np.int32), (2, 1))
    order[:, 48:] = -1
    order[1] = np.where((order[1] >= 5), order[1] - 5, -1)
    q_order = order[:, 48 - q_seq : 48]
    arrays = {"q": (2, 4, q_seq, 16), "k": (2, 2, slots, 16), "v": (2, 2, slots, 16)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in arrays.items()} | {
        "q_order": q_order,
        "q_first": np.zeros_like(q_order),
        "k_order": order,
    }


def _put(cache, mesh):
    return {name: jax.device_put(x, NamedSharding(mesh, spec(*ARRAYS[name]))) for name, x in cache.items()}


@pytest.mark.parametrize(
    "axes", [{}, {"ring": 4}, {"data": 2, "ring": 2, "tensor": 2}, {"ulysses": 8}], ids=str
)
@pytest.mark.parametrize("q_seq", [1, 8])
def test_new_tokens_attend_to_the_whole_cache(q_seq, axes):
    cache, mesh = _cache(q_seq), _mesh(**axes)
    double = {name: x.astype(np.float64).swapaxes(1, 2) if name in "qkv" else x for name, x in cache.items()}
    expected, _ = reference.forward(**double)
    with jax.set_mesh(mesh):
        out = ATTEND(**_put(cache, mesh))
    assert out.sharding.spec == spec(*Q)
    np.testing.assert_allclose(
        out.swapaxes(1, 2), expected, rtol=0, atol=4 * np.finfo(np.float32).eps * np.abs(expected).max() * 8
    )


@pytest.mark.parametrize("kernel", ["pallas_tpu", "pallas_triton"])
def test_every_kernel_serves_one_query_of_each_row(kernel):
    cache, mesh = _cache(1), _mesh(ring=2)
    config = AttentionConfig(kernel=kernel, pallas_mode="interpreted")
    with jax.set_mesh(mesh):
        expected = ATTEND(**_put(cache, mesh))
        out = jax.jit(functools.partial(decode_attention, config=config))(**_put(cache, mesh))
    np.testing.assert_allclose(
        out, expected, rtol=0, atol=8 * np.finfo(np.float32).eps * np.abs(expected).max() * 8
    )


def test_an_empty_cache_gives_zeros():
    cache, mesh = _cache(1), _mesh(ring=4)
    cache["k_order"] = np.full_like(cache["k_order"], -1)
    with jax.set_mesh(mesh):
        assert not np.asarray(ATTEND(**_put(cache, mesh))).any()


def _bytes_between_devices(slots: int, compiled) -> int:
    mesh = _mesh(ring=8)
    with jax.set_mesh(mesh):
        arrays = {
            name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec(*ARRAYS[name])))
            for name, x in _cache(1, slots).items()
        }
        program = compiled(ATTEND.lower(**arrays))
    assert not re.search(r"all-gather|collective-permute|all-to-all", program)
    total = 0
    for shapes in re.findall(r"= (.*?) all-reduce(?:-start)?\(", program):
        total += sum(
            4 * math.prod(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", shapes)
        )
    return total


def test_what_travels_does_not_depend_on_the_context(compiled):
    # A maximum and a weight for each of 2 x 4 heads, and an output of 16 numbers, in float32.
    expected = 2 * 4 * (1 + 1 + 16) * 4
    assert [_bytes_between_devices(slots, compiled) for slots in (64, 4096)] == [expected, expected]


def test_slots_that_do_not_divide_are_refused():
    cache = {name: jnp.asarray(x) for name, x in _cache(1, 60).items()}
    with jax.set_mesh(_mesh(ring=8)), pytest.raises(InputError) as refused:
        ATTEND(**cache)
    assert (refused.value.field, refused.value.value) == ("seq", 60)
