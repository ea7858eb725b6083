"""Which ids may come next: an interval of ids or a single one, known from the index of the new token alone.

| what is written | index of the token | ids that may follow |
|---|---|---|
| text | any | the text ids |
| frames | inside a frame | the vision codes |
| frames | after the codes of a frame | end-of-frame only |
| frames | after the codes of the last frame | end-of-vision only |

All of it is a few int32, so that a compiled loop masks with comparisons. Clips within a text have a grammar
of their own, `clip_grammar`, which the host asks for each token.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from ringworld.core.errors import InputError
from ringworld.core.ranges import check_number
from ringworld.text.vocabulary import Vocabulary

_ENDS = 8
_NO_ENDS = np.full(_ENDS, -1, np.int32)
Number = int | Int32[Array, ""]
"""An int32; inside a compiled program an array."""


class Grammar(NamedTuple):
    """What may be written: text without end, or exactly so many frames.

    Example:
        Two codes a frame and two frames, with ids `code 100-103, eof 104, eov 105`: the tokens 0 to 5 are in
        `100-103, 100-103, 104, 100-103, 100-103, 105`.
    """

    body_start: Number
    body_stop: Number
    stride: Number = 0
    """Tokens of one frame with the id that ends it; 0 where nothing is forced."""
    last: Number = -1
    """Index of end-of-vision."""
    end_of_frame: Number = -1
    end_of_vision: Number = -1
    ends: Int32[Array, " ends"] | Int32[np.ndarray, " ends"] = _NO_ENDS
    """The ids after each of which a sequence is finished; -1 is none. Few lengths, so that models with one
    end and with three share programs."""


def text_grammar(vocabulary: Vocabulary, *, ends: Sequence[int]) -> Grammar:
    """Allow text ids only, up to one of the ids `ends` (`</s>`)."""
    padded = [*ends, *[-1] * (_ENDS - len(ends) % _ENDS)]
    return Grammar(body_start=0, body_stop=vocabulary.code_offset, ends=np.asarray(padded, np.int32))


def frame_grammar(vocabulary: Vocabulary, *, frames: int) -> Grammar:
    """Allow exactly `frames` frames.

    Raises:
        InputError: there is nothing to write, or the vocabulary is one of text alone.
    """
    check_number("frames", frames, least=1, remedy="use 1 for an image")
    if not vocabulary.codes:
        raise InputError("this is a model of text alone, which draws no frames", field="frames", value=frames)
    stride = vocabulary.codes_per_frame + 1
    return Grammar(
        body_start=vocabulary.code_offset,
        body_stop=vocabulary.code_offset + vocabulary.codes,
        stride=stride,
        last=frames * stride - 1,
        end_of_frame=vocabulary.eof,
        end_of_vision=vocabulary.eov,
    )


def legal(grammar: Grammar, index: Int32[Array, ""], *, vocab: int) -> Bool[Array, " vocab"]:
    """Return which of all ids token `index` may have, counted from the first token that is generated."""
    stride = jnp.maximum(grammar.stride, 1)
    ends = (grammar.stride > 0) & ((index + 1) % stride == 0)
    structural = jnp.where(index == grammar.last, grammar.end_of_vision, grammar.end_of_frame)
    every = jnp.arange(vocab, dtype=jnp.int32)
    body = (every >= grammar.body_start) & (every < grammar.body_stop)
    return jnp.where(ends, every == structural, body)
