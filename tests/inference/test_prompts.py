"""Templates and tokenizers that belong together, and what is refused of those that do not."""

import dataclasses

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.inference.prompts import Prompts
from ringworld.text import chat
from tests.inference.tiny_world import TOKENIZER, VOCABULARY, make_world

FRAMES = np.zeros((1, 4, 4, 3), np.uint8)


def test_a_question_for_several_things_is_put_as_it_was_learned():
    prompts = make_world(ring=1).world.prompts
    asked = prompts.question("Which colors?", document="A red circle.", answers="several")
    words = chat.document_question_prompt("A red circle.", "Which colors?", answers="several")[1].text
    assert asked.tolist() == [TOKENIZER.bos, *TOKENIZER.encode(words)]
    one = prompts.question("Which colors?", document="A red circle.", answers="one")
    assert one.tolist() != asked.tolist()


@pytest.mark.parametrize(("adds", "begin"), [(True, [TOKENIZER.bos]), (False, [])])
def test_a_text_begins_as_the_tokenizer_says_and_an_empty_one_with_something(adds, begin):
    tokenizer = TOKENIZER.with_settings({"add_bos_token": adds})
    prompts = Prompts(
        tokenizer,
        vocabulary=dataclasses.replace(VOCABULARY, codes=0, codes_per_frame=0),
        frame_tokenizer=None,
    )
    assert prompts.text("A red circle.").tolist() == begin + tokenizer.encode("A red circle.")
    assert prompts.text("").tolist() == [TOKENIZER.bos]
    assert prompts.scored("A").tolist() == [TOKENIZER.bos, *tokenizer.encode("A")]


def test_frames_stand_in_a_question_as_their_codes():
    made = make_world(ring=1)
    ids = made.world.prompts.question("What?", frames=FRAMES)
    inside = ids[VOCABULARY.is_vision(ids)]
    assert VOCABULARY.decode_frames(inside).tolist() == made.frame_tokenizer.encode(FRAMES).tolist()


def test_a_question_about_two_things_is_refused():
    with pytest.raises(InputError) as refused:
        make_world(ring=1).world.prompts.question("?", frames=FRAMES, document="A")
    assert refused.value.field == "document"


@pytest.mark.parametrize(
    ("other", "field"), [({"codes": 7}, "frame_tokenizer"), ({"text_size": 100}, "tokenizer")]
)
def test_parts_that_do_not_belong_together_are_refused(other, field):
    vocabulary = dataclasses.replace(VOCABULARY, **other)
    with pytest.raises(InputError) as refused:
        Prompts(TOKENIZER, vocabulary=vocabulary, frame_tokenizer=make_world(ring=1).frame_tokenizer)
    assert refused.value.field == field
