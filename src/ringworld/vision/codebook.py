"""A codebook that follows the latents: initialized by k-means++, updated by moving averages.

Moving averages: van den Oord et al., 2017 (arXiv 1711.00937), appendix A.1. Initialization from data:
SoundStream (arXiv 2107.03312), III.C. Restarts of dead codes: Jukebox (arXiv 2005.00341), 3.1, there at any
latent; here latents far from their code are likelier, since in a frame that is mostly background a random
latent is background too.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, PRNGKeyArray

from ringworld.vision.vqgan import nearest_codes

_LLOYD_ITERATIONS = 5
_TINY = 1e-12


class CodebookAverages(eqx.Module):
    """Moving averages over steps of how many latents chose each code and of their sum."""

    counts: Float[Array, " codes"]
    sums: Float[Array, "codes latent"]

    def codebook(self) -> Float[Array, "codes latent"]:
        """Return the mean of each code's latents."""
        return self.sums / self.counts[:, None]


def init_codebook(
    latents: Float[Array, "vectors latent"], *, codes: int, key: PRNGKeyArray
) -> CodebookAverages:
    """Cluster the latents: k-means++ (Arthur and Vassilvitskii, 2007), then a few of Lloyd's iterations."""

    def choose(nearest: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        center = latents[jax.random.categorical(key, jnp.log(nearest + _TINY))]
        return jnp.minimum(nearest, jnp.square(latents - center[None]).sum(1)), center

    def refine(codebook: Array, _: None) -> tuple[Array, None]:
        counts, sums = _assigned(latents, nearest_codes(latents, codebook), codes)
        moved = sums / jnp.maximum(counts, 1)[:, None]
        return jnp.where(counts[:, None] > 0, moved, codebook), None

    _, codebook = jax.lax.scan(choose, jnp.ones(len(latents)), jax.random.split(key, codes))
    codebook, _ = jax.lax.scan(refine, codebook, None, length=_LLOYD_ITERATIONS)
    counts, _ = _assigned(latents, nearest_codes(latents, codebook), codes)
    counts = jnp.maximum(counts, 1)
    return CodebookAverages(counts, codebook * counts[:, None])


def follow_latents(
    averages: CodebookAverages,
    latents: Float[Array, "vectors latent"],
    chosen: Int32[Array, " vectors"],
    *,
    decay: float,
    revive_below: float,
    key: PRNGKeyArray,
) -> CodebookAverages:
    """Move each code towards the latents that chose it, and restart those that too few chose.

    A latent is drawn for a restart with a probability in proportion to its squared distance from its code.
    """
    counts, sums = _assigned(latents, chosen, len(averages.counts))
    counts = decay * averages.counts + (1 - decay) * counts
    sums = decay * averages.sums + (1 - decay) * sums
    distances = jnp.square(latents - averages.codebook()[chosen]).sum(1)
    drawn = jax.random.categorical(key, jnp.log(distances + _TINY), shape=counts.shape)
    dead = counts < revive_below
    return CodebookAverages(jnp.where(dead, 1.0, counts), jnp.where(dead[:, None], latents[drawn], sums))


def _assigned(latents: Array, chosen: Array, codes: int) -> tuple[Array, Array]:
    counts = jnp.zeros(codes).at[chosen].add(1.0)
    return counts, jnp.zeros((codes, latents.shape[1])).at[chosen].add(latents)
