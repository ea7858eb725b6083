"""The sharded model against a dense one written here, values and gradients."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.model.config import Architecture, Execution
from ringworld.model.cross_entropy import weighted_cross_entropy
from ringworld.model.forward import Forward
from ringworld.model.world_model import WorldModel, hidden_states
from tests.model.families import FAMILIES, drawn

CONFIG = Architecture(layers=2, embed=32, heads=4, kv_heads=2, head=8, mlp=48, text_vocab=40, vision_vocab=24)
MESHES = {
    "one": MeshConfig(),
    "ring2": MeshConfig(ring=2),
    "eight": MeshConfig(fsdp=2, ring=2, tensor=2),
    "ulysses": MeshConfig(data=2, ring=2, ulysses=2),
}
BATCH, SEQ = 4, 32


def batch():
    rng = np.random.default_rng(0)
    tokens, targets = (rng.integers(0, CONFIG.vocab, (BATCH, SEQ)).astype(np.int32) for _ in range(2))
    order = np.tile(np.arange(SEQ, dtype=np.int32), (BATCH, 1))
    first = np.where(order >= 11, 11, 0).astype(np.int32)
    order[:, -3:], first[:, -3:], targets[:, -3:] = -1, 0, -1
    return tokens, targets, order, first


def mean_loss(model, tokens, targets, order, first, *, forward):
    x = hidden_states(model, tokens, order=order, first=first, forward=forward)
    vocab = forward.architecture.text_vocab
    weights = jnp.full_like(targets, 1 / targets.size, dtype=jnp.float32)
    return weighted_cross_entropy(x, model.read_out, targets, weights, text_vocab=vocab, block_tokens=8)[0]


def forward_of(**execution):
    return Forward.of(CONFIG, Execution(**execution))


def dense_loss(model, tokens, targets, order, first, *, config):
    """A LLaMA with a seq x seq mask, seq x mlp and seq x vocab arrays and no mesh."""

    def norm(x, scale):
        return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + config.norm_eps) * scale[None, None]

    position = jnp.maximum(order - first, 0).astype(jnp.float32)
    frequencies = config.rope.base ** -(np.arange(0, config.head, 2) / config.head)
    angle = position[:, :, None, None] * frequencies.astype(np.float32)[None, None, None]

    def rotate(x):
        a, b = x[..., : config.head // 2], x[..., config.head // 2 :]
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)

    seen = (order[:, None, :] >= first[:, :, None]) & (order[:, None, :] <= order[:, :, None])
    if config.window_tokens:
        seen &= order[:, :, None] - order[:, None, :] < config.window_tokens
    x = model.embed[tokens]
    for i in range(config.layers):
        layer = jax.tree.map(lambda w, i=i: w[i], model.layers)
        y = norm(x, layer.attention_norm)
        q, k, v = (jnp.einsum("bse,ehd->bshd", y, getattr(layer.attention, w)) for w in ("wq", "wk", "wv"))
        if config.family == "qwen2":
            attention = layer.attention
            q, k, v = (
                x + b[None, None] for x, b in zip((q, k, v), (attention.bq, attention.bk, attention.bv))
            )
        if config.family == "qwen3":
            q, k = (norm(x, g[None]) for x, g in ((q, layer.attention.q_norm), (k, layer.attention.k_norm)))
        q, k = rotate(q), rotate(k)
        k, v = (jnp.repeat(a, config.heads // config.kv_heads, axis=2) for a in (k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.float32(np.sqrt(config.head))
        scores = jnp.where(seen[:, None], scores, -1e30)
        weights = jnp.where(seen[:, None], jax.nn.softmax(scores, axis=-1), 0)
        out = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        x = x + jnp.einsum("bshd,hde->bse", out, layer.attention.wo)
        y = norm(x, layer.mlp_norm)
        x = x + (jax.nn.silu(y @ layer.mlp.gate) * (y @ layer.mlp.up)) @ layer.mlp.down
    scores = norm(x, model.norm) @ (model.embed.T if config.tied else model.output_head)
    is_vision = (np.arange(config.vocab) >= config.text_vocab)[None, None]
    scores = jnp.where(is_vision == (targets >= config.text_vocab)[:, :, None], scores, -1e30)
    picked = jnp.take_along_axis(scores, jnp.maximum(targets, 0)[:, :, None], axis=-1)[:, :, 0]
    return jnp.mean(jnp.where(targets >= 0, jax.nn.logsumexp(scores, axis=-1) - picked, 0))


def init(mesh):
    with jax.set_mesh(mesh):
        return jax.jit(partial(WorldModel.init, CONFIG))(key=jax.random.key(1))


def on_mesh(model, mesh, *, config=CONFIG):
    with jax.set_mesh(mesh):
        specs = jax.tree.map(lambda x: x.sharding.spec, WorldModel.abstract(config))
    return jax.tree.map(lambda x, where: jax.device_put(x, jax.NamedSharding(mesh, where)), model, specs)


def put(mesh):
    return [jax.device_put(x, jax.NamedSharding(mesh, spec("batch", "seq"))) for x in batch()]


def mesh_of(name):
    return make_mesh(MESHES[name], devices=jax.devices()[: MESHES[name].devices])


@pytest.fixture(scope="module")
def expected():
    model = jax.tree.map(np.asarray, init(mesh_of("one")))
    loss = jax.jit(jax.value_and_grad(partial(dense_loss, config=CONFIG)))
    return model, *loss(jax.tree.map(jnp.asarray, model), *batch())


@pytest.mark.parametrize(
    ("mesh_name", "change"),
    [("one", {"remat": "none"}), ("ulysses", {"remat": "all", "mlp_block_tokens": 5})],
)
def test_loss_and_gradients_equal_the_dense_model(expected, mesh_name, change):
    want_model, want_loss, want_gradients = expected
    mesh, forward = mesh_of(mesh_name), forward_of(**change)
    model = on_mesh(want_model, mesh)
    with jax.set_mesh(mesh):
        loss, gradients = jax.jit(jax.value_and_grad(partial(mean_loss, forward=forward)))(model, *put(mesh))
    # About 100 float32 roundings of 6e-8 lie between an input and the loss.
    np.testing.assert_allclose(loss, want_loss, rtol=6e-6)
    for (path, got), want in zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(want_gradients)):
        scale = float(np.abs(want).max())
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * scale, err_msg=str(path))


# LLaMA adds nothing to them: what is tied is Qwen3's too.
@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3"])
def test_every_family_equals_its_dense_model(name):
    config, mesh = FAMILIES[name], mesh_of("eight")
    forward = Forward.of(config, Execution(mlp_block_tokens=8))
    model = jax.tree.map(np.asarray, drawn(config, mesh=mesh_of("one")))
    loss = jax.jit(jax.value_and_grad(partial(dense_loss, config=config)))
    want_loss, want_gradients = loss(jax.tree.map(jnp.asarray, model), *batch())
    with jax.set_mesh(mesh):
        ours = jax.jit(jax.value_and_grad(partial(mean_loss, forward=forward)))
        got_loss, gradients = ours(on_mesh(model, mesh, config=config), *put(mesh))
    np.testing.assert_allclose(got_loss, want_loss, rtol=6e-6)
    for (path, got), want in zip(jax.tree.leaves_with_path(gradients), jax.tree.leaves(want_gradients)):
        # The gradient of a key's bias is zero but for what is rounded, since softmax ignores a constant.
        scale = max(float(np.abs(want).max()), 1e-3)
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * scale, err_msg=str(path))


def test_a_mesh_does_not_change_what_is_drawn(expected):
    drawn = init(mesh_of("eight"))
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, drawn), expected[0])


def test_gradients_lie_as_their_weights_do():
    mesh = mesh_of("eight")
    with jax.set_mesh(mesh):
        model = WorldModel.abstract(CONFIG)
        gradients = jax.eval_shape(jax.grad(partial(mean_loss, forward=forward_of())), model, *put(mesh))
    specs = jax.tree.map(lambda x: x.sharding.spec, model)
    assert jax.tree.map(lambda x: x.sharding.spec, gradients) == specs
    assert specs.layers.attention.wq == jax.P(None, *spec("weight", "heads", "head"))


def test_bfloat16_is_near_float32_and_keeps_float32_gradients(expected):
    model, want, _ = expected
    mesh, forward = mesh_of("ring2"), forward_of(compute="bfloat16", mlp_block_tokens=8)
    with jax.set_mesh(mesh):
        loss, gradients = jax.jit(jax.value_and_grad(partial(mean_loss, forward=forward)))(
            on_mesh(model, mesh), *put(mesh)
        )
    # bfloat16 rounds by 2^-9; the mean over 116 targets is nearer than any one of them.
    assert float(loss) == pytest.approx(float(want), rel=2**-9)
    assert {x.dtype for x in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}


@pytest.fixture(scope="module")
def compiled():
    """Text of the gradient program for two ring members, with and without rematerialization."""
    mesh, texts = mesh_of("ring2"), {}
    for remat in ("none", "layer"):
        forward = forward_of(remat=remat, mlp_block_tokens=8)
        with jax.set_mesh(mesh):
            gradient = jax.jit(jax.grad(partial(mean_loss, forward=forward)))
            texts[remat] = gradient.lower(WorldModel.abstract(CONFIG), *put(mesh)).compile().as_text()
    return texts


def test_rematerialization_never_runs_the_ring_forward_again(compiled):
    hops = {
        remat: len(re.findall(r" collective-permute(-start)?\(", text)) for remat, text in compiled.items()
    }
    assert hops["layer"] == hops["none"] > 0


@pytest.mark.parametrize(("block", "fewer"), [(0, 6), (8, 4)])
def test_no_product_of_a_layer_is_computed_again_where_it_is_not_rematerialized(block, fewer):
    """Of q, k, v, o, gate and up; but a feed-forward by blocks never keeps the last two."""
    mesh, products = mesh_of("one"), {}
    for remat in ("none", "layer"):
        forward = forward_of(remat=remat, mlp_block_tokens=block)
        with jax.set_mesh(mesh):
            gradient = jax.make_jaxpr(jax.grad(partial(mean_loss, forward=forward)))
            products[remat] = str(gradient(WorldModel.abstract(CONFIG), *put(mesh))).count("dot_general[")
    assert products["layer"] - products["none"] == fewer


def test_no_array_of_all_tokens_by_vocabulary_or_by_feed_forward_width(compiled):
    tokens_of_a_device = BATCH * SEQ // 2
    for width in (CONFIG.vocab, CONFIG.mlp):
        for shape in set(re.findall(r"(?:f32|pred)\[([\d,]+)\]", compiled["layer"])):
            sizes = [int(size) for size in shape.split(",")]
            assert not (sizes[-1] == width and np.prod(sizes[:-1]) >= tokens_of_a_device), shape
