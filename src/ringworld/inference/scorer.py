"""How likely given ids are: teacher-forced losses."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int32

from ringworld.core.mesh import members_of
from ringworld.core.sharding import BATCH_AXES, SEQ_AXES
from ringworld.inference.batches import bucket, not_finite
from ringworld.inference.prompts import Ids
from ringworld.model.arrange import Layout
from ringworld.model.cache import padded_length
from ringworld.model.decode import GenerationWeights, target_losses
from ringworld.model.forward import Forward


class Scorer:
    """One model on one mesh, which scores ids."""

    def __init__(self, weights: GenerationWeights, *, forward: Forward, mesh: Mesh) -> None:
        """Keep the model; arguments as for `World.of`. A `Generator` may share its weights."""
        self.weights, self._forward, self._mesh = weights, forward, mesh
        self._layout = Layout(forward.execution.attention, mesh=mesh)

    def score(
        self,
        tokens: Int32[np.ndarray, "batch seq"],
        targets: Int32[np.ndarray, "batch seq"],
        *,
        order: Int32[np.ndarray, "batch seq"],
        first: Int32[np.ndarray, "batch seq"],
        lengths: Sequence[Sequence[int]],
    ) -> Float32[np.ndarray, "batch seq"]:
        """Return the negative log-likelihood of each target in nats, over its own modality as in training.

        Args:
            tokens: packed ids.
            targets: the next id of each; below 0 for none.
            order: index of each token in its sequence; -1 at padding.
            first: index at which the token's example begins.
            lengths: of each sequence, the tokens of its examples in order.

        Raises:
            InputError: the layout cannot cut the sequence over the mesh, or a loss is not finite.
        """
        with jax.set_mesh(self._mesh):
            host: tuple[Any, ...] = (tokens, targets, order, first)
            placed = self._layout.place(host, lengths)
            ids, next_ids, order_placed, first_placed = placed.arrays
            losses = target_losses(
                self.weights,
                ids,
                next_ids,
                order=order_placed,
                first=first_placed,
                forward=self._forward,
            )
        nats = placed.restore(losses)
        if not np.isfinite(nats[targets >= 0]).all():
            raise not_finite()
        return nats

    def losses(self, ids: Ids) -> Float32[np.ndarray, " targets"]:
        """Return the negative log-likelihood, in nats, of every id but the first, each after those before it.

        The sequence is padded to one of few lengths, so that few programs are compiled.
        """
        members = members_of(self._mesh, SEQ_AXES)
        batch = members_of(self._mesh, BATCH_AXES)
        shape = (batch, padded_length(bucket(len(ids)), members=members))
        tokens, targets = np.zeros(shape, np.int32), np.full(shape, -1, np.int32)
        order, first = np.full(shape, -1, np.int32), np.zeros(shape, np.int32)
        tokens[0, : len(ids)], targets[0, : len(ids) - 1] = ids, ids[1:]
        order[0, : len(ids)] = np.arange(len(ids))
        lengths = [[len(ids)], *[[]] * (batch - 1)]
        return self.score(tokens, targets, order=order, first=first, lengths=lengths)[0, : len(ids) - 1]
