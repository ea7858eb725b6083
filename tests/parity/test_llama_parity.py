"""The world model against transformers' LlamaForCausalLM, through our export."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from ringworld.attention.layouts import inverse, permutation
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.model.config import ModelConfig
from ringworld.model.llama import export_llama, import_llama
from ringworld.model.world_model import WorldModel, hidden, logits

BATCH, SEQ = 2, 64
TOKENS = np.random.default_rng(0).integers(0, 96, (BATCH, SEQ)).astype(np.int32)


def our_logits(model, config, mesh):
    order = np.tile(np.arange(SEQ, dtype=np.int32), (BATCH, 1))
    perm = permutation(config.attention.layout, seq=SEQ, members=mesh.shape["ring"])

    def full(model, tokens, order):
        x = hidden(model, tokens, order=order, first=jnp.zeros_like(order), config=config)
        return logits(jax.reshard(x, spec("batch", None, "embed")), model.head)

    with jax.set_mesh(mesh):
        arrays = (
            jax.device_put(x[:, perm], jax.NamedSharding(mesh, spec("batch", "seq"))) for x in (TOKENS, order)
        )
        return np.asarray(jax.jit(full)(model, *arrays))[:, inverse(perm)]


def their_logits(model):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(TOKENS).long()).logits.numpy()


def assert_near(got, want):
    # Relative to the largest: a logit near zero is the difference of larger numbers.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("ring", [1, 2])
def test_their_logits_with_our_weights(tmp_path, kv_heads, ring):
    config = ModelConfig(
        layers=2,
        embed=64,
        heads=4,
        kv_heads=kv_heads,
        head=16,
        mlp=112,
        text_vocab=60,
        vision_vocab=36,
        rope_base=5e5,
    )
    mesh = make_mesh(MeshConfig(ring=ring), devices=jax.devices()[:ring])
    with jax.set_mesh(mesh):
        model = jax.jit(partial(WorldModel.init, config))(key=jax.random.key(0))
        # Norms start at one, which would hide a norm read from the wrong place.
        model = jax.tree.map(
            lambda x: (
                x * jnp.linspace(0.5, 1.5, x.shape[-1], dtype=jnp.float32)[None, :]
                if x.shape == (2, 64)
                else x
            ),
            jax.tree.map(lambda x: jax.reshard(x, jax.P()), model),
        )
        model = jax.tree.map(
            lambda x, like: jax.reshard(x, like.sharding), model, WorldModel.abstract(config)
        )
    export_llama(model, tmp_path, config=config, context_tokens=SEQ)
    theirs = LlamaForCausalLM(LlamaConfig(**json.loads((tmp_path / "config.json").read_text())))
    theirs.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert_near(our_logits(model, config, mesh), their_logits(theirs))
    assert_near(their_logits(LlamaForCausalLM.from_pretrained(tmp_path)), their_logits(theirs))


@pytest.mark.parametrize("tied", [False, True], ids=["own-head", "tied-head"])
def test_our_logits_with_their_checkpoint(tmp_path, tied):
    torch.manual_seed(0)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=112,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=96,
            tie_word_embeddings=tied,
        )
    )
    theirs.save_pretrained(tmp_path)
    mesh = make_mesh(MeshConfig(ring=2), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        imported = import_llama(tmp_path)
    assert_near(our_logits(imported.model, imported.config, mesh), their_logits(theirs))
