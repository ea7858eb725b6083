import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding

from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import RING_AXIS, spec
from ringworld.planning.collectives import Collective, Kind, collectives

# As libtpu prints it: a loop from 1 to 5 that sends, within it a branch, and a sum after it.
PROGRAM = """\
HloModule jit_update, is_scheduled=true

%branch.1 (x: f32[8]) -> f32[8] {
  %gathered = f32[8,4]{1,0:T(8,128)} all-gather(%x), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %y = f32[8]{0} copy(%x)
}

%branch.2 (x.2: f32[8]) -> f32[8] {
  ROOT %y.2 = f32[8]{0} copy(%x.2)
}

%condition (state.1: (s32[], bf16[2,16,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5), metadata={op_name="jit(update)/while"}
  %state.1 = (s32[]{:T(128)}, bf16[2,16,8]{2,1,0}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%counter, %limit), direction=LT
}

%body (state: (s32[], bf16[2,16,8])) -> (s32[], bf16[2,16,8]) {
  %state = (s32[]{:T(128)}, bf16[2,16,8]{2,1,0}) parameter(0)
  %keys = bf16[2,16,8]{2,1,0} get-tuple-element(%state), index=1
  %sent = (bf16[2,16,8]{2,1,0}, bf16[2,16,8]{2,1,0}, u32[]{:S(2)}) collective-permute-start(%keys)
  %order = (s32[16]{0}, s32[16]{0}, u32[]{:S(2)}) collective-permute-start(%numbers)
  %either = f32[8]{0} conditional(%p, %a, %a), branch_computations={%branch.1, %branch.2}
  %arrived = bf16[2,16,8]{2,1,0} collective-permute-done(%sent)
  %at = s32[16]{0} collective-permute-done(%order)
  %last = (bf16[2,4]{1,0}, bf16[2,4]{1,0}, u32[]{:S(2)}) collective-permute-start(%keys.2)
  %shorter = bf16[2,2]{1,0} slice(%keys.2), slice={[0:2], [0:2]}
  %home = bf16[2,4]{1,0} collective-permute-done(%last), control-predecessors={%order}
  ROOT %next = (s32[]{:T(128)}, bf16[2,16,8]{2,1,0}) tuple(%counter.2, %arrived)
}

ENTRY %main (k: bf16[2,16,8]) -> f32[8] {
  %one = s32[]{:T(128)} constant(1)
  %begin = (s32[]{:T(128)}, bf16[2,16,8]{2,1,0}) tuple(%one, %k)
  %loop = (s32[]{:T(128)}, bf16[2,16,8]{2,1,0}) while(%begin), condition=%condition, body=%body
  ROOT %sum = f32[8]{0} all-reduce(%z), channel_id=9, to_apply=%add
}
"""


def test_collectives_in_loops_count_as_often_as_they_run():
    gathered, summed, permuted = collectives(PROGRAM)
    assert gathered == at_once(kind="all-gather", count=4, bytes_per_chip=4 * 8 * 4 * 4)
    assert summed == at_once(kind="all-reduce", count=1, bytes_per_chip=8 * 4)
    keys, order, last = 2 * 16 * 8 * 2, 16 * 4, 2 * 4 * 2
    assert (permuted.kind, permuted.count) == ("collective-permute", 4 * 3)
    assert permuted.bytes_per_chip == 4 * (keys + order + last)


def test_what_is_sent_is_hidden_where_something_is_computed_before_it_is_waited_for():
    """A slice is nothing to compute, and a branch is."""
    permuted = collectives(PROGRAM)[-1]
    assert permuted.bytes_per_chip - permuted.hidden_bytes_per_chip == 4 * 2 * 4 * 2


def at_once(*, kind: Kind, count: int, bytes_per_chip: int) -> Collective:
    """Return collectives for which the program waits at once."""
    return Collective(kind=kind, count=count, bytes_per_chip=bytes_per_chip, hidden_bytes_per_chip=0)


def test_what_is_begun_together_counts_each_result_once():
    program = """ENTRY %main () -> f32[8] {
  %sums = (f32[8]{0}, f32[16]{0}) all-reduce-start(%a, %b), channel_id=1, to_apply=%add
  %all = ((f32[2]{0}, f32[4]{0}), (f32[8]{0}, f32[16]{0})) all-gather-start(%c, %d), channel_id=2
}
"""
    assert collectives(program) == (
        at_once(kind="all-gather", count=1, bytes_per_chip=(8 + 16) * 4),
        at_once(kind="all-reduce", count=1, bytes_per_chip=(8 + 16) * 4),
    )


def test_a_program_that_sends_nothing_has_none():
    program = jax.jit(jnp.sin).lower(jnp.ones(3)).compile().as_text()
    assert program is not None and collectives(program) == ()
    assert collectives("") == ()


def test_a_ring_that_was_compiled_sends_its_hops():
    mesh, hops = mesh_of(MeshConfig(ring=4)), 3

    def around(x):
        to_next = [(i, (i + 1) % 4) for i in range(4)]
        return lax.fori_loop(0, hops, lambda _, held: lax.ppermute(held, RING_AXIS, to_next) + 1, x)

    x = jax.ShapeDtypeStruct((64,), jnp.float32, sharding=NamedSharding(mesh, spec("seq")))
    with jax.set_mesh(mesh):
        mapped = jax.jit(jax.shard_map(around, in_specs=spec("seq"), out_specs=spec("seq")))
        program = mapped.lower(x).compile().as_text()
    assert program is not None and collectives(program) == (
        at_once(kind="collective-permute", count=hops, bytes_per_chip=hops * 16 * 4),
    )
