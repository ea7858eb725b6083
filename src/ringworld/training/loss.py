"""The loss of packed sequences: every example counts as it would alone in a padded row."""

from typing import Final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32, Num

from ringworld.data.batch import PackedBatch
from ringworld.model.world_model import positions

POSITION_STARTS: Final = (0, 256, 1024, 4096, 16_384, 65_536, 262_144)
"""Positions in an example, in tokens, at which the parts of a loss by position begin; the last has no end."""


class LossWeights(eqx.Module):
    """Share of each token in the loss of one update; `loss = sum((text + vision) * nll)`."""

    text: Float32[Array, "*micro batch seq"]
    """Text weights, scaled by the modality's share over their sum."""
    vision: Float32[Array, "*micro batch seq"]
    """The same over vision."""
    text_share: Float32[Array, ""]
    """Part of the text loss in the total: 0 without text, 1 without vision."""
    vision_share: Float32[Array, ""]
    """Part of the vision loss in the total."""


class LossOutput(eqx.Module):
    """Loss of one update, in nats a target."""

    loss: Float32[Array, ""]
    """Mean of the modalities that are present, by their weights: LWM's 0.5 and 0.5."""
    text_loss: Float32[Array, ""]
    """Mean over examples with text loss; 0 where there is none."""
    vision_loss: Float32[Array, ""]
    """Mean over examples with vision loss; 0 where there is none."""
    text_targets: Int32[Array, ""]
    """Text targets that carry loss."""
    vision_targets: Int32[Array, ""]
    """Vision targets that carry loss."""
    tokens: Int32[Array, ""]
    """Tokens without padding, whether they carry loss or not."""
    position_losses: Float32[Array, "modalities=2 positions"]
    """Those over text and over vision, of the tokens from each of `POSITION_STARTS` on; 0 where none carries
    loss."""
    position_targets: Int32[Array, "modalities=2 positions"]
    """Targets there that carry loss."""


def loss_weights(batch: PackedBatch, *, text_weight: float, vision_weight: float) -> LossWeights:
    """Scale the weights of a whole update, so that parts of it can be computed apart and added.

    With `text_weight = vision_weight = 0.5`:

    | text | vision | share of text | share of vision |
    |---|---|---|---|
    | present | present | 0.5 | 0.5 |
    | present | absent | 1 | 0 |
    | absent | present | 0 | 1 |
    | absent | absent | 0 | 0 |

    Args:
        batch: every field [..., batch, seq], with all the sequences of the update.
        text_weight: weight of the text loss.
        vision_weight: weight of the vision loss.
    """
    text_sum, vision_sum = batch.text_weights.sum(), batch.vision_weights.sum()
    text = jnp.where(text_sum > 0, jnp.float32(text_weight), 0.0)
    vision = jnp.where(vision_sum > 0, jnp.float32(vision_weight), 0.0)
    total = jnp.maximum(text + vision, jnp.finfo(jnp.float32).tiny)
    text_share, vision_share = text / total, vision / total
    return LossWeights(
        text=batch.text_weights * _over(text_share, text_sum),
        vision=batch.vision_weights * _over(vision_share, vision_sum),
        text_share=text_share,
        vision_share=vision_share,
    )


def loss_output(
    parts: Float32[Array, "modalities=2 positions"], weights: LossWeights, batch: PackedBatch
) -> LossOutput:
    """Undo the shares: from the parts of a loss to the loss over each modality.

    Args:
        parts: sums of `weights` times losses, by position.
        weights: of the whole update.
        batch: of the whole update.
    """
    shares = by_position(weights.text, weights.vision, batch=batch)
    carry = ((one > 0).astype(jnp.int32) for one in (batch.text_weights, batch.vision_weights))
    targets = by_position(*carry, batch=batch)
    text_loss, vision_loss = parts.sum(axis=1)
    return LossOutput(
        loss=parts.sum(),
        text_loss=_over(text_loss, weights.text_share),
        vision_loss=_over(vision_loss, weights.vision_share),
        text_targets=targets[0].sum(),
        vision_targets=targets[1].sum(),
        tokens=(batch.order >= 0).sum(dtype=jnp.int32),
        position_losses=_over(parts, shares),
        position_targets=targets,
    )


def by_position(
    text: Num[Array, "*micro batch seq"], vision: Num[Array, "*micro batch seq"], *, batch: PackedBatch
) -> Num[Array, "modalities=2 positions"]:
    """Return sums of what tokens have, over those from each of `POSITION_STARTS` in their examples on.

    Example:
        Tokens at positions 0, 255, 256 and 300000 of their examples, which have 1, 2, 4 and 8:
        `3 4 0 0 0 0 8`.
    """
    starts = jnp.array(POSITION_STARTS, jnp.int32)
    ends = jnp.append(starts[1:], jnp.iinfo(jnp.int32).max)
    place = positions(batch.order, batch.first)[..., None]
    alike = (1,) * (place.ndim - 1) + (-1,)
    within = (place >= starts.reshape(alike)) & (place < ends.reshape(alike))
    every = tuple(range(place.ndim - 1))
    return jnp.stack([jnp.where(within, one[..., None], 0).sum(axis=every) for one in (text, vision)])


def _over(value: Float32[Array, "*parts"], by: Float32[Array, "*parts"]) -> Float32[Array, "*parts"]:
    """Divide, with 0 for what is absent."""
    return value / jnp.where(by > 0, by, 1.0)
