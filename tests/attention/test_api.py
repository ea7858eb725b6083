"""`ringworld.attention`: plain arrays in and out, on one device and on eight, against the oracle."""

import functools
import inspect

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import ringworld
from ringworld.attention.api import attention
from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from tests.attention import reference

BATCH, SEQ, HEADS, KV_HEADS, HEAD = 2, 24, 4, 2, 8
NAMES = ("q", "k", "v", "dout")
PACKED = [[5, 1, 12], [24]]  # six tokens of padding in the first row


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    heads = zip(NAMES, (HEADS, KV_HEADS, KV_HEADS, HEADS))
    return {name: rng.normal(size=(BATCH, SEQ, n, HEAD)).astype(np.float32) for name, n in heads}


def expected(arrays, lengths, *, window: int | None = None) -> list[np.ndarray]:
    """Return out, dq, dk and dv of the oracle."""
    seq = arrays["q"].shape[1]
    order, first = np.full((BATCH, seq), -1), np.zeros((BATCH, seq), int)
    for row, documents in enumerate(lengths):
        used = sum(documents)
        order[row, :used] = np.arange(used)
        first[row, :used] = np.repeat(np.cumsum(documents) - documents, documents)
    if window:
        first = np.maximum(first, order - window + 1)
    q, k, v, dout = (x.astype(np.float64) for x in (arrays[name] for name in NAMES))
    tokens = {"q_order": order, "q_first": first, "k_order": order}
    return [reference.forward(q, k, v, **tokens)[0], *reference.backward(q, k, v, dout, **tokens)]


def results(arrays, **options) -> list[jax.Array]:
    """Return out, dq, dk and dv of ours."""
    q, k, v, dout = (arrays[name] for name in NAMES)

    def loss(q, k, v):
        out = attention(q, k, v, **options)
        return jnp.sum(out * dout), out

    gradients, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(*map(jnp.asarray, (q, k, v)))
    return [out, *gradients]


def assert_close(ours, theirs, tolerance):
    for mine, exact in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, exact, rtol=0, atol=tolerance(exact))


def one_device() -> jax.sharding.Mesh:
    return make_mesh(MeshConfig(), devices=jax.devices()[:1])


@pytest.mark.parametrize("lengths", [None, PACKED], ids=["one document", "packed"])
@pytest.mark.parametrize(("devices", "strategy"), [(1, None), (8, None), (8, "ring")])
def test_values_and_gradients_are_those_of_the_oracle(devices, strategy, lengths, arrays, tolerance):
    mesh = one_device() if devices == 1 else None
    ours = results(arrays, lengths=lengths, mesh=mesh, strategy=strategy)
    assert len(ours[0].devices()) == devices
    assert_close(ours, expected(arrays, lengths or [[SEQ]] * BATCH), tolerance)


def test_what_does_not_divide_is_filled_up(arrays, tolerance):
    # 21 tokens over 8 devices, in zigzag, which needs a multiple of 16.
    short = {name: x[:, :21] for name, x in arrays.items()}
    ours = results(short, lengths=[5, 16], strategy="ring", layout="zigzag")
    assert_close(ours, expected(short, [[5, 16]] * BATCH), tolerance)


def test_a_window_hides_what_lies_further_back(arrays, tolerance):
    ours = results(arrays, lengths=PACKED, window=4)
    assert_close(ours, expected(arrays, PACKED, window=4), tolerance)


def test_it_runs_inside_a_program_and_under_a_mesh_that_is_set(arrays, tolerance):
    exact = expected(arrays, PACKED)
    program = jax.jit(functools.partial(results, lengths=PACKED, strategy="ring"))
    assert_close(program(arrays), exact, tolerance)
    mesh = make_mesh(MeshConfig(data=2, ring=2, tensor=2))
    with jax.set_mesh(mesh):
        ours = program(arrays)
        assert jax.typeof(ours[0]).sharding.spec == spec("batch", "seq", "heads", "head")
    assert_close(ours, exact, tolerance)


def test_any_mesh_stands_for_its_devices(arrays, tolerance):
    mesh = jax.make_mesh((4,), ("x",), devices=jax.devices()[:4])
    out = attention(*(arrays[name] for name in "qkv"), mesh=mesh)
    assert out.devices() == set(jax.devices()[:4])
    assert_close([out], expected(arrays, [[SEQ]] * BATCH)[:1], tolerance)


def test_bfloat16_gives_bfloat16(arrays):
    q, k, v = (jnp.asarray(arrays[name], jnp.bfloat16) for name in "qkv")
    assert attention(q, k, v, mesh=one_device()).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"lengths": [20, 5]}, "lengths"),
        ({"lengths": [[24], [24], [24]]}, "lengths"),
        ({"lengths": [24, 0]}, "lengths"),
        ({"lengths": []}, "lengths"),
        ({"lengths": [1.5, 22.5]}, "lengths"),
        ({"lengths": 24}, "lengths"),
        ({"lengths": [[24], 24]}, "lengths"),
        ({"mesh": MeshConfig(ring=8)}, "mesh"),
        ({"window": 0}, "window"),
        ({"window": 1.5}, "window"),
        ({"strategy": "head_parallel"}, "strategy"),
        ({"kernel": "pallas_tpu"}, "kernel"),
    ],
    ids=str,
)
def test_what_cannot_be_computed_names_the_parameter(options, field, arrays, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError) as refused:
        attention(*(arrays[name] for name in "qkv"), **options)
    assert refused.value.field == field


def test_float64_is_refused_rather_than_narrowed(arrays):
    with pytest.raises(InputError) as refused:
        attention(*(arrays[name].astype(np.float64) for name in "qkv"))
    assert refused.value.field == "dtype"


def test_the_package_describes_itself_as_its_function():
    assert inspect.signature(ringworld.attention) == inspect.signature(attention)
    assert str(inspect.getdoc(attention)) in str(ringworld.attention.__doc__)


def test_a_mesh_beside_the_one_that_is_set_is_refused(arrays):
    with jax.set_mesh(make_mesh(MeshConfig(ring=8))), pytest.raises(InputError) as refused:
        attention(*(arrays[name] for name in "qkv"), mesh=one_device())
    assert refused.value.field == "mesh"
