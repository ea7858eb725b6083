"""Plans by libtpu's compiler, for chips that are not there. `make tpu` installs it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

import ringworld as rw
from ringworld.attention.config import AttentionConfig
from ringworld.core.mesh_config import MeshConfig
from ringworld.model.config import Architecture, Execution, RematName
from ringworld.planning.machines import TPUS, tpu_slice
from ringworld.planning.program import devices_of, out_of_memory
from ringworld.presets import RunConfig, one_gpu

SHAPES = {"v4": "2x2x1", "v5e": "2x2", "v5p": "2x2x1", "v6e": "2x2"}
LAYERS, MEMBERS, HEADS, HEAD, CONTEXT = 3, 4, 4, 128, 2**13


def _run(*, batch_sequences: int = 1, remat: RematName = "layer") -> RunConfig:
    """Return one stage of a narrow model over a ring of four chips."""
    run = one_gpu()
    stage = replace(
        run.training.stages[0],
        context_tokens=CONTEXT,
        batch_sequences=batch_sequences,
        accumulation_steps=1,
        mesh=MeshConfig(ring=MEMBERS),
    )
    return replace(
        run,
        model=Architecture(
            layers=LAYERS,
            embed=HEADS * HEAD,
            heads=HEADS,
            kv_heads=HEADS,
            head=HEAD,
            mlp=1024,
            text_vocab=1024,
            vision_vocab=run.model.vision_vocab,
        ),
        execution=Execution(
            attention=AttentionConfig(layout="contiguous"),
            mlp_block_tokens=512,
            compute="bfloat16",
            remat=remat,
        ),
        training=replace(run.training, stages=(stage,)),
    )


@pytest.mark.parametrize("generation", TPUS)
def test_the_memory_of_a_chip_is_what_the_compiler_has(generation):
    machine = tpu_slice(f"{generation}:{SHAPES[generation]}")
    where = SingleDeviceSharding(devices_of(machine)[0])
    too_much = jax.ShapeDtypeStruct((2**19, 2**19), jnp.bfloat16, sharding=where)
    traced = jax.jit(lambda x: x @ x.T).trace(too_much)
    with pytest.raises(jax.errors.JaxRuntimeError) as refused:
        traced.lower(lowering_platforms=("tpu",)).compile()
    needed, available = out_of_memory(str(refused.value))
    assert needed >= 2**40
    # The message rounds to hundredths of a GiB.
    assert abs(available - machine.chip.hbm_bytes) < 0.01 * 2**30


def test_a_stage_that_fits_is_counted_by_the_compiler():
    (one,) = rw.plan(_run(), topology="v5e:2x2").stages
    assert (one.by, one.fits, one.changes) == ("compiler", True, ())
    assert one.compiled is not None and one.compiled.peak_bytes == one.bytes_per_chip < one.hbm_bytes_per_chip
    tokens = CONTEXT // MEMBERS
    assert one.compiled.aliased_bytes >= one.arithmetic.weights + one.arithmetic.moments
    assert one.compiled.arguments_bytes == pytest.approx(
        one.arithmetic.weights + one.arithmetic.moments + 6 * 4 * tokens, rel=0.01
    )
    assert one.compile_seconds > 0
    sent = {each.kind: each for each in one.collectives}
    # Keys and values go R - 1 hops forward and again backward, where their wide gradients go as many, and the
    # last one home in the compute type, which the compiler puts before it. Orders of tokens go too.
    hops = MEMBERS - 1
    assert sent["collective-permute"].count > LAYERS * (3 * hops + 1)
    kv = 2 * tokens * HEADS * HEAD
    assert sent["collective-permute"].bytes_per_chip == pytest.approx(
        LAYERS * kv * (2 * 2 * hops + 4 * hops + 2), rel=1e-3
    )
    # All of it travels while kernels compute, but for what goes home.
    assert sent["collective-permute"].hidden_bytes_per_chip >= LAYERS * kv * 8 * hops


def test_what_is_offloaded_lies_in_the_memory_of_the_host():
    (one,) = rw.plan(_run(remat="offload"), topology="v5e:2x2").stages
    assert one.compiled is not None
    assert one.compiled.host_bytes == pytest.approx(one.host_bytes_per_chip, rel=0.01)
    tokens = CONTEXT // MEMBERS
    assert one.host_bytes_per_chip == LAYERS * tokens * 2 * 2 * HEADS * HEAD


def test_a_stage_that_does_not_fit_says_by_how_much_and_what_to_change():
    (one,) = rw.plan(_run(batch_sequences=1024), topology="v5e:2x2").stages
    assert not one.fits and one.spare_bytes < 0
    assert one.bytes_per_chip > one.hbm_bytes_per_chip == pytest.approx(TPUS["v5e"].hbm_bytes, rel=1e-3)
    assert one.changes == ("mesh", "accumulation_steps")
