"""LWM's world models, as its trainer saves them, read as a folder of Hugging Face's.

The file is a stream of msgpack records; see `ringworld.interop.msgpack_stream`. Its arrays are flax's, whose
kernels are [in, out]. What differs from `LlamaForCausalLM`, besides names:

| LWM | Hugging Face |
|---|---|
| layers of one array stacked along axis 0 or 1 (`scan_layers`), or one by one | one by one |
| RoPE rotates component 2i with 2i + 1 | component i with i + head / 2: rows of q and k are permuted |
| two tables and two heads, for text and for vision | one of each: the ids of vision follow those of text |

The ids of vision are ours as they stand: the codes, end of frame, end of vision. LWM has 254 more, 8448 in
all, that no target ever is. They stay, so that the softmax over vision is LWM's; `vision_vocab` drops them.

Source: LWM `lwm/llama.py`, `lwm/vision_llama.py`; tux `checkpoint.py`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from ringworld.core.errors import InputError, listed
from ringworld.core.ranges import whole_number
from ringworld.interop.hf_config import hf_config
from ringworld.interop.mapped_array import MappedArray
from ringworld.interop.msgpack_stream import Record, find_records
from ringworld.interop.other_model import OtherModel
from ringworld.interop.tensors import NUMPY_TYPES, PART_NUMBERS, Tensor
from ringworld.model.config import Architecture, Rope
from ringworld.model.sizes import LWM_SIZES

_TEXT, _VISION = "transformer/wte/embedding", "transformer/vte/embedding"
_NORM, _TEXT_HEAD, _VISION_HEAD = "transformer/ln_f/kernel", "lm_head/kernel", "vision_head/kernel"
_LAYERS, _SCANNED = "transformer/h/", "transformer/h/scan_decoder/"
_PREFIXES = ("params/params/", "params/")
"""Of the parameters in a whole train state, whose other parts the optimizer needs."""
_SIZES = {(size.layers, size.embed): size for size in LWM_SIZES.values()}
"""LWM's own, by layers and width."""
_USUAL_EPS = 1e-6
_ROPE_BASES = {2**15: 1e6, 2**17: 1e7, 2**18: 1e7, 2**19: 2.5e7, 2**20: 5e7}
"""Of the models of text, by context (README; table 11 of arXiv 2402.08268)."""
_VISION_ROPE_BASE = 5e7
"""Of the models of vision at every context (table 13)."""
_BOS, _EOS = 1, 2
"""Of LLaMA's tokenizer; the defaults of LWM's `LLaMAConfig` are others, which nothing there uses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One array of each layer."""

    theirs: str
    """Its path below the layer."""
    ours: str
    """Its name below the layer in `LlamaForCausalLM`."""
    shape: tuple[int, ...]
    """Theirs."""
    rotary: bool = False


def _parts(embed: int, mlp: int) -> tuple[_Part, ...]:
    square, up, down = (embed, embed), (embed, mlp), (mlp, embed)
    return (
        _Part(theirs="attention_norm/kernel", ours="input_layernorm", shape=(embed,)),
        _Part(theirs="attention/wq/kernel", ours="self_attn.q_proj", shape=square, rotary=True),
        _Part(theirs="attention/wk/kernel", ours="self_attn.k_proj", shape=square, rotary=True),
        _Part(theirs="attention/wv/kernel", ours="self_attn.v_proj", shape=square),
        _Part(theirs="attention/wo/kernel", ours="self_attn.o_proj", shape=square),
        _Part(theirs="ffn_norm/kernel", ours="post_attention_layernorm", shape=(embed,)),
        _Part(theirs="feed_forward/w1/kernel", ours="mlp.gate_proj", shape=up),
        _Part(theirs="feed_forward/w3/kernel", ours="mlp.up_proj", shape=up),
        _Part(theirs="feed_forward/w2/kernel", ours="mlp.down_proj", shape=down),
    )


def read_lwm(
    path: Path,
    *,
    context_tokens: int,
    rope_base: float | None = None,
    heads: int | None = None,
    norm_eps: float | None = None,
    vision_vocab: int | None = None,
    scan_axis: Literal[0, 1] | None = None,
) -> OtherModel:
    """Read the heads of a checkpoint of LWM; values stay in the file until a tensor is read.

    Parameters alone (`params`, `streaming_params`) and whole train states (`streaming_train_state`) are read,
    of text or of vision, stored as bfloat16, float16 or float32. LWM's attention has no groups.

    Args:
        path: the file.
        context_tokens: longest context that it was trained on, which the file does not say.
        rope_base: base of RoPE, which LWM calls theta; by default that of LWM's models of this context.
        heads: query heads; by default those of LWM's size with as many layers and this width.
        norm_eps: added to the mean square in RMSNorm; by default that of LWM's sizes, 1e-6, and 1e-5 for 65b.
        vision_vocab: ids of vision to keep, such as 8194 for 8192 codes and two ends; by default all that
            there are.
        scan_axis: along which axis layers are stacked, where they are; by default what the shapes say, and 0
            where there are as many layers as the model is wide.

    Raises:
        InputError: one error that names everything that is missing, unknown, damaged or of another shape, and
            what of the above must be given.
    """
    whole_number("context_tokens", context_tokens, least=1, below=2**31)
    if heads is not None:
        whole_number("heads", heads, least=1, below=2**31)
    if vision_vocab is not None:
        whole_number("vision_vocab", vision_vocab, least=1, below=2**30)
    records = _parameters(find_records(path))
    problems: list[str] = []
    arrays = _arrays(records, problems)
    sizes = _sizes(arrays, scan_axis, problems)
    if sizes is None:
        raise _refusal(path, problems)
    problems += _misfits(records, arrays, sizes)
    kept = sizes.vision_rows if vision_vocab is None else vision_vocab
    if kept > sizes.vision_rows:
        problems.append(f"vision_vocab is {vision_vocab}, but it has {sizes.vision_rows} ids of vision")
    rope = _rope(sizes, rope_base, context_tokens, problems)
    architecture = _architecture(
        sizes, vision_vocab=kept, heads=heads, norm_eps=norm_eps, rope=rope, problems=problems
    )
    if architecture is None or problems:
        raise _refusal(path, problems)
    config = hf_config(architecture, context_tokens=context_tokens, bos=_BOS, eos=_EOS)
    return OtherModel(
        config=config | {"torch_dtype": NUMPY_TYPES[arrays[_TEXT_HEAD].dtype].name},
        tensors=dict(_tensors(arrays, sizes, architecture)),
        tokenizer=None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _CheckpointSizes:
    """What the shapes of some arrays say, and those of all others must agree with."""

    layers: int
    embed: int
    mlp: int
    text_vocab: int
    vision_rows: int
    scan_axis: int | None
    """None where each layer has arrays of its own."""

    def expected(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every array of such a model."""
        embed, text, vision = self.embed, self.text_vocab, self.vision_rows
        shapes = {_TEXT: (text, embed), _NORM: (embed,), _TEXT_HEAD: (embed, text)}
        if vision:
            shapes |= {_VISION: (vision, embed), _VISION_HEAD: (embed, vision)}
        for part in _parts(embed, self.mlp):
            shapes |= {self.layer_name(part, layer): self._stacked(part) for layer in self._arrays_of_a_part}
        return shapes

    def layer_name(self, part: _Part, layer: int) -> str:
        """Return the path of the array that holds a part of a layer."""
        return f"{_LAYERS}{layer}/{part.theirs}" if self.scan_axis is None else _SCANNED + part.theirs

    @property
    def _arrays_of_a_part(self) -> range:
        return range(self.layers if self.scan_axis is None else 1)

    def _stacked(self, part: _Part) -> tuple[int, ...]:
        axis = self.scan_axis
        return part.shape if axis is None else (*part.shape[:axis], self.layers, *part.shape[axis:])


def _parameters(records: dict[str, Record]) -> dict[str, Record]:
    """Leave out what a train state holds besides the parameters, unread."""
    for prefix in _PREFIXES:
        if inside := {
            name.removeprefix(prefix): record for name, record in records.items() if name.startswith(prefix)
        }:
            return inside
    return records


def _arrays(records: Mapping[str, Record], problems: list[str]) -> dict[str, MappedArray]:
    arrays = {}
    for name, record in records.items():
        try:
            arrays[name] = record.array()
        except ValueError as error:
            problems.append(f"{name}: {error}")
    return arrays


def _sizes(
    arrays: Mapping[str, MappedArray], scan_axis: Literal[0, 1] | None, problems: list[str]
) -> _CheckpointSizes | None:
    shapes = {name: array.shape for name, array in arrays.items()}
    scanned = any(name.startswith(_SCANNED) for name in shapes)
    gate_name = f"{_SCANNED if scanned else _LAYERS + '0/'}feed_forward/w1/kernel"
    table, gate = shapes.get(_TEXT, ()), shapes.get(gate_name, ())
    for name, shape, dimensions in ((_TEXT, table, 2), (gate_name, gate, 2 + scanned)):
        if len(shape) != dimensions:
            problems.append(
                f"{name}, which says the sizes of the model, is no array of {dimensions} dimensions"
            )
    if len(table) != 2 or len(gate) != 2 + scanned:
        return None
    text_vocab, embed = table
    axis = (0 if gate[1] == embed else 1) if scan_axis is None else scan_axis
    single = {name.removeprefix(_LAYERS).split("/")[0] for name in shapes if name.startswith(_LAYERS)}
    return _CheckpointSizes(
        layers=gate[axis] if scanned else len(single),
        embed=embed,
        mlp=gate[-1],
        text_vocab=text_vocab,
        vision_rows=shapes.get(_VISION, shapes.get(_VISION_HEAD, (0,))[::-1])[0],
        scan_axis=axis if scanned else None,
    )


def _misfits(
    records: Mapping[str, Record], arrays: Mapping[str, MappedArray], sizes: _CheckpointSizes
) -> Iterator[str]:
    expected = sizes.expected()
    yield from (f"{name} is missing" for name in expected if name not in records)
    yield from (f"{name} is unknown" for name in records if name not in expected)
    for name, shape in expected.items():
        if name in arrays and arrays[name].shape != shape:
            yield f"{name} has shape {arrays[name].shape}, expected {shape}"
    for text, vision in ((_TEXT, _VISION), (_TEXT_HEAD, _VISION_HEAD)):
        if {text, vision} <= arrays.keys() and arrays[text].dtype != arrays[vision].dtype:
            yield f"{vision} is stored as {arrays[vision].dtype}, but {text} as {arrays[text].dtype}"


def _rope(sizes: _CheckpointSizes, base: float | None, context_tokens: int, problems: list[str]) -> Rope:
    if base is None:
        base = _VISION_ROPE_BASE if sizes.vision_rows else _ROPE_BASES.get(context_tokens)
    if base is None:
        problems.append(f"no model of LWM has a context of {context_tokens}: pass rope_base")
        return Rope()
    return Rope(base=base)


def _architecture(
    sizes: _CheckpointSizes,
    *,
    vision_vocab: int,
    heads: int | None,
    norm_eps: float | None,
    rope: Rope,
    problems: list[str],
) -> Architecture | None:
    known = _SIZES.get((sizes.layers, sizes.embed))
    heads = heads or (known and known.heads)
    if heads is None:
        problems.append(f"no model of LWM has {sizes.layers} layers of width {sizes.embed}: pass heads")
        return None
    usual_eps = known.norm_eps if known else _USUAL_EPS
    try:
        return Architecture(
            layers=sizes.layers,
            embed=sizes.embed,
            heads=heads,
            kv_heads=heads,
            head=sizes.embed // heads,
            mlp=sizes.mlp,
            text_vocab=sizes.text_vocab,
            vision_vocab=vision_vocab,
            rope=rope,
            norm_eps=usual_eps if norm_eps is None else norm_eps,
        )
    except InputError as error:
        problems.append(error.problem)
        return None


def _tensors(
    arrays: Mapping[str, MappedArray], sizes: _CheckpointSizes, architecture: Architecture
) -> Iterator[tuple[str, Tensor]]:
    vocabularies = (sizes.text_vocab, architecture.vision_vocab)

    def joined(*names: str, transposed: bool) -> Tensor:
        parts = [(arrays[name], ids) for name, ids in zip(names, vocabularies) if ids]

        def read_parts() -> Iterator[Shaped[np.ndarray, "part embed"]]:
            rows = max(1, PART_NUMBERS // sizes.embed)
            for array, ids in parts:
                for start in range(0, ids, rows):
                    part = array.read_range(start, min(start + rows, ids), axis=int(transposed))
                    yield part.T if transposed else part

        shape = (architecture.vocab, sizes.embed)
        return Tensor.in_parts(shape, dtype=parts[0][0].dtype, read_parts=read_parts)

    yield "model.embed_tokens.weight", joined(_TEXT, _VISION, transposed=False)
    for layer in range(sizes.layers):
        for part in _parts(sizes.embed, sizes.mlp):
            array = arrays[sizes.layer_name(part, layer)]
            read = partial(
                _read_part,
                array,
                layer=layer,
                axis=sizes.scan_axis,
                rotary_heads=architecture.heads if part.rotary else 0,
            )
            name = f"model.layers.{layer}.{part.ours}.weight"
            yield name, Tensor(shape=part.shape[::-1], dtype=array.dtype, read=read)
    norm = arrays[_NORM]
    yield "model.norm.weight", Tensor(shape=norm.shape, dtype=norm.dtype, read=norm.read)
    yield "lm_head.weight", joined(_TEXT_HEAD, _VISION_HEAD, transposed=True)


def _read_part(
    array: MappedArray, *, layer: int, axis: int | None, rotary_heads: int
) -> Shaped[np.ndarray, "..."]:
    """Read a part of one layer as Hugging Face has it: a matrix is [out, in]."""
    theirs = array.read() if axis is None else array.read_part(layer, axis=axis)
    if not rotary_heads:
        return theirs.T
    pairs = theirs.reshape(len(theirs), rotary_heads, -1, 2)
    return pairs.transpose(1, 3, 2, 0).reshape(-1, len(theirs))


def _refusal(path: Path, problems: list[str]) -> InputError:
    return InputError(
        f"{path} cannot be read as a checkpoint of LWM: {listed(problems)}", path=path, value=tuple(problems)
    )
