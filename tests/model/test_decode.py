"""Generation with a cache against the whole model run again."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.attention.layouts import place as place_tokens
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.model.cache import KVCache, append, forget, grow, padded_length
from ringworld.model.config import Architecture, Execution
from ringworld.model.decode import GenerationWeights, decode_step, prefill, read_chunk, target_losses
from ringworld.model.forward import Forward
from ringworld.model.world_model import WorldModel, hidden_states, logits, weighted_loss
from tests.model.families import FAMILIES
from tests.model.families import drawn as families_drawn

CONFIG = Architecture(layers=2, embed=32, heads=4, kv_heads=2, head=8, mlp=48, text_vocab=40, vision_vocab=24)
FORWARD = Forward.of(CONFIG, Execution())
MESHES = {
    "ring1": MeshConfig(),
    "ring2": MeshConfig(ring=2),
    "ring2-tensor2": MeshConfig(ring=2, tensor=2),
    "ring4": MeshConfig(ring=4),
    "ring2-ulysses2": MeshConfig(ring=2, ulysses=2),
}
LENGTHS = np.array([5, 9], np.int32)
TOKENS = np.random.default_rng(0).integers(0, CONFIG.vocab, (2, 16)).astype(np.int32)
# Two ways to the same float32 logits, of size up to 0.5, through some 60 roundings of 6e-8 of them.
TOLERANCE = 2e-6
# Of size up to 4 where weights are larger and a tied embedding is the head.
FAMILY_TOLERANCE = 2e-5


def mesh_of(mesh_name):
    sizes = MESHES[mesh_name]
    return make_mesh(sizes, devices=jax.devices()[: sizes.devices])


@pytest.fixture(scope="module")
def drawn():
    with jax.set_mesh(mesh_of("ring1")):
        return jax.tree.map(np.asarray, jax.jit(partial(WorldModel.init, CONFIG))(key=jax.random.key(1)))


def on_mesh(model, mesh_name):
    """Return the mesh and the model on it."""
    mesh = mesh_of(mesh_name)
    with jax.set_mesh(mesh):
        specs = jax.tree.map(lambda x: x.sharding.spec, WorldModel.abstract(CONFIG))
    return mesh, jax.tree.map(
        lambda x, where: jax.device_put(x, jax.NamedSharding(mesh, where)), model, specs
    )


def put(mesh, array, *layout):
    return jax.device_put(array, jax.NamedSharding(mesh, spec(*layout)))


@pytest.fixture(scope="module")
def expected(drawn):
    """Logits after every token, from the whole model on one device."""
    mesh, model = on_mesh(drawn, "ring1")
    order = np.tile(np.arange(16, dtype=np.int32), (2, 1))

    def full(model, tokens, order):
        x = hidden_states(model, tokens, order=order, first=jnp.zeros_like(order), forward=FORWARD)
        return logits(x, model.output_head)

    perm = place_tokens("zigzag", seq=16, members=1).token_of_slot()
    with jax.set_mesh(mesh):
        arrays = (put(mesh, x[:, perm], "batch", "seq") for x in (TOKENS, order))
        scores = np.asarray(jax.jit(full)(model, *arrays))
    return scores[:, np.argsort(perm)]


def prefilled(mesh, model, *, room):
    members = mesh.shape["ring"]
    length = padded_length(int(LENGTHS.max()), members=members)
    perm = place_tokens(FORWARD.execution.attention.layout, seq=length, members=members).token_of_slot()
    index = np.arange(length, dtype=np.int32)[None]
    order = np.where(index < LENGTHS[:, None], index, -1).astype(np.int32)
    prompt = np.where(order >= 0, TOKENS[:, :length], 0)
    weights = GenerationWeights.from_model(model, compute="float32")
    cache = KVCache.init(
        CONFIG, batch=2, slots=padded_length(length + room, members=members), compute="float32"
    )
    scores, cache = prefill(
        weights,
        cache,
        put(mesh, prompt[:, perm], "batch", "seq"),
        order=put(mesh, order[:, perm], "batch", "seq"),
        forward=FORWARD,
    )
    return weights, cache, scores, length


@pytest.mark.parametrize("mesh_name", ["ring1", "ring2-tensor2", "ring4"])
def test_token_by_token_equals_the_whole_model(drawn, expected, mesh_name):
    mesh, model = on_mesh(drawn, mesh_name)
    with jax.set_mesh(mesh):
        weights, cache, scores, slot = prefilled(mesh, model, room=5)
        step = jax.jit(partial(decode_step, forward=FORWARD), donate_argnames="cache")
        for taken in range(5):
            want = expected[np.arange(2), LENGTHS + taken - 1]
            np.testing.assert_allclose(scores, want, rtol=0, atol=TOLERANCE, err_msg=f"after {taken} tokens")
            order = (LENGTHS + taken)[:, None]
            tokens = put(mesh, np.take_along_axis(TOKENS, order, axis=1), "batch", None)
            scores, cache = step(
                weights, cache, tokens, order=put(mesh, order, "batch", None), slot=jnp.int32(slot + taken)
            )


def test_several_tokens_at_once_and_a_finished_row(drawn, expected):
    mesh, model = on_mesh(drawn, "ring2")
    with jax.set_mesh(mesh):
        weights, cache, _, slot = prefilled(mesh, model, room=4)
        order = np.array([[5, 6, 7, 8], [9, 10, -1, -1]], np.int32)
        tokens = np.take_along_axis(TOKENS, np.maximum(order, 0), axis=1)
        scores, cache = jax.jit(partial(decode_step, forward=FORWARD))(
            weights,
            cache,
            put(mesh, tokens, "batch", None),
            order=put(mesh, order, "batch", None),
            slot=jnp.int32(slot),
        )
    np.testing.assert_allclose(scores, expected[[0, 1], [8, 10]], rtol=0, atol=TOLERANCE)


# LLaMA adds nothing to them: what is tied is Qwen3's too.
@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3"])
def test_every_family_reads_and_writes_as_its_whole_model(name):
    """Five tokens are read and eleven follow one by one, beyond the window of the one that has one."""
    config, mesh = FAMILIES[name], mesh_of("ring2")
    forward = Forward.of(config, Execution())
    model = families_drawn(config, mesh=mesh)
    order = np.tile(np.arange(16, dtype=np.int32), (2, 1))

    def full(model, tokens, order):
        x = hidden_states(model, tokens, order=order, first=jnp.zeros_like(order), forward=forward)
        return logits(jax.reshard(x, spec("batch", None, "embed")), model.read_out)

    perm = place_tokens("zigzag", seq=16, members=2).token_of_slot()
    with jax.set_mesh(mesh):
        whole = np.asarray(
            jax.jit(full)(model, *(put(mesh, x[:, perm], "batch", "seq") for x in (TOKENS, order)))
        )
        whole = whole[:, np.argsort(perm)]
        weights = GenerationWeights.from_model(model, compute="float32")
        cache = KVCache.init(config, batch=2, slots=24, compute="float32")
        read = place_tokens("zigzag", seq=8, members=2).token_of_slot()
        known = np.where(order[:, :8] < 5, order[:, :8], -1).astype(np.int32)
        prompt = (put(mesh, x[:, read], "batch", "seq") for x in (TOKENS[:, :8], known))
        scores, cache = prefill(weights, cache, next(prompt), order=next(prompt), forward=forward)
        step = jax.jit(partial(decode_step, forward=forward), donate_argnames="cache")
        for index in range(5, 16):
            np.testing.assert_allclose(scores, whole[:, index - 1], rtol=0, atol=FAMILY_TOLERANCE)
            column = (put(mesh, x[:, index : index + 1], "batch", None) for x in (TOKENS, order))
            scores, cache = step(weights, cache, next(column), order=next(column), slot=jnp.int32(index + 3))


def read(mesh, weights, cache, *, start, stop, size, slot):
    """Read tokens `[start, stop)` of both rows as one chunk of so many slots."""
    members = mesh.shape["ring"] * mesh.shape["ulysses"]
    index = np.arange(start, start + size, dtype=np.int32)
    order = np.tile(np.where(index < stop, index, -1), (2, 1)).astype(np.int32)
    tokens = np.where(order >= 0, TOKENS[:, np.minimum(index, 15)], 0)
    perm = place_tokens("striped", seq=size, members=members).token_of_slot()
    return read_chunk(
        weights,
        cache,
        put(mesh, tokens[:, perm], "batch", "seq"),
        order=put(mesh, order[:, perm], "batch", "seq"),
        slot=jnp.int32(slot),
        forward=FORWARD,
    )


@pytest.mark.parametrize("mesh_name", ["ring1", "ring2-tensor2", "ring2-ulysses2"])
@pytest.mark.parametrize("borders", [(0, 16), (0, 1, 9, 16), (0, 5, 6, 13, 15)], ids=str)
def test_chunks_equal_the_whole_model_whatever_their_borders(drawn, expected, mesh_name, borders):
    """Chunks are padded to eight, begin in slots that padding left, and one more token is decoded."""
    mesh, model = on_mesh(drawn, mesh_name)
    members = mesh.shape["ring"] * mesh.shape["ulysses"]
    with jax.set_mesh(mesh):
        weights = GenerationWeights.from_model(model, compute="float32")
        cache = KVCache.init(CONFIG, batch=2, slots=24, compute="float32")
        slot = 0
        for start, stop in zip(borders, borders[1:]):
            if slot + 16 > cache.order.shape[1]:
                cache = grow(cache, slots=48)
            size = 16 if stop - start > 8 else 8
            scores, cache = read(mesh, weights, cache, start=start, stop=stop, size=size, slot=slot)
            want = expected[:, stop - 1]
            np.testing.assert_allclose(scores, want, rtol=0, atol=TOLERANCE, err_msg=f"{start} to {stop}")
            slot = -(-(slot + stop - start) // members) * members
        if borders[-1] < 16:
            order = np.full((2, 1), borders[-1], np.int32)
            scores, cache = jax.jit(partial(decode_step, forward=FORWARD))(
                weights,
                cache,
                put(mesh, TOKENS[:, borders[-1] :][:, :1], "batch", None),
                order=put(mesh, order, "batch", None),
                slot=jnp.int32(slot),
            )
            np.testing.assert_allclose(scores, expected[:, borders[-1]], rtol=0, atol=TOLERANCE)


def test_what_is_forgotten_has_no_influence_on_what_is_read_after_it(drawn, expected):
    mesh, model = on_mesh(drawn, "ring2")
    with jax.set_mesh(mesh):
        weights = GenerationWeights.from_model(model, compute="float32")
        cache = KVCache.init(CONFIG, batch=2, slots=32, compute="float32")
        _, cache = read(mesh, weights, cache, start=0, stop=16, size=16, slot=0)
        cache = forget(cache, kept=jnp.int32(5))
        assert np.sort(np.asarray(cache.order)[0])[-6:].tolist() == [-1, 0, 1, 2, 3, 4]
        scores, cache = read(mesh, weights, cache, start=5, stop=11, size=8, slot=6)
    np.testing.assert_allclose(scores, expected[:, 10], rtol=0, atol=TOLERANCE)


def test_what_travels_for_a_chunk_does_not_grow_with_the_cache(drawn):
    mesh, model = on_mesh(drawn, "ring2")
    traffic = {}
    with jax.set_mesh(mesh):
        weights = GenerationWeights.from_model(model, compute="float32")
        tokens = put(mesh, np.zeros((2, 8), np.int32), "batch", "seq")
        for slots in (256, 1024):
            cache = jax.eval_shape(partial(KVCache.init, CONFIG, batch=2, slots=slots, compute="float32"))
            read_all = jax.jit(partial(read_chunk, forward=FORWARD), donate_argnames="cache")
            text = read_all.lower(weights, cache, tokens, order=tokens, slot=jnp.int32(0)).compile().as_text()
            assert text is not None
            traffic[slots] = sorted(
                re.findall(r"(\S+) (?:all-reduce|all-gather|collective-permute|all-to-all)\(", text)
            )
    assert traffic[256] == traffic[1024] != []


def test_a_new_token_lies_where_the_docstring_says():
    mesh = make_mesh(MeshConfig(ring=2), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        stored = put(mesh, np.full((1, 8), -1, np.int32), "batch", "seq")
        new = put(mesh, np.array([[4, 5, 6]], np.int32), "batch", None)
        slots = np.asarray(jax.jit(append)(stored, new, slot=jnp.int32(4)))
    np.testing.assert_array_equal(slots, [[-1, -1, 4, 6, -1, -1, 5, -1]])


def test_what_travels_does_not_grow_with_the_cache_and_no_step_copies_it(drawn):
    mesh, model = on_mesh(drawn, "ring2")
    traffic = {}
    with jax.set_mesh(mesh):
        weights = GenerationWeights.from_model(model, compute="float32")

        def generate(weights, cache, tokens, slot):
            def step(carry, _):
                cache, tokens, slot = carry
                order = jnp.broadcast_to(slot, (2, 1), out_sharding=spec("batch", None))
                scores, cache = decode_step(weights, cache, tokens, order=order, slot=slot, forward=FORWARD)
                return (cache, jnp.argmax(scores, axis=-1).astype(jnp.int32)[:, None], slot + 1), None

            return jax.lax.scan(step, (cache, tokens, slot), length=4)[0]

        for slots in (1024, 4096):
            cache = jax.eval_shape(partial(KVCache.init, CONFIG, batch=2, slots=slots, compute="float32"))
            tokens = put(mesh, np.zeros((2, 1), np.int32), "batch", None)
            program = jax.jit(generate, donate_argnames="cache").lower(weights, cache, tokens, jnp.int32(0))
            compiled = program.compile()
            text, memory = compiled.as_text(), compiled.memory_analysis()
            assert text is not None
            assert memory is not None
            traffic[slots] = sorted(
                re.findall(r"(\S+) (?:all-reduce|all-gather|collective-permute|all-to-all)\(", text)
            )
            one_layer = 2 * CONFIG.kv_heads * slots // 2 * CONFIG.head * 4
            assert memory.temp_size_in_bytes < one_layer + 500_000
            assert not re.search(rf"f32\[2,{CONFIG.kv_heads},{slots // 2},{CONFIG.head}\]\S* copy\(", text)
    assert traffic[1024] == traffic[4096] != []


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_losses_of_ready_weights_are_those_of_the_masters(drawn, compute):
    mesh, model = on_mesh(drawn, "ring2")
    forward = Forward.of(CONFIG, Execution(compute=compute))
    first = np.where(np.arange(16) < 6, 0, 6).astype(np.int32) * np.ones((2, 1), np.int32)
    order = np.tile(np.arange(16, dtype=np.int32), (2, 1))
    perm = place_tokens("zigzag", seq=16, members=2).token_of_slot()
    with jax.set_mesh(mesh):
        weights = GenerationWeights.from_model(model, compute=compute)
        tokens, targets, order, first = (
            put(mesh, x[:, perm], "batch", "seq") for x in (TOKENS, np.roll(TOKENS, -1, 1), order, first)
        )
        ready = target_losses(weights, tokens, targets, order=order, first=first, forward=forward)
        _, masters = jax.jit(weighted_loss)(
            model,
            tokens,
            targets,
            jnp.ones_like(first, jnp.float32),
            order=order,
            first=first,
            forward=forward,
        )
    # The same operations in programs that may fuse otherwise: a few roundings of scores of up to 0.5.
    np.testing.assert_allclose(ready, masters, rtol=0, atol=2 * float(jnp.finfo(compute).eps))


def test_lengths_every_layout_can_cut():
    assert [padded_length(n, members=4) for n in (0, 1, 8, 9)] == [8, 8, 8, 16]


def test_bfloat16_caches_bfloat16(drawn):
    mesh, model = on_mesh(drawn, "ring1")
    forward = Forward.of(CONFIG, Execution(compute="bfloat16"))
    with jax.set_mesh(mesh):
        weights = GenerationWeights.from_model(model, compute="bfloat16")
        cache = KVCache.init(CONFIG, batch=1, slots=4, compute="bfloat16")
        column = put(mesh, np.zeros((1, 1), np.int32), "batch", None)
        scores, cache = jax.jit(partial(decode_step, forward=forward))(
            weights, cache, column, order=column, slot=jnp.int32(0)
        )
    assert cache.keys[0].dtype == jnp.bfloat16
    assert scores.dtype == jnp.float32
    assert np.isfinite(scores).all()
