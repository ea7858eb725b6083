"""New ids begin at the mean of the old ones, on any mesh."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.model.extend import add_vision_ids
from ringworld.model.world_model import WorldModel
from tests.training.tiny_run import MODEL


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(fsdp=2, tensor=2)])
def test_old_ids_keep_their_weights_and_new_ones_are_the_mean(mesh):
    text = replace(MODEL, vision_vocab=0)
    with jax.set_mesh(mesh_of(mesh)):
        old = jax.jit(lambda: WorldModel.init(text, key=jax.random.key(0)))()
        new = add_vision_ids(old, ids=MODEL.vision_vocab)
        assert jax.tree.map(jax.typeof, new) == jax.tree.map(jax.typeof, WorldModel.abstract(MODEL))
    for before, after in ((old.embed, new.embed), (old.output_head.T, new.output_head.T)):
        before, after = np.asarray(before), np.asarray(after)
        np.testing.assert_array_equal(after[: len(before)], before)
        mean = before.mean(axis=0, dtype=np.float64)
        # Sums of 24 float32 numbers, in any order.
        bound = 24 * np.finfo(np.float32).eps * np.abs(before).max()
        assert np.abs(after[len(before) :] - mean).max() <= bound
