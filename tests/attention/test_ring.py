import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.attention import ring
from ringworld.attention.attend import attention
from ringworld.attention.config import AttentionConfig
from ringworld.attention.layouts import place
from ringworld.attention.visibility import MaskSpec
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from tests.attention import reference

RINGS = [1, 2, 4, 8]


@pytest.mark.parametrize("packing", ["packed", "unpacked"])
@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "balanced"])
@pytest.mark.parametrize("members", RINGS)
def test_values_and_gradients_are_those_of_the_oracle(members, layout, packing, request, attend, tolerance):
    example = request.getfixturevalue(packing)
    for ours, theirs in zip(attend(example, {"ring": members}, layout=layout), example.results):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance(theirs))


def test_the_striped_layout_gives_the_same(packed, attend, tolerance):
    for ours, theirs in zip(attend(packed, {"ring": 4}, layout="striped"), packed.results):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance(theirs))


def test_bfloat16_stays_within_its_own_rounding_on_a_ring(unpacked, attend, tolerance):
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    for ours, theirs in zip(attend(unpacked, {"ring": 8}, dtype=jnp.bfloat16), unpacked.results):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance(theirs, eps=eps))


@functools.cache
def _two_sequences() -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Return q, k, v, dout, order and first of 2048 tokens, and out, dq, dk, dv of the oracle."""
    arrays = np.random.default_rng(0).normal(size=(4, 2, 2048, 2, 32)).astype(np.float32)
    order = np.tile(np.arange(2048, dtype=np.int32), (2, 1))
    first = np.zeros_like(order)
    first[1, 400:], first[1, 1200:] = 400, 1200
    spec = {"q_order": order, "q_first": first, "k_order": order}
    exact = arrays.astype(np.float64)
    expected = (reference.forward(*exact[:3], **spec)[0], *reference.backward(*exact, **spec))
    return arrays, order, first, expected


def _errors(members: int) -> dict[str, np.ndarray]:
    """Return all errors of a ring whose members are simulated on one device, of two sequences.

    A member holds 64 tokens; with far fewer the errors depend on the version of XLA (docs/log.md).
    """
    (q, k, v, dout), order, first, expected = _two_sequences()
    seq, config = order.shape[1], AttentionConfig(kernel="xla")
    perm = place("zigzag", seq=seq, members=members).token_of_slot()

    @jax.jit
    @functools.partial(jax.vmap, axis_name="ring")
    def run(q, k, v, dout, order, first):
        mask = MaskSpec(q_order=order, q_first=first, k_order=order)
        options = {"mask": mask, "axes": ("ring",), "config": config}
        out, lse = ring.forward(q, k, v, **options)
        return out, *ring.backward(q, k, v, dout, lse=lse, delta=jnp.sum(out * dout, axis=-1), **options)

    def shards(x: np.ndarray) -> np.ndarray:
        return x[:, perm].reshape(len(x), members, -1, *x.shape[2:]).swapaxes(0, 1)

    heads_first = (shards(x).swapaxes(2, 3) for x in (q, k, v, dout))
    results = (np.asarray(x).swapaxes(2, 3) for x in run(*heads_first, shards(order), shards(first)))
    return {
        name: np.abs(ours - shards(theirs))
        for name, ours, theirs in zip(("out", "dq", "dk", "dv"), results, expected)
    }


def test_the_error_does_not_grow_with_the_ring():
    alone, many = _errors(1), _errors(16)
    assert max(x.max() for x in many.values()) <= 1.2 * max(x.max() for x in alone.values())
    for name, errors in many.items():
        assert np.sqrt(np.mean(errors**2)) <= 1.2 * np.sqrt(np.mean(alone[name] ** 2)), name


def test_a_ring_permutes_and_gathers_nothing(program, exchanges):
    text = program({"ring": 4})
    # Keys with values, and their order, in one loop over the hops.
    assert exchanges(text) == {"collective-permute f32": 1, "collective-permute s32": 1}
    assert re.findall(r"known_trip_count\W+n\W+(\d+)", text) == ["3"]


@pytest.mark.parametrize(("of", "branches"), [("value", 2), ("gradient", 4)])
def test_a_member_computes_nothing_where_it_sees_nothing(of, branches, program):
    text = program({"ring": 4}, of=of)
    found = re.findall(r" conditional\(.*branch_computations=\{%([\w.-]+), %([\w.-]+)\}", text)
    # Of each pass one for what arrives in the loop, and one for what arrives last.
    assert len(found) == branches
    for pair in found:
        assert sorted(_computes(text, name) for name in pair) == [set(), {"dot", "exponential", "while"}]


def _computes(program: str, name: str) -> set[str]:
    """Return which of some operations a computation makes, itself or through those that it calls."""
    computations = dict(re.findall(r"^%([\w.-]+) \(.*?\{\n(.*?)^\}", program, re.MULTILINE | re.DOTALL))
    reached, ahead = set(), [name]
    while ahead:
        now = ahead.pop()
        reached.add(now)
        called = set(re.findall(r"%([\w.-]+)", computations[now])) & computations.keys()
        ahead.extend(called - reached)
    operations = r" (dot|exponential|while)\("
    return {found for each in reached for found in re.findall(operations, computations[each])}


def test_keys_and_values_travel_together_in_the_compute_type(abstract):
    mesh = make_mesh(MeshConfig(ring=4), devices=jax.devices()[:4])
    with jax.set_mesh(mesh):
        attend = jax.jit(functools.partial(attention, config=AttentionConfig()))
        lowered = attend.lower(**abstract(mesh, dtype=jnp.bfloat16)).as_text()
    # Two sequences of 16 tokens; two key heads of 8.
    sent = re.findall(r"collective_permute.*-> tensor<(\S+)>", lowered)
    assert sorted(set(sent)) == ["2x16xi32", "2x2x2x16x8xbf16"]


def test_a_ring_of_one_sends_nothing(program, exchanges):
    assert exchanges(program({"ring": 1}, of="gradient")) == {}
