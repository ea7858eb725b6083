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

LLAMA_3_2 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\n" }}
{%- endif %}
{{- "Today Date: " + date_string + "\n\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- else %}
        {{- raise_exception("no tools here") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
"""Shaped as that of Llama 3.1 and 3.2: a date, and tools that are not there."""
MARKED = (
    "{%- set ns = namespace(turn=0) -%}{% if tools is not none or documents is not none %}tools{% endif %}"
    "{%- for message in messages -%}{%- set ns.turn = ns.turn + 1 -%}"
    "{%- if message.role == 'assistant' -%}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message.content }}{{ '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{%- else -%}{{ '<|im_start|>' ~ message.role ~ '\n' ~ (message.content | tojson) ~ '<|im_end|>\n' }}"
    "{%- endif -%}{%- if ns.turn > 8 -%}{%- break -%}{%- endif -%}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}"
)
"""With marks for what is learned, as SmolLM3 has them."""
CASES = {name: (name, template) for name, template in TEMPLATES.items()}
CASES |= {"llama-3.2": ("llama-3", LLAMA_3_2), "marked": ("smollm2", MARKED)}
"""Whose special tokens, and the template."""


@pytest.mark.parametrize(("family", "template"), CASES.values(), ids=CASES)
def test_ids_are_those_of_transformers(family, template):
    bos, eos = ENDS[family]
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_of(family), bos_token=bos, eos_token=eos, chat_template=template
    )
    ours = ChatTemplate(
        source=template,
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
