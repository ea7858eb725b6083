"""`ringworld.convert`: models of other programs to model folders, and model folders to plain ones."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from ringworld.api.load import ModelDefaults
from ringworld.api.machine import PathArgument, check_apart
from ringworld.artifacts.adapter_folder import is_adapter
from ringworld.artifacts.model_folder import ModelFolder, fingerprint_of_files, save_other_model
from ringworld.artifacts.tokenizers import FRAME_TOKENIZER_FOLDER, Tokenizers
from ringworld.core.config import from_json
from ringworld.core.errors import InputError, not_a_choice
from ringworld.core.files import is_empty, sha256_file
from ringworld.core.origin import Origin, check_replaceable, parent
from ringworld.core.shared_files import OUR_KEY
from ringworld.interop.gguf import read_gguf
from ringworld.interop.gguf_file import MAGIC
from ringworld.interop.hf_config import CONFIG_FILE
from ringworld.interop.hf_folder import GENERATION_FILE, check_words, read_hf
from ringworld.interop.hf_llama import Adapt
from ringworld.interop.lwm import read_lwm
from ringworld.interop.lwm_vqgan import read_lwm_vqgan
from ringworld.interop.other_model import OtherModel
from ringworld.interop.vision_ids import text_vocab, with_vision_ids, without_vision_ids
from ringworld.model.config import StoredType
from ringworld.text.templates import ChatTemplate, source_of
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from ringworld.vision.config import PixelRange
from ringworld.vision.frame_tokenizer import FrameTokenizer

Target = Literal["ringworld", "hf"]
Vision = Literal["keep", "drop"]


def convert(
    source: PathArgument,
    *,
    out: PathArgument,
    to: Target = "ringworld",
    tokenizer: PathArgument | None = None,
    add_vision: PathArgument | None = None,
    vision: Vision = "keep",
    dtype: StoredType | None = None,
    context_tokens: int | None = None,
    rope_base: float | None = None,
    heads: int | None = None,
    resolution: int | None = None,
    pixel_range: PixelRange | None = None,
) -> Path:
    """Write a model of another program as a model folder, or any model as a plain folder of Hugging Face's.

    An adapter is merged into its model.

    One tensor at a time is in memory, and `out` appears whole or not at all.

    Args:
        source: a GGUF file of the llama architecture; a checkpoint of LWM; or a folder with `config.json` and
            safetensors of LLaMA, Mistral, Qwen2.5 or Qwen3, such as a model folder; or an adapter folder.
        out: folder to write, in place of a model folder that stood there.
        to: `ringworld`, a model folder; or `hf`, the same weights and words without what is ringworld's own:
            no `origin.json`, no key of ours, no vision.
        tokenizer: folder with a `tokenizer.json` that is used in place of the model's own.
        add_vision: folder of the frame tokenizer that a model of text shall see with, of ringworld or a
            `VQModel` of diffusers, or LWM's file `vqgan`. The model gains the ids, each the mean of those
            that it has; one that has ids of vision keeps them.
        vision: `drop` leaves out the ids of vision and the frame tokenizer of `source`.
        dtype: `float32` or `bfloat16`, to which the weights of the model are rounded; by default they stay
            as they are.
        context_tokens: longest context of a checkpoint of LWM, which does not say it.
        rope_base: base of its RoPE; by default that of LWM's models of this context.
        heads: its query heads; by default those of LWM's size with as many layers and this width.
        resolution: side in pixels of a frame of `add_vision`, where its files do not say it; 256 for LWM's.
        pixel_range: what a `VQModel` is fed: `unit`, [0, 1], for aMUSEd's, or `signed`, [-1, 1].

    Returns:
        `out`.

    Raises:
        InputError: `source` is damaged or holds what cannot be expressed, parts do not fit together, `to` is
            `hf` for a model that sees, or something else stands at `out`.
    """
    source, out = Path(source), Path(out)
    for name, value, choices in (
        ("to", to, Target),
        ("vision", vision, Vision),
        ("dtype", dtype, StoredType),
    ):
        if value is not None and value not in get_args(choices):
            raise not_a_choice(name, value, choices=get_args(choices))
    check_apart(out, (source, *source.resolve().parents))
    _check_out(out, to=to)
    adapted = ModelFolder.open(source) if is_adapter(source) else None
    if adapted is not None:
        source = adapted.path
        check_apart(out, (source, *source.resolve().parents))
    words = None if tokenizer is None else TextTokenizer.load(Path(tokenizer))
    of_lwm = {"context_tokens": context_tokens, "rope_base": rope_base, "heads": heads}
    adapt = None if adapted is None else adapted.adapt
    model = _read(source, tokenizer=words, of_lwm=_given(of_lwm), adapt=adapt)
    ours = model.generation.get(OUR_KEY) or {}
    kept = from_json(dict[str, Any], ours, where=source / GENERATION_FILE)
    ModelDefaults.of(kept, folder=source)  # refuses what could not be loaded
    frame_tokenizer = _frame_tokenizer(
        source,
        add_vision=add_vision,
        vision=vision,
        shown=_given({"resolution": resolution, "pixel_range": pixel_range}),
    )
    if vision == "drop":
        model = without_vision_ids(model)
    text = _checked_words(model, words, source=source, folder=tokenizer)
    if words is not None:
        ends = {"bos_token_id": words.bos, "eos_token_id": words.eos}
        model = replace(model, config={**model.config, **ends}, generation={**model.generation, **ends})
    tokenizers = Tokenizers(text_tokenizer=text, frame_tokenizer=frame_tokenizer)
    model = _with_ids_for(tokenizers, model, source=source, add_vision=add_vision)
    if dtype is not None:
        model = model.stored_as(dtype)
    model = model.of_finite_numbers(source)
    if to == "hf":
        plain = replace(tokenizers, text_tokenizer=text.without_ours())
        save_other_model(out, _plain(model, source), tokenizers=plain, origin=None)
    else:
        parents, configuration = {"source": parent(source, _fingerprint(source))}, None
        if adapted is not None and adapted.adapter is not None:
            parents["adapter"] = parent(adapted.adapter.path, adapted.adapter.fingerprint)
            configuration = adapted.configuration
        origin = Origin(kind="model", parents=parents, configuration=configuration)
        save_other_model(out, model, tokenizers=tokenizers, origin=origin)
    return out


def _plain(model: OtherModel, source: Path) -> OtherModel:
    """Return the model without what is ours alone.

    Raises:
        InputError: it has ids of vision.
    """
    if model.config["vocab_size"] > text_vocab(model.config):
        raise InputError(
            f"the model in {source} has ids of vision, which a plain folder cannot name",
            field="to",
            value="hf",
            path=source,
            remedy="leave them out (vision=drop), or keep the model folder, which transformers opens too",
        )
    return replace(
        model,
        config={name: value for name, value in model.config.items() if name != OUR_KEY},
        generation={name: value for name, value in model.generation.items() if name != OUR_KEY},
    )


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _read(
    source: Path, *, tokenizer: TextTokenizer | None, of_lwm: Mapping[str, Any], adapt: Adapt | None
) -> OtherModel:
    """Read a model of any kind, recognized by its first bytes or by the files in its folder."""
    if source.is_file() and _is_lwm(source):
        if "context_tokens" not in of_lwm:
            raise InputError(
                f"{source} is a checkpoint of LWM, which does not say the context that it was trained on",
                field="context_tokens",
                path=source,
                remedy="give it, such as 1048576 for LWM's models of 1M",
            )
        return read_lwm(source, **of_lwm)
    for name, value in of_lwm.items():
        problem = f"{name} is {value}, but {source} is no checkpoint of LWM, and says its own"
        raise InputError(problem, field=name, value=value, path=source, remedy="leave it out")
    if source.is_dir() and (source / CONFIG_FILE).exists():
        return read_hf(source, tokenizer=tokenizer, adapt=adapt)
    if source.is_file() and (source.suffix == ".gguf" or _begins_with(source, MAGIC)):
        return read_gguf(source, tokenizer=tokenizer)
    what = "is none of" if source.exists() else "does not exist; it should be one of"
    raise InputError(
        f"{source} {what} a GGUF file, a checkpoint of LWM and a folder with {CONFIG_FILE}",
        field="source",
        value=source,
        path=source,
    )


def _is_lwm(file: Path) -> bool:
    """Return whether a file begins with a pair of msgpack, the first of which is a list of 1 to 15."""
    with file.open("rb") as stream:
        begins = stream.read(2)
    return len(begins) == 2 and begins[0] == 0x92 and 0x91 <= begins[1] <= 0x9F


def _begins_with(file: Path, magic: bytes) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(magic)) == magic


def _fingerprint(source: Path) -> str:
    return fingerprint_of_files(source) if source.is_dir() else sha256_file(source)


def _check_out(out: Path, *, to: Target) -> None:
    """Refuse to write over what is no model folder, or over one with what no longer says so."""
    if to == "ringworld":
        check_replaceable(out, kind="model")
    elif out.exists() and not is_empty(out):
        raise InputError(
            f"{out} is there already", field="out", value=out, path=out, remedy="name a new folder"
        )


def _frame_tokenizer(
    source: Path, *, add_vision: PathArgument | None, vision: Vision, shown: Mapping[str, Any]
) -> FrameTokenizer | None:
    folder = source / FRAME_TOKENIZER_FOLDER
    if add_vision is None:
        for name, value in shown.items():
            problem = f"{name} is {value}, but no frame tokenizer is added"
            raise InputError(problem, field=name, value=value, remedy="name one (add_vision)")
        return None if vision == "drop" or not folder.is_dir() else FrameTokenizer.load(folder)
    folder = Path(add_vision)
    if (folder / FRAME_TOKENIZER_FOLDER).is_dir():
        folder /= FRAME_TOKENIZER_FOLDER
    if not folder.is_file():
        return FrameTokenizer.load(folder, **shown)
    if shown.get("pixel_range", "signed") != "signed":
        problem = f"pixel_range is {shown['pixel_range']}, but the frame tokenizer of LWM is fed [-1, 1]"
        raise InputError(problem, field="pixel_range", value=shown["pixel_range"], path=folder)
    return read_lwm_vqgan(folder, resolution=shown.get("resolution", 256))


def _checked_words(
    model: OtherModel, words: TextTokenizer | None, *, source: Path, folder: PathArgument | None
) -> TextTokenizer:
    """Return the tokenizer that was named, or the model's own.

    Raises:
        InputError: there is none, it has more ids than the model, or its chat template cannot be used.
    """
    tokenizer, where = words or model.tokenizer, source if folder is None else Path(folder)
    if tokenizer is None:
        raise InputError(
            f"{source} holds no tokenizer",
            field="tokenizer",
            path=source,
            remedy="name a folder with its tokenizer.json",
        )
    most = text_vocab(model.config)
    check_words(tokenizer, most, tokenizer_folder=where, model=source)
    if source_of(tokenizer) is not None:
        vocabulary = Vocabulary(text_size=most, codes=0, codes_per_frame=0)
        ChatTemplate.of(tokenizer, vocabulary=vocabulary).ends()
    return tokenizer


def _with_ids_for(
    tokenizers: Tokenizers, model: OtherModel, *, source: Path, add_vision: PathArgument | None
) -> OtherModel:
    """Return the model with an id for each code of its frame tokenizer.

    Raises:
        InputError: it has ids of vision, but fewer.
    """
    text, vocab = text_vocab(model.config), model.config["vocab_size"]
    needed = tokenizers.vocabulary(text_vocab=text).vision_size
    if needed and text == vocab and add_vision is not None:
        return with_vision_ids(model, ids=needed)
    if needed > vocab - text:
        raise InputError(
            f"the frame tokenizer of {add_vision or source} needs {needed} ids for vision, but the model in "
            f"{source} has {vocab - text}",
            field="add_vision",
            value=needed,
            path=source,
            remedy="leave out the ids that it has (vision=drop), or name another frame tokenizer",
        )
    return model
