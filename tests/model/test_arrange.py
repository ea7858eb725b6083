from typing import NamedTuple

import jax
import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.model.arrange import arrange


class Pair(NamedTuple):
    tokens: np.ndarray
    weights: np.ndarray


def test_lays_tokens_out_and_keeps_type_and_names():
    mesh = make_mesh(MeshConfig(data=2, ring=2), devices=jax.devices()[:4])
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8)
    batch = arrange(Pair(tokens, tokens.astype(np.float32)), mesh=mesh, layout="zigzag")
    np.testing.assert_array_equal(batch.tokens, [[0, 1, 6, 7, 2, 3, 4, 5], [8, 9, 14, 15, 10, 11, 12, 13]])
    assert isinstance(batch, Pair)
    assert batch.weights.dtype == np.float32
    assert jax.typeof(batch.tokens).sharding.spec == spec("batch", "seq")


def test_refuses_a_sequence_that_cannot_be_cut():
    mesh = make_mesh(MeshConfig(ring=2), devices=jax.devices()[:2])
    with pytest.raises(InputError, match="multiple of 4"):
        arrange((np.zeros((1, 6), np.int32),), mesh=mesh, layout="zigzag")
