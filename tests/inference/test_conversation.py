"""Turns of a conversation: what is read, what is written, and what is kept."""

import dataclasses

import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.inference.config import GenerationLimits
from ringworld.inference.conversation import Conversation
from ringworld.inference.generator import Generator
from ringworld.inference.world import World
from ringworld.text.templates import LLAMA_2
from tests.inference.tiny_world import FORWARD, TOKENIZER, VOCABULARY, make_world

BOOK = "A red circle moves to the right. " * 12


def world_of(*, ring: int = 1, context_tokens: int = 512) -> World:
    made = make_world(ring=ring)
    limits = GenerationLimits(max_context_tokens=context_tokens, chunk_tokens=64)
    generator = Generator(
        made.weights,
        forward=FORWARD,
        vocabulary=VOCABULARY,
        ends=[TOKENIZER.eos],
        mesh=made.mesh,
        limits=limits,
    )
    return dataclasses.replace(made.world, generator=generator)


def ask(conversation: Conversation, question: str, **options) -> str:
    return "".join(conversation.ask(question, **options))


@pytest.mark.parametrize("ring", [1, 2])
def test_the_first_answer_is_that_of_answer_and_later_turns_read_only_what_is_new(ring):
    world = world_of(ring=ring)
    chat = world.chat(max_new_tokens=8)
    chat.add_document(BOOK)
    reported = []
    first = ask(chat, "Red?", on_read=lambda done, total: reported.append((done, total)))
    assert first.strip() == world.answer(f"{BOOK}\n\nRed?", max_new_tokens=8)
    answer = chat.last_answer
    assert answer is not None
    assert (answer.read_tokens, answer.written_tokens, answer.finish) == (answer.prompt_tokens, 8, "length")
    assert reported[-1] == (answer.prompt_tokens, answer.prompt_tokens)
    assert len(reported) > 1
    ask(chat, "Why?")
    again = chat.last_answer
    assert again is not None
    assert again.prompt_tokens > answer.prompt_tokens
    assert again.read_tokens < 60 < answer.prompt_tokens
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 2
    fresh = world.chat(max_new_tokens=8)
    fresh.messages = chat.messages[:2]
    assert ask(fresh, "Why?").strip() == chat.messages[-1].text


def test_what_is_saved_is_what_was_said_and_shown():
    world = world_of()
    chat = world.chat(max_new_tokens=4, system="Be brief.", temperature=1.0, seed=3)
    chat.add_clip(world.codes(video=np.zeros((2, 8, 8, 3), np.uint8)))
    said = ask(chat, "Which color?")
    assert chat.to_json()["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Which color?", "frames": [2]},
        {"role": "assistant", "content": said.strip()},
    ]
    chat.reset()
    assert chat.to_json() == {"messages": []}


def test_an_answer_that_is_stopped_is_kept_and_a_question_that_was_not_read_is_not():
    world = world_of()
    whole, chat = world.chat(max_new_tokens=40), world.chat(max_new_tokens=40)
    full = ask(whole, "Red?")
    asked = iter([False] * 4 + [True] * 100)
    partly = ask(chat, "Red?", stop=lambda: next(asked))
    assert full.startswith(partly.rstrip("\N{REPLACEMENT CHARACTER}"))
    assert chat.last_answer is not None
    assert (chat.last_answer.finish, chat.last_answer.written_tokens) == ("stopped", 4)
    assert len(chat.messages) == 2
    before = chat.messages
    chat.add_document(BOOK)
    assert ask(chat, "Why?", stop=lambda: True) == ""
    assert chat.messages == before
    assert ask(chat, "Why?")
    assert chat.messages[2].text == f"{BOOK}\n\nWhy?"


def test_a_question_over_the_context_is_refused_and_the_conversation_continues():
    chat = world_of(context_tokens=96).chat(max_new_tokens=200)
    chat.add_document(BOOK * 9)
    with pytest.raises(InputError) as refused:
        ask(chat, "Red?")
    assert refused.value.field == "prompt"
    assert chat.messages == []
    ask(chat, "Red?")
    assert chat.last_answer is not None
    assert chat.last_answer.prompt_tokens + chat.last_answer.written_tokens == 96
    assert chat.last_answer.context_share == 1.0


def test_another_template_may_be_given_and_one_that_is_none_is_refused():
    world = world_of()
    chat = world.chat(template=LLAMA_2, max_new_tokens=4)
    ask(chat, "Red?")
    with pytest.raises(InputError) as refused:
        world.chat(template="{% for %}")
    assert refused.value.field == "chat_template"
    with pytest.raises(InputError) as refused:
        world.chat(max_new_tokens=0)
    assert refused.value.field == "max_new_tokens"
    with pytest.raises(InputError) as refused:
        ask(world.chat(template="{# nothing #}"), "Red?")
    assert (refused.value.field, refused.value.value) == ("prompt", 0)
