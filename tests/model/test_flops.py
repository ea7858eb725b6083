import dataclasses

import jax
import pytest

from ringworld.core.mesh import abstract_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.model.config import Architecture
from ringworld.model.flops import forward_flops, parameters, training_flops
from ringworld.model.world_model import WorldModel

LLAMA_7B = Architecture(
    layers=32, embed=4096, heads=32, kv_heads=32, head=128, mlp=11008, text_vocab=32_000, vision_vocab=0
)


def test_counts_the_parameters_of_llama_7b():
    assert parameters(LLAMA_7B) == 6_738_415_616


@pytest.mark.parametrize("change", [{}, {"family": "qwen2", "tied": True}, {"family": "qwen3"}])
def test_counts_the_parameters_that_a_model_has(change):
    config = dataclasses.replace(LLAMA_7B, kv_heads=8, vision_vocab=8, **change)
    with jax.sharding.use_abstract_mesh(abstract_mesh(MeshConfig())):
        leaves = jax.tree.leaves(WorldModel.abstract(config))
    assert parameters(config) == sum(leaf.size for leaf in leaves)


def test_short_examples_cost_two_flops_a_weight_and_training_three_times_that():
    flops = forward_flops(LLAMA_7B, tokens=1, pairs=0)
    embedding_and_norms = 32_000 * 4096 + 65 * 4096
    assert flops == 2 * (parameters(LLAMA_7B) - embedding_and_norms)
    assert training_flops(LLAMA_7B, tokens=1, pairs=0) == 3 * flops


def test_packed_examples_cost_what_they_see():
    attention = forward_flops(LLAMA_7B, tokens=5, pairs=9) - forward_flops(LLAMA_7B, tokens=5, pairs=0)
    assert attention == 4 * 32 * 4096 * 9
