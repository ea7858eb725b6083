"""What the kernel for TPU does besides what every kernel must (test_kernels.py); compiled: tests/tpu."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import NamedSharding, PartitionSpec

from ringworld.attention import pallas_tpu, ring
from ringworld.attention.config import AttentionConfig
from ringworld.attention.layouts import place
from ringworld.attention.pallas_tpu_walk import maps_by_keys, maps_by_queries, visit_at, walk_over
from ringworld.attention.visibility import ALL, NOTHING, PART, MaskSpec
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from tests.attention import reference

BLOCK = 128
CONFIG = AttentionConfig(
    kernel="pallas_tpu", pallas_mode="interpreted", block_q_tokens=BLOCK, block_kv_tokens=BLOCK
)


@functools.partial(jax.jit, static_argnames=("rows", "group"))
def _follow(visible, *, rows: str, group: int = 1):
    """Return how many steps a walk makes, and for each, made or not, what each head of a group then does.

    That is a `Visit`, and the sequence, head and block of the queries and of the keys that are brought.
    """
    batch, blocks, columns = visible.shape
    walk, steps = walk_over(visible), jnp.arange(visible.size, dtype=jnp.int32)
    visits, fetches = jax.new_ref(walk.visits), jax.new_ref(walk.fetches)
    if rows == "queries":
        maps = maps_by_queries(q_blocks=blocks, kv_blocks=columns, group=group)
    else:
        maps = maps_by_keys(q_blocks=columns, kv_blocks=blocks, group=group)

    def at(step, member):
        inner = (member, step) if rows == "queries" else (step, member)
        point = (jnp.int32(0), *inner, visits, fetches)
        return visit_at(step, visits), maps.queries(*point), maps.keys(*point)

    members = jnp.arange(group, dtype=jnp.int32)
    return walk.steps, jax.vmap(lambda step: jax.vmap(lambda member: at(step, member))(members))(steps)


def test_a_walk_goes_through_what_is_visible_and_writes_every_row():
    visible = jnp.asarray([[[ALL, PART], [NOTHING, NOTHING], [NOTHING, PART]]], jnp.int32)
    steps, (visit, queries, keys) = _follow(visible, rows="queries")
    columns = [x[:steps, 0].tolist() for x in (queries[2], keys[2], *visit)]
    assert list(zip(*columns)) == [
        # row, column that is brought, what is visible, first and last of its row
        (0, 0, ALL, True, False),
        (0, 1, PART, False, True),
        (1, 1, NOTHING, True, True),
        (2, 1, PART, True, True),
    ]


_VISIBLE = hnp.arrays(np.int32, (2, 3, 5), elements=st.sampled_from([NOTHING, NOTHING, PART, ALL]))


@pytest.mark.parametrize("rows", ["queries", "keys"])
@given(visible=_VISIBLE)
def test_any_walk_visits_each_visible_pair_once_and_brings_nothing_else(rows, visible):
    steps, (visit, *maps) = _follow(jnp.asarray(visible), rows=rows)
    visit = type(visit)(*(np.asarray(x[:steps, 0]) for x in visit))
    row, column = (
        np.stack([np.asarray(x[:steps, 0]) for x in (sequence, block)], axis=1)
        for sequence, _, block in (maps if rows == "queries" else reversed(maps))
    )
    made = visit.visible != NOTHING
    pairs = np.argwhere(visible != NOTHING)
    assert np.array_equal(row[made], pairs[:, :2])
    assert np.array_equal(column[made], pairs[:, [0, 2]])
    assert np.array_equal(visit.visible[made], visible[tuple(pairs.T)])
    for edge in (visit.begins, visit.ends):
        assert row[edge].tolist() == [list(at) for at in np.ndindex(2, 3)]
    # Where nothing is visible a row has one visit, and what was brought before stays.
    assert np.all(visit.begins[~made] & visit.ends[~made])
    stays = np.all(column[1:] == column[:-1], axis=1)
    assert np.all(stays[~made[1:]])


def test_a_walk_by_keys_brings_no_queries_of_another_head_where_nothing_is_visible():
    steps, (_, queries, keys) = _follow(jnp.asarray([[[PART], [NOTHING]]], jnp.int32), rows="keys", group=3)
    assert queries[1][:steps].tolist() == [[0, 1, 2], [2, 2, 2]]
    assert keys[2][:steps].tolist() == [[0, 0, 0], [1, 1, 1]]


def _packed(seq: int, *, heads: int = 2, head: int = 64):
    """Return arrays [batch, seq, heads, head] and tokens of a row of two examples and one of padding."""
    rng = np.random.default_rng(0)
    q, dout = (rng.normal(size=(2, seq, heads, head)) for _ in range(2))
    k, v = (rng.normal(size=(2, seq, 1, head)) for _ in range(2))
    order, first = np.full((2, seq), -1, np.int32), np.zeros((2, seq), np.int32)
    order[0, :-20] = np.arange(seq - 20)
    first[0, seq // 3 : -20] = seq // 3
    return (q, k, v, dout), order, first


def _expected(arrays, order, first) -> list[np.ndarray]:
    q, k, v, dout = (x.astype(np.float32).astype(np.float64) for x in arrays)
    spec = {"q_order": order, "q_first": first, "k_order": order}
    return [reference.forward(q, k, v, **spec)[0], *reference.backward(q, k, v, dout, **spec)]


def _check(results, expected, tolerance):
    for ours, theirs in zip(results, expected):
        np.testing.assert_allclose(ours.swapaxes(1, 2), theirs, rtol=0, atol=tolerance(theirs))


def _run(arrays, order, first, **options):
    """Return out, dq, dk, dv, heads before tokens."""

    @jax.jit
    def run(q, k, v, dout, order, first):
        mask = MaskSpec(q_order=order, q_first=first, k_order=order)
        out, lse = pallas_tpu.forward(q, k, v, mask=mask, config=CONFIG, **options)
        delta = jnp.sum(out * dout, axis=-1)
        gradients = pallas_tpu.backward(
            q, k, v, dout, lse=lse, delta=delta, mask=mask, config=CONFIG, **options
        )
        return out, *gradients

    heads_first = (jnp.asarray(x.swapaxes(1, 2), jnp.float32) for x in arrays)
    return run(*heads_first, jnp.asarray(order), jnp.asarray(first))


def test_it_keeps_to_the_memories_of_a_simulated_chip_of_two_cores(tolerance):
    # Unlike the quick interpreter this one has memories that hold NaN until they are written, refuses what
    # lies outside of them, and gives each core its share of what is declared parallel.
    arrays, order, first = _packed(2 * BLOCK)
    with pltpu.force_tpu_interpret_mode(pltpu.InterpretParams(num_cores_or_threads=2)):
        results = _run(arrays, order, first)
    _check(results, _expected(arrays, order, first), tolerance)


def test_a_walk_that_scalar_memory_cannot_hold_is_made_in_strips(tolerance):
    arrays, order, first = _packed(3 * BLOCK + 50)
    _check(_run(arrays, order, first, most_pairs=8), _expected(arrays, order, first), tolerance)


def test_a_ring_over_it_gives_what_the_oracle_gives(tolerance):
    members = 2
    arrays, order, first = _packed(members * 2 * BLOCK)
    perm = place("zigzag", seq=order.shape[1], members=members).token_of_slot()
    mesh = make_mesh(MeshConfig(ring=members), devices=jax.devices()[:members])
    heads, tokens = PartitionSpec(None, None, "ring"), PartitionSpec(None, "ring")

    def run(q, k, v, dout, order, first):
        mask = MaskSpec(q_order=order, q_first=first, k_order=order)
        options = {"mask": mask, "axes": ("ring",), "config": CONFIG}
        out, lse = ring.forward(q, k, v, **options)
        return out, *ring.backward(q, k, v, dout, lse=lse, delta=jnp.sum(out * dout, axis=-1), **options)

    # Interpreters of Pallas do not know what varies over a mesh: they cannot be checked for it.
    specs = (heads,) * 4 + (tokens,) * 2
    on_mesh = jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=(heads,) * 4, check_vma=False)
    values = [x.swapaxes(1, 2)[:, :, perm].astype(np.float32) for x in arrays]
    values += [order[:, perm], first[:, perm]]
    results = jax.jit(on_mesh)(*(jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip(values, specs)))
    back = [np.asarray(x)[:, :, np.argsort(perm)] for x in results]
    _check(back, _expected(arrays, order, first), tolerance)
