"""The loss of packed sequences: every example counts as it would alone in a padded row."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int32

from ringworld.data.batch import PackedBatch


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
    parts: Float32[Array, "modalities=2"], weights: LossWeights, batch: PackedBatch
) -> LossOutput:
    """Undo the shares: from the parts of a loss to the loss over each modality."""
    return LossOutput(
        loss=parts.sum(),
        text_loss=_over(parts[0], weights.text_share),
        vision_loss=_over(parts[1], weights.vision_share),
        text_targets=(batch.text_weights > 0).sum(dtype=jnp.int32),
        vision_targets=(batch.vision_weights > 0).sum(dtype=jnp.int32),
        tokens=(batch.order >= 0).sum(dtype=jnp.int32),
    )


def _over(value: Float32[Array, ""], by: Float32[Array, ""]) -> Float32[Array, ""]:
    """Divide, with 0 for a modality that is absent."""
    return value / jnp.where(by > 0, by, 1.0)
