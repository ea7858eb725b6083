"""Which ids may come next: an interval of ids, known from the index of the new token alone.

| what is written | index of the token | ids that may follow |
|---|---|---|
| text | any | the text ids |
| frames | inside a frame | the vision codes |
| frames | after the codes of a frame | end-of-frame only |
| frames | after the codes of the last frame | end-of-vision only |

An interval is two int32, so that a compiled loop masks with two comparisons, and an id that is forced is an
interval of one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_number
from ringworld.text.vocabulary import Vocabulary

_ENDS = 8


class Grammar(NamedTuple):
    """What may be written: text without end, or exactly so many frames.

    Example:
        Two codes a frame and two frames, with ids `code 100-103, eof 104, eov 105`: the tokens 0 to 5 are in
        `100-103, 100-103, 104, 100-103, 100-103, 105`.
    """

    body_start: Int32[Array, ""]
    body_stop: Int32[Array, ""]
    stride: Int32[Array, ""]
    """Tokens of one frame with the id that ends it; 0 where nothing is forced."""
    last: Int32[Array, ""]
    """Index of end-of-vision."""
    end_of_frame: Int32[Array, ""]
    end_of_vision: Int32[Array, ""]
    ends: Int32[Array, " ends"]
    """The ids after each of which a sequence is finished; -1 is none. Few lengths, so that models with one
    end and with three share programs."""


class IdRange(NamedTuple):
    """The ids from `start` up to, not including, `stop`."""

    start: Int32[Array, ""]
    stop: Int32[Array, ""]


def text_grammar(vocabulary: Vocabulary, *, ends: Sequence[int]) -> Grammar:
    """Allow text ids only, up to one of the ids `ends` (`</s>`)."""
    return _grammar(body=(0, vocabulary.code_offset), ends=ends)


def frame_grammar(vocabulary: Vocabulary, *, frames: int) -> Grammar:
    """Allow exactly `frames` frames.

    Raises:
        InputError: there is nothing to write, or the vocabulary is one of text alone.
    """
    check_number("frames", frames, least=1, remedy="use 1 for an image")
    if not vocabulary.codes:
        raise InputError("this is a model of text alone, which draws no frames", field="frames", value=frames)
    stride = vocabulary.codes_per_frame + 1
    return _grammar(
        body=(vocabulary.code_offset, vocabulary.code_offset + vocabulary.codes),
        stride=stride,
        last=frames * stride - 1,
        forced=(vocabulary.eof, vocabulary.eov),
    )


def allowed(grammar: Grammar, index: Int32[Array, ""]) -> IdRange:
    """Return the ids that token `index` may have, counted from the first token that is generated."""
    stride = jnp.maximum(grammar.stride, 1)
    ends = (grammar.stride > 0) & ((index + 1) % stride == 0)
    structural = jnp.where(index == grammar.last, grammar.end_of_vision, grammar.end_of_frame)
    return IdRange(
        jnp.where(ends, structural, grammar.body_start), jnp.where(ends, structural + 1, grammar.body_stop)
    )


def legal(ids: IdRange, *, vocab: int) -> Bool[Array, " vocab"]:
    """Return which of all ids lie in a range."""
    every = jnp.arange(vocab, dtype=jnp.int32)
    return (every >= ids.start) & (every < ids.stop)


def _grammar(
    *,
    body: tuple[int, int],
    stride: int = 0,
    last: int = -1,
    forced: tuple[int, int] = (-1, -1),
    ends: Sequence[int] = (),
) -> Grammar:
    numbers = (jnp.int32(value) for value in (*body, stride, last, *forced))
    padded = [*ends, *[-1] * (_ENDS - len(ends) % _ENDS)]
    return Grammar(*numbers, ends=jnp.asarray(padded, jnp.int32))
