"""One step of VQGAN training: the autoencoder, its codebook and, from a step on, the discriminator.

The step is a few compiled programs, chosen between on the host. As one program with branches it takes twice
as long to compile, and XLA on a CPU runs convolutions inside a branch thirty times slower.
"""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32, PRNGKeyArray, PyTree, UInt8

from ringworld.vision.codebook import CodebookAverages, follow_latents, init_codebook
from ringworld.vision.config import FrameTokenizerConfig, FrameTrainingConfig
from ringworld.vision.discriminator import PatchDiscriminator, discriminator_loss, generator_loss
from ringworld.vision.frame_tokenizer import to_pixels
from ringworld.vision.vqgan import FrameAutoencoder, draw_on_host, nearest_codes

_LARGEST_BALANCE = 1e4
_TINY = 1e-6


class TokenizerState(eqx.Module):
    """All that training changes."""

    autoencoder: FrameAutoencoder
    averages: CodebookAverages
    discriminator: PatchDiscriminator
    autoencoder_moments: optax.OptState
    discriminator_moments: optax.OptState


class TokenizerMetrics(eqx.Module):
    """Losses of one step, before their weights; `balance` is the adaptive weight of the adversarial loss."""

    reconstruction: Float[Array, ""]
    commitment: Float[Array, ""]
    adversarial: Float[Array, ""]
    discriminator: Float[Array, ""]
    balance: Float[Array, ""]
    codes_used: Int32[Array, ""]


class _Forward(eqx.Module):
    """A batch through the autoencoder, and the function that gives the gradient of its weights."""

    pixels: Float[Array, "frames side side 3"]
    output: Float[Array, "frames side side 3"]
    commitment: Float[Array, ""]
    pull_back: Callable
    features: Float[Array, "frames side side channels"]
    latents: Float[Array, "vectors latent"]
    chosen: Int32[Array, " vectors"]


class _Adversarial(eqx.Module):
    """Losses and gradient of the discriminator on a batch; the gradient is already weighted."""

    pixel_gradient: Float[Array, "frames side side 3"]
    generator_loss: Float[Array, ""]
    discriminator_loss: Float[Array, ""]
    balance: Float[Array, ""]


def init_state(config: FrameTokenizerConfig, training: FrameTrainingConfig) -> TokenizerState:
    """Draw all weights from the seed."""
    draw = draw_on_host(training.seed)
    autoencoder = FrameAutoencoder.init(config, draw=draw)
    discriminator = PatchDiscriminator.init(training.discriminator_hidden, draw=draw)
    return TokenizerState(
        autoencoder,
        CodebookAverages(jnp.ones(config.codebook_size), autoencoder.codebook),
        discriminator,
        _optimizer(training).init(eqx.filter(autoencoder, eqx.is_array)),
        _optimizer(training).init(eqx.filter(discriminator, eqx.is_array)),
    )


def train_step(
    state: TokenizerState,
    frames: UInt8[Array, "frames side side 3"],
    step: int,
    *,
    config: FrameTokenizerConfig,
    training: FrameTrainingConfig,
) -> tuple[TokenizerState, TokenizerMetrics]:
    """Take step number `step`, counted from zero.

    | step | latents reach the decoder | codebook | discriminator |
    |---|---|---|---|
    | below `continuous_steps` | as they are | not there yet | not used |
    | `continuous_steps` | quantized, straight through | initialized, follows the latents | not used |
    | above | quantized, straight through | follows the latents | not used |
    | `adversarial_start_step` and on | quantized, straight through | follows the latents | trained and used |
    """
    key = jax.random.fold_in(jax.random.key(training.seed), step)
    quantized = jnp.bool_(step >= training.continuous_steps)
    if step == training.continuous_steps:
        latents = _forward(state.autoencoder, frames, quantized, config=config).latents
        state = _init_codebook(state, latents, key)
    forward = _forward(state.autoencoder, frames, quantized, config=config)
    if step < training.adversarial_start_step:
        # On the devices where the discriminator's would be, so that `_update` is compiled once.
        zero = jnp.zeros_like(forward.commitment)
        adversarial = _Adversarial(jnp.zeros_like(forward.output), zero, zero, zero)
    else:
        state, adversarial = _discriminate(state, forward, training=training)
    return _update(state, forward, adversarial, quantized, key, training=training)


@functools.partial(jax.jit, static_argnames="config")
def _forward(
    autoencoder: FrameAutoencoder,
    frames: UInt8[Array, "frames side side 3"],
    quantized: Bool[Array, ""],
    *,
    config: FrameTokenizerConfig,
) -> _Forward:
    pixels = to_pixels(frames, config)

    def reconstruct(autoencoder: FrameAutoencoder) -> tuple[tuple[Array, Array], tuple[Array, Array, Array]]:
        latents = autoencoder.latents(pixels)
        flat = jax.lax.stop_gradient(latents.reshape(-1, latents.shape[-1]))
        codebook = jax.lax.stop_gradient(autoencoder.codebook)
        chosen = nearest_codes(flat, codebook)
        codes = codebook[chosen].reshape(latents.shape)
        to_code = jax.lax.stop_gradient(codes - latents)
        features = autoencoder.decoder_features(latents + jnp.where(quantized, to_code, 0.0))
        output = autoencoder.decoder.conv_out(features)
        return (output, jnp.square(latents - codes).mean()), (features, flat, chosen)

    (output, commitment), pull_back, (features, latents, chosen) = jax.vjp(
        reconstruct, autoencoder, has_aux=True
    )
    return _Forward(pixels, output, commitment, pull_back, features, latents, chosen)


@jax.jit
def _init_codebook(
    state: TokenizerState, latents: Float[Array, "vectors latent"], key: PRNGKeyArray
) -> TokenizerState:
    averages = init_codebook(latents, codes=len(state.autoencoder.codebook), key=key)
    return _with_averages(state, averages)


@functools.partial(jax.jit, static_argnames="training")
def _discriminate(
    state: TokenizerState, forward: _Forward, *, training: FrameTrainingConfig
) -> tuple[TokenizerState, _Adversarial]:
    """Train the discriminator, and weight its gradient by VQGAN's equation 7 at the decoder's last layer."""
    adversarial, gradient = jax.value_and_grad(generator_loss)(forward.output, state.discriminator)
    reconstruction_gradient = jax.grad(_reconstruction_loss)(forward.output, forward.pixels, training)
    _, pull_back = jax.vjp(lambda last: last(forward.features), state.autoencoder.decoder.conv_out)
    norms = [
        jnp.linalg.norm(pull_back(cotangent)[0].kernel.ravel())
        for cotangent in (reconstruction_gradient, gradient)
    ]
    balance = jnp.minimum(norms[0] / (norms[1] + _TINY), _LARGEST_BALANCE) * training.adversarial_weight
    loss, own_gradient = jax.value_and_grad(discriminator_loss)(
        state.discriminator, forward.pixels, forward.output
    )
    trained = _adam(state.discriminator, own_gradient, state.discriminator_moments, training)
    state = eqx.tree_at(lambda tree: (tree.discriminator, tree.discriminator_moments), state, trained)
    return state, _Adversarial(balance * gradient, adversarial, loss, balance)


@functools.partial(jax.jit, static_argnames="training")
def _update(
    state: TokenizerState,
    forward: _Forward,
    adversarial: _Adversarial,
    quantized: Bool[Array, ""],
    key: PRNGKeyArray,
    *,
    training: FrameTrainingConfig,
) -> tuple[TokenizerState, TokenizerMetrics]:
    reconstruction, pixel_gradient = jax.value_and_grad(_reconstruction_loss)(
        forward.output, forward.pixels, training
    )
    commitment_gradient = jnp.where(quantized, training.commitment_weight, 0.0)
    (gradient,) = forward.pull_back((pixel_gradient + adversarial.pixel_gradient, commitment_gradient))
    trained = _adam(state.autoencoder, gradient, state.autoencoder_moments, training)
    state = eqx.tree_at(lambda tree: (tree.autoencoder, tree.autoencoder_moments), state, trained)
    followed = follow_latents(
        state.averages,
        forward.latents,
        forward.chosen,
        decay=training.codebook_decay,
        revive_below=training.revive_below,
        key=key,
    )
    averages = jax.tree.map(lambda new, old: jnp.where(quantized, new, old), followed, state.averages)
    used = jnp.zeros(len(averages.counts), jnp.int32).at[forward.chosen].set(1).sum()
    return _with_averages(state, averages), TokenizerMetrics(
        reconstruction,
        forward.commitment,
        adversarial.generator_loss,
        adversarial.discriminator_loss,
        adversarial.balance,
        used,
    )


def _with_averages(state: TokenizerState, averages: CodebookAverages) -> TokenizerState:
    return eqx.tree_at(
        lambda tree: (tree.averages, tree.autoencoder.codebook), state, (averages, averages.codebook())
    )


def _reconstruction_loss(output: Array, pixels: Array, training: FrameTrainingConfig) -> Float[Array, ""]:
    error = output - pixels
    # A difference of neighbors is linear, so the error of the differences is the difference of the errors.
    edges = jnp.abs(jnp.diff(error, axis=1)).mean() + jnp.abs(jnp.diff(error, axis=2)).mean()
    return (
        training.l1_weight * jnp.abs(error).mean()
        + training.l2_weight * jnp.square(error).mean()
        + training.edge_weight * edges
    )


def _adam(
    network: PyTree, gradient: PyTree, moments: optax.OptState, training: FrameTrainingConfig
) -> tuple[PyTree, PyTree]:
    # optax raises floats to integer powers.
    with jax.numpy_dtype_promotion("standard"):
        updates, moments = _optimizer(training).update(gradient, moments)
    return eqx.apply_updates(network, updates), moments


def _optimizer(training: FrameTrainingConfig) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(
        training.learning_rate / 10,
        training.learning_rate,
        training.warmup_steps,
        max(training.steps, training.warmup_steps + 1),
        end_value=training.learning_rate / 10,
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b1=0.9, b2=0.99))
