"""`config.json` of Hugging Face's LLaMA and its relatives, to and from an `Architecture`."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from reprlib import repr as short
from typing import Any

from ringworld.core.config import read_as
from ringworld.core.errors import InputError, listed
from ringworld.core.shared_files import OUR_KEY
from ringworld.model.config import Architecture, Family, Linear, Llama3, Rope, Scaling, Yarn

CONFIG_FILE = "config.json"
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


_NO_WINDOW = {"use_sliding_window": False}
_DIALECTS: dict[Family, _Dialect] = {
    "llama": _Dialect(
        architecture="LlamaForCausalLM", supported={"attention_bias": False, "mlp_bias": False}
    ),
    "mistral": _Dialect(
        architecture="MistralForCausalLM",
        supported={},
        defaults={"num_key_value_heads": 8, "sliding_window": 4096},
    ),
    # Qwen2.5-1M has a key for chunks of attention besides, which transformers does not read either.
    "qwen2": _Dialect(
        architecture="Qwen2ForCausalLM", supported=_NO_WINDOW, defaults={"num_key_value_heads": 32}
    ),
    "qwen3": _Dialect(
        architecture="Qwen3ForCausalLM",
        supported=_NO_WINDOW | {"attention_bias": False},
        defaults={"num_key_value_heads": 32, "head_dim": 128},
    ),
}
_SCALINGS: dict[Any, type[Scaling]] = {"linear": Linear, "llama3": Llama3, "yarn": Yarn}
_SCALING_KEYS = {
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "original_context_tokens": "original_max_position_embeddings",
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
    rope = {"rope_type": "default", "rope_theta": architecture.rope.base}
    for kind, scaling in _SCALINGS.items():
        if isinstance(ours := architecture.rope.scaling, scaling):
            values = {_SCALING_KEYS.get(name, name): value for name, value in asdict(ours).items()}
            rope |= {"rope_type": kind} | values
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
        # transformers 4 reads the first, transformers 5 the second.
        "rope_theta": architecture.rope.base,
        "rope_parameters": rope,
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
    context = theirs.get("max_position_embeddings", 2048)
    if type(context) is not int or not 1 <= context < 2**31:
        problems.append(f"max_position_embeddings is {context!r}, not a length in tokens")
    window = theirs.get("sliding_window") if family == "mistral" else None
    if window is not None and (type(window) is not int or window < 1):
        problems.append(f"sliding_window is {short(window)}, not a number of tokens")
    usual = "full_attention" if window is None else "sliding_attention"
    if isinstance(types := theirs.get("layer_types") or [], list) and any(one != usual for one in types):
        problems.append(f"layer_types are {short(types)}, not {usual} throughout")
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
                window_tokens=window or 0,
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


def _rope(theirs: dict[str, Any], problems: list[str]) -> Rope:
    described = theirs.get("rope_parameters") or theirs.get("rope_scaling") or {}
    if not isinstance(described, dict):
        problems.append(f"RoPE is described by a {type(described).__name__}, not an object")
        return Rope()
    if nested := [key for key, value in described.items() if isinstance(value, dict)]:
        problems.append(f"RoPE is another for {', '.join(nested)}, not one of all layers")
    kind = described.get("rope_type", described.get("type", "default"))
    if (part := described.get("partial_rotary_factor", 1.0)) != 1.0:
        problems.append(f"partial_rotary_factor of RoPE is {short(part)}, not 1.0")
    try:
        base = float(described.get("rope_theta", theirs.get("rope_theta", 10_000.0)))
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
    original = "original_max_position_embeddings"
    given[original] = described.get(original) or theirs.get("max_position_embeddings") or 0
    values: dict[str, Any] = {}
    for part in fields(_SCALINGS[kind]):
        key = _SCALING_KEYS.get(part.name, part.name)
        values[part.name] = int(given[key]) if key == original else float(given[key])
    return _SCALINGS[kind](**values)
