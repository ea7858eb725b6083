from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.model.cross_entropy import cross_entropy, weighted_cross_entropy

TEXT, VISION, EMBED, BATCH, SEQ = 20, 12, 16, 2, 16


def inputs():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(BATCH, SEQ, EMBED)).astype(np.float32)
    output_head = rng.normal(size=(EMBED, TEXT + VISION)).astype(np.float32)
    targets = rng.integers(0, TEXT + VISION, (BATCH, SEQ)).astype(np.int32)
    targets[0, 3], targets[1, :5] = -1, -1
    weights = rng.uniform(size=(BATCH, SEQ)).astype(np.float32)
    weights[0, 5] = 0
    return hidden, output_head, targets, weights


def dense(hidden, output_head, targets, weights):
    """NumPy, float64: losses, and gradients of sum(weights * losses)."""
    hidden, output_head, weights = (x.astype(np.float64) for x in (hidden, output_head, weights))
    losses = np.zeros(targets.shape)
    d_hidden, d_output_head = np.zeros_like(hidden), np.zeros_like(output_head)
    for b, s in np.ndindex(targets.shape):
        target = targets[b, s]
        if target < 0:
            continue
        ids = slice(0, TEXT) if target < TEXT else slice(TEXT, None)
        scores = hidden[b, s] @ output_head[:, ids]
        p = np.exp(scores - scores.max())
        p /= p.sum()
        losses[b, s] = -np.log(p[target - ids.start])
        p[target - ids.start] -= 1
        d_hidden[b, s] = weights[b, s] * output_head[:, ids] @ p
        d_output_head[:, ids] += weights[b, s] * np.outer(hidden[b, s], p)
    return losses, d_hidden, d_output_head


@pytest.mark.parametrize(
    "sizes",
    [
        MeshConfig(),
        MeshConfig(ring=2),
        MeshConfig(fsdp=2, ring=2, tensor=2),
        MeshConfig(data=2, ulysses=2, tensor=2),
    ],
    ids=["1", "ring2", "fsdp2-ring2-tensor2", "data2-ulysses2-tensor2"],
)
@pytest.mark.parametrize("block_tokens", [3, 512])
def test_losses_and_gradients_equal_numpy(sizes, block_tokens):
    arrays = inputs()
    mesh = make_mesh(sizes, devices=jax.devices()[: sizes.devices])
    layouts = (("batch", "seq", "embed"), ("weight", "vocab"), ("batch", "seq"), ("batch", "seq"))
    hidden, output_head, targets, weights = (
        jax.device_put(x, jax.NamedSharding(mesh, spec(*layout))) for x, layout in zip(arrays, layouts)
    )

    options = {"text_vocab": TEXT, "block_tokens": block_tokens}

    def twice_total(hidden, output_head):
        total, losses = weighted_cross_entropy(hidden, output_head, targets, weights, **options)
        return 2 * total, losses

    with jax.set_mesh(mesh):
        alone = jax.jit(partial(cross_entropy, **options))(hidden, output_head, targets)
        graded = jax.jit(jax.value_and_grad(twice_total, argnums=(0, 1), has_aux=True))(hidden, output_head)
    (twice, losses), gradients = graded
    want_losses, want_hidden, want_output_head = dense(*arrays)
    # A score is a sum of 16 products of size about 1, a gradient of the output head one of 32: 1e-6 each.
    np.testing.assert_allclose(losses, want_losses, rtol=0, atol=1e-5)
    np.testing.assert_allclose(alone, want_losses, rtol=0, atol=1e-5)
    np.testing.assert_allclose(twice, 2 * (arrays[3] * want_losses).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradients[0], 2 * want_hidden, rtol=0, atol=2e-5)
    np.testing.assert_allclose(gradients[1], 2 * want_output_head, rtol=0, atol=2e-5)
    assert gradients[1].sharding == output_head.sharding


def test_confident_and_padded_targets_stay_finite():
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    hidden = jnp.full((1, 4, EMBED), 1e4, jnp.float32)
    output_head = jnp.linspace(-1, 1, EMBED * (TEXT + VISION), dtype=jnp.float32).reshape(EMBED, -1)
    targets = jnp.array([[-1, 0, TEXT, TEXT + VISION - 1]], jnp.int32)

    def total(hidden, output_head, targets):
        weights = jnp.ones_like(targets, jnp.float32)
        return weighted_cross_entropy(hidden, output_head, targets, weights, text_vocab=TEXT)[0]

    with jax.set_mesh(mesh):
        placed = [
            jax.device_put(x, jax.NamedSharding(mesh, spec(*layout)))
            for x, layout in zip(
                (hidden, output_head, targets),
                (("batch", "seq", "embed"), ("weight", "vocab"), ("batch", "seq")),
            )
        ]
        value, gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(*placed)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


def test_a_model_of_text_alone_has_one_softmax():
    mesh = make_mesh(MeshConfig(), devices=jax.devices()[:1])
    draws = np.random.default_rng(0)
    hidden, output_head = draws.normal(size=(1, 4, EMBED)), draws.normal(size=(EMBED, TEXT))
    targets = np.array([[0, 1, TEXT - 1, -1]], np.int32)
    with jax.set_mesh(mesh):
        placed = (
            jax.device_put(x, jax.NamedSharding(mesh, spec(*layout)))
            for x, layout in (
                (hidden.astype(np.float32), ("batch", "seq", "embed")),
                (output_head.astype(np.float32), ("weight", "vocab")),
                (targets, ("batch", "seq")),
            )
        )
        losses = jax.jit(partial(cross_entropy, text_vocab=TEXT))(*placed)
    scores = hidden[0] @ output_head
    want = np.log(np.exp(scores).sum(1)) - scores[np.arange(4), np.maximum(targets[0], 0)]
    # Scores are sums of 16 products of size about 1.
    np.testing.assert_allclose(losses[0], np.where(targets[0] < 0, 0, want), rtol=0, atol=1e-5)
