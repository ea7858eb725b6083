"""A folder of Hugging Face's, ours among them, read without bringing its tensors into memory."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from safetensors import safe_open

from ringworld.core.config import read_as
from ringworld.core.errors import InputError
from ringworld.interop.hf_config import CONFIG_FILE, read_architecture
from ringworld.interop.hf_llama import Adapt, in_order, weight_files
from ringworld.interop.other_model import OtherModel, with_type
from ringworld.interop.tensors import NUMPY_TYPES, PART_NUMBERS, FloatType, Tensor
from ringworld.text.tokenizer import TextTokenizer

GENERATION_FILE = "generation_config.json"
_DTYPES: dict[str, FloatType] = {"F32": "F32", "F16": "F16", "BF16": "BF16", "F64": "F32"}


def read_hf(
    folder: Path, *, tokenizer: TextTokenizer | None = None, adapt: Adapt | None = None
) -> OtherModel:
    """Read a model folder; every number stays as it is, but for float64, which becomes float32.

    Where `config.json` is damaged, its weights are not looked at, since it says what they should be.

    Args:
        folder: with `config.json`, safetensors and, unless one is given, a tokenizer.
        tokenizer: used in place of its own.
        adapt: adds an adapter to each tensor that is read, which keeps its type.

    Raises:
        InputError: a file is missing or damaged, or it is no LLaMA that ringworld can run; one error names
            everything.
    """
    problems: list[InputError] = []
    tensors: dict[str, Tensor] = {}
    config: dict[str, Any] = {}
    generation: dict[str, Any] = {}
    text_vocab, words = None, tokenizer
    with _collecting(problems):
        architecture = read_architecture(folder)
        text_vocab = architecture.text_vocab
        config = read_as(dict[str, Any], folder / CONFIG_FILE)
        if "float64" in (config.get("torch_dtype"), config.get("dtype")):
            config = with_type(config, "float32")
        files = weight_files(folder, architecture)
        for weight, layer in in_order(architecture):
            key = weight.key.format(layer)
            with safe_open(files[key], framework="numpy") as opened:
                kind = opened.get_slice(key).get_dtype()
            read = partial(_parts, files[key], key, shape=weight.theirs, dtype=_DTYPES[kind], adapt=adapt)
            tensors[key] = Tensor.in_parts(weight.theirs, dtype=_DTYPES[kind], read_parts=read)
    with _collecting(problems):
        if (file := folder / GENERATION_FILE).exists():
            generation = read_as(dict[str, Any], file)
    with _collecting(problems):
        words = tokenizer or TextTokenizer.load(folder)
        if text_vocab is not None and words is not tokenizer:
            check_words(words, text_vocab, tokenizer_folder=folder, model=folder)
    if len(problems) > 1:
        described = "; ".join(map(str, problems))
        value = tuple(problem.problem for problem in problems)
        raise InputError(f"{folder} cannot be converted: {described}", path=folder, value=value)
    if problems:
        raise problems[0]
    return OtherModel(config=config, tensors=tensors, tokenizer=words, generation=generation)


def check_words(tokenizer: TextTokenizer, text_vocab: int, *, tokenizer_folder: Path, model: Path) -> None:
    """Check that a model has an id for each of a tokenizer.

    Raises:
        InputError: it has fewer.
    """
    if tokenizer.size > text_vocab:
        raise InputError(
            f"the tokenizer of {tokenizer_folder} has {tokenizer.size} ids, but the model in {model} has "
            f"{text_vocab}",
            field="tokenizer",
            value=tokenizer.size,
            path=tokenizer_folder,
        )


@contextmanager
def _collecting(problems: list[InputError]) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        # A damaged config.json is in the way of the tokenizer, too.
        if all(error.problem != known.problem for known in problems):
            problems.append(error)


def _parts(
    file: Path, key: str, *, shape: tuple[int, ...], dtype: FloatType, adapt: Adapt | None
) -> Iterator[Shaped[np.ndarray, "part ..."]]:
    rows = max(1, PART_NUMBERS // math.prod(shape[1:]))
    for start in range(0, shape[0], rows):
        slices = slice(start, min(start + rows, shape[0])), *(slice(None),) * (len(shape) - 1)
        # Opened for each part: what was touched of a file that is open counts as memory of this process.
        with safe_open(file, framework="numpy") as opened:
            part = opened.get_slice(key)[slices]
        part = adapt(part, key, slices) if adapt else part
        yield part.astype(NUMPY_TYPES[dtype], copy=False)
