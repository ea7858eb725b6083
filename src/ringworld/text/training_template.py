"""Conversations to learn from, laid out by a chat template: loss on what the assistant says alone.

What is learned is found by construction: each answer is rendered between two characters that stand in no
text, and once, in a short conversation, it is seen what the template puts between the prompt that it ends a
question with and the answer (for LLaMA-2 a blank), and what ends the answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ringworld.core.errors import InputError
from ringworld.text import chat
from ringworld.text.chat import Segment, Segments, Turns
from ringworld.text.template_name import TemplateName
from ringworld.text.templates import (
    LLAMA_2,
    ChatTemplate,
    Renderer,
    Reserved,
    in_file,
    source_of,
    unused,
    variables_of,
)
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary

Wording = Callable[[Turns], Segments]
"""What puts a conversation into words and special tokens, as `text.chat.conversation` does."""
_LEARNED_WITH = "ringworld_chat_template"
"""Key of `tokenizer_config.json`, where conversations were prepared with its template."""


def wording_of(name: TemplateName, tokenizer: TextTokenizer) -> Wording:
    """Return what lays out conversations by a template.

    Raises:
        InputError: there is no such template, or none came with the tokenizer.
    """
    if name == "lwm":
        return chat.conversation
    path = tokenizer.template_file if name == "own" else None
    return TrainingTemplate(_source(name, tokenizer), tokenizer, path=path)


def with_template(tokenizer: TextTokenizer, name: TemplateName) -> TextTokenizer:
    """Return the tokenizer of a model that learns conversations laid out so, which says so itself."""
    if name == "lwm":  # which a model is asked by where nothing else is said
        return (
            tokenizer.with_settings({_LEARNED_WITH: None})
            if _LEARNED_WITH in tokenizer.settings
            else tokenizer
        )
    said = {"chat_template": _source(name, tokenizer), _LEARNED_WITH: name}
    return tokenizer.with_settings(said)


def learned_template(tokenizer: TextTokenizer, *, vocabulary: Vocabulary) -> ChatTemplate | None:
    """Return the template of `with_template`; None where conversations were laid out as LWM's."""
    if not tokenizer.settings.get(_LEARNED_WITH):
        return None
    return ChatTemplate.of(tokenizer, vocabulary=vocabulary)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Around:
    """What a template writes around an answer that is learned with it."""

    before: str
    """After the prompt that a model continues."""
    after: str
    """Up to the first reserved name, or all."""


class TrainingTemplate:
    """Lays out conversations by a template of Jinja; in each process by one of its own."""

    def __init__(self, source: str, tokenizer: TextTokenizer, *, path: Path | None = None) -> None:
        """Take a template, the tokenizer whose special tokens it names, and the file that it is from."""
        self._source, self._tokenizer, self._path = source, tokenizer, path
        self._names = Reserved(source, tokenizer)
        self._renderer = Renderer()
        self._around: _Around | None = None

    def __reduce__(self) -> tuple[Callable[..., "TrainingTemplate"], tuple[str, TextTokenizer]]:
        return partial(TrainingTemplate, path=self._path), (self._source, self._tokenizer)

    def __call__(self, turns: Turns) -> Segments:
        """Lay out a whole conversation, with loss on the answers and what ends them.

        With LLaMA-2's template (`*` marks what has loss):

            <s>[INST] Red? [/INST] | ` blue </s>`* | <s>[INST] Why? [/INST] | ` So. </s>`*

        Raises:
            InputError: the template refuses the conversation, leaves out a turn or a clip, or has an error.
        """
        texts = [self._source, *(chat.in_lines(content) for _, content in turns)]
        mark, picture, begin, end = unused(texts, 4)
        if self._around is None:
            self._around = self._seen(begin, end)
        messages = []
        for role, content in turns:
            words = chat.in_lines(content, clip=picture)
            words = self._names.spelled(words.strip() if role == "assistant" else words, by=role, mark=mark)
            messages.append(
                {"role": role, "content": f"{begin}{words}{end}" if role == "assistant" else words}
            )
        (rendered,) = self._render([messages], reply=False)
        answers = sum(role == "assistant" for role, _ in turns)
        clips = sum(part is None for _, content in turns for part in content)
        if rendered.count(begin) != answers or rendered.count(picture) != clips:
            raise self._wrong("leaves out a turn or a clip, or writes one twice")
        return tuple(self._cut(rendered, mark, picture, begin, end))

    def _cut(self, rendered: str, mark: str, picture: str, begin: str, end: str) -> list[Segment]:
        around, laid, at = self._around, [], 0
        assert around is not None
        while (start := rendered.find(begin, at)) >= 0:
            stop = rendered.find(end, start)
            if stop < 0 or not rendered.startswith(around.after, stop + 1):
                raise self._wrong("ends an answer within it, or otherwise than others")
            learned = start - len(around.before) * rendered.endswith(around.before, at, start)
            said = rendered[learned:start] + rendered[start + 1 : stop] + around.after
            laid += self._context(rendered[at:learned], mark, picture)
            laid.append(Segment(kind="rendered", text=said, mark=mark, loss=True))
            at = stop + 1 + len(around.after)
        return laid + self._context(rendered[at:], mark, picture)

    def _context(self, text: str, mark: str, picture: str) -> list[Segment]:
        before, *others = text.split(picture)
        laid = [Segment(kind="rendered", text=before, mark=mark)] if before else []
        for after in others:
            laid += chat.VISION
            laid += [Segment(kind="rendered", text=after, mark=mark)] if after else []
        return laid

    def _seen(self, begin: str, end: str) -> _Around:
        """See what the template writes around the one answer of a short conversation."""
        asked = {"role": "user", "content": "a"}
        answered = [asked, {"role": "assistant", "content": f"{begin}b{end}"}]
        (prompt,), (whole,) = self._render([[asked]], reply=True), self._render([answered], reply=False)
        if whole.count(begin) != 1 or whole.count(end) != 1:
            raise self._wrong("writes no answer, or one twice")
        before, _, rest = whole.partition(begin)
        after = rest.partition(end)[2]
        ends = [after.index(name) + len(name) for name in self._tokenizer.reserved if name in after]
        return _Around(
            before=before.removeprefix(prompt) if before.startswith(prompt) else "",
            after=after[: min(ends)] if ends else after,
        )

    def _render(self, conversations: Sequence[Sequence[dict[str, str]]], *, reply: bool) -> list[str]:
        variables = {**variables_of(self._source, self._tokenizer), "add_generation_prompt": reply}
        renderings = [{**variables, "messages": messages} for messages in conversations]
        return self._renderer.render(self._source, renderings, path=self._path)

    def _wrong(self, problem: str) -> InputError:
        remedy = "use another template for training, such as lwm"
        return InputError(
            f"the chat template{in_file(self._path)} {problem}",
            field="chat_template",
            value=self._source,
            path=self._path,
            remedy=remedy,
        )


def _source(name: TemplateName, tokenizer: TextTokenizer) -> str:
    if name == "llama-2":
        return LLAMA_2
    found = source_of(tokenizer)
    if found is None:
        problem = "chat_template is own, but none came with the tokenizer"
        raise InputError(problem, field="chat_template", value=name, remedy="use lwm or llama-2")
    return found
