import dataclasses
from math import nan

import jaxtyping
import pytest

from ringworld.attention.config import AttentionConfig
from ringworld.core.config import from_json, to_json
from ringworld.core.errors import InputError
from ringworld.core.mesh_config import MeshConfig
from ringworld.model.config import Architecture, Execution, Linear, Llama3, Rope, Yarn, check_mesh

CONFIG = Architecture(layers=2, embed=32, heads=4, kv_heads=2, head=8, mlp=48, text_vocab=40, vision_vocab=24)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": 0},
        {"kv_heads": 3},
        {"head": 7},
        {"embed": 36, "heads": 8, "kv_heads": 8, "head": 2},
        {"mlp": 10**400},
        {"layers": 10**12},
        {"heads": 2.0},
        {"text_vocab": 2**31},
        {"embed": 2**30, "mlp": 2**30},
        {"vision_vocab": -1},
        {"norm_eps": nan},
    ],
    ids=str,
)
def test_refuses_what_cannot_be_built(change, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(InputError) as refused:
        dataclasses.replace(CONFIG, **change)
    assert refused.value.field == f"model.{next(iter(change))}"


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Rope(base=1.0), "rope.base"),
        (lambda: Linear(factor=0.5), "rope.scaling.factor"),
        (lambda: Llama3(factor=8.0, high_frequency_factor=1.0), "rope.scaling.high_frequency_factor"),
        (lambda: Yarn(factor=4.0, original_context_tokens=0), "rope.scaling.original_context_tokens"),
        (lambda: Execution(mlp_block_tokens=-1), "execution.mlp_block_tokens"),
    ],
)
def test_refuses_what_cannot_be_computed(make, field):
    with pytest.raises(InputError) as refused:
        make()
    assert refused.value.field == field


@pytest.mark.parametrize(
    "scaling", [None, Linear(factor=4.0), Llama3(factor=8.0), Yarn(factor=4.0, original_context_tokens=64)]
)
def test_survives_json(scaling):
    scaled = dataclasses.replace(CONFIG, rope=Rope(base=5e5, scaling=scaling))
    assert from_json(Architecture, to_json(scaled)) == scaled


@pytest.mark.parametrize(
    ("mesh", "named"),
    [
        (MeshConfig(tensor=4), "kv_heads"),
        (MeshConfig(ring=64), "embed"),
        (MeshConfig(fsdp=3), "embed"),
    ],
)
def test_refuses_a_mesh_that_cannot_hold_it(mesh, named):
    with pytest.raises(InputError) as refused:
        check_mesh(CONFIG, AttentionConfig(), mesh)
    assert refused.value.field == f"model.{named}"


def test_accepts_a_mesh_that_can():
    check_mesh(CONFIG, AttentionConfig(), MeshConfig(fsdp=2, ring=2, tensor=2))


def test_heads_must_fit_the_sequence_axes_that_cut_them():
    mesh = MeshConfig(ring=2, ulysses=2)
    check_mesh(CONFIG, AttentionConfig(), mesh)
    check_mesh(CONFIG, AttentionConfig(strategy="hybrid"), mesh)
    with pytest.raises(InputError) as refused:
        check_mesh(CONFIG, AttentionConfig(strategy="head_parallel"), mesh)
    assert refused.value.field == "model.kv_heads"
