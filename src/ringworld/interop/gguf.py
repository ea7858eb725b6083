"""Models of llama.cpp: a GGUF file of the llama architecture, named and laid out as Hugging Face does.

Names and keys are those of `gguf-py/gguf/constants.py` of https://github.com/ggml-org/llama.cpp; the order of
rows in q and k is what its `convert_hf_to_gguf.py` makes of ours: llama.cpp rotates neighbors within a head,
Hugging Face and we rotate rows that are half a head apart.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from reprlib import repr as short
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ringworld.core.errors import InputError, listed
from ringworld.interop.gguf_file import Header, StoredTensor, read_header
from ringworld.interop.gguf_tokenizer import read_tokenizer
from ringworld.interop.hf_config import hf_config
from ringworld.interop.hf_llama import in_order
from ringworld.interop.other_model import OtherModel
from ringworld.interop.tensors import Tensor
from ringworld.model.config import Architecture, Linear, Llama3, Rope, Scaling, Yarn
from ringworld.model.rope import inverse_frequencies
from ringworld.text.tokenizer import TextTokenizer

_EMBEDDING, _HEAD, _FREQUENCIES = "token_embd.weight", "output.weight", "rope_freqs.weight"
_NAMES = {
    "model.embed_tokens.weight": _EMBEDDING,
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": _HEAD,
    "model.layers.{}.input_layernorm.weight": "blk.{}.attn_norm.weight",
    "model.layers.{}.self_attn.q_proj.weight": "blk.{}.attn_q.weight",
    "model.layers.{}.self_attn.k_proj.weight": "blk.{}.attn_k.weight",
    "model.layers.{}.self_attn.v_proj.weight": "blk.{}.attn_v.weight",
    "model.layers.{}.self_attn.o_proj.weight": "blk.{}.attn_output.weight",
    "model.layers.{}.post_attention_layernorm.weight": "blk.{}.ffn_norm.weight",
    "model.layers.{}.mlp.gate_proj.weight": "blk.{}.ffn_gate.weight",
    "model.layers.{}.mlp.up_proj.weight": "blk.{}.ffn_up.weight",
    "model.layers.{}.mlp.down_proj.weight": "blk.{}.ffn_down.weight",
}
"""Of Hugging Face, and of llama.cpp."""
_ROTATED = ("self_attn.q_proj.weight", "self_attn.k_proj.weight")
_SIZES = {
    "block_count": "layers",
    "embedding_length": "embed",
    "attention.head_count": "heads",
    "feed_forward_length": "mlp",
}
_READ = {
    *_SIZES,
    "context_length",
    "vocab_size",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
}
_OPTIONAL = ("attention.head_count_kv", "attention.key_length")
_WITHOUT_EFFECT = {"rope.scaling.finetuned", "tensor_data_layout"}
_SUPPORTED = {
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
}
"""What the keys that change the result must say, where they are there."""
_LLAMA3_CONTEXT_TOKENS = 8192
_FREQUENCY_ERROR = 1e-5
"""Relative, of factors that llama.cpp's converter computed in float32: a power with an exponent up to 13."""


def read_gguf(path: Path, *, tokenizer: TextTokenizer | None = None) -> OtherModel:
    """Read a model of the llama architecture; its tensors stay in the file until they are asked for.

    What is quantized is read as float32; float16 and bfloat16 stay as they are.

    Args:
        path: of the file.
        tokenizer: used in place of the one that its metadata describe.

    Raises:
        InputError: it is no whole GGUF file, is of another architecture, or holds what cannot be expressed
            exactly; one error names everything.
    """
    header = read_header(path)
    if not _is(kind := header.metadata.get("general.architecture"), "llama"):
        raise InputError(
            f"{path} holds a model of the architecture {short(kind)}, not llama",
            field="general.architecture",
            value=kind,
            path=path,
        )
    if not (_is(files := header.metadata.get("split.count", 1), 1) or _is(files, 0)):
        raise InputError(
            f"{path} is one of {short(files)} files of a model",
            field="split.count",
            value=files,
            path=path,
            remedy="join them with llama-gguf-split --merge",
        )
    problems: list[str] = []
    said = {
        key.removeprefix("llama."): value
        for key, value in header.metadata.items()
        if key.startswith("llama.")
    }
    architecture = _architecture(said, header, path, problems)
    tensors = {} if architecture is None else _tensors(path, header, architecture, problems)
    try:
        if tokenizer is None:
            tokenizer = read_tokenizer(header.metadata)
            tokenizer.template_file = path
        if architecture is not None and tokenizer.size > architecture.vocab:
            problems.append(f"its tokenizer has {tokenizer.size} ids for {architecture.vocab} embeddings")
    except InputError as error:
        problems.append(str(error))
    if problems or architecture is None or tokenizer is None:
        raise InputError(f"{path} cannot be converted: {listed(problems)}", path=path, value=tuple(problems))
    ends = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.eos}
    config = hf_config(
        architecture, context_tokens=said["context_length"], bos=tokenizer.bos, eos=tokenizer.eos
    )
    kept = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[header.tensors[_EMBEDDING].dtype]
    return OtherModel(
        config=config | {"torch_dtype": kept},
        tensors=tensors,
        tokenizer=tokenizer,
        generation=ends,
    )


def _is(value: Any, expected: Any) -> bool:
    """Return whether metadata say this; a list never does, and NumPy would compare its members."""
    return not isinstance(value, np.ndarray) and value == expected


def _problems(said: Mapping[str, Any], embedding: StoredTensor | None) -> list[str]:
    """Return what is missing, unknown or not supported."""
    unknown = said.keys() - _READ - _WITHOUT_EFFECT - _SUPPORTED.keys()
    whole = {key: said.get(key) for key in (*_SIZES, "context_length")}
    whole |= {key: said[key] for key in _OPTIONAL if key in said}
    return [
        *(f"llama.{key} is not known" for key in sorted(unknown)),
        *(
            f"llama.{key} is {short(said[key])}, not {supported!r}"
            for key, supported in _SUPPORTED.items()
            if not _is(said.get(key, supported), supported)
        ),
        *(
            f"llama.{key} is {short(value)}, not a whole number"
            for key, value in whole.items()
            if type(value) is not int or not 1 <= value < 2**31
        ),
        *([f"{_EMBEDDING} is missing"] if embedding is None else []),
    ]


def _architecture(
    said: Mapping[str, Any], header: Header, path: Path, problems: list[str]
) -> Architecture | None:
    """Return what the metadata say, or None where there are problems."""
    embedding = header.tensors.get(_EMBEDDING)
    problems += _problems(said, embedding)
    if problems or embedding is None:
        return None
    sizes = {name: said[key] for key, name in _SIZES.items()}
    head = said.get("attention.key_length", sizes["embed"] // sizes["heads"])
    vocab = embedding.shape[0]
    expected = {"attention.value_length": head, "rope.dimension_count": head, "vocab_size": vocab}
    problems += [
        f"llama.{key} is {short(said[key])}, not {value}"
        for key, value in expected.items()
        if not _is(said.get(key, value), value)
    ]
    try:
        return Architecture(
            **sizes,
            kv_heads=said.get("attention.head_count_kv", sizes["heads"]),
            head=head,
            text_vocab=vocab,
            rope=_rope(said, _factors(path, header, head=head), head=head),
            norm_eps=float(said["attention.layer_norm_rms_epsilon"]),
            tied=_HEAD not in header.tensors,
        )
    except InputError as error:
        problems.append(error.problem)
    except KeyError as error:
        problems.append(f"llama.{error.args[0]} is missing")
    except (TypeError, ValueError, OverflowError) as error:
        problems.append(f"a value is not a number ({error})")
    return None


def _factors(path: Path, header: Header, *, head: int) -> np.ndarray | None:
    """Return by how much each rotary frequency is divided, or None where there is no such tensor."""
    stored = header.tensors.get(_FREQUENCIES)
    if stored is None:
        return None
    problem = "" if stored.shape == (head // 2,) else f"has shape {stored.shape}, expected {(head // 2,)}"
    if problem := problem or stored.problem(file_bytes=header.file_bytes):
        raise InputError(f"{_FREQUENCIES} {problem}", field=_FREQUENCIES)
    (factors,) = stored.parts(path)
    return factors.astype(np.float64)


def _rope(said: Mapping[str, Any], factors: np.ndarray | None, *, head: int) -> Rope:
    """Return the rotation.

    Raises:
        InputError: ours cannot be the same.
    """
    base, scaling = float(said.get("rope.freq_base", 10_000.0)), _scaling(said)
    if factors is None or (factors == 1).all():
        return Rope(base=base, scaling=scaling)
    if scaling is None and np.isfinite(factors).all() and (factors > 0).all():
        plain = inverse_frequencies(Rope(base=base), head=head)
        original = said.get("rope.scaling.original_context_length", _LLAMA3_CONTEXT_TOKENS)
        for context in (original, _LLAMA3_CONTEXT_TOKENS):
            # The file has the result alone: that Llama 3's constants lead to it is tried.
            llama3 = Llama3(factor=float(np.float32(factors.max())), original_context_tokens=int(context))
            rope = Rope(base=base, scaling=llama3)
            ours = inverse_frequencies(rope, head=head)
            if np.allclose(ours * factors, plain, rtol=_FREQUENCY_ERROR, atol=0):
                return rope
    raise InputError(f"{_FREQUENCIES} divides frequencies otherwise than Llama 3 does", field=_FREQUENCIES)


def _scaling(said: Mapping[str, Any]) -> Scaling | None:
    kind = said.get("rope.scaling.type", "linear")
    factor = float(said.get("rope.scaling.factor", said.get("rope.scale_linear", 0.0)))
    match kind:
        case "none":
            return None
        case "linear":
            return Linear(factor=factor) if factor not in (0.0, 1.0) else None
        case "yarn":
            original = said.get("rope.scaling.original_context_length", said["context_length"])
            return Yarn(
                factor=factor,
                original_context_tokens=int(original),
                beta_fast=float(said.get("rope.scaling.yarn_beta_fast", 32.0)),
                beta_slow=float(said.get("rope.scaling.yarn_beta_slow", 1.0)),
            )
    problem = f"rope.scaling.type is {short(kind)}, not one of none, linear, yarn"
    raise InputError(problem, field="rope.scaling.type", value=kind)


def _tensors(
    path: Path, header: Header, architecture: Architecture, problems: list[str]
) -> dict[str, Tensor]:
    """Return every tensor under the name that Hugging Face gives it."""
    tensors: dict[str, Tensor] = {}
    unknown = set(header.tensors) - {_FREQUENCIES}
    places: list[tuple[int, int, str]] = []
    for weight, layer in in_order(architecture):
        name = _NAMES[weight.key].format(layer)
        unknown.discard(name)
        stored = header.tensors.get(name)
        if stored is None:
            problems.append(f"{name} is missing")
        elif stored.shape != weight.theirs:
            problems.append(f"{name} has shape {stored.shape}, expected {weight.theirs}")
        elif problem := stored.problem(file_bytes=header.file_bytes):
            problems.append(f"{name} {problem}")
        else:
            places.append((stored.start, stored.end, name))
            head = architecture.head if weight.key.endswith(_ROTATED) else 0
            read = partial(_parts, path, stored, head=head)
            tensors[weight.key.format(layer)] = Tensor.in_parts(
                stored.shape, dtype=stored.dtype, read_parts=read
            )
    problems += [f"{name} is not known" for name in sorted(unknown)]
    # A small file could otherwise name the same bytes often enough to fill any disk.
    problems += [
        f"{name} begins at byte {start}, within {other}"
        for (_, end, other), (start, _, name) in pairwise(sorted(places))
        if start < end
    ]
    return tensors


def _parts(path: Path, stored: StoredTensor, *, head: int) -> Iterator[Shaped[np.ndarray, "part ..."]]:
    """Read a tensor, where it is rotated head by head with its rows half a head apart.

    A head of 4 rows: 0 1 2 3  ->  0 2 1 3
    """
    for part in stored.parts(path, rows=head or 1):
        if not head:
            yield part
            continue
        pairs = part.reshape(-1, head // 2, 2, part.shape[-1])
        yield pairs.swapaxes(1, 2).reshape(part.shape)
