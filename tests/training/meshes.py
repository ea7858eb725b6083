"""Meshes over the simulated devices, weights for them, and batches."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.data.batch import PackedBatch
from ringworld.data.examples import Example
from ringworld.model.arrange import arrange, placed_rows
from ringworld.model.config import ModelConfig
from ringworld.training.config import TrainingConfig
from ringworld.training.state import TrainState, abstract_state
from ringworld.training.step import Pieces
from tests.training.tiny_run import MODEL, example


def mesh_of(**axes: int) -> Mesh:
    """Return a mesh over as many of the simulated devices as it needs."""
    config = MeshConfig(**axes)
    return make_mesh(config, devices=jax.devices()[: config.devices])


def state_on(mesh: Mesh, config: TrainingConfig, model: ModelConfig = MODEL) -> TrainState:
    """Return a state with the same weights on every mesh; NumPy draws them, which spares a compilation."""
    rng = np.random.default_rng(1)

    def draw(path: Any, leaf: Any) -> jax.Array:
        mean = 1 if "norm" in jax.tree_util.keystr(path) else 0
        return jax.device_put(rng.normal(mean, 0.1, leaf.shape).astype(leaf.dtype), leaf.sharding)

    def nothing(leaf: Any) -> jax.Array:
        return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)

    abstract = abstract_state(config, model, mesh=mesh)
    return TrainState(
        params=jax.tree.map_with_path(draw, abstract.params),
        optimizer=jax.tree.map(nothing, abstract.optimizer),
        step=nothing(abstract.step),
    )


def some_examples(*, count: int, longest: int) -> list[Example]:
    """Draw text and video examples in turn, the video ones 10 tokens longer."""
    rng = np.random.default_rng(2)
    lengths = rng.integers(3, longest - 10, count)
    return [
        example(rng, tokens=int(length), kind=("text", "video")[i % 2]) for i, length in enumerate(lengths)
    ]


def with_rows(batch: PackedBatch[np.ndarray], rows: int) -> PackedBatch[np.ndarray]:
    """Add rows of padding alone."""
    more = rows - len(batch.tokens)
    fills = PackedBatch(tokens=0, targets=0, order=-1, first=0, text_weights=0, vision_weights=0)
    return PackedBatch(
        *(np.pad(field, ((0, more), (0, 0)), constant_values=fill) for field, fill in zip(batch, fills))
    )


def on_devices(batch: PackedBatch[np.ndarray], mesh: Mesh, *, pieces: int = 1) -> Pieces:
    """Put a batch on the mesh in the model's layout, in pieces of equal numbers of rows."""
    placed = placed_rows(batch.order, batch.first, attention=MODEL.attention, mesh=mesh)
    placements, rows = [row.placement for row in placed], len(placed) // pieces
    parts = zip(*(np.split(field, pieces) for field in batch))
    return tuple(
        arrange(PackedBatch(*part), mesh=mesh, placements=placements[i * rows :][:rows])
        for i, part in enumerate(parts)
    )
