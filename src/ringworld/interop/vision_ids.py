"""Ids of vision added to anyone's model, or left out, before its tensors are in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Shaped

from ringworld.core.shared_files import OUR_KEY
from ringworld.interop.other_model import OtherModel
from ringworld.interop.tensors import Tensor
from ringworld.model.extend import new_row

_TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def text_vocab(config: Mapping[str, Any]) -> int:
    """Return how many ids of a `config.json` are text: all, unless our own key says otherwise."""
    return (config.get(OUR_KEY) or {}).get("text_vocab", config["vocab_size"])


def with_vision_ids(model: OtherModel, *, ids: int) -> OtherModel:
    """Return a model of text with ids of vision behind its own; see `ringworld.model.extend`."""
    tensors = dict(model.tensors)
    for name in tensors.keys() & set(_TABLES):
        old = tensors[name]
        shape = (old.shape[0] + ids, *old.shape[1:])
        tensors[name] = Tensor.in_parts(shape, dtype=old.dtype, read_parts=partial(_longer, old, ids=ids))
    text = model.config["vocab_size"]
    config = {**model.config, "vocab_size": text + ids, OUR_KEY: {"text_vocab": text}}
    return replace(model, config=config, tensors=tensors)


def without_vision_ids(model: OtherModel) -> OtherModel:
    """Return a model with its ids of text alone."""
    ids = text_vocab(model.config)
    tensors = dict(model.tensors)
    for name in tensors.keys() & set(_TABLES):
        old = tensors[name]
        shape = (ids, *old.shape[1:])
        tensors[name] = Tensor.in_parts(shape, dtype=old.dtype, read_parts=partial(_shorter, old, ids=ids))
    config = {**model.config, "vocab_size": ids, OUR_KEY: {"text_vocab": ids}}
    return replace(model, config=config, tensors=tensors)


def _longer(old: Tensor, *, ids: int) -> Iterator[Shaped[np.ndarray, "part embed"]]:
    row = new_row(old.parts())
    yield from old.parts()
    yield np.broadcast_to(np.asarray(row), (ids, old.shape[1]))


def _shorter(old: Tensor, *, ids: int) -> Iterator[Shaped[np.ndarray, "part embed"]]:
    left = ids
    for part in old.parts():
        yield part[:left]
        left = max(0, left - len(part))
