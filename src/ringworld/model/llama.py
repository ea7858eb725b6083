"""Checkpoints of Hugging Face `LlamaForCausalLM`: `config.json` and safetensors, to and from a world model.

Rotation is half-split on both sides, so no weight is permuted. The vision ids are the last rows of the
embedding and of the head; `ringworld_text_vocab` in `config.json` keeps where they begin, and other readers
ignore it.
"""

from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ringworld.core.config import from_json, read_as
from ringworld.core.errors import InputError
from ringworld.core.files import read_json, write_json_atomic, writing
from ringworld.model.config import ModelConfig
from ringworld.model.world_model import WorldModel

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
TEXT_VOCAB_KEY = "ringworld_text_vocab"

_SUPPORTED = {
    "model_type": ("llama",),
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
}
_FLOATS = ("F64", "F32", "F16", "BF16")


class Imported(NamedTuple):
    """What a checkpoint holds."""

    config: ModelConfig
    model: WorldModel


class _Weight(NamedTuple):
    """One tensor of theirs, and where it lies in a world model or in one of its layers."""

    key: str
    path: str
    theirs: tuple[int, ...]
    ours: tuple[int, ...]
    layout: Literal["same", "transposed"]

    def to_ours(self, tensor: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        assert tensor.shape == self.theirs, (self.key, tensor.shape, self.theirs)
        tensor = tensor.T if self.layout == "transposed" else tensor
        return tensor.astype(np.float32).reshape(self.ours)

    def to_theirs(self, array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
        assert array.shape == self.ours, (self.path, array.shape, self.ours)
        array = array.reshape(self.theirs[::-1]).T if self.layout == "transposed" else array
        return np.ascontiguousarray(array)


def export_llama(model: WorldModel, directory: Path, *, config: ModelConfig, context_tokens: int) -> None:
    """Write a checkpoint that `LlamaForCausalLM.from_pretrained(directory)` reads, in float32.

    Args:
        model: Weights on any mesh of this process; each is fetched whole.
        directory: Where to write; made if missing.
        config: The configuration of the model, with the `rope_base` of its last stage.
        context_tokens: Written as `max_position_embeddings`.
    """
    tensors = {}
    for weight in _outer(config, tied=False):
        tensors[weight.key] = weight.to_theirs(np.asarray(attrgetter(weight.path)(model)))
    for weight in _of_layer(config):
        stacked = np.asarray(attrgetter(weight.path)(model.layers))
        for i in range(config.layers):
            tensors[weight.key.format(i)] = weight.to_theirs(stacked[i])
    with writing(directory / WEIGHTS_FILE) as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt"})
    write_json_atomic(directory / CONFIG_FILE, _their_config(config, context_tokens))


def import_llama(directory: Path) -> Imported:
    """Read a checkpoint onto the mesh that is set.

    A checkpoint that ringworld did not write has no vision ids: all of its vocabulary is text.

    Raises:
        InputError: one error that names everything that is missing, unknown, damaged, of another shape or not
            supported (biases, scaled RoPE, other activations).
    """
    theirs = read_json(directory / CONFIG_FILE)
    problems: list[str] = []
    config = _our_config(theirs, problems)
    if config is None:
        raise _refusal(directory / CONFIG_FILE, problems)
    outer = _outer(config, tied=theirs.get("tie_word_embeddings") is True)
    sources = _sources(directory, problems)
    expected = {weight.key: weight for weight in outer}
    for weight in _of_layer(config):
        expected |= {weight.key.format(i): weight for i in range(config.layers)}
    _check_tensors(expected, sources, problems)
    if problems:
        raise _refusal(directory, problems)

    def read(weight: _Weight, i: int = 0) -> Shaped[np.ndarray, "..."]:
        key = weight.key.format(i)
        with safe_open(sources[key], framework="numpy") as tensors:
            return weight.to_ours(tensors.get_tensor(key))

    leaves = {weight.path: read(weight) for weight in outer}
    for weight in _of_layer(config):
        leaves[f"layers.{weight.path}"] = np.stack([read(weight, i) for i in range(config.layers)])

    mesh = jax.sharding.get_mesh()

    def place(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        array = leaves[jax.tree_util.keystr(path, simple=True, separator=".")]
        sharding = NamedSharding(mesh, leaf.sharding.spec)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: array[index])

    model = jax.tree_util.tree_map_with_path(place, WorldModel.abstract(config))
    return Imported(config=config, model=model)


def _outer(config: ModelConfig, *, tied: bool) -> tuple[_Weight, ...]:
    vocab, embed = config.vocab, config.embed
    table = "model.embed_tokens.weight"
    head = table if tied else "lm_head.weight"
    return (
        _Weight(table, "embed", (vocab, embed), (vocab, embed), "same"),
        _Weight("model.norm.weight", "norm", (embed,), (embed,), "same"),
        _Weight(head, "head", (vocab, embed), (embed, vocab), "transposed"),
    )


def _of_layer(config: ModelConfig) -> tuple[_Weight, ...]:
    embed, heads, kv_heads = config.embed, config.heads, config.kv_heads
    head, mlp = config.head, config.mlp
    q, kv = heads * head, kv_heads * head
    rows: tuple[tuple[str, str, tuple[int, ...], tuple[int, ...], Literal["same", "transposed"]], ...] = (
        ("input_layernorm", "attention_norm", (embed,), (embed,), "same"),
        ("self_attn.q_proj", "attention.wq", (q, embed), (embed, heads, head), "transposed"),
        ("self_attn.k_proj", "attention.wk", (kv, embed), (embed, kv_heads, head), "transposed"),
        ("self_attn.v_proj", "attention.wv", (kv, embed), (embed, kv_heads, head), "transposed"),
        ("self_attn.o_proj", "attention.wo", (embed, q), (heads, head, embed), "transposed"),
        ("post_attention_layernorm", "mlp_norm", (embed,), (embed,), "same"),
        ("mlp.gate_proj", "mlp.gate", (mlp, embed), (embed, mlp), "transposed"),
        ("mlp.up_proj", "mlp.up", (mlp, embed), (embed, mlp), "transposed"),
        ("mlp.down_proj", "mlp.down", (embed, mlp), (mlp, embed), "transposed"),
    )
    return tuple(
        _Weight(f"model.layers.{{}}.{name}.weight", path, theirs, ours, layout)
        for name, path, theirs, ours, layout in rows
    )


def _their_config(config: ModelConfig, context_tokens: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": config.layers,
        "hidden_size": config.embed,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head,
        "intermediate_size": config.mlp,
        "vocab_size": config.vocab,
        "rms_norm_eps": config.norm_eps,
        # transformers 4 reads the first, transformers 5 the second.
        "rope_theta": config.rope_base,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "max_position_embeddings": context_tokens,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        TEXT_VOCAB_KEY: config.text_vocab,
    }


def _our_config(theirs: Any, problems: list[str]) -> ModelConfig | None:
    if not isinstance(theirs, dict):
        problems.append("it is not an object")
        return None
    required = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
    problems += [f"{key} is missing" for key in required if key not in theirs]
    sizes = {key: theirs[key] for key in required if key in theirs}
    problems += [f"{key} is {size!r}, not a number" for key, size in sizes.items() if type(size) is not int]
    for key, allowed in _SUPPORTED.items():
        if theirs.get(key, allowed[0]) not in allowed:
            problems.append(f"{key} is {theirs[key]!r}, supported is {allowed[0]!r}")
    rope = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        problems.append(f"RoPE is described by a {type(rope).__name__}, supported is an object")
    elif (kind := rope.get("rope_type", rope.get("type", "default"))) != "default":
        problems.append(f"RoPE is scaled by {kind!r}, supported is 'default'")
    if problems:
        return None
    heads, embed, vocab = (theirs[key] for key in ("num_attention_heads", "hidden_size", "vocab_size"))
    text_vocab = theirs.get(TEXT_VOCAB_KEY, vocab)
    try:
        return ModelConfig(
            layers=theirs["num_hidden_layers"],
            embed=embed,
            heads=heads,
            kv_heads=theirs.get("num_key_value_heads") or heads,
            head=theirs.get("head_dim") or embed // heads,
            mlp=theirs["intermediate_size"],
            text_vocab=text_vocab,
            vision_vocab=vocab - text_vocab,
            rope_base=float(rope.get("rope_theta", theirs.get("rope_theta", 10_000.0))),
            norm_eps=float(theirs.get("rms_norm_eps", 1e-6)),
        )
    except InputError as error:
        problems.append(str(error))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        problems.append(f"a size is not a number ({error})")
    return None


def _sources(directory: Path, problems: list[str]) -> dict[str, Path]:
    """Return the file that holds each tensor, of one file or of many with an index."""
    index, single = directory / INDEX_FILE, directory / WEIGHTS_FILE
    names = {WEIGHTS_FILE}
    if not single.exists() and index.exists():
        listed = read_as(dict[str, Any], index).get("weight_map")
        names = set(from_json(dict[str, str], listed, where=f"weight_map of {index}").values())
    sources = {}
    for name in sorted(names):
        if Path(name).name != name or not name.endswith(".safetensors"):
            problems.append(f"{INDEX_FILE} names {name!r}, which is not a safetensors file of this folder")
            continue
        try:
            with safe_open(directory / name, framework="numpy") as tensors:
                sources |= dict.fromkeys(tensors.keys(), directory / name)
        except (OSError, SafetensorError) as error:
            problems.append(f"{name} cannot be read ({error})")
    return sources


def _check_tensors(expected: dict[str, _Weight], sources: dict[str, Path], problems: list[str]) -> None:
    # Old exports carry the rotary frequencies, and tied ones the head; both follow from the rest.
    derived = {key for key in sources if key.endswith("rotary_emb.inv_freq") or key == "lm_head.weight"}
    problems += [f"{key} is missing" for key in expected.keys() - sources.keys()]
    problems += [f"{key} is unknown" for key in sources.keys() - expected.keys() - derived]
    for key in expected.keys() & sources.keys():
        with safe_open(sources[key], framework="numpy") as tensors:
            found = tensors.get_slice(key)
            shape, kind = tuple(found.get_shape()), found.get_dtype()
        if shape != expected[key].theirs:
            problems.append(f"{key} has shape {shape}, expected {expected[key].theirs}")
        if kind not in _FLOATS:
            problems.append(f"{key} is stored as {kind}, expected one of {', '.join(_FLOATS)}")


def _refusal(path: Path, problems: list[str]) -> InputError:
    return InputError(
        what=str(path),
        got="; ".join(sorted(problems)),
        expected="a Llama checkpoint in safetensors",
        remedy="Download it again, or convert it with transformers' save_pretrained.",
    )
