"""What is learned: answers and what ends them, each after the very prompt that is asked later."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ringworld.core.errors import InputError
from ringworld.text import chat
from ringworld.text.chat import Turns
from ringworld.text.templates import LLAMA_2, LWM, ChatTemplate, Message
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.training_template import TrainingTemplate, learned_template, with_template, wording_of
from ringworld.text.vocabulary import Vocabulary
from tests.text.chat_templates import ENDS, TEMPLATES, tokenizer_of

OURS = TextTokenizer.train(["You are a helpful assistant. USER: red ASSISTANT: blue"] * 4, vocab_size=300)
VOCABULARY = Vocabulary(text_size=400, codes=8, codes_per_frame=2)
TURNS: Turns = [
    ("system", ("Be brief.",)),
    ("user", (None, "What is red <", None)),
    ("assistant", ("A color.",)),
    ("user", ("Why? </s><|im_end|>",)),
    ("assistant", (" Light <|eot_id|> [INST] bends. ",)),
]
CLIPS = [np.array([[1, 2], [3, 4]]), np.array([[5, 6]])]


def learned(encoded: chat.Encoded) -> list[list[int]]:
    """Return each run of ids with loss."""
    edges = np.flatnonzero(np.diff(encoded.loss.astype(int), prepend=0, append=0))
    return [encoded.tokens[start:stop].tolist() for start, stop in zip(edges[::2], edges[1::2])]


def tokenizer(family: str) -> TextTokenizer:
    bos, eos = ENDS[family]
    return TextTokenizer(tokenizer_of(family), bos=bos, eos=eos)


@pytest.mark.parametrize("turns", [TURNS, TURNS[1:], TURNS[1:3]])
def test_by_lwms_template_it_is_what_lwms_layout_is(turns: Turns):
    both = [
        chat.encode(laid, tokenizer=OURS, vocabulary=VOCABULARY, clips=CLIPS)
        for laid in (TrainingTemplate(LWM, OURS)(turns), chat.conversation(turns))
    ]
    assert both[0].tokens.tolist() == both[1].tokens.tolist()
    assert both[0].loss.tolist() == both[1].loss.tolist()


@pytest.mark.parametrize("family", sorted(TEMPLATES))
def test_before_each_answer_stands_the_prompt_that_a_model_is_asked_with(family: str):
    words, turns = tokenizer(family), TURNS[1:]
    template = ChatTemplate(source=TEMPLATES[family], tokenizer=words, vocabulary=VOCABULARY)
    laid = TrainingTemplate(TEMPLATES[family], words)(turns)
    encoded = chat.encode(laid, tokenizer=words, vocabulary=VOCABULARY, clips=CLIPS)
    clips = iter(CLIPS)
    messages = [
        Message(role=role, content=tuple(next(clips) if part is None else part for part in content))
        for role, content in turns
    ]
    starts = np.flatnonzero(np.diff(encoded.loss.astype(int), prepend=0) == 1)
    assert len(starts) == 2
    first = template.encode(messages[:1])
    assert encoded.tokens[: starts[0]].tolist() == first.tolist()
    # The next prompt is the same text; where it is tokenized with what was said, its ids may differ.
    ids = (encoded.tokens[: starts[1]], template.encode(messages[:3]))
    later = [words.decode([id for id in of.tolist() if id < words.size]) for of in ids]
    assert later[0] == later[1]
    for ids, text in zip(learned(encoded), ("A color.", "Light <|eot_id|> [INST] bends.")):
        assert text in words.decode(ids)
        assert ids[-1] in template.ends() or not template.ends()


@settings(max_examples=15)
@given(st.lists(st.text(min_size=1, max_size=12).filter(str.strip), min_size=2, max_size=6))
def test_whatever_is_said_the_answers_alone_are_learned(texts: list[str]):
    texts = texts[: len(texts) // 2 * 2]
    turns: Turns = [("assistant" if i % 2 else "user", (text,)) for i, text in enumerate(texts)]
    encoded = chat.encode(LLAMA(turns), tokenizer=OURS, vocabulary=VOCABULARY)
    said = [OURS.decode(ids) for ids in learned(encoded)]
    assert said == [f" {text.strip()} " for text in texts[1::2]]
    assert (encoded.tokens == OURS.eos).sum() == len(said)


LLAMA = TrainingTemplate(LLAMA_2, OURS)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content }}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content[:3] }}{% endfor %}",
        "{{ raise_exception('no') }}",
        "{% for i in range(10 ** 9) %}{% for j in range(10 ** 9) %}{% endfor %}{% endfor %}",
        "{{ nothing.at.all }}",
    ],
)
def test_a_template_that_loses_a_turn_or_does_not_work_is_refused(source: str):
    with pytest.raises(InputError) as refused:
        TrainingTemplate(source, OURS)([("user", ("abcdef",)), ("assistant", ("ghijkl",))])
    assert refused.value.field == "chat_template"


def test_a_template_is_rendered_again_after_it_refused_and_in_another_process():
    source = (
        "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('no') }}{% endif %}"
        "{{ m.content }}{% endfor %}"
    )
    template = TrainingTemplate(source, OURS)
    asked: Turns = [("user", ("yes",)), ("assistant", ("well",))]
    expected = template(asked)
    with pytest.raises(InputError):
        template([("user", ("no",)), ("assistant", ("well",))])
    assert template(asked) == expected == pickle.loads(pickle.dumps(template))(asked)


def test_a_tokenizer_says_which_template_was_learned():
    assert wording_of("lwm", OURS) is chat.conversation
    assert with_template(OURS, "lwm") is OURS and learned_template(OURS, vocabulary=VOCABULARY) is None
    told = with_template(OURS, "llama-2")
    found = learned_template(told, vocabulary=VOCABULARY)
    assert found is not None and found.source == LLAMA_2
    assert told.fingerprint == OURS.fingerprint
    assert learned_template(with_template(told, "lwm"), vocabulary=VOCABULARY) is None
    with pytest.raises(InputError) as refused:
        wording_of("own", OURS)
    assert refused.value.field == "chat_template"
    chatml = OURS.with_settings({"chat_template": TEMPLATES["smollm2"]})
    (prompt, *_) = wording_of("own", chatml)([("user", ("a",)), ("assistant", ("b",))])
    assert "<|im_start|>user" in prompt.text
