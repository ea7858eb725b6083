import dataclasses
from math import nan

import pytest

from ringworld.attention.config import AttentionConfig
from ringworld.core.config import from_json, to_json
from ringworld.core.errors import InputError
from ringworld.core.mesh_config import MeshConfig
from ringworld.model.config import ModelConfig, check_mesh

CONFIG = ModelConfig(layers=2, embed=32, heads=4, kv_heads=2, head=8, mlp=48, text_vocab=40, vision_vocab=24)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 0},
        {"kv_heads": 3},
        {"head": 7},
        {"rope_base": 1.0},
        {"vision_vocab": -1},
        {"norm_eps": nan},
    ],
    ids=str,
)
def test_refuses_what_cannot_be_built(change):
    with pytest.raises(InputError, match=next(iter(change))):
        dataclasses.replace(CONFIG, **change)


def test_survives_json():
    assert from_json(ModelConfig, to_json(CONFIG)) == CONFIG


@pytest.mark.parametrize(
    ("mesh", "named"),
    [
        (MeshConfig(tensor=4), "kv_heads"),
        (MeshConfig(ring=64), "embed"),
        (MeshConfig(fsdp=3), "embed"),
    ],
)
def test_refuses_a_mesh_that_cannot_hold_it(mesh, named):
    with pytest.raises(InputError, match=named):
        check_mesh(CONFIG, mesh)


def test_accepts_a_mesh_that_can():
    check_mesh(CONFIG, MeshConfig(fsdp=2, ring=2, tensor=2))


def test_heads_must_fit_the_sequence_axes_that_cut_them():
    mesh = MeshConfig(ring=2, ulysses=2)
    check_mesh(CONFIG, mesh)
    check_mesh(dataclasses.replace(CONFIG, attention=AttentionConfig(strategy="hybrid")), mesh)
    with pytest.raises(InputError, match="kv_heads: got 2, expected a multiple of the 4 members"):
        check_mesh(dataclasses.replace(CONFIG, attention=AttentionConfig(strategy="head_parallel")), mesh)
