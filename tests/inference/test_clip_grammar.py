"""Which ids a clip within a text may have, on a vocabulary whose numbers can be seen."""

import pytest

from ringworld.core.errors import InputError
from ringworld.inference.clip_grammar import ClipGrammar
from ringworld.text.vocabulary import Vocabulary

VOCABULARY = Vocabulary(text_size=100, codes=4, codes_per_frame=2)
EOF, EOV, CODES = 104, 105, [100, 101, 102, 103]


def test_a_clip_ends_where_the_model_ends_it_and_is_closed():
    clips = ClipGrammar(vocabulary=VOCABULARY, begin=(5,), close=(7, 8), most_frames=2)
    for clip, allowed in (
        ([], CODES),
        ([100], CODES),
        ([100, 101], [EOF, EOV]),
        ([100, 101, EOF], CODES),
        ([100, 101, EOF, 103], CODES),
        ([100, 101, EOF, 103, 102], [EOV]),
        ([100, 101, EOV], [7]),
        ([100, 101, EOV, 7], [8]),
    ):
        assert [*clips.at(clip)] == allowed
        assert not clips.is_whole(clip)
    assert clips.is_whole([100, 101, EOV, 7, 8])


@pytest.mark.parametrize(
    ("vocabulary", "frames", "field"),
    [(Vocabulary(text_size=9), 1, "vocabulary"), (VOCABULARY, 0, "most_frames")],
)
def test_clips_of_no_frames_or_of_a_model_of_text_alone_are_refused(vocabulary, frames, field):
    with pytest.raises(InputError) as refused:
        ClipGrammar(vocabulary=vocabulary, begin=(1,), close=(2,), most_frames=frames)
    assert refused.value.field == field
