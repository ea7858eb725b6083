import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ringworld.attention.config import AttentionConfig, Layout
from ringworld.attention.layouts import permutation
from ringworld.attention.ring import LSE_NAME, OUT_NAME, ring_attention
from ringworld.core.errors import InputError
from ringworld.core.mesh import abstract_mesh, make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec

RINGS = [1, 2, 4, 8]
Q = ("batch", "seq", "heads", "head")
KV = ("batch", "seq", "kv_heads", "head")
TOKENS = ("batch", "seq")
ARRAYS = {"q": Q, "k": KV, "v": KV, "dout": Q, "order": TOKENS, "first": TOKENS}


def _config(layout: Layout = "zigzag") -> AttentionConfig:
    return AttentionConfig(layout=layout, block_q_tokens=16, block_kv_tokens=16)


@functools.cache
def _mesh(**axes):
    config = MeshConfig(**axes)
    return make_mesh(config, devices=jax.devices()[: config.devices])


@functools.partial(jax.jit, static_argnames="config")
def _value_and_gradients(q, k, v, dout, order, first, config):
    attend = functools.partial(ring_attention, order=order, first=first, config=config)
    out, pullback = jax.vjp(attend, q, k, v)
    return out, *pullback(dout)


def _run(example, mesh, *, layout: Layout = "zigzag", dtype=jnp.float32):
    """Return out, dq, dk, dv in the order of the packed sequence; one program serves every layout."""
    members = mesh.shape["ring"] * mesh.shape["ulysses"]
    perm = permutation(layout, seq=example.order.shape[1], members=members)
    with jax.set_mesh(mesh):
        arrays = {}
        for name, dimensions in ARRAYS.items():
            x = getattr(example, name)[:, perm]
            kind = x.dtype if x.dtype == np.int32 else dtype
            arrays[name] = jax.device_put(jnp.asarray(x, kind), NamedSharding(mesh, spec(*dimensions)))
        results = _value_and_gradients(**arrays, config=_config("contiguous"))
        assert results[0].dtype == dtype
        assert results[0].sharding == arrays["q"].sharding
    return [np.asarray(x, np.float32)[:, np.argsort(perm)] for x in results]


@functools.cache
def _errors(example, ring, layout):
    """Return the largest error of out, dq, dk, dv against the oracle."""
    results = _run(example, _mesh(ring=ring), layout=layout)
    return [float(np.abs(a - b).max()) for a, b in zip(results, (example.out, *example.gradients))]


@pytest.mark.parametrize("packing", ["packed", "unpacked"])
@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
@pytest.mark.parametrize("ring", RINGS)
def test_values_and_gradients_are_those_of_the_oracle(ring, layout, packing, request, tolerance):
    example = request.getfixturevalue(packing)
    for error, expected in zip(_errors(example, ring, layout), (example.out, *example.gradients)):
        assert error <= tolerance(expected)


@pytest.mark.parametrize("packing", ["packed", "unpacked"])
@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
def test_the_error_does_not_grow_with_the_ring(layout, packing, request):
    example = request.getfixturevalue(packing)
    alone = _errors(example, 1, layout)
    expected = (example.out, *example.gradients)
    for ring in RINGS[1:]:
        for error, error_alone, values in zip(_errors(example, ring, layout), alone, expected):
            few_ulps = 2 * float(np.spacing(np.abs(values).max().astype(np.float32)))
            assert error <= 1.25 * error_alone + few_ulps


def test_the_striped_layout_gives_the_same(packed, tolerance):
    results = _run(packed, _mesh(ring=4), layout="striped")
    for ours, theirs in zip(results, (packed.out, *packed.gradients)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance(theirs))


@pytest.mark.parametrize(
    "axes",
    [{"ring": 2, "ulysses": 2, "tensor": 2}, {"data": 2, "ring": 4}, {"fsdp": 2, "ulysses": 4}],
    ids=str,
)
def test_every_other_axis_of_the_mesh_may_be_cut_too(axes, packed, tolerance):
    for ours, theirs in zip(_run(packed, _mesh(**axes)), (packed.out, *packed.gradients)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance(theirs))


def test_padding_gives_zeros_and_zero_gradients_never_nan(packed):
    padding = packed.order == -1
    assert padding[1].all()
    for x in _run(packed, _mesh(ring=4)):
        assert np.isfinite(x).all()
        assert not x[padding].any()


def test_bfloat16_stays_within_its_own_rounding_on_a_ring(unpacked, tolerance):
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    results = _run(unpacked, _mesh(ring=8), dtype=jnp.bfloat16)
    for ours, theirs in zip(results, (unpacked.out, *unpacked.gradients)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance(theirs, eps=eps))


def _abstract(mesh, *, seq=64, heads=4, kv_heads=2, dtype=jnp.float32, kv_dtype=None, batch=2):
    def struct(dimensions, shape, kind):
        return jax.ShapeDtypeStruct(shape, kind, sharding=NamedSharding(mesh, spec(*dimensions)))

    q = struct(Q, (batch, seq, heads, 8), dtype)
    k = struct(KV, (batch, seq, kv_heads, 8), kv_dtype or dtype)
    tokens = struct(TOKENS, (batch, seq), jnp.int32)
    return {"q": q, "k": k, "v": k, "order": tokens, "first": tokens}


@pytest.mark.parametrize(
    ("axes", "shapes", "message"),
    [
        ({"ring": 4}, {"seq": 68}, "68 tokens over 4 ring members, expected a multiple of 8"),
        ({"ring": 4}, {"heads": 4, "kv_heads": 3}, "4 for queries and 3 for keys"),
        ({"tensor": 4}, {"heads": 4, "kv_heads": 2}, "over 4 tensor-parallel devices"),
        ({"data": 4}, {"batch": 2}, "2 sequences over 4 devices"),
        ({}, {"kv_dtype": jnp.bfloat16}, "float32, bfloat16, bfloat16"),
        ({}, {"dtype": jnp.float16}, "expected float32 or bfloat16"),
    ],
)
def test_what_cannot_be_computed_is_refused_while_tracing(axes, shapes, message):
    # Unsharded arguments: the check must come before JAX refuses to cut them.
    arrays = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype)
        for name, x in _abstract(abstract_mesh(MeshConfig()), **shapes).items()
    }
    with jax.sharding.use_abstract_mesh(abstract_mesh(MeshConfig(**axes))):
        with pytest.raises(InputError, match=message):
            jax.eval_shape(functools.partial(ring_attention, config=_config()), **arrays)


def test_a_call_without_a_mesh_is_told_how_to_set_one():
    x, tokens = jnp.zeros((1, 8, 2, 8)), jnp.zeros((1, 8), jnp.int32)
    with pytest.raises(InputError, match="jax.set_mesh"):
        ring_attention(x, x, x, order=tokens, first=tokens, config=_config())


def test_a_million_tokens_on_a_thousand_devices_type_check():
    mesh = abstract_mesh(MeshConfig(data=2, fsdp=2, ring=32, ulysses=2, tensor=8))
    arrays = _abstract(mesh, seq=1 << 20, heads=32, kv_heads=8, batch=4, dtype=jnp.bfloat16)
    with jax.sharding.use_abstract_mesh(mesh):
        out = jax.eval_shape(functools.partial(ring_attention, config=AttentionConfig()), **arrays)
    assert (out.shape, out.dtype) == ((4, 1 << 20, 32, 8), jnp.bfloat16)
    assert out.sharding.spec == spec(*Q)


def _collectives(program: str) -> dict[str, int]:
    found = re.findall(
        r"= .*?\b(collective-permute|all-gather|all-reduce|all-to-all|reduce-scatter)(?:-start)?\(", program
    )
    return {name: found.count(name) for name in set(found)}


def test_a_ring_permutes_and_gathers_nothing(compiled):
    mesh = _mesh(ring=4)
    with jax.set_mesh(mesh):
        attend = jax.jit(functools.partial(ring_attention, config=_config()))
        lowered = attend.lower(**_abstract(mesh, dtype=jnp.bfloat16))
    # Keys with values, and their order, in one loop over the hops.
    assert _collectives(compiled(lowered)) == {"collective-permute": 2}
    # Keys and values of 16 tokens in one message, in the compute type (which a CPU widens as it compiles).
    sent = re.findall(r"collective_permute.*-> tensor<(\S+)>", lowered.as_text())
    assert sorted(set(sent)) == ["2x16xi32", "2x2x2x16x8xbf16"]


def test_a_ring_of_one_sends_nothing(compiled):
    mesh = _mesh(ring=1)
    with jax.set_mesh(mesh):
        attend = jax.jit(functools.partial(ring_attention, config=_config()))
        assert _collectives(compiled(attend.lower(**_abstract(mesh)))) == {}


def _permutes_of_backward(policy, compiled) -> int:
    """Count the permutes in the gradient of two rematerialised layers that are scanned."""
    mesh = _mesh(ring=4)

    def layer(x, scale, order, first):
        q = x * scale
        k, v = q[:, :, :2], q[:, :, 2:]
        return x + jnp.tanh(ring_attention(q, k, v, order=order, first=first, config=_config())), None

    def loss(x, scales, order, first):
        step = jax.checkpoint(functools.partial(layer, order=order, first=first), policy=policy)
        return jnp.sum(jax.lax.scan(step, x, scales)[0] ** 2)

    with jax.set_mesh(mesh):
        arrays = _abstract(mesh)
        scales = jax.ShapeDtypeStruct((2,), jnp.float32)
        gradient = jax.jit(jax.grad(loss)).lower(arrays["q"], scales, arrays["order"], arrays["first"])
        return _collectives(compiled(gradient))["collective-permute"]


def test_rematerialising_a_layer_does_not_run_the_ring_forward_again(compiled):
    forward = 2  # keys with values, and their order, in a loop
    backward = (
        2 + 3 + 2
    )  # these; these and the gradients of keys in a loop; the gradients, and again to go home
    saved = _permutes_of_backward(jax.checkpoint_policies.save_only_these_names(OUT_NAME, LSE_NAME), compiled)
    assert saved == forward + backward
    assert _permutes_of_backward(jax.checkpoint_policies.nothing_saveable, compiled) > saved
