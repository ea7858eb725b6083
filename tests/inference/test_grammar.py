"""Which ids may follow, on a vocabulary whose numbers can be seen."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringworld.core.errors import InputError
from ringworld.inference.grammar import frame_grammar, legal, text_grammar
from ringworld.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary(text_size=100, codes=4, codes_per_frame=2)
INDICES = jnp.arange(60, dtype=jnp.int32)
MASKS = jax.jit(jax.vmap(partial(legal, vocab=110), in_axes=(None, 0)))


def intervals(grammar, indices: int) -> list[tuple[int, int]]:
    """Return, of each index, where its ids start and stop; they have no gap."""
    ids = [np.flatnonzero(mask) for mask in np.asarray(MASKS(grammar, INDICES))[:indices]]
    assert all((np.diff(one) == 1).all() for one in ids)
    return [(int(one[0]), int(one[-1]) + 1) for one in ids]


def test_frames_are_codes_then_their_end():
    code, eof, eov = (100, 104), (104, 105), (105, 106)
    assert intervals(frame_grammar(VOCABULARY, frames=2), 6) == [code, code, eof, code, code, eov]
    assert intervals(frame_grammar(VOCABULARY, frames=1), 3) == [code, code, eov]


def test_text_is_text_everywhere():
    assert set(intervals(text_grammar(VOCABULARY, ends=[2]), 60)) == {(0, 100)}


@settings(max_examples=100, deadline=None)
@given(data=st.data(), frames=st.integers(1, 6), codes=st.integers(1, 9), codes_per_frame=st.integers(1, 9))
def test_whatever_is_chosen_among_the_allowed_ids_forms_whole_frames(data, frames, codes, codes_per_frame):
    vocabulary = Vocabulary(text_size=7, codes=codes, codes_per_frame=codes_per_frame)
    indices = intervals(frame_grammar(vocabulary, frames=frames), frames * vocabulary.frame_tokens)
    ids = [data.draw(st.integers(start, stop - 1)) for start, stop in indices]
    decoded = vocabulary.decode_frames(np.array(ids, np.int32))
    assert decoded.shape == (frames, codes_per_frame)


def test_no_frames_are_refused():
    with pytest.raises(InputError) as refused:
        frame_grammar(VOCABULARY, frames=0)
    assert refused.value.field == "frames"


def test_a_vocabulary_of_text_alone_has_no_frames():
    with pytest.raises(InputError) as refused:
        frame_grammar(Vocabulary(text_size=100, codes=0, codes_per_frame=0), frames=1)
    assert refused.value.field == "frames"
