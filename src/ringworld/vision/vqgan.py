"""The VQGAN of LWM: a convolutional encoder, a codebook and a convolutional decoder, without attention.

Architecture: LWM `lwm/vqgan.py`, which is `VQModel` of diffusers without attention (aMUSEd) and follows
taming-transformers (Esser et al., 2021, arXiv 2012.09841). Images are [frames, height, width, channels].
"""

import itertools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from ringworld.vision.config import FrameTokenizerConfig

_NORM_EPSILON = 1e-6

Pixels = Float[Array, "frames height width 3"]
Latents = Float[Array, "frames code_rows code_columns latent"]
Features = Float[Array, "frames height width channels"]
Inputs = Float[Array, "frames height width inputs"]
Outputs = Float[Array, "frames height width outputs"]

Draw = Callable[[tuple[int, ...]], Array | np.ndarray]
"""Gives standard normals of a shape, or anything else of that shape where only shapes matter."""


def draw_on_host(seed: int) -> Draw:
    """Return a source of standard normals from NumPy.

    JAX would compile a program for each of some fifty shapes, which takes longer than a short training.
    """
    generator = np.random.default_rng(seed)
    return lambda shape: generator.standard_normal(shape, np.float32)


class Conv(eqx.Module):
    """A convolution with a bias; the kernel is HWIO."""

    kernel: Float[Array, "height width inputs outputs"]
    bias: Float[Array, " outputs"]

    @staticmethod
    def init(size: int, inputs: int, outputs: int, *, draw: Draw) -> "Conv":
        """Draw a kernel of variance one over its fan-in."""
        scale = (size * size * inputs) ** -0.5
        return Conv(jnp.asarray(scale * draw((size, size, inputs, outputs))), _constant(0, outputs))

    def __call__(self, x: Inputs, *, stride: int = 1) -> Float[Array, "frames new_height new_width outputs"]:
        """Convolve; a stride of two pads only below and to the right, as taming-transformers does."""
        margin = self.kernel.shape[0] // 2
        padding = (margin, margin) if stride == 1 else (0, 1)
        y = jax.lax.conv_general_dilated(
            x,
            self.kernel,
            window_strides=(stride, stride),
            padding=(padding, padding),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.bias[None, None, None]


class GroupNorm(eqx.Module):
    """Normalization over space and a group of neighboring channels (Wu and He, 2018, arXiv 1803.08494)."""

    scale: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    groups: int = eqx.field(static=True)

    @staticmethod
    def init(channels: int, groups: int) -> "GroupNorm":
        """Start with scale one and bias zero."""
        return GroupNorm(_constant(1, channels), _constant(0, channels), groups)

    def __call__(self, x: Features) -> Features:
        """Normalize each frame independently."""
        centered = x - self._per_channel(x.mean((1, 2)))
        variance = self._per_channel(jnp.square(centered).mean((1, 2)))
        normal = centered * jax.lax.rsqrt(variance + _NORM_EPSILON)
        return normal * self.scale[None, None, None] + self.bias[None, None, None]

    def _per_channel(self, x: Float[Array, "frames channels"]) -> Float[Array, "frames 1 1 channels"]:
        """Give every channel the mean of its group.

        Space is reduced before the channels are split: XLA on a CPU is slow with short inner dimensions.
        """
        means = x.reshape(len(x), self.groups, -1).mean(2)
        return means.repeat(x.shape[1] // self.groups, axis=1)[:, None, None]


class ResBlock(eqx.Module):
    """Two normalized convolutions and a shortcut, which is a 1x1 convolution where the channels change."""

    norm1: GroupNorm
    conv1: Conv
    norm2: GroupNorm
    conv2: Conv
    shortcut: Conv | None

    @staticmethod
    def init(inputs: int, outputs: int, groups: int, *, draw: Draw) -> "ResBlock":
        """Draw the kernels; the second is zero, so that a block begins as its shortcut.

        Without normalization on its way, a plain shape gets its color in half the steps (Fixup: Zhang et al.,
        2019, arXiv 1901.09321).
        """
        return ResBlock(
            GroupNorm.init(inputs, groups),
            Conv.init(3, inputs, outputs, draw=draw),
            GroupNorm.init(outputs, groups),
            Conv(_constant(0, 3, 3, outputs, outputs), _constant(0, outputs)),
            None if inputs == outputs else Conv.init(1, inputs, outputs, draw=draw),
        )

    def __call__(self, x: Inputs) -> Outputs:
        """Add the residual."""
        h = self.conv1(jax.nn.silu(self.norm1(x)))
        h = self.conv2(jax.nn.silu(self.norm2(h)))
        return h + (x if self.shortcut is None else self.shortcut(x))


class Level(eqx.Module):
    """Residual blocks at one resolution, then a convolution that halves or doubles it (None at the last)."""

    blocks: tuple[ResBlock, ...]
    resample: Conv | None

    @staticmethod
    def chain(widths: tuple[int, ...], *, blocks: int, groups: int, draw: Draw) -> "tuple[Level, ...]":
        """Draw levels that lead from each width to the next; the first block of each changes the channels."""
        levels = []
        for ends, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=2):
            block_inputs = (inputs,) + (outputs,) * (blocks - 1)
            drawn = tuple(ResBlock.init(width, outputs, groups, draw=draw) for width in block_inputs)
            is_last = ends == len(widths)
            levels.append(Level(drawn, None if is_last else Conv.init(3, outputs, outputs, draw=draw)))
        return tuple(levels)

    def __call__(self, x: Inputs) -> Outputs:
        """Apply the blocks, at one resolution."""
        for block in self.blocks:
            x = block(x)
        return x


class Encoder(eqx.Module):
    """Frames to latents."""

    conv_in: Conv
    levels: tuple[Level, ...]
    middle: Level
    norm_out: GroupNorm
    conv_out: Conv

    @staticmethod
    def init(config: FrameTokenizerConfig, *, draw: Draw) -> "Encoder":
        """Draw the kernels."""
        widths = (config.channels[0], *config.channels)
        levels = Level.chain(widths, blocks=config.res_blocks, groups=config.groups, draw=draw)
        return Encoder(
            Conv.init(3, 3, config.channels[0], draw=draw),
            levels,
            Level.chain(2 * widths[-1:], blocks=2, groups=config.groups, draw=draw)[0],
            GroupNorm.init(widths[-1], config.groups),
            Conv.init(3, widths[-1], config.latent, draw=draw),
        )

    def __call__(self, pixels: Pixels) -> Latents:
        """Encode pixels in the network's own range."""
        x = self.conv_in(pixels)
        for level in self.levels:
            x = level(x)
            x = x if level.resample is None else level.resample(x, stride=2)
        return self.conv_out(jax.nn.silu(self.norm_out(self.middle(x))))


class Decoder(eqx.Module):
    """Latents to frames."""

    conv_in: Conv
    middle: Level
    levels: tuple[Level, ...]
    norm_out: GroupNorm
    conv_out: Conv

    @staticmethod
    def init(config: FrameTokenizerConfig, *, draw: Draw) -> "Decoder":
        """Draw the kernels; `levels` are in order of execution, from codes to pixels."""
        widths = (config.channels[-1], *reversed(config.channels))
        levels = Level.chain(widths, blocks=config.res_blocks + 1, groups=config.groups, draw=draw)
        return Decoder(
            Conv.init(3, config.latent, widths[0], draw=draw),
            Level.chain(2 * widths[:1], blocks=2, groups=config.groups, draw=draw)[0],
            levels,
            GroupNorm.init(widths[-1], config.groups),
            Conv.init(3, widths[-1], 3, draw=draw),
        )

    def features(self, latents: Latents) -> Features:
        """Decode up to the input of `conv_out`, the layer that balances the two losses in training."""
        x = self.middle(self.conv_in(latents))
        for level in self.levels:
            x = level(x)
            if level.resample is not None:
                x = level.resample(x.repeat(2, axis=1).repeat(2, axis=2))
        return jax.nn.silu(self.norm_out(x))


class FrameAutoencoder(eqx.Module):
    """Encoder, codebook and decoder, with the 1x1 convolutions before and after the codebook."""

    encoder: Encoder
    quant_conv: Conv
    codebook: Float[Array, "codes latent"]
    post_quant_conv: Conv
    decoder: Decoder

    @staticmethod
    def init(config: FrameTokenizerConfig, *, draw: Draw) -> "FrameAutoencoder":
        """Draw the kernels and a codebook close to zero, which training replaces."""
        return FrameAutoencoder(
            Encoder.init(config, draw=draw),
            Conv.init(1, config.latent, config.latent, draw=draw),
            jnp.asarray(draw((config.codebook_size, config.latent)) / config.codebook_size),
            Conv.init(1, config.latent, config.latent, draw=draw),
            Decoder.init(config, draw=draw),
        )

    @staticmethod
    def abstract(config: FrameTokenizerConfig) -> "FrameAutoencoder":
        """Return the tree of `jax.ShapeDtypeStruct`, without drawing anything."""
        return eqx.filter_eval_shape(lambda: FrameAutoencoder.init(config, draw=jnp.zeros))

    def latents(self, pixels: Pixels) -> Latents:
        """Encode pixels up to what is compared with the codebook."""
        return self.quant_conv(self.encoder(pixels))

    def decoder_features(self, latents: Latents) -> Features:
        """Decode latents up to the input of the last convolution."""
        return self.decoder.features(self.post_quant_conv(latents))

    def encode(self, pixels: Pixels) -> Int32[Array, "frames codes"]:
        """Encode pixels to codes in row-major order."""
        latents = self.latents(pixels)
        return nearest_codes(latents.reshape(-1, latents.shape[-1]), self.codebook).reshape(len(pixels), -1)

    def decode(self, codes: Int32[Array, "frames codes"]) -> Pixels:
        """Decode the codes of square frames to pixels in the network's own range, not yet clipped."""
        side = round(codes.shape[1] ** 0.5)
        latents = self.codebook[codes].reshape(len(codes), side, side, -1)
        return self.decoder.conv_out(self.decoder_features(latents))


def nearest_codes(
    latents: Float[Array, "vectors latent"], codebook: Float[Array, "codes latent"]
) -> Int32[Array, " vectors"]:
    """Return the code with the smallest squared distance to each vector; the first where they tie."""
    products = jnp.matmul(latents, codebook.T, precision="highest")
    # The square of the vector itself is the same for every code.
    return jnp.argmin(jnp.square(codebook).sum(1)[None] - 2 * products, axis=1).astype(jnp.int32)


def _constant(value: int, *shape: int) -> Float[Array, "..."]:
    # A view, so that an abstract tree takes no memory.
    return jnp.asarray(np.broadcast_to(np.float32(value), shape))
