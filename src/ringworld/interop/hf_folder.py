"""A folder of Hugging Face's, ours among them, read without bringing its tensors into memory."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from safetensors import safe_open

from ringworld.core.config import read_as
from ringworld.interop.hf_config import CONFIG_FILE, read_architecture
from ringworld.interop.hf_llama import Adapt, in_order, weight_files
from ringworld.interop.other_model import OtherModel
from ringworld.interop.tensors import NUMPY_TYPES, PART_NUMBERS, FloatType, Tensor
from ringworld.text.tokenizer import TextTokenizer

GENERATION_FILE = "generation_config.json"
_DTYPES: dict[str, FloatType] = {"F32": "F32", "F16": "F16", "BF16": "BF16", "F64": "F32"}


def read_hf(
    folder: Path, *, tokenizer: TextTokenizer | None = None, adapt: Adapt | None = None
) -> OtherModel:
    """Read a model folder; every number stays as it is, but for float64, which becomes float32.

    Args:
        folder: with `config.json`, safetensors and, unless one is given, a tokenizer.
        tokenizer: used in place of its own.
        adapt: adds an adapter to each tensor that is read, which keeps its type.

    Raises:
        InputError: a file is missing or damaged, or it is no LLaMA that ringworld can run.
    """
    architecture = read_architecture(folder)
    config = read_as(dict[str, Any], folder / CONFIG_FILE)
    generation = folder / GENERATION_FILE
    files = weight_files(folder, architecture)
    tensors = {}
    for weight, layer in in_order(architecture):
        key = weight.key.format(layer)
        with safe_open(files[key], framework="numpy") as opened:
            dtype = _DTYPES[opened.get_slice(key).get_dtype()]
        read = partial(_parts, files[key], key, shape=weight.theirs, dtype=dtype, adapt=adapt)
        tensors[key] = Tensor.in_parts(weight.theirs, dtype=dtype, read_parts=read)
    return OtherModel(
        config=config,
        tensors=tensors,
        tokenizer=tokenizer or TextTokenizer.load(folder),
        generation=read_as(dict[str, Any], generation) if generation.exists() else {},
    )


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
