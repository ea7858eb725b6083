"""`config.json` of Hugging Face's LLaMA and its relatives, to and from an `Architecture`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from reprlib import repr as short
from typing import Any

from ringworld.core.config import read_as
from ringworld.core.errors import InputError, listed
from ringworld.core.shared_files import OUR_KEY
from ringworld.model.config import Architecture, Family, Linear, Llama3, Rope, Scaling, Yarn

CONFIG_FILE = "config.json"
_CHUNKS, _ORIGINAL = "dual_chunk_attention_config", "original_max_position_embeddings"
_CONTEXT_TOKENS = 2048
"""Of a LLaMA that does not say it."""
_MOST_TOKENS = 2**31 - 1
_SUPPORTED = {
    "hidden_act": "silu",
    "partial_rotary_factor": 1.0,
    "quantization_config": None,
    "compression_config": None,
}
"""What the keys that change the result must say, where they are there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Dialect:
    """How one family writes its `config.json`."""

    architecture: str
    """The class of transformers."""
    supported: dict[str, Any]
    """What further keys must say, where they are there."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """What transformers takes for keys that are not there, where it differs from LLaMA's."""


_DIALECTS: dict[Family, _Dialect] = {
    "llama": _Dialect(
        architecture="LlamaForCausalLM", supported={"attention_bias": False, "mlp_bias": False}
    ),
    "mistral": _Dialect(
        architecture="MistralForCausalLM",
        supported={},
        defaults={"num_key_value_heads": 8, "sliding_window": 4096},
    ),
    "qwen2": _Dialect(architecture="Qwen2ForCausalLM", supported={}, defaults={"num_key_value_heads": 32}),
    "qwen3": _Dialect(
        architecture="Qwen3ForCausalLM",
        supported={"attention_bias": False},
        defaults={"num_key_value_heads": 32, "head_dim": 128},
    ),
}
_QWEN = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
"""What transformers takes for the window of a Qwen."""
_SCALINGS: dict[Any, type[Scaling]] = {"linear": Linear, "llama3": Llama3, "yarn": Yarn}
_SCALING_KEYS = {
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "original_context_tokens": _ORIGINAL,
}
"""Theirs for the fields of a scaling that we name otherwise."""
_YARN = {"attention_factor": None, "mscale": None, "mscale_all_dim": None, "truncate": True}
"""What YaRN is supported with."""
_SIZES = {
    "num_hidden_layers": "layers",
    "hidden_size": "embed",
    "num_attention_heads": "heads",
    "intermediate_size": "mlp",
    "vocab_size": "vocab",
}


def hf_config(architecture: Architecture, *, context_tokens: int, bos: int, eos: int) -> dict[str, Any]:
    """Return the configuration that `AutoModelForCausalLM.from_pretrained` reads.

    The architecture has the rope base that the model ended with; `context_tokens` is the longest context that
    it was trained on.
    """
    scaled = None
    for kind, scaling in _SCALINGS.items():
        if isinstance(ours := architecture.rope.scaling, scaling):
            values = {_SCALING_KEYS.get(name, name): value for name, value in asdict(ours).items()}
            scaled = {"rope_type": kind} | values
    dialect = _DIALECTS[architecture.family]
    return {
        "architectures": [dialect.architecture],
        "model_type": architecture.family,
        "num_hidden_layers": architecture.layers,
        "hidden_size": architecture.embed,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.kv_heads,
        "head_dim": architecture.head,
        "intermediate_size": architecture.mlp,
        "vocab_size": architecture.vocab,
        "rms_norm_eps": architecture.norm_eps,
        # transformers 4 and many others read the first two, transformers 5 the last.
        "rope_theta": architecture.rope.base,
        "rope_scaling": scaled,
        "rope_parameters": {"rope_theta": architecture.rope.base, **(scaled or {"rope_type": "default"})},
        "max_position_embeddings": context_tokens,
        "hidden_act": "silu",
        **dialect.supported,
        "sliding_window": architecture.window_tokens or None,
        "tie_word_embeddings": architecture.tied,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "torch_dtype": "float32",
        OUR_KEY: {"text_vocab": architecture.text_vocab},
    }


def read_architecture(folder: Path) -> Architecture:
    """Return the architecture that a `config.json` describes.

    A model that ringworld did not write has no vision ids: all of its vocabulary is text.

    Raises:
        InputError: one error that names everything that is missing or not supported.
    """
    path = folder / CONFIG_FILE
    theirs = read_as(dict[str, Any], path)
    problems: list[str] = []
    family = theirs.get("model_type", "llama")
    if not isinstance(family, str) or family not in _DIALECTS:
        problems.append(f"model_type is {short(family)}, not one of {', '.join(_DIALECTS)}")
        family = "llama"
    dialect = _DIALECTS[family]
    theirs = dialect.defaults | theirs
    sizes: dict[str, Any] = {name: theirs.get(key) for key, name in _SIZES.items()}
    problems += [
        f"{key} is {short(theirs.get(key))}" for key, name in _SIZES.items() if type(sizes[name]) is not int
    ]
    problems += [
        f"{key} is {short(theirs[key])}, not {supported!r}"
        for key, supported in (_SUPPORTED | dialect.supported).items()
        if theirs.get(key, supported) != supported
    ]
    context = theirs.get("max_position_embeddings", _CONTEXT_TOKENS)
    if not _is_length(context):
        problems.append(f"max_position_embeddings is {context!r}, not a length in tokens")
    chunks = theirs.get(_CHUNKS)
    if chunks and not (isinstance(chunks, dict) and _is_length(chunks.get("chunk_size"))):
        problems.append(f"{_CHUNKS} is {short(chunks)}, without a chunk_size in tokens")
    window = _window(theirs, problems)
    ours = theirs.get(OUR_KEY) or {}
    if not isinstance(ours, dict) or type(ours.get("text_vocab", 0)) is not int:
        problems.append(f"{OUR_KEY} is {ours!r}, not an object with a whole number text_vocab")
    rope = _rope(theirs, problems)
    if not problems:
        try:
            vocab = sizes.pop("vocab")
            text_vocab = ours.get("text_vocab", vocab)
            return Architecture(
                **sizes,
                kv_heads=theirs.get("num_key_value_heads") or sizes["heads"],
                head=theirs.get("head_dim") or sizes["embed"] // sizes["heads"],
                text_vocab=text_vocab,
                vision_vocab=vocab - text_vocab,
                rope=rope,
                norm_eps=float(theirs.get("rms_norm_eps", 1e-6)),
                family=family,
                tied=theirs.get("tie_word_embeddings") is True,
                window_tokens=window,
            )
        except InputError as error:
            problems.append(error.problem)
        except (TypeError, ValueError, ZeroDivisionError, OverflowError) as error:
            problems.append(f"a size is not a number ({error})")
    raise InputError(
        f"{path} is not a LLaMA that ringworld can run: {listed(problems)}",
        path=path,
        value=tuple(problems),
    )


def longest_context(config: Mapping[str, Any]) -> int:
    """Return the longest context in tokens that a model is for, by a config that `read_architecture` accepts.

    It is `max_position_embeddings`, but for two kinds:

    * Qwen2.5-1M attends in chunks (`dual_chunk_attention_config`), and ringworld does not: up to `chunk_size`
      tokens both are the same.
    * YaRN, added as Qwen's pages say, leaves `max_position_embeddings` as it was: the context is `factor`
      times `original_max_position_embeddings`.
    """
    longest = config.get("max_position_embeddings", _CONTEXT_TOKENS)
    rope = _described(config)
    if rope.get("rope_type", rope.get("type")) == "yarn" and (original := rope.get(_ORIGINAL)):
        longest = max(longest, min(int(float(rope["factor"]) * int(original)), _MOST_TOKENS))
    chunks = config.get(_CHUNKS)
    return min(longest, chunks["chunk_size"]) if chunks else longest


def _is_length(value: Any) -> bool:
    return type(value) is int and 1 <= value <= _MOST_TOKENS


def _window(theirs: Mapping[str, Any], problems: list[str]) -> int:
    """Return how many tokens a token sees in all layers; 0 is all.

    transformers gives a Qwen with `use_sliding_window` its window from layer `max_window_layers` on, unless
    `layer_types` say otherwise.
    """
    family = theirs.get("model_type")
    window = theirs.get("sliding_window") if family == "mistral" else None
    if window is not None and not _is_length(window):
        problems.append(f"sliding_window is {short(window)}, not a number of tokens")
    usual = "full_attention" if window is None else "sliding_attention"
    types = theirs.get("layer_types") or []
    if not isinstance(types, list) or any(one != usual for one in types):
        problems.append(f"layer_types are {short(types)}, not {usual} throughout")
    said = _QWEN | dict(theirs)
    slides = said["use_sliding_window"] and said["sliding_window"] is not None and not types
    if slides and family in ("qwen2", "qwen3"):
        first, layers = said["max_window_layers"], theirs.get("num_hidden_layers")
        if not (type(first) is type(layers) is int and first >= layers):
            problems.append(
                f"use_sliding_window is true, with max_window_layers {short(first)} of {layers!r}"
            )
    return window or 0


def _described(config: Mapping[str, Any]) -> Any:
    """Return how RoPE is described; of both keys transformers 5 takes that of transformers 4."""
    return config.get("rope_scaling") or config.get("rope_parameters") or {}


def _rope(theirs: dict[str, Any], problems: list[str]) -> Rope:
    described, parameters = _described(theirs), theirs.get("rope_parameters") or {}
    for one in (described, parameters):
        if not isinstance(one, dict):
            problems.append(f"RoPE is described by a {type(one).__name__}, not an object")
            return Rope()
    both = {**described, **parameters}
    if nested := [key for key, value in both.items() if isinstance(value, dict)]:
        problems.append(f"RoPE is another for {', '.join(nested)}, not one of all layers")
    kind = described.get("rope_type", described.get("type", "default"))
    if (part := described.get("partial_rotary_factor", 1.0)) != 1.0:
        problems.append(f"partial_rotary_factor of RoPE is {short(part)}, not 1.0")
    try:
        bases = [one["rope_theta"] for one in (described, theirs, parameters) if "rope_theta" in one]
        base = float(bases[0] if bases else 10_000.0)
        return Rope(base=base, scaling=_our_scaling(kind, described, theirs))
    except InputError as error:
        problems.append(error.problem)
    except KeyError as error:
        problems.append(f"RoPE scaled by {kind!r} lacks {error}")
    except (TypeError, ValueError, OverflowError) as error:
        problems.append(f"RoPE scaled by {kind!r} has a value that is not a number ({error})")
    return Rope()


def _our_scaling(kind: Any, described: dict[str, Any], theirs: dict[str, Any]) -> Scaling | None:
    if kind == "default":
        return None
    if kind not in _SCALINGS:
        problem = f"RoPE is scaled by {kind!r}, not by one of {', '.join(_SCALINGS)}"
        raise InputError(problem, field="rope.scaling", value=kind)
    if kind == "yarn" and (
        other := [key for key, usual in _YARN.items() if described.get(key, usual) != usual]
    ):
        raise ValueError(f"{', '.join(other)} is not supported")
    given = {"beta_fast": 32.0, "beta_slow": 1.0} | described
    given[_ORIGINAL] = described.get(_ORIGINAL) or theirs.get("max_position_embeddings") or 0
    values: dict[str, Any] = {}
    for part in fields(_SCALINGS[kind]):
        key = _SCALING_KEYS.get(part.name, part.name)
        values[part.name] = int(given[key]) if key == _ORIGINAL else float(given[key])
    return _SCALINGS[kind](**values)
