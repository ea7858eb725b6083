"""Meshes over the simulated devices, weights for them, and batches."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ringworld.attention.config import AttentionConfig
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.data.batch import PackedBatch, PackedRows
from ringworld.data.examples import Example
from ringworld.model.arrange import Layout
from ringworld.model.config import Architecture
from ringworld.model.world_model import WorldModel
from ringworld.training.config import TrainingConfig
from ringworld.training.guard import Guard
from ringworld.training.state import TrainState, abstract_state
from ringworld.training.step import Pieces
from tests.training.tiny_run import EXECUTION, MODEL, example, training


def mesh_of(**axes: int) -> Mesh:
    """Return a mesh over as many of the simulated devices as it needs."""
    config = MeshConfig(**axes)
    return make_mesh(config, devices=jax.devices()[: config.devices])


def state_on(mesh: Mesh, config: TrainingConfig, model: Architecture = MODEL) -> TrainState:
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
        guard=jax.tree.map(
            lambda value, leaf: jax.device_put(value, leaf.sharding), Guard.new(), abstract.guard
        ),
    )


def model_on(mesh: Mesh) -> WorldModel:
    """Return the weights of such a state."""
    model = state_on(mesh, training()).params
    assert isinstance(model, WorldModel)
    return model


def some_examples(*, count: int, longest: int) -> list[Example]:
    """Draw text and video examples in turn, the video ones 10 tokens longer."""
    rng = np.random.default_rng(2)
    lengths = rng.integers(3, longest - 10, count)
    return [
        example(rng, tokens=int(length), kind=("text", "video")[i % 2]) for i, length in enumerate(lengths)
    ]


def with_rows(packed: PackedRows, rows: int) -> PackedRows:
    """Add rows of padding alone."""
    more = rows - len(packed.lengths)
    fills = (0, 0, -1, 0, 0, 0)
    batch = PackedBatch(
        *(
            np.pad(field, ((0, more), (0, 0)), constant_values=fill)
            for field, fill in zip(packed.batch, fills)
        )
    )
    return PackedRows(batch=batch, lengths=[*packed.lengths, *[[]] * more])


def on_devices(
    packed: PackedRows, mesh: Mesh, *, pieces: int = 1, attention: AttentionConfig = EXECUTION.attention
) -> Pieces:
    """Put a batch on the mesh in a layout, in pieces of equal numbers of rows."""
    layout = Layout(attention, mesh=mesh)
    return tuple(layout.place(part.batch, part.lengths).arrays for part in packed.split(pieces))
