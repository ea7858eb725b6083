"""A model in anyone's format, read as what a folder of Hugging Face's holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ringworld.interop.tensors import Tensor
from ringworld.text.tokenizer import TextTokenizer


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OtherModel:
    """What `convert` writes to a model folder: small parts in memory, tensors where they are."""

    config: Mapping[str, Any]
    """Of `config.json`; sizes of vision under our own key."""
    tensors: Mapping[str, Tensor]
    """By the names of Hugging Face, in the order of the layers."""
    tokenizer: TextTokenizer | None
    """None where the format has none, so that the user names one. Holds the chat template, if any."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """Of `generation_config.json`."""
