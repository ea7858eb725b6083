"""Small GGUF files of random weights, written by llama.cpp's library from what Hugging Face would hold."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, TokenType
from tokenizers import Tokenizer, models, trainers

from ringworld.text.tokenizer import TextTokenizer

LAYERS, EMBED, HEADS, KV_HEADS, MLP = 1, 256, 4, 2, 256
CORPUS = ["The river is 37 miles long, and I'LL say so. A red circle moves to the right.\n\n  So it is. " * 3]
BLANK = "\u2581"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


@functools.cache
def byte_level() -> dict[str, Any]:
    """Return the metadata of a tokenizer of the gpt2 kind, with tokens of every type."""
    with tempfile.TemporaryDirectory() as folder:
        TextTokenizer.train(CORPUS, vocab_size=320).save(Path(folder))
        words = json.loads((Path(folder) / "tokenizer.json").read_text())["model"]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "[PAD4]"]
    special_types = [TokenType.CONTROL] * 3 + [TokenType.USER_DEFINED, TokenType.UNUSED]
    learnt = [word for word in words["vocab"] if word not in ("<s>", "</s>", "<vision>", "</vision>")]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": specials + learnt,
        "tokenizer.ggml.token_type": np.array(special_types + [TokenType.NORMAL] * len(learnt), np.int32),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in words["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }


@functools.cache
def sentence_piece() -> dict[str, Any]:
    """Return the metadata of a tokenizer of the llama kind, whose scores are the order of its merges."""
    trained = Tokenizer(models.BPE())
    trained.train_from_iterator(
        [text.replace(" ", BLANK) for text in CORPUS],
        trainers.BpeTrainer(vocab_size=120, max_token_length=8, show_progress=False),
    )
    words = json.loads(trained.to_str())["model"]
    merged = ["".join(merge) for merge in words["merges"]]
    letters = [word for word in words["vocab"] if word not in merged]
    control = ["<unk>", "<s>", "</s>"]
    by_byte = [f"<0x{byte:02X}>" for byte in range(256)]
    types = [TokenType.UNKNOWN, TokenType.CONTROL, TokenType.CONTROL, *[TokenType.BYTE] * 256]
    pieces = list(dict.fromkeys(merged)) + letters
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": control + by_byte + pieces,
        "tokenizer.ggml.token_type": np.array(types + [TokenType.NORMAL] * len(pieces), np.int32),
        "tokenizer.ggml.scores": -np.arange(len(control + by_byte + pieces), dtype=np.float32),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def arrays(vocab: int, *, head: int = EMBED // HEADS, tied: bool = False) -> dict[str, np.ndarray]:
    """Return float32 weights under the names and in the layout of `LlamaForCausalLM`."""
    draws = np.random.default_rng(0)
    shapes = {"model.embed_tokens.weight": (vocab, EMBED), "model.norm.weight": (EMBED,)}
    if not tied:
        shapes["lm_head.weight"] = (vocab, EMBED)
    for layer in range(LAYERS):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (EMBED,),
                "self_attn.q_proj": (HEADS * head, EMBED),
                "self_attn.k_proj": (KV_HEADS * head, EMBED),
                "self_attn.v_proj": (KV_HEADS * head, EMBED),
                "self_attn.o_proj": (EMBED, HEADS * head),
                "post_attention_layernorm": (EMBED,),
                "mlp.gate_proj": (MLP, EMBED),
                "mlp.up_proj": (MLP, EMBED),
                "mlp.down_proj": (EMBED, MLP),
            }.items()
        }
    return {
        name: draws.normal(scale=EMBED**-0.5, size=shape).astype(np.float32) + (len(shape) == 1)
        for name, shape in shapes.items()
    }


THEIR_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def their_name(name: str) -> str:
    """Return what llama.cpp calls a tensor."""
    for ours, theirs in THEIR_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def permuted(weights: np.ndarray, heads: int) -> np.ndarray:
    """Return rows of q or k in llama.cpp's order: its converter's `permute`."""
    shape = (heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return weights.reshape(shape).swapaxes(1, 2).reshape(weights.shape)


def as_stored(name: str, array: np.ndarray) -> np.ndarray:
    """Return a tensor of Hugging Face's with its rows in llama.cpp's order."""
    if "q_proj" in name:
        return permuted(array, HEADS)
    return permuted(array, KV_HEADS) if "k_proj" in name else array


def write_gguf(
    path: Path,
    weights: dict[str, np.ndarray],
    *,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    words: dict[str, Any] | None = None,
    raw: dict[str, tuple[np.ndarray, GGMLQuantizationType]] | None = None,
    said: dict[str, Any] | None = None,
) -> Path:
    """Write a file.

    Args:
        path: of the file.
        weights: as `arrays` gives them.
        kind: of the matrices; norms are always float32.
        words: metadata of a tokenizer; by default of the gpt2 kind.
        raw: tensors by llama.cpp's name, as bytes and what they are.
        said: metadata of the architecture that differ; None leaves a key out.
    """
    writer = gguf.GGUFWriter(path, "llama")
    metadata: dict[str, Any] = {
        "block_count": LAYERS,
        "context_length": 512,
        "embedding_length": EMBED,
        "feed_forward_length": MLP,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 5e5,
    } | (said or {})
    for key, value in metadata.items():
        if value is not None:
            add(writer, f"llama.{key}", value)
    for key, value in (byte_level() if words is None else words).items():
        if value is not None:
            add(writer, key, value)
    for name, array in weights.items():
        stored = as_stored(name, array)
        if their_name(name) in (raw or {}):
            continue
        if array.ndim == 1 or kind == GGMLQuantizationType.F32:
            writer.add_tensor(their_name(name), stored)
        else:
            writer.add_tensor(their_name(name), gguf.quantize(stored, kind), raw_dtype=kind)
    for name, (data, raw_kind) in (raw or {}).items():
        writer.add_tensor(name, data, raw_dtype=raw_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    """Add a value with the type that llama.cpp's converter gives it."""
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, list(value) if isinstance(value, list) else value.tolist())
