"""What `test_kernels` does not show: lowering to Mosaic GPU, also within a mesh, and reuse of stages."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh, NamedSharding, PartitionSpec

from ringworld.attention import pallas_hopper
from ringworld.attention.config import AttentionConfig
from ringworld.attention.kernel import Tiles
from ringworld.attention.pallas_hopper import HopperTile
from ringworld.attention.visibility import MaskSpec
from ringworld.core.errors import InputError
from tests.attention import reference
from tests.attention.mosaic_gpu import INTERPRETER, compiling_once

CONFIG = AttentionConfig(kernel="pallas_hopper")
BATCH, HEADS, KV_HEADS, SEQ = 2, 4, 2, 400
H100 = AbstractDevice(device_kind="NVIDIA H100 80GB HBM3", num_cores=None, platform="gpu")


def _both(q, k, v, mask):
    part = pallas_hopper.forward(q, k, v, mask=mask, config=CONFIG)
    delta = jnp.sum(part.out, axis=-1)
    dout = jnp.ones_like(q)
    return part, pallas_hopper.backward(q, k, v, dout, lse=part.lse, delta=delta, mask=mask, config=CONFIG)


def _shapes(head):
    q = jax.ShapeDtypeStruct((BATCH, HEADS, SEQ, head), jnp.bfloat16)
    k = jax.ShapeDtypeStruct((BATCH, KV_HEADS, SEQ + 1, head), jnp.bfloat16)
    q_tokens, k_tokens = (jax.ShapeDtypeStruct((BATCH, x.shape[2]), jnp.int32) for x in (q, k))
    mask: Any = (q_tokens, q_tokens, k_tokens)
    return q, k, k, MaskSpec(*mask)


def _calls_of_mosaic(f, *args) -> int:
    program = jax.jit(f).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    return program.count("@mosaic_gpu_v2")


@pytest.mark.parametrize("head", [64, 80, 96, 128])
def test_forward_and_backward_lower_to_three_kernels(head):
    with jax.sharding.use_abstract_mesh(AbstractMesh((), (), abstract_device=H100)):
        assert _calls_of_mosaic(_both, *_shapes(head)) == 3


def test_kernels_lower_where_arrays_are_cut_over_a_mesh():
    mesh = AbstractMesh((2, 2), ("data", "tensor"), abstract_device=H100)
    heads, tokens = PartitionSpec("data", "tensor"), PartitionSpec("data")
    mask: Any = (tokens, tokens, tokens)
    specs = (heads, heads, heads, MaskSpec(*mask))
    cut = jax.tree.map(lambda x, spec: x.update(sharding=NamedSharding(mesh, spec)), _shapes(64), specs)
    sharded = jax.shard_map(_both, mesh=mesh, in_specs=specs, out_specs=(heads, heads))
    with jax.sharding.use_abstract_mesh(mesh):
        assert _calls_of_mosaic(sharded, *cut) == 3


def test_more_blocks_than_stages_take_turns_in_them():
    q_seq, kv_seq, head = 128, 320, 64
    rng = np.random.default_rng(0)
    q, dout = (rng.normal(size=(1, q_seq, 1, head)).astype(jnp.bfloat16) for _ in range(2))
    k, v = (rng.normal(size=(1, kv_seq, 1, head)).astype(jnp.bfloat16) for _ in range(2))
    order = np.arange(kv_seq, dtype=np.int32)[None]
    tokens = {"q_order": order[:, -q_seq:], "q_first": np.zeros((1, q_seq), np.int32), "k_order": order}
    exact = [x.astype(np.float64) for x in (q, k, v, dout)]
    out, lse = reference.forward(*exact[:3], **tokens)
    expected = [out, *reference.backward(*exact, **tokens)]

    two = HopperTile(other=64, stages=2)
    options = {
        "mask": MaskSpec(**{name: jnp.asarray(x) for name, x in tokens.items()}),
        "config": AttentionConfig(kernel="pallas_hopper", pallas_mode="interpreted"),
        "interpreter": INTERPRETER,
        "tiles": Tiles(forward=two, backward_q=two, backward_kv=two),
    }
    arrays = [jnp.asarray(x.swapaxes(1, 2)) for x in (q, k, v, dout)]
    final = {
        "lse": jnp.asarray(lse, jnp.float32),
        "delta": jnp.asarray(np.einsum("bqhd,bqhd->bhq", out, exact[3]), jnp.float32),
    }
    with compiling_once():
        part = pallas_hopper.forward(*arrays[:3], **options)
        gradients = jax.block_until_ready(pallas_hopper.backward(*arrays, **final, **options))
    # A weight, or the gradient of a score, is rounded to bfloat16 once; such errors walk, and partly cancel.
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    for ours, exactly in zip((part.out, *gradients), expected):
        np.testing.assert_allclose(ours.swapaxes(1, 2), exactly, rtol=0, atol=eps * np.abs(exactly).max())


def test_it_is_not_interpreted_without_an_interpreter():
    q = jnp.zeros((1, 1, 64, 64), jnp.bfloat16)
    tokens = jnp.zeros((1, 64), jnp.int32)
    config = AttentionConfig(kernel="pallas_hopper", pallas_mode="interpreted")
    with pytest.raises(InputError) as refused:
        pallas_hopper.forward(q, q, q, mask=MaskSpec(tokens, tokens, tokens), config=config)
    assert refused.value.field == "pallas_mode"
