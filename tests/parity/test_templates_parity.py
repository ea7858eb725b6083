"""Ids of conversations against transformers' `apply_chat_template`, with templates of well-known models."""

import pytest
from transformers import PreTrainedTokenizerFast

from ringworld.text.templates import ChatTemplate, Message
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from tests.text.chat_templates import ENDS, TEMPLATES, tokenizer_of

SYSTEM = {"role": "system", "content": "  You are a pirate.\n"}
TURNS = [
    {"role": "user", "content": "\n Hello\t\u6771 user <b>you</b> \n\n"},
    {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes <i"},
    {"role": "user", "content": "and <| then? "},
]


@pytest.mark.parametrize("family", TEMPLATES)
def test_ids_are_those_of_transformers(family):
    bos, eos = ENDS[family]
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_of(family), bos_token=bos, eos_token=eos, chat_template=TEMPLATES[family]
    )
    ours = ChatTemplate(
        source=TEMPLATES[family],
        tokenizer=TextTokenizer(tokenizer_of(family), bos=bos, eos=eos),
        vocabulary=Vocabulary(text_size=400),
    )
    for messages in (TURNS[:1], TURNS, [SYSTEM, *TURNS], TURNS[:2]):
        for reply in (True, False):
            (ids,) = ours.encode_all(
                [[Message(role=each["role"], content=(each["content"],)) for each in messages]], reply=reply
            )
            expected = theirs.apply_chat_template(messages, add_generation_prompt=reply, return_dict=False)
            assert ids.tolist() == list(expected)
