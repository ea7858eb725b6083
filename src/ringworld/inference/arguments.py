"""What people give to a model, checked."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ringworld.core.errors import InputError
from ringworld.inference.config import SamplingConfig


def texts_of(field: str, given: str | Sequence[str]) -> list[str]:
    """Return one text or several as a list, or refuse what is no `str`."""
    several = isinstance(given, Iterable) and not isinstance(given, str | bytes | bytearray)
    return [text_of(field, text) for text in (given if several else [given])]


def text_of(field: str, text: Any) -> str:
    """Return a text as it is, or refuse what is no `str`."""
    if not isinstance(text, str):
        remedy = "decode it" if isinstance(text, bytes | bytearray) else ""
        problem = f"{field} holds {type(text).__name__}, not str"
        raise InputError(problem, field=field, value=text, remedy=remedy)
    return text


def names_a_file(text: str) -> bool:
    """Return whether a text is also the name of a file."""
    try:
        return len(text) < 4096 and os.path.isfile(text)
    except ValueError:  # a zero byte
        return False


def sampling_with(default: SamplingConfig, given: Mapping[str, Any]) -> SamplingConfig:
    """Return how tokens are drawn where the caller says something; None says nothing."""
    return replace(default, **{name: value for name, value in given.items() if value is not None})
