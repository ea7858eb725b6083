"""The world model against transformers' LLaMA and its relatives, through model folders in both directions."""

import json
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import ringworld as rw
from ringworld.artifacts.model_folder import ModelFolder, save_model
from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import Origin
from ringworld.core.sharding import spec
from ringworld.interop.hf_config import hf_config, read_architecture
from ringworld.interop.hf_llama import read_generation_weights, read_weights, write_weights
from ringworld.model.arrange import Layout
from ringworld.model.cache import KVCache
from ringworld.model.config import Architecture, Execution, Linear, Llama3, Rope, Yarn
from ringworld.model.decode import decode_step, prefill
from ringworld.model.forward import Forward
from ringworld.model.rope import frequencies, inverse_frequencies
from ringworld.model.world_model import WorldModel, hidden_states, logits
from tests.inference.tiny_world import ARCHITECTURE, TOKENIZER, make_world
from tests.text.chat_templates import ENDS, TEMPLATES, tokenizer_of

BATCH, SEQ = 2, 64
SCALINGS = [
    None,
    Linear(factor=4.0),
    Llama3(factor=8.0, original_context_tokens=32),
    Yarn(factor=4.0, original_context_tokens=32),
]


def our_logits(model, architecture, mesh, tokens):
    batch, seq = tokens.shape
    order = np.tile(np.arange(seq, dtype=np.int32), (batch, 1))
    forward = Forward.of(architecture, Execution())

    @jax.jit
    def full(model, tokens, order):
        x = hidden_states(model, tokens, order=order, first=jnp.zeros_like(order), forward=forward)
        return logits(jax.reshard(x, spec("batch", None, "embed")), model.read_out)

    with jax.set_mesh(mesh):
        placed = Layout(forward.execution.attention, mesh=mesh).place((tokens, order), [[seq]] * batch)
        return placed.restore(full(model, *placed.arrays))


def their_logits(model, tokens):
    with torch.no_grad():
        return model.eval()(torch.from_numpy(tokens).long()).logits.numpy()


def assert_near(got, want):
    # Relative to the largest: a logit near zero is the difference of larger numbers.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * np.abs(want).max())


def draw_tokens(vocab):
    return np.random.default_rng(0).integers(0, vocab, (BATCH, SEQ)).astype(np.int32)


@pytest.mark.parametrize("kv_heads, ring, scaling", [(4, 1, 0), (2, 2, 1), (1, 2, 2), (2, 1, 3)])
def test_their_logits_with_our_folder(tmp_path, kv_heads, ring, scaling):
    vocab = TOKENIZER.size + TOKENIZER.size % 2
    architecture = Architecture(
        layers=2,
        embed=64,
        heads=4,
        kv_heads=kv_heads,
        head=16,
        mlp=112,
        text_vocab=vocab,
        vision_vocab=36,
        rope=Rope(base=5e5, scaling=SCALINGS[scaling]),
    )
    mesh = mesh_of(MeshConfig(ring=ring))
    with jax.set_mesh(mesh):
        model = jax.jit(partial(WorldModel.init, architecture))(key=jax.random.key(0))
        # Norms begin at one, which would hide a norm read from the wrong place.
        for factor, norm in (
            (1.5, lambda model: model.norm),
            (0.7, lambda model: model.layers.attention_norm),
            (1.2, lambda model: model.layers.mlp_norm),
        ):
            model = eqx.tree_at(norm, model, replace_fn=lambda x, factor=factor: x * jnp.float32(factor))
    save_model(
        tmp_path / "model",
        model,
        architecture=architecture,
        tokenizers=Tokenizers(text_tokenizer=TOKENIZER, frame_tokenizer=None),
        context_tokens=128,
        generation={},
        origin=Origin(kind="model"),
        mesh=mesh,
    )
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    tokens = draw_tokens(architecture.vocab)
    assert_near(our_logits(model, architecture, mesh, tokens), their_logits(theirs, tokens))
    words = "A red circle moves."
    read = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert read(words, add_special_tokens=False).input_ids == TOKENIZER.encode(words)


SIZES = {
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
    "max_position_embeddings": 512,
    # Far from uniform, so that what is likeliest does not hang on a rounding.
    "initializer_range": 0.2,
}
LLAMA_3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
CONFIGS = {
    "llama": LlamaConfig(**SIZES),
    "llama-tied-wide-head": LlamaConfig(**SIZES, tie_word_embeddings=True, head_dim=24),
    "llama3": LlamaConfig(
        **SIZES,
        rope_parameters=LLAMA_3 | {"rope_theta": 5e5, "original_max_position_embeddings": 32},
        rms_norm_eps=1e-5,
    ),
    "mistral": MistralConfig(**SIZES, sliding_window=20),
    "mistral-whole": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES),
    # A window from a layer on that it does not have.
    "qwen2-tied": Qwen2Config(
        **SIZES, tie_word_embeddings=True, use_sliding_window=True, max_window_layers=2, sliding_window=20
    ),
    "qwen3": Qwen3Config(**SIZES, head_dim=32),
}


TOKENIZERS = {"llama3": "llama-3", "llama": "smollm2", "mistral": "mistral", "qwen": "qwen"}
"""Each model's own kind, by what its name begins with."""


@pytest.fixture(scope="module", params=CONFIGS)
def family(request, tmp_path_factory):
    """A random model of theirs, and its folder in files so small that there are several."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(CONFIGS[request.param]).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            # Norms begin at one and biases at zero, which would hide one that is read from the wrong place.
            if weight.ndim == 1:
                weight += 0.3 * torch.randn_like(weight)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder, max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    write_tokenizer(folder, next(kind for name, kind in TOKENIZERS.items() if request.param.startswith(name)))
    return theirs, folder


def write_tokenizer(folder, kind):
    words, (bos, eos) = tokenizer_of(kind), ENDS[kind]
    said = {"bos_token": bos, "eos_token": eos, "chat_template": TEMPLATES[kind]}
    if kind == "qwen":
        said |= {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None, "add_bos_token": False}
    else:
        begin = [(bos, words.token_to_id(bos))]
        words.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=begin)
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(said))


def test_our_logits_with_their_checkpoint(family):
    theirs, folder = family
    mesh, architecture = mesh_of(MeshConfig(ring=2)), read_architecture(folder)
    with jax.set_mesh(mesh):
        model = read_weights(folder, architecture)
    tokens = draw_tokens(96)
    assert_near(our_logits(model, architecture, mesh, tokens), their_logits(theirs, tokens))


def test_their_folder_is_converted_and_back_to_the_bit(family, tmp_path):
    theirs, folder = family
    ours = rw.convert(folder, out=tmp_path / "ours")
    plain = rw.convert(ours, out=tmp_path / "plain", to="hf")
    assert read_architecture(plain) == read_architecture(folder)
    state, tokens = theirs.state_dict(), draw_tokens(SIZES["vocab_size"])
    words, text = ModelFolder.open(ours).tokenizers.text_tokenizer, "A red circle moves.<s><|im_end|>"
    read = AutoTokenizer.from_pretrained(folder)(text, split_special_tokens=True).input_ids
    assert words.encode(text) == read[words.adds_bos :] and (read[0] == words.bos) == words.adds_bos
    for each in (ours, plain):
        again = AutoModelForCausalLM.from_pretrained(each)
        assert type(again) is type(theirs)
        assert again.state_dict().keys() == state.keys()
        for name, weight in again.state_dict().items():
            assert torch.equal(weight, state[name]), name
        np.testing.assert_array_equal(their_logits(again, tokens), their_logits(theirs, tokens))
        kept = AutoTokenizer.from_pretrained(each)
        assert kept(text, split_special_tokens=True).input_ids == read
        assert kept.chat_template == words.settings["chat_template"]


def test_what_other_files_of_a_folder_say_holds_after_converting(tmp_path):
    """A folder as transformers 4 once wrote it, but for a chat template as transformers 5 does."""
    folder, (bos, eos) = tmp_path / "theirs", ENDS["llama-3"]
    words = tokenizer_of("llama-3")
    config = LlamaConfig(**SIZES, bos_token_id=words.token_to_id(bos), eos_token_id=words.token_to_id(eos))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    words.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    names = {"bos_token": {"content": bos, "lstrip": False}, "eos_token": eos, "pad_token": eos}
    (folder / "special_tokens_map.json").write_text(json.dumps(names))
    (folder / "chat_template.jinja").write_text(TEMPLATES["llama-3"])
    ours = rw.convert(folder, out=tmp_path / "ours")
    plain = rw.convert(ours, out=tmp_path / "plain", to="hf")
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs.special_tokens_map == {"bos_token": bos, "eos_token": eos, "pad_token": eos}
    for each in (ours, plain):
        made = AutoModelForCausalLM.from_pretrained(each)
        assert made.generation_config.eos_token_id == config.eos_token_id
        read = AutoTokenizer.from_pretrained(each)
        assert read.special_tokens_map == theirs.special_tokens_map
        assert read.chat_template == theirs.chat_template == TEMPLATES["llama-3"]


def test_256_greedy_tokens_are_theirs(family):
    theirs, folder = family
    prompt = draw_tokens(96)[:1, :16]
    # Their cache of a sliding window drops what ours masks.
    greedy = {"max_new_tokens": 256, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    want = theirs.generate(torch.from_numpy(prompt).long(), **greedy)[0, 16:]
    architecture, mesh = read_architecture(folder), mesh_of(MeshConfig())
    forward = Forward.of(architecture, Execution())

    @partial(jax.jit, donate_argnums=0)
    def following(cache, scores, index):
        token = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        new, order = (
            jax.reshard(x, spec("batch", None)) for x in (token[:, None], jnp.full((1, 1), index, jnp.int32))
        )
        scores, cache = decode_step(weights, cache, new, order=order, slot=index, forward=forward)
        return cache, scores, token

    with jax.set_mesh(mesh):
        weights = read_generation_weights(folder, architecture, compute="float32")
        cache = KVCache.init(architecture, batch=1, slots=288, compute="float32")
        lengths = [[16]]
        order = np.arange(16, dtype=np.int32)[None]
        placed = Layout(forward.execution.attention, mesh=mesh).place((prompt, order), lengths)
        scores, cache = prefill(weights, cache, placed.arrays[0], order=placed.arrays[1], forward=forward)
        got = []
        for index in range(16, 16 + 256):
            cache, scores, token = following(cache, scores, jnp.int32(index))
            got.append(int(token[0]))
    assert got == want.tolist()


def test_their_family_comes_back_to_the_bit(family, tmp_path):
    theirs, folder = family
    architecture, mesh = read_architecture(folder), mesh_of(MeshConfig(ring=2))
    with jax.set_mesh(mesh):
        write_weights(tmp_path, read_weights(folder, architecture), architecture)
    config = hf_config(architecture, context_tokens=512, bos=1, eos=2)
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is type(theirs)
    state = again.state_dict()
    assert state.keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(state[name], weight), name
    tokens = draw_tokens(96)
    np.testing.assert_array_equal(their_logits(again, tokens), their_logits(theirs, tokens))


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: type(scaling).__name__)
def test_rotary_frequencies_are_theirs(scaling):
    architecture = Architecture(
        layers=1,
        embed=64,
        heads=1,
        kv_heads=1,
        head=64,
        mlp=8,
        text_vocab=8,
        rope=Rope(base=5e5, scaling=scaling),
    )
    config = LlamaConfig(**hf_config(architecture, context_tokens=256, bos=0, eos=1))
    kind = config.rope_parameters["rope_type"]
    if kind == "default":
        theirs, magnitude = 5e5 ** (-np.arange(0, 64, 2) / 64), 1.0
    else:
        frequencies_of, magnitude = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
        theirs = frequencies_of.numpy()
    # Theirs are in float32.
    np.testing.assert_allclose(inverse_frequencies(architecture.rope, head=64), theirs, rtol=1e-6)
    assert float(frequencies(architecture.rope, head=64).magnitude) == pytest.approx(magnitude, rel=1e-6)


def test_a_world_with_frames_opens_in_both_libraries(tmp_path):
    from diffusers import VQModel

    made = make_world(ring=1)
    save_model(
        tmp_path / "model",
        made.model,
        architecture=ARCHITECTURE,
        tokenizers=Tokenizers(text_tokenizer=TOKENIZER, frame_tokenizer=made.frame_tokenizer),
        context_tokens=64,
        generation={},
        origin=Origin(kind="model"),
        mesh=made.mesh,
    )
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "model")
    tokens = draw_tokens(ARCHITECTURE.vocab)
    assert_near(our_logits(made.model, ARCHITECTURE, made.mesh, tokens), their_logits(theirs, tokens))
    folder = ModelFolder.open(tmp_path / "model")
    frames = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3)).astype(np.uint8)
    pixels = torch.from_numpy(frames.transpose(0, 3, 1, 2)).float() / 127.5 - 1
    with torch.no_grad():
        vq_model = VQModel.from_pretrained(tmp_path / "model" / "frame_tokenizer")
        codes = vq_model.quantize(vq_model.encode(pixels).latents)[2][2].numpy().reshape(3, -1)
    np.testing.assert_array_equal(folder.tokenizers.frame_tokenizer.encode(frames), codes)
