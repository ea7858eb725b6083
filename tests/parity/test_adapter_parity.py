"""Adapters against peft on transformers' LLaMA: the same logits in both directions, the same gradients."""

from functools import partial

import jax
import numpy as np
import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from ringworld.artifacts.adapter_folder import save_adapter
from ringworld.artifacts.model_folder import ModelFolder, save_model
from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import Origin, parent
from ringworld.data.batch import PackedBatch
from ringworld.model.arrange import Layout
from ringworld.model.config import Architecture, Execution, Rope
from ringworld.model.forward import Forward
from ringworld.model.lora import Adapter, adapted
from ringworld.model.lora_config import TARGETS, LoraConfig
from ringworld.model.world_model import WorldModel
from ringworld.training.config import Stage, TrainingConfig
from ringworld.training.step import loss_and_gradient
from tests.inference.tiny_world import TOKENIZER
from tests.parity.test_llama_parity import assert_near, draw_tokens, our_logits, their_logits

# peft 0.21 asks transformers 5 for a property that this will rename.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
VOCAB = TOKENIZER.size + TOKENIZER.size % 2
ARCHITECTURE = Architecture(
    layers=2, embed=64, heads=4, kv_heads=2, head=16, mlp=112, text_vocab=VOCAB, rope=Rope(base=5e5)
)
LORA = LoraConfig(rank=4, alpha=10.0, base="float32")


@pytest.fixture(scope="module")
def mesh():
    return mesh_of(MeshConfig(tensor=2))


def drawn(rng, shape):
    return rng.normal(scale=0.1, size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def base(tmp_path_factory, mesh):
    """A random model, its folder, and an adapter of it."""
    folder = tmp_path_factory.mktemp("base") / "model"
    with jax.set_mesh(mesh):
        model = jax.jit(partial(WorldModel.init, ARCHITECTURE))(key=jax.random.key(0))
        adapter = jax.jit(partial(Adapter.init, ARCHITECTURE, LORA))(key=jax.random.key(1))
        # What adds nothing would agree with anything.
        rng = np.random.default_rng(0)
        adapter = jax.tree.map(lambda x: jax.device_put(drawn(rng, x.shape), x.sharding), adapter)
    save_model(
        folder,
        model,
        architecture=ARCHITECTURE,
        tokenizers=Tokenizers(text_tokenizer=TOKENIZER, frame_tokenizer=None),
        context_tokens=128,
        generation={},
        origin=Origin(kind="model"),
        mesh=mesh,
    )
    return folder, model, adapter


@pytest.fixture(scope="module")
def ours(base, mesh, tmp_path_factory):
    folder, model, adapter = base
    out = tmp_path_factory.mktemp("ours") / "adapter"
    origin = Origin(kind="adapter", parents={"init": parent(folder, ModelFolder.open(folder).fingerprint)})
    save_adapter(
        out,
        adapted(model, adapter),
        architecture=ARCHITECTURE,
        config=LORA,
        base=folder,
        origin=origin,
        mesh=mesh,
    )
    return out


def test_peft_opens_our_adapter_and_finds_our_logits(base, ours, mesh):
    folder, model, adapter = base
    theirs = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(folder), ours)
    tokens = draw_tokens(ARCHITECTURE.vocab)
    wanted = their_logits(theirs, tokens)
    plain = their_logits(LlamaForCausalLM.from_pretrained(folder), tokens)
    assert np.abs(wanted - plain).max() > 0.01 * np.abs(plain).max()
    assert_near(our_logits(adapted(model, adapter), ARCHITECTURE, mesh, tokens), wanted)
    assert_near(our_logits(ModelFolder.open(ours).read_weights(mesh), ARCHITECTURE, mesh, tokens), wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "down_proj"]},
        {"target_modules": "all-linear", "use_rslora": True},
        {"target_modules": ["o_proj", "lm_head"]},
        {"target_modules": ["up_proj"], "layers_to_transform": [1]},
    ],
)
def test_an_adapter_of_peft_gives_its_logits_here(base, mesh, tmp_path, options):
    folder = base[0]
    torch.manual_seed(0)
    config = PeftConfig(r=4, lora_alpha=7, init_lora_weights=False, task_type="CAUSAL_LM", **options)
    theirs = get_peft_model(LlamaForCausalLM.from_pretrained(folder), config)
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    tokens = draw_tokens(ARCHITECTURE.vocab)
    opened = ModelFolder.open(folder, adapter=tmp_path / "theirs")
    found = our_logits(opened.read_weights(mesh), ARCHITECTURE, mesh, tokens)
    assert_near(found, their_logits(theirs, tokens))
    assert ModelFolder.open(tmp_path / "theirs").path == folder  # which their configuration names


def test_gradients_are_those_of_peft(base, ours, mesh):
    folder, model, adapter = base
    theirs = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(folder), ours, is_trainable=True)
    tokens = draw_tokens(ARCHITECTURE.vocab)
    ids = torch.from_numpy(tokens).long()
    wanted = theirs.train()(input_ids=ids, labels=ids).loss
    wanted.backward()
    batch, seq = tokens.shape
    weights = np.full(tokens.shape, 1 / (seq - 1), np.float32)
    weights[:, -1] = 0
    rows = PackedBatch(
        tokens=tokens,
        targets=np.where(weights > 0, np.roll(tokens, -1, axis=1), -1).astype(np.int32),
        order=np.tile(np.arange(seq, dtype=np.int32), (batch, 1)),
        first=np.zeros_like(tokens),
        text_weights=weights,
        vision_weights=np.zeros_like(weights),
    )
    stage = Stage(
        name="x", context_tokens=seq, rope_base=5e5, steps=1, batch_sequences=batch, learning_rate=1e-3
    )
    config, execution = TrainingConfig(stages=(stage,), lora=LORA), Execution()
    run = partial(loss_and_gradient, config=config, forward=Forward.of(ARCHITECTURE, execution))
    with jax.set_mesh(mesh):
        pieces = (Layout(execution.attention, mesh=mesh).place(rows, [[seq]] * batch).arrays,)
        loss, gradient = jax.jit(run)(adapter, pieces, model)
    np.testing.assert_allclose(float(loss.loss), wanted.item(), rtol=1e-5)
    learned = {name: one for name, one in theirs.named_parameters() if one.requires_grad}
    of_theirs = {name: one.grad.numpy() for name, one in learned.items()}
    assert len(of_theirs) == 2 * 7 * ARCHITECTURE.layers
    for name, want in of_theirs.items():
        layer = int(name.split("layers.")[1].split(".")[0])
        target = next(target for target in TARGETS if f".{target}." in name)
        part = "a" if "lora_A" in name else "b"
        got = np.asarray(getattr(getattr(gradient, target), part)[layer])
        assert_near(got.reshape(want.shape[::-1]).T, want)
