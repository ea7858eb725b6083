"""Which gradients reach which weights in one step; Adam's first step moves each weight against its sign."""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import Array, Float

from ringworld.vision.codebook import CodebookAverages
from ringworld.vision.config import FrameTokenizerConfig, FrameTrainingConfig
from ringworld.vision.frame_tokenizer import to_pixels
from ringworld.vision.train_step import TokenizerState, init_state, train_step
from ringworld.vision.vqgan import FrameAutoencoder

CONFIG = FrameTokenizerConfig(resolution=8, channels=(4,), res_blocks=1, latent=3, codebook_size=8, groups=2)
COMMITMENT = FrameTrainingConfig(
    steps=100,
    batch_frames=2,
    continuous_steps=10,
    adversarial_start_step=100,
    discriminator_hidden=4,
    l2_weight=0.0,
    edge_weight=0.0,
    seed=2**32 - 1,  # the largest that a configuration accepts
)
RECONSTRUCTION = dataclasses.replace(COMMITMENT, l2_weight=1.0, commitment_weight=0.0)
FRAMES = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8))
PIXELS = to_pixels(FRAMES, CONFIG)
QUANTIZED_STEP = 11


@pytest.fixture(scope="module")
def state() -> TokenizerState:
    """A state as in the middle of training: no kernel is zero, and the codes are as spread as latents."""
    fresh = init_state(CONFIG, COMMITMENT)
    rng = np.random.default_rng(1)
    noise = jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), fresh.autoencoder)
    autoencoder = jax.tree.map(lambda leaf, by: leaf + by, fresh.autoencoder, noise)
    codebook = jnp.asarray(rng.standard_normal((8, 3), np.float32))
    autoencoder = eqx.tree_at(lambda tree: tree.codebook, autoencoder, codebook)
    averages = CodebookAverages(jnp.ones(8), codebook)
    return eqx.tree_at(lambda tree: (tree.autoencoder, tree.averages), fresh, (autoencoder, averages))


def codes_of(autoencoder: FrameAutoencoder) -> Float[Array, "frames rows columns latent"]:
    """Return the code of each latent, found one distance at a time."""
    latents = autoencoder.latents(PIXELS)
    distances = jnp.square(latents[..., None, :] - autoencoder.codebook[None, None, None]).sum(-1)
    return autoencoder.codebook[distances.argmin(-1)]


@jax.jit
def straight_through(autoencoder: FrameAutoencoder) -> FrameAutoencoder:
    """The chain rule by hand: the gradient at the codes is handed to the latents as it is."""

    def loss(decoder_and_post: tuple, codes: Array) -> Array:
        post_quant_conv, decoder = decoder_and_post
        output = decoder.conv_out(decoder.features(post_quant_conv(codes)))
        return jnp.square(output - PIXELS).mean()

    (post, decoder), at_codes = jax.grad(loss, argnums=(0, 1))(
        (autoencoder.post_quant_conv, autoencoder.decoder), codes_of(autoencoder)
    )
    _, encoder_gradient = jax.vjp(lambda tree: tree.latents(PIXELS), autoencoder)
    (gradient,) = encoder_gradient(at_codes)
    return eqx.tree_at(lambda tree: (tree.post_quant_conv, tree.decoder), gradient, (post, decoder))


@jax.jit
def commitment(autoencoder: FrameAutoencoder) -> FrameAutoencoder:
    """The gradient of the mean squared distance of the latents from codes that stay where they are."""
    codes = codes_of(autoencoder)
    return jax.grad(lambda tree: jnp.square(tree.latents(PIXELS) - codes).mean())(autoencoder)


@pytest.mark.parametrize(
    ("training", "gradient_of"), [(RECONSTRUCTION, straight_through), (COMMITMENT, commitment)]
)
def test_a_quantized_step_moves_each_weight_against_its_gradient(
    state: TokenizerState,
    training: FrameTrainingConfig,
    gradient_of: Callable[[FrameAutoencoder], FrameAutoencoder],
):
    moved, _ = train_step(state, FRAMES, QUANTIZED_STEP, config=CONFIG, training=training)
    expected = gradient_of(state.autoencoder)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    compared = 0
    for (path, before), after, slope in zip(
        jax.tree_util.tree_leaves_with_path(state.autoencoder),
        jax.tree.leaves(moved.autoencoder),
        jax.tree.leaves(expected),
        strict=True,
    ):
        if jax.tree_util.keystr(path) == ".codebook":  # follows the latents, not a gradient
            continue
        # Below this, the sign is a matter of rounding, or Adam's epsilon makes the step small.
        clear = np.abs(slope) > 1e-3 * largest
        compared += int(clear.sum())
        np.testing.assert_array_equal(np.sign(after - before)[clear], -np.sign(slope)[clear], str(path))
        np.testing.assert_array_equal(np.asarray(after - before)[np.asarray(slope) == 0], 0, str(path))
    encoder = np.abs(moved.autoencoder.encoder.conv_in.kernel - state.autoencoder.encoder.conv_in.kernel)
    assert encoder.max() > 0 and compared > 100


def test_no_gradient_reaches_the_codebook(state: TokenizerState):
    """It would count in the norm that the other gradients are clipped by, and in Adam's moments."""
    moved, _ = train_step(state, FRAMES, QUANTIZED_STEP, config=CONFIG, training=COMMITMENT)
    moments = optax.tree_utils.tree_get(moved.autoencoder_moments, "mu")
    assert float(jnp.abs(moments.codebook).max()) == 0 < float(jnp.abs(moments.quant_conv.kernel).max())


def test_a_long_gradient_is_cut_to_length_one_before_it_is_averaged(state: TokenizerState):
    loud = eqx.tree_at(
        lambda tree: tree.autoencoder.decoder.conv_out.kernel, state, replace_fn=lambda x: 99 * x
    )
    assert optax.tree_utils.tree_norm(straight_through(loud.autoencoder)) > 10
    moved, _ = train_step(loud, FRAMES, QUANTIZED_STEP, config=CONFIG, training=RECONSTRUCTION)
    average = optax.tree_utils.tree_norm(optax.tree_utils.tree_get(moved.autoencoder_moments, "mu"))
    # Adam's first average of a gradient is a tenth of it.
    np.testing.assert_allclose(average, 0.1, rtol=1e-5)


def test_the_codebook_follows_the_latents_by_moving_averages(state: TokenizerState):
    moved, metrics = train_step(state, FRAMES, QUANTIZED_STEP, config=CONFIG, training=COMMITMENT)
    latents = np.asarray(state.autoencoder.latents(PIXELS), np.float64).reshape(-1, 3)
    codebook = np.asarray(state.autoencoder.codebook, np.float64)
    nearest = np.square(latents[:, None] - codebook).sum(-1).argmin(-1)
    decay = COMMITMENT.codebook_decay
    for code in range(8):
        chose = latents[nearest == code]
        count, total = decay + (1 - decay) * len(chose), decay * codebook[code] + (1 - decay) * chose.sum(0)
        np.testing.assert_allclose(moved.autoencoder.codebook[code], total / count, rtol=1e-5, atol=1e-6)
    assert metrics.codes_used == len(np.unique(nearest))


def test_before_the_codebook_latents_reach_the_decoder_as_they_are(state: TokenizerState):
    early, metrics = train_step(state, FRAMES, 3, config=CONFIG, training=RECONSTRUCTION)
    output = jax.jit(lambda tree: tree.decoder.conv_out(tree.decoder_features(tree.latents(PIXELS))))
    error = output(state.autoencoder) - PIXELS
    np.testing.assert_allclose(metrics.reconstruction, jnp.square(error).mean(), rtol=1e-5)
    np.testing.assert_array_equal(early.autoencoder.codebook, state.autoencoder.codebook)
