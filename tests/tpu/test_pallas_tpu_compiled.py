"""The kernel for TPU, compiled by libtpu for chips that are not there. `make tpu` installs it."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import NamedSharding, SingleDeviceSharding

from ringworld.attention import pallas_tpu
from ringworld.attention.attend import attention
from ringworld.attention.config import AttentionConfig
from ringworld.attention.visibility import MaskSpec
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec

CHIPS = ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"]
PASSES = ["forward", "backward"]


@functools.cache
def _chips(topology: str):
    return topologies.get_topology_desc(topology, platform="tpu").devices


def _compile(which: str, chips: str, *, seq: int, batch: int = 1, head: int = 128, dtype="bfloat16"):
    """Return a pass over 8 heads of queries and 2 of keys, compiled for one chip."""

    def array(*shape: int, kind=dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(kind), sharding=SingleDeviceSharding(_chips(chips)[0]))

    def forward(q, k, v, order, first):
        mask = MaskSpec(q_order=order, q_first=first, k_order=order)
        return pallas_tpu.forward(q, k, v, mask=mask, config=AttentionConfig())

    def backward(q, k, v, order, first, dout, lse, delta):
        mask = MaskSpec(q_order=order, q_first=first, k_order=order)
        return pallas_tpu.backward(q, k, v, dout, lse=lse, delta=delta, mask=mask, config=AttentionConfig())

    q, k, tokens = array(batch, 8, seq, head), array(batch, 2, seq, head), array(batch, seq, kind="int32")
    statistics = array(batch, 8, seq, kind="float32")
    run, more = {"forward": (forward, ()), "backward": (backward, (q, statistics, statistics))}[which]
    return jax.jit(run).trace(q, k, k, tokens, tokens, *more).lower(lowering_platforms=("tpu",)).compile()


@pytest.mark.parametrize("seq", [32 * 1024, 128 * 1024])
@pytest.mark.parametrize("chips", CHIPS)
@pytest.mark.parametrize("which", PASSES)
def test_it_compiles_for_a_long_shard_and_makes_no_scores_in_memory(which, chips, seq):
    needs = _compile(which, chips, seq=seq).memory_analysis()
    assert needs is not None
    # Besides arguments and results, less than one head of queries: 128 numbers a token, of scores `seq`.
    assert needs.temp_size_in_bytes < seq * 128 * 2


@pytest.mark.parametrize("which", PASSES)
def test_the_longest_walk_fits_into_scalar_memory_and_a_longer_one_is_made_in_strips(which):
    longest = _compile(which, "v5e:2x2", seq=128 * 1024, batch=2).as_text()
    longer = _compile(which, "v5e:2x2", seq=128 * 1024, batch=3).as_text()
    assert longest is not None and " while(" not in longest
    assert longer is not None and " while(" in longer


@pytest.mark.parametrize(
    ("head", "dtype"),
    [
        (64, "bfloat16"),
        (80, "bfloat16"),
        (96, "bfloat16"),
        (256, "bfloat16"),
        (80, "float32"),
        (256, "float32"),
    ],
)
@pytest.mark.parametrize("which", PASSES)
def test_it_compiles_for_every_head_size_and_type_on_the_chip_of_least_memory(which, head, dtype):
    _compile(which, "v5p:2x2x1", seq=2048, head=head, dtype=dtype)


def test_a_ring_of_chips_sends_while_its_kernels_compute():
    mesh = make_mesh(MeshConfig(ring=4), devices=_chips("v5e:2x2"))

    def array(*shape: int, dimensions: tuple[str, ...], kind=jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, kind, sharding=NamedSharding(mesh, spec(*dimensions)))

    q = array(1, 32 * 1024, 8, 128, dimensions=("batch", "seq", "heads", "head"))
    k = array(1, 32 * 1024, 2, 128, dimensions=("batch", "seq", "kv_heads", "head"))
    tokens = array(1, 32 * 1024, dimensions=("batch", "seq"), kind=jnp.int32)

    def loss(q, k, v, order, first):
        out = attention(q, k, v, order=order, first=first, config=AttentionConfig())
        return jnp.sum(out.astype(jnp.float32))

    with jax.set_mesh(mesh):
        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(q, k, k, tokens, tokens)
        program = traced.lower(lowering_platforms=("tpu",)).compile().as_text()
    assert program is not None and "is_scheduled=true" in program
    # All that a hop sends is on its way while its kernels compute: keys and their order, then gradients too.
    forward, backward = _hops(program)
    assert forward == ["start"] * 2 + ["attention_forward"] + ["done"] * 2
    assert backward == ["start"] * 3 + ["attention_backward_kv", "attention_backward_q"] + ["done"] * 3


def _hops(program: str) -> list[list[str]]:
    """Return the starts and ends of permutes and the kernels of each loop over hops, as scheduled.

    The kernels lie in a branch, which a member takes where it sees something.
    """
    computations = dict(re.findall(r"^%([\w.-]+) \(.*?\{\n(.*?)^\}", program, re.MULTILINE | re.DOTALL))

    def kernels(*names: str) -> list[str]:
        found = (re.findall(r"%(attention_\w+?)\.?\d* = .*custom-call", computations[name]) for name in names)
        return sorted(kernel for each in found for kernel in each)

    branches = r"branch_computations=\{%([\w.-]+), %([\w.-]+)\}"
    event = re.compile(rf" collective-permute-(start|done)\(| conditional\(.*{branches}")
    hops = []
    for computation in computations.values():
        events = []
        for permute, *branches in event.findall(computation):
            events += [permute] if permute else kernels(*branches)
        if "start" in events:
            hops.append(events)
    return hops
