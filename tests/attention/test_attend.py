import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.attention.attend import LSE_NAME, OUT_NAME, attention
from ringworld.attention.config import AttentionConfig
from ringworld.core.errors import InputError
from ringworld.core.mesh import abstract_mesh, make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec

STRATEGIES = ["ring", "head_parallel", "hybrid", "all_gather"]


@pytest.mark.parametrize(
    ("strategy", "axes"),
    [
        ("ring", {"ring": 2, "ulysses": 4}),
        ("head_parallel", {"ring": 2, "ulysses": 2}),
        ("hybrid", {"ring": 2, "ulysses": 2, "tensor": 2}),
        ("all_gather", {"ring": 2, "ulysses": 2}),
    ],
    ids=STRATEGIES,
)
@pytest.mark.parametrize("layout", ["zigzag", "striped"])
def test_every_strategy_gives_what_the_oracle_gives(strategy, axes, layout, many_heads, attend, tolerance):
    results = attend(many_heads, axes, strategy=strategy, layout=layout)
    for ours, theirs in zip(results, many_heads.results):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance(theirs))


@pytest.mark.parametrize(
    ("strategy", "axes"),
    [
        ("ring", {"data": 2, "ring": 2, "tensor": 2}),
        ("head_parallel", {"fsdp": 2, "ulysses": 2}),
        ("hybrid", {"ring": 4, "ulysses": 2}),
        ("all_gather", {"ring": 8}),
    ],
    ids=STRATEGIES,
)
def test_padding_and_grouped_queries(strategy, axes, packed, attend, tolerance):
    padding = packed.order == -1
    assert padding[1].all()
    for ours, theirs in zip(attend(packed, axes, strategy=strategy), packed.results):
        assert np.isfinite(ours).all()
        assert not ours[padding].any()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance(theirs))


@pytest.mark.parametrize("strategy", ["head_parallel", "hybrid", "all_gather"])
def test_strategies_agree_in_bfloat16(strategy, unpacked, attend):
    # What travels is in the type of the inputs, so that a result differs by roundings of its last bit.
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    axes = {"ring": 2 if strategy != "head_parallel" else 1, "ulysses": 2}
    alone = attend(unpacked, {}, dtype=jnp.bfloat16)
    for ours, theirs in zip(attend(unpacked, axes, strategy=strategy, dtype=jnp.bfloat16), alone):
        np.testing.assert_allclose(ours, theirs, rtol=2 * eps, atol=eps * np.abs(theirs).max() / 8)


@pytest.mark.parametrize("strategy", ["hybrid", "all_gather"])
@pytest.mark.parametrize("kernel", ["pallas_tpu", "pallas_triton"])
def test_every_kernel_serves_a_mesh(kernel, strategy, packed, attend, tolerance):
    # Hybrid is a ring within an exchange.
    options = {"kernel": kernel, "pallas_mode": "interpreted", "strategy": strategy}
    results = attend(packed, {"ring": 2, "ulysses": 2}, **options)
    for ours, theirs in zip(results, packed.results):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance(theirs))


@pytest.mark.parametrize(
    ("strategy", "axes", "value", "gradient"),
    [
        (
            "ring",
            {"ring": 2, "ulysses": 2},
            {"collective-permute f32": 1, "collective-permute s32": 1},
            # Keys ahead of the loop, keys and gradients in it, gradients behind it and home.
            {"collective-permute f32": 1 + 5, "collective-permute s32": 1 + 2},
        ),
        (
            "head_parallel",
            {"ring": 2, "ulysses": 2},
            # Queries, keys, values and out; order and first in one.
            {"all-to-all f32": 4, "all-gather s32": 1},
            # Their gradients, and delta. What attention has exchanged already need not go again.
            {"all-to-all f32": 4 + 5, "all-gather s32": 1},
        ),
        (
            "hybrid",
            {"ring": 4, "ulysses": 2},
            {
                "all-to-all f32": 4,
                "all-gather s32": 1,
                "collective-permute f32": 1,
                "collective-permute s32": 1,
            },
            {
                "all-to-all f32": 4 + 5,
                "all-gather s32": 1,
                "collective-permute f32": 1 + 5,
                "collective-permute s32": 1 + 2,
            },
        ),
        (
            "all_gather",
            {"ring": 2, "ulysses": 2},
            {"all-gather f32": 1, "all-gather s32": 1},
            {"all-gather f32": 1, "all-gather s32": 1, "reduce-scatter f32": 1},
        ),
    ],
    ids=STRATEGIES,
)
def test_what_travels(strategy, axes, value, gradient, program, exchanges):
    assert exchanges(program(axes, strategy=strategy, kv_heads=4)) == value
    assert exchanges(program(axes, strategy=strategy, kv_heads=4, of="gradient")) == gradient


def test_the_ring_of_a_hybrid_leaves_the_ulysses_axis_alone(program):
    text = program({"ring": 4, "ulysses": 2}, strategy="hybrid")
    # Devices 0 and 1 share a member of the ring, 2 and 3 the next.
    to_next = "{{0,2},{2,4},{4,6},{6,0},{1,3},{3,5},{5,7},{7,1}}"
    assert set(re.findall(r"source_target_pairs=(\{\{.*?\}\})", text)) == {to_next}
    assert re.findall(r"known_trip_count\W+n\W+(\d+)", text) == ["3"]


def _gradient_of_two_layers(strategy, policy, *, abstract) -> jax.stages.Lowered:
    """Lower the gradient of two rematerialized layers that are scanned."""
    mesh = make_mesh(MeshConfig(ring=2, ulysses=2), devices=jax.devices()[:4])
    attend = functools.partial(attention, config=AttentionConfig(strategy=strategy))

    def layer(x, scale, order, first):
        q = x * scale
        return x + jnp.tanh(attend(q, q[:, :, :4], q[:, :, 4:], order=order, first=first)), None

    def loss(x, scales, order, first):
        step = jax.checkpoint(functools.partial(layer, order=order, first=first), policy=policy)
        return jnp.sum(jax.lax.scan(step, x, scales)[0] ** 2)

    with jax.set_mesh(mesh):
        arrays = abstract(mesh, heads=8)
        scales = jax.ShapeDtypeStruct((2,), jnp.float32)
        return jax.jit(jax.grad(loss)).lower(arrays["q"], scales, arrays["order"], arrays["first"])


@pytest.mark.parametrize(
    ("strategy", "forward", "backward"),
    [
        ("ring", {"collective-permute f32": 1}, {"collective-permute f32": 5}),
        # Backward exchanges queries, keys and values again, which are not kept so.
        ("head_parallel", {"all-to-all f32": 4}, {"all-to-all f32": 8}),
        (
            "hybrid",
            {"all-to-all f32": 4, "collective-permute f32": 1},
            # A ring of two has no hop between the first and the last.
            {"all-to-all f32": 8, "collective-permute f32": 3},
        ),
        ("all_gather", {"all-gather f32": 1}, {"all-gather f32": 1, "reduce-scatter f32": 1}),
    ],
    ids=STRATEGIES,
)
def test_rematerializing_a_layer_does_not_attend_again(
    strategy, forward, backward, abstract, compiled, exchanges
):
    gradient = functools.partial(_gradient_of_two_layers, strategy, abstract=abstract)
    saved = gradient(jax.checkpoint_policies.save_only_these_names(OUT_NAME, LSE_NAME))
    sent = {kind: count for kind, count in exchanges(compiled(saved)).items() if kind.endswith("f32")}
    assert sent == {kind: forward.get(kind, 0) + backward.get(kind, 0) for kind in forward | backward}
    # Without the names there are more exponentials: attention itself.
    again = gradient(jax.checkpoint_policies.nothing_saveable)
    assert again.as_text().count(" stablehlo.exponential ") > saved.as_text().count(" stablehlo.exponential ")


@pytest.mark.parametrize(
    ("strategy", "axes", "shapes", "field"),
    [
        ("ring", {"ring": 4}, {"seq": 68}, "seq"),
        ("ring", {"ring": 4}, {"heads": 4, "kv_heads": 3}, "kv_heads"),
        ("ring", {"tensor": 4}, {"heads": 4, "kv_heads": 2}, "kv_heads"),
        ("hybrid", {"ulysses": 4}, {"heads": 4, "kv_heads": 2}, "kv_heads"),
        ("head_parallel", {"ring": 2, "tensor": 2}, {}, "kv_heads"),
        ("all_gather", {"data": 4}, {"batch": 2}, "batch"),
        ("ring", {}, {"kv_dtype": jnp.bfloat16}, "dtype"),
        ("ring", {}, {"dtype": jnp.float16}, "dtype"),
    ],
    ids=str,
)
def test_what_cannot_be_computed_is_refused_while_tracing(strategy, axes, shapes, field, abstract):
    # Arguments that are not cut: the check must come before JAX refuses to cut them.
    attend = functools.partial(attention, config=AttentionConfig(strategy=strategy))
    with jax.sharding.use_abstract_mesh(abstract_mesh(MeshConfig(**axes))):
        with pytest.raises(InputError) as refused:
            jax.eval_shape(attend, **abstract(None, **shapes))
    assert refused.value.field == field


def test_a_call_without_a_mesh_is_refused():
    x, tokens = jnp.zeros((1, 8, 2, 8)), jnp.zeros((1, 8), jnp.int32)
    with pytest.raises(InputError) as refused:
        attention(x, x, x, order=tokens, first=tokens, config=AttentionConfig())
    assert (refused.value.field, refused.value.value) == ("mesh", None)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_million_tokens_on_hundreds_of_devices_type_check(strategy, abstract):
    ring = 1 if strategy == "head_parallel" else 32
    mesh = abstract_mesh(MeshConfig(data=2, fsdp=2, ring=ring, ulysses=2, tensor=4))
    arrays = abstract(mesh, seq=1 << 20, heads=32, kv_heads=8, batch=4, dtype=jnp.bfloat16)
    with jax.sharding.use_abstract_mesh(mesh):
        config = AttentionConfig(strategy=strategy)
        out = jax.eval_shape(functools.partial(attention, config=config), **arrays)
    assert (out.shape, out.dtype) == ((4, 1 << 20, 32, 8), jnp.bfloat16)
    assert out.sharding.spec == spec("batch", "seq", "heads", "head")
