"""The patch discriminator and the hinge losses that sharpen reconstructions."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ringworld.vision.vqgan import Conv, Draw, GroupNorm, Pixels

_GROUPS = 8


class PatchDiscriminator(eqx.Module):
    """Judges patches of 23 pixels, one every four pixels (PatchGAN: Isola et al., 2017, arXiv 1611.07004).

    Group normalization replaces the paper's batch normalization, so that the score of a frame does not depend
    on its batch.
    """

    conv_in: Conv
    conv_down: Conv
    norm_down: GroupNorm
    conv_wide: Conv
    norm_wide: GroupNorm
    conv_out: Conv

    @staticmethod
    def init(hidden: int, *, draw: Draw) -> "PatchDiscriminator":
        """Draw the kernels; `hidden`, a multiple of 4, doubles twice."""
        return PatchDiscriminator(
            Conv.init(3, 3, hidden, draw=draw),
            Conv.init(3, hidden, 2 * hidden, draw=draw),
            GroupNorm.init(2 * hidden, _GROUPS),
            Conv.init(3, 2 * hidden, 4 * hidden, draw=draw),
            GroupNorm.init(4 * hidden, _GROUPS),
            Conv.init(3, 4 * hidden, 1, draw=draw),
        )

    def __call__(self, pixels: Pixels) -> Float[Array, "frames rows columns 1"]:
        """Score every patch: above zero for what looks real."""
        x = jax.nn.leaky_relu(self.conv_in(pixels, stride=2), 0.2)
        x = jax.nn.leaky_relu(self.norm_down(self.conv_down(x, stride=2)), 0.2)
        x = jax.nn.leaky_relu(self.norm_wide(self.conv_wide(x)), 0.2)
        return self.conv_out(x)


def discriminator_loss(discriminator: PatchDiscriminator, real: Pixels, fake: Pixels) -> Float[Array, ""]:
    """Hinge loss: real patches should score above one and reconstructed ones below minus one."""
    scores = discriminator(jnp.concatenate([real, fake]))
    real_scores, fake_scores = jnp.split(scores, 2)
    return 0.5 * (jax.nn.relu(1 - real_scores).mean() + jax.nn.relu(1 + fake_scores).mean())


def generator_loss(fake: Pixels, discriminator: PatchDiscriminator) -> Float[Array, ""]:
    """Minus the mean score of the reconstructions."""
    return -discriminator(fake).mean()
