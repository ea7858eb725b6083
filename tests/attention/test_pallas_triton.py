"""What `test_kernels` cannot show on a CPU: that the kernels lower to Triton, also within a mesh."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, NamedSharding, PartitionSpec

from ringworld.attention import pallas_triton
from ringworld.attention.config import AttentionConfig
from ringworld.attention.visibility import MaskSpec

CONFIG = AttentionConfig(kernel="pallas_triton")
BATCH, HEADS, KV_HEADS, SEQ = 2, 4, 2, 400
A100 = AbstractDevice(device_kind="NVIDIA A100-SXM4-80GB", num_cores=None, platform="gpu")

# Newer versions of jax announce the end of this way to Triton.
pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")


def _both(q, k, v, mask):
    part = pallas_triton.forward(q, k, v, mask=mask, config=CONFIG)
    delta = jnp.sum(part.out, axis=-1)
    dout = jnp.ones_like(q)
    return part, pallas_triton.backward(q, k, v, dout, lse=part.lse, delta=delta, mask=mask, config=CONFIG)


def _shapes(head, dtype):
    q = jax.ShapeDtypeStruct((BATCH, HEADS, SEQ, head), dtype)
    k = jax.ShapeDtypeStruct((BATCH, KV_HEADS, SEQ + 1, head), dtype)
    q_tokens, k_tokens = (jax.ShapeDtypeStruct((BATCH, x.shape[2]), jnp.int32) for x in (q, k))
    mask: Any = (q_tokens, q_tokens, k_tokens)
    return q, k, k, MaskSpec(*mask)


def _calls_of_triton(f, *args) -> int:
    return (
        jax.jit(f).trace(*args).lower(lowering_platforms=("cuda",)).as_text().count("@__gpu$xla.gpu.triton")
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("head", [64, 80, 96, 128, 256])
def test_forward_and_backward_lower_to_three_kernels(head, dtype):
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=A100)):
        assert _calls_of_triton(_both, *_shapes(head, dtype)) == 3


def test_kernels_lower_where_arrays_are_cut_over_a_mesh():
    mesh = AbstractMesh((2, 2), ("data", "tensor"), abstract_device=A100)
    heads, tokens = PartitionSpec("data", "tensor"), PartitionSpec("data")
    mask: Any = (tokens, tokens, tokens)
    specs = (heads, heads, heads, MaskSpec(*mask))
    cut = jax.tree.map(
        lambda x, spec: x.update(sharding=NamedSharding(mesh, spec)), _shapes(64, jnp.bfloat16), specs
    )
    sharded = jax.shard_map(_both, mesh=mesh, in_specs=specs, out_specs=(heads, heads))
    with jax.sharding.use_abstract_mesh(mesh):
        assert _calls_of_triton(sharded, *cut) == 3
