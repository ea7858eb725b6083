"""Conversations to ids by the chat template of a model: special ids from the template, never from a user."""

import itertools
import json
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int32

from ringworld.core.errors import InputError, RenderTimeout, plain
from ringworld.text import chat
from ringworld.text.read_text import is_text
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary

LWM = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
    "{% set rest = messages[1:] %}{% else %}You are a helpful assistant.{% set rest = messages %}{% endif %}"
    "{% for message in rest %}{% if message['role'] == 'user' %}{{ ' ' if loop.first else '' }}"
    "USER: {{ message['content'] }}{% else %} ASSISTANT: {{ message['content'] | trim }}{{ eos_token }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
"""That of `chat.question_prompt` and `chat.next_question`."""
LLAMA_2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}"
    "{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
    "{% for message in rest %}{% if message['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + ((system if loop.first else '') + message['content']).strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
"""That of LLaMA-2-chat, for folders that lack it."""
_RENDERER = Path(__file__).with_name("render_template.py")
_PRIVATE = [*range(0xE000, 0xF900), *range(0xF0000, 0xFFFFE)]
"""Code points that stand for nothing: marks are taken from those that no text holds."""
_WAIT_SECONDS = 60
"""For a machine that is busy with other things."""
_MORE_CHARACTERS = 2**20
_LONGEST_TEMPLATE = 2**20

Codes = Int[np.ndarray, "_ codes"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Message:
    """One turn of a conversation."""

    role: chat.Role
    content: tuple[str | Codes, ...]
    """Texts and, of videos and images, the codes of each frame, in their order."""

    @property
    def text(self) -> str:
        """All texts, each on a separate line."""
        return "\n".join(part for part in self.content if isinstance(part, str))

    @property
    def clips(self) -> tuple[Codes, ...]:
        """All videos and images."""
        return tuple(part for part in self.content if not isinstance(part, str))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ChatTemplate:
    """The template of one model, with its tokenizer and id space."""

    source: str
    """Of Jinja, as transformers reads it."""
    tokenizer: TextTokenizer
    vocabulary: Vocabulary
    path: Path | None = None
    """The file that it was read from, which errors name."""
    _renderer: "Renderer" = field(default_factory=lambda: Renderer(), init=False, repr=False)
    """Whose process lives as long as the template."""

    @staticmethod
    def of(tokenizer: TextTokenizer, *, vocabulary: Vocabulary) -> "ChatTemplate":
        """Return the template that came with a tokenizer, or that of LWM where none did.

        Raises:
            InputError: what came with it is no template.
        """
        source = source_of(tokenizer)
        return ChatTemplate(
            source=source or LWM,
            tokenizer=tokenizer,
            vocabulary=vocabulary,
            path=tokenizer.template_file if source else None,
        )

    def encode(self, messages: Sequence[Message]) -> Int32[np.ndarray, " tokens"]:
        r"""Return the ids of a conversation, up to where the assistant continues.

        The text is tokenized as a whole, as transformers does; where a message holds a reserved name, it is
        spelled out. A clip stands where its message has it, on a separate line.

            <|im_start|> | user | \n | Hi | <|im_end|> | \n | <|im_start|> | assistant | \n

        Raises:
            InputError: the template refuses the conversation, does not end, or has an error.
            RenderTimeout: the machine is too busy.
        """
        return self.encode_all([messages])[0]

    def beginning(self, messages: Sequence[Message]) -> Int32[np.ndarray, " tokens"]:
        """Return the ids with which a conversation begins, whatever the user says next.

        It is what the ids of two conversations share that differ in the next question. A question after a
        message of the user belongs to it.

        Raises:
            InputError: there are no messages, or the user's last one ends with a clip, before which a
                question would stand, as `joined` has it; or as for `encode`.
        """
        if not messages or (messages[-1].role == "user" and _ended(messages[-1].content)[1]):
            last = "ends with a clip, which is read after its question" if messages else "is empty"
            raise InputError(
                f"the conversation {last}, so that nothing can be read before a question is asked",
                field="messages",
                remedy="ask something about it first, and keep the answer too"
                if messages
                else "say something",
            )
        one, other = self.encode_all(
            [joined(messages, [Message(role="user", content=(question,))]) for question in ("a", "b")]
        )
        length = min(len(one), len(other))
        differs = np.flatnonzero(one[:length] != other[:length])
        return one[: differs[0] if len(differs) else length]

    def encode_all(
        self, conversations: Sequence[Sequence[Message]], *, reply: bool = True
    ) -> list[Int32[np.ndarray, " tokens"]]:
        """Return the ids of several conversations, which are rendered together."""
        texts = [self.source, *(message.text for messages in conversations for message in messages)]
        mark, picture = unused(texts, 2)
        names = Reserved(self.source, self.tokenizer)
        variables = {**variables_of(self.source, self.tokenizer), "add_generation_prompt": reply}
        renderings = [
            {
                **variables,
                "messages": [
                    {
                        "role": each.role,
                        "content": names.spelled(_written(each, picture), by=each.role, mark=mark),
                    }
                    for each in messages
                ],
            }
            for messages in conversations
        ]
        rendered = self._renderer.render(self.source, renderings, path=self.path)
        encoded = []
        for text, messages in zip(rendered, conversations):
            clips = [clip for message in messages for clip in message.clips]
            words, *others = (self.tokenizer.encode_rendered(part, mark=mark) for part in text.split(picture))
            if len(others) != len(clips):
                raise InputError(
                    f"the chat template{in_file(self.path)} shows {len(others)} of {len(clips)} clips",
                    field="chat_template",
                    value=self.source,
                    path=self.path,
                    remedy="use another model",
                )
            ids: list[Any] = [words]
            for clip, after in zip(clips, others):
                start, end = self.tokenizer.vision_start, self.tokenizer.vision_end
                ids += [start, self.vocabulary.encode_frames(clip), end, after]
            encoded.append(np.concatenate([np.asarray(part, np.int32) for part in ids]))
        return encoded

    def ends(self) -> tuple[int, ...]:
        """Return the reserved id that the template writes after an answer, if it writes one.

        Configurations of models often lack it; a model then never stops after its answer.
        """
        asked, said = Message(role="user", content=("a",)), Message(role="assistant", content=("b",))
        short, long = self.encode_all([[asked], [asked, said]], reply=False)
        after, reserved = long[len(short) :].tolist(), self.tokenizer.reserved.values()
        spoken = [i for i, id in enumerate(after) if "b" in self.tokenizer.decode([id])]
        return tuple(id for i, id in enumerate(after) if id in reserved and spoken and i > spoken[0])[:1]


def source_of(tokenizer: TextTokenizer) -> str | None:
    """Return the template that came with a tokenizer, if one did.

    Raises:
        InputError: what came with it is no template.
    """
    found = tokenizer.settings.get("chat_template")
    if isinstance(found, list):
        found = _named(found)
    if not isinstance(found, str | None) or len(found or "") > _LONGEST_TEMPLATE:
        path = tokenizer.template_file
        what = "longer than a megabyte" if isinstance(found, str) else f"{type(found).__name__}"
        raise InputError(
            f"chat_template of the tokenizer{in_file(path)} is no template, but {what}",
            field="chat_template",
            value=found,
            path=path,
            remedy="copy the model again",
        )
    return found or None


def variables_of(source: str, tokenizer: TextTokenizer) -> dict[str, str | None]:
    """Return what a template is given besides messages: names of tokens such as `bos_token`, and no tools.

    Templates of models know no name that is null in their `tokenizer_config.json`; ours begin with the token
    with which such a model begins its texts. `tools` and `documents` are None and not undefined, as
    transformers has it: to Jinja, what is undefined `is not none`.
    """
    begin = {"bos_token": tokenizer.begin} if source in (LWM, LLAMA_2) else {}
    return {"tools": None, "documents": None, **begin, **tokenizer.named}


def in_file(path: Path | None) -> str:
    """Return how a message names the file of a template, if it has one."""
    return f" in {path}" if path else ""


def joined(before: Sequence[Message], after: Sequence[Message]) -> list[Message]:
    r"""Return one conversation; what the user says after a message of the user becomes part of it.

    Clips with which that message ends come after what is said of them, as models learn it from `video_qa`.

    Example:
        A user's "A book." and a user's "Who wrote it?" become one message, "A book.\n\nWho wrote it?"; a film
        and a user's "Who enters?" become "Who enters?" and the film.
    """
    if not before or not after or (before[-1].role, after[0].role) != ("user", "user"):
        return [*before, *after]
    (said, seen), (more, more_seen) = _ended(before[-1].content), _ended(after[0].content)
    if said and more and isinstance(said[-1], str) and isinstance(more[0], str):
        text = "\n\n".join(text for text in (said[-1], more[0]) if text)
        said, more = (*said[:-1], text), more[1:]
    both = Message(role="user", content=(*said, *more, *seen, *more_seen))
    return [*before[:-1], both, *after[1:]]


def _ended(content: tuple[str | Codes, ...]) -> tuple[tuple[str | Codes, ...], tuple[str | Codes, ...]]:
    """Return a message up to its last text, and the clips with which it ends."""
    clips = len(list(itertools.takewhile(lambda part: not isinstance(part, str), reversed(content))))
    return content[: len(content) - clips], content[len(content) - clips :]


def _written(message: Message, picture: str) -> str:
    """Return a message as templates read it, with `picture` in place of each clip."""
    content = tuple(part if isinstance(part, str) else None for part in message.content)
    return chat.in_lines(content, clip=picture)


def _named(templates: Sequence[Any]) -> Any:
    """Return the default one of named templates, as transformers chooses."""
    found = [each for each in templates if isinstance(each, Mapping)]
    default = [each for each in found if each.get("name") == "default"]
    return next((each.get("template") for each in (*default, *found)), None)


def unused(texts: Sequence[str], count: int) -> list[str]:
    """Return so many characters that stand in none of these texts, nor for anything.

    Raises:
        InputError: there are not so many.
    """
    used = set().union(*texts)
    free = [chr(point) for point in itertools.islice((p for p in _PRIVATE if chr(p) not in used), count)]
    if len(free) < count:
        raise InputError("the conversation holds every character of Unicode's private use", field="messages")
    return free


class Reserved:
    """The names that a template may write and a conversation may not."""

    def __init__(self, template: str, tokenizer: TextTokenizer) -> None:
        """Take the names of a tokenizer.

        What the template looks for in answers, as Qwen3's does for `</think>`, models write themselves: those
        that are not special keep their ids in an answer.
        """
        names = tokenizer.reserved
        own = [name for name in names.keys() - tokenizer.special.keys() if _looks_for(template, name)]
        self._said = _beginnings(names)
        self._answered = _beginnings(names, but=own)

    def spelled(self, text: str, *, by: str, mark: str) -> str:
        """Return what was said as templates read it, with `mark` within all that could be a reserved name."""
        found = self._answered if by == "assistant" else self._said
        return found.sub(lambda begin: begin.group() + mark, text) if found else text


def _looks_for(template: str, name: str) -> bool:
    """Return whether a template asks of a text if it holds a name: `'x' in text`, `text.split('x')`."""
    literal = rf"(?P<quote>['\"]){re.escape(name)}(?P=quote)"
    asked = (rf"\.\w+\(\s*{literal}", rf"{literal}\s+(?:not\s+)?in\b")
    return any(re.search(pattern, template) for pattern in asked)


def _beginnings(names: Iterable[str], *, but: Sequence[str] = ()) -> re.Pattern[str] | None:
    """Return what finds the first character of all that one of `names`, `but` for some, may begin with.

    The first three characters are compared, in any case, since a template may change it; at the end of a text
    fewer are enough, since a template may put another text behind it.
    """
    end = r"\s*\Z"
    found = set()
    for name in names:
        begin, *rest = (re.escape(character) for character in name[:3])
        ahead = ""
        for character in reversed(rest):
            ahead = f"(?:{end}|{character}{ahead})"
        found.add(f"{begin}(?={ahead})" if ahead else begin)
    kept = "".join(f"(?!{re.escape(name)})" for name in but)
    return re.compile(f"{kept}(?:{'|'.join(sorted(found))})", re.IGNORECASE) if found else None


class Renderer:
    """A process that renders templates, started when it is needed, and again where it has ended.

    Threads take turns.
    """

    def __init__(self, *, seconds: int = 5) -> None:
        """Bound what a rendering computes; a book of five million characters takes half a second."""
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._end: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Callable[..., "Renderer"], tuple[()]]:
        return partial(Renderer, seconds=self._seconds), ()  # each process has its own

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process = None
            self._end()

    def render(
        self, template: str, renderings: Sequence[Mapping[str, Any]], *, path: Path | None = None
    ) -> list[str]:
        """Return what a template makes of each of several sets of variables.

        Args:
            template: of Jinja.
            renderings: of each what it may name.
            path: the file that the template was read from.

        Raises:
            InputError: it refuses one, has an error, or needs too much computing, memory or characters.
            RenderTimeout: it is not done in time, though it may not have computed so long.
        """
        said = [message["content"] for each in renderings for message in each["messages"]]
        request = {
            "template": template,
            "renderings": renderings,
            "most_characters": 2 * sum(map(len, said)) + _MORE_CHARACTERS,
            "seconds": self._seconds,
        }
        with self._lock:
            answer = self._answer(json.dumps(request))
        texts = answer.get("texts")
        if texts is not None and (all(map(is_text, texts)) or not all(map(is_text, said))):
            return texts
        needs = f"it needs more than {self._seconds} seconds or two gigabytes"
        reason = plain(answer.get("refused", needs if texts is None else "it writes what is no Unicode"))
        raise InputError(
            f"the chat template{in_file(path)} cannot be used: {reason}",
            field="chat_template",
            value=template,
            path=path,
            remedy="use the template of the model's authors",
        )

    def _answer(self, request: str) -> dict[str, Any]:
        """Return what the process answers; nothing where it has ended for that."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_RENDERER)],  # beside it stand modules of common names
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,  # a Ctrl-C is not for it
            )
            self._end = weakref.finalize(self, _kill, self._process)
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        is_late = threading.Event()

        def end() -> None:
            is_late.set()
            process.kill()

        late = threading.Timer(_WAIT_SECONDS, end)
        late.start()
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())
        except (OSError, json.JSONDecodeError):
            self.close()
            if is_late.is_set():
                raise RenderTimeout(f"a chat template was not rendered within {_WAIT_SECONDS} s") from None
            return {}
        except BaseException:  # such as a Ctrl-C: what comes late is no answer to the next request
            self.close()
            raise
        finally:
            late.cancel()


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
