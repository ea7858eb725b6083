import importlib

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from ringworld.attention import backends, xla
from ringworld.attention.attend import attention
from ringworld.attention.backends import kernel_for
from ringworld.attention.config import AttentionConfig
from ringworld.core.errors import InputError
from ringworld.core.mesh import abstract_mesh, make_mesh
from ringworld.core.mesh_config import MeshConfig


def _module(name: str):
    return importlib.import_module(f"ringworld.attention.{name}")


def _on(platform: str, kind: str):
    device = AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
    return jax.sharding.use_abstract_mesh(AbstractMesh((2,), ("ring",), abstract_device=device))


def _queries(dtype=jnp.bfloat16, *, head: int = 128, tokens: int = 256) -> jax.Array:
    # Devices that are not there hold no zeros.
    with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
        return jnp.zeros((1, 1, tokens, head), dtype)


@pytest.mark.parametrize(
    ("platform", "kind", "kernel"),
    [
        ("tpu", "TPU v5 lite", "pallas_tpu"),
        ("tpu", "TPU v6 lite", "pallas_tpu"),
        ("gpu", "NVIDIA H100 80GB HBM3", "pallas_hopper"),
        ("gpu", "NVIDIA H200", "pallas_hopper"),
        ("gpu", "NVIDIA H20-3e", "pallas_hopper"),
        ("gpu", "NVIDIA GH200 480GB", "pallas_hopper"),
        ("gpu", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", "pallas_hopper"),
        ("gpu", "NVIDIA A100-SXM4-80GB", "pallas_triton"),
        ("gpu", "NVIDIA B200", "pallas_triton"),
        ("gpu", "NVIDIA GB200", "pallas_triton"),
        ("gpu", "NVIDIA RTX PRO 6000 Blackwell", "pallas_triton"),
        ("gpu", "AMD Instinct MI300X", "xla"),
        ("gpu", "Tesla V100-SXM2-16GB", "xla"),
        ("cpu", "cpu", "xla"),
    ],
)
def test_the_devices_of_the_mesh_choose_the_kernel(platform, kind, kernel):
    with _on(platform, kind):
        assert kernel_for(AttentionConfig(), queries=_queries()) is _module(kernel)


@pytest.mark.parametrize(
    ("queries", "kernel"),
    [
        ({}, "pallas_hopper"),
        ({"head": 80}, "pallas_hopper"),
        ({"tokens": 64}, "pallas_hopper"),
        ({"dtype": jnp.float32}, "pallas_triton"),
        ({"head": 256}, "pallas_triton"),
        ({"tokens": 1}, "pallas_triton"),
    ],
    ids=str,
)
def test_what_attends_chooses_the_kernel_too(queries, kernel):
    with _on("gpu", "NVIDIA H100 80GB HBM3"):
        assert kernel_for(AttentionConfig(), queries=_queries(**queries)) is _module(kernel)


@pytest.mark.parametrize(
    ("version", "kernel"),
    [
        ("cuda 12060", "pallas_hopper"),
        ("cuda 12080", "pallas_triton"),
        ("cuda 12090", "pallas_triton"),
        ("cuda 12091", "pallas_hopper"),
        ("PJRT C API\ncuda 12090", "pallas_triton"),
        ("cuda 13000", "pallas_hopper"),
        ("cpu", "pallas_hopper"),
    ],
)
def test_under_a_cuda_that_miscompiles_masks_another_kernel_is_chosen(version, kernel, monkeypatch):
    monkeypatch.setattr(backends, "platform_version", lambda: version)
    with _on("gpu", "NVIDIA H100 80GB HBM3"):
        assert kernel_for(AttentionConfig(), queries=_queries()) is _module(kernel)


def test_under_a_cuda_that_miscompiles_masks_the_kernel_is_refused_by_name_too(monkeypatch):
    monkeypatch.setattr(backends, "platform_version", lambda: "cuda 12080")
    with _on("gpu", "NVIDIA H100 80GB HBM3"):
        with pytest.raises(InputError) as refused:
            kernel_for(AttentionConfig(kernel="pallas_hopper"), queries=_queries())
    assert (refused.value.field, refused.value.value) == ("kernel", "pallas_hopper")


@pytest.mark.parametrize("mode", ["compiled", "interpreted"])
@pytest.mark.parametrize("queries", [{"dtype": jnp.float32}, {"head": 256}], ids=str)
def test_a_kernel_that_does_not_serve_what_attends_is_refused(queries, mode):
    config = AttentionConfig(kernel="pallas_hopper", pallas_mode=mode)
    with _on("gpu", "NVIDIA H100 80GB HBM3"):
        with pytest.raises(InputError) as refused:
            kernel_for(config, queries=_queries(**queries))
    assert refused.value.field == "kernel"


def test_a_kernel_that_is_named_serves_a_single_query_too():
    with _on("gpu", "NVIDIA H100 80GB HBM3"):
        named = kernel_for(AttentionConfig(kernel="pallas_hopper"), queries=_queries(tokens=1))
    assert named is _module("pallas_hopper")


def test_a_mesh_of_simulated_devices_runs_xla_and_so_does_no_mesh():
    with jax.set_mesh(make_mesh(MeshConfig(ring=8))):
        assert kernel_for(AttentionConfig(), queries=_queries()) is xla
    assert kernel_for(AttentionConfig(), queries=_queries()) is xla


def test_xla_may_be_chosen_anywhere():
    with _on("gpu", "NVIDIA H100 80GB HBM3"):
        assert kernel_for(AttentionConfig(kernel="xla"), queries=_queries()) is xla


@pytest.mark.parametrize(
    ("platform", "kind", "name"),
    [
        ("cpu", "cpu", "pallas_tpu"),
        ("gpu", "NVIDIA A100-SXM4-80GB", "pallas_tpu"),
        ("gpu", "NVIDIA B200", "pallas_hopper"),
        ("tpu", "TPU v5 lite", "pallas_triton"),
    ],
)
def test_a_kernel_that_the_devices_cannot_run_is_refused_unless_interpreted(platform, kind, name):
    with _on(platform, kind):
        with pytest.raises(InputError) as refused:
            kernel_for(AttentionConfig(kernel=name), queries=_queries())
        assert (refused.value.field, refused.value.value) == ("kernel", name)
        interpreted = AttentionConfig(kernel=name, pallas_mode="interpreted")
        assert kernel_for(interpreted, queries=_queries()) is _module(name)


# Newer versions of jax announce the end of its way to Triton.
@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("platform", "kind", "mark"),
    [
        ("tpu", "TPU v5 lite", "name=attention_backward_kv"),
        ("gpu", "NVIDIA A100-SXM4-80GB", "pallas_call"),
        ("gpu", "NVIDIA H100 80GB HBM3", "backward_kv_kernel"),
    ],
)
@pytest.mark.parametrize(
    ("strategy", "axes"),
    [
        ("ring", {"data": 2, "ring": 4, "tensor": 2}),
        ("head_parallel", {"data": 2, "ring": 2, "tensor": 2}),
        ("hybrid", {"data": 2, "ring": 2, "ulysses": 2}),
        ("all_gather", {"ring": 4}),
    ],
)
def test_what_a_kernel_gives_varies_over_a_mesh_as_attention_must(
    strategy, axes, platform, kind, mark, abstract
):
    device = AbstractDevice(device_kind=kind, num_cores=None, platform=platform)
    mesh = abstract_mesh(MeshConfig(**axes)).update(abstract_device=device)
    arrays = abstract(mesh, seq=2048, heads=8, kv_heads=4, head=128, dtype=jnp.bfloat16)

    def loss(q, k, v, order, first):
        out = attention(q, k, v, order=order, first=first, config=AttentionConfig(strategy=strategy))
        return jnp.sum(out.astype(jnp.float32))

    with jax.sharding.use_abstract_mesh(mesh):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*arrays.values())
    assert mark in str(traced.jaxpr)
    for gradient, name in zip(traced.out_info, ("q", "k", "v")):
        assert gradient.sharding.spec == arrays[name].sharding.spec
