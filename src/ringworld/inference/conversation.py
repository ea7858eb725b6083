"""A conversation with a model: its turns, and the cache of all that was read of them."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, Int32

from ringworld.core.errors import InputError
from ringworld.core.ranges import whole_number
from ringworld.inference.config import SamplingConfig
from ringworld.inference.generator import Generator
from ringworld.inference.memory import Memory, save_memory
from ringworld.text.stream import TextStream
from ringworld.text.templates import ChatTemplate, Message, joined


def _never() -> bool:
    return False


def _unreported(done: int, total: int) -> None:
    pass


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerStats:
    """What one answer cost."""

    prompt_tokens: int
    """Of the whole conversation up to the answer."""
    read_tokens: int
    """Those of them that no turn before had read."""
    read_seconds: float
    written_tokens: int
    write_seconds: float
    context_tokens: int
    """The most that the model takes."""
    finish: Literal["stop", "length", "stopped"]
    """Whether the answer ended by itself, by the most tokens that it may have, or by the caller."""

    @property
    def context_share(self) -> float:
        """How much of the context is taken, from 0 to 1."""
        return (self.prompt_tokens + self.written_tokens) / self.context_tokens


class Conversation:
    """Questions and answers in turn; each turn reads only what is new.

    Example:
        >>> conversation = world.chat()
        >>> conversation.add_document(Path("book.txt").read_text())
        >>> for words in conversation.ask("Who is Natasha?"):
        ...     print(words, end="", flush=True)

    Attributes:
        messages: the turns so far; they may be replaced.
        last_answer: what it cost; None before the first.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        template: ChatTemplate,
        sampling: SamplingConfig,
        max_new_tokens: int = 1024,
        system: str | None = None,
    ) -> None:
        """Begin without turns.

        Args:
            generator: the model.
            template: how turns become ids.
            sampling: how answers are drawn.
            max_new_tokens: most tokens of an answer.
            system: what the model is told beforehand; by default what its template says.

        Raises:
            InputError: the template cannot be used, or a number is out of range.
        """
        self.messages: list[Message] = []
        self.last_answer: AnswerStats | None = None
        self._template, self._sampling = template, sampling
        self._most = whole_number("max_new_tokens", max_new_tokens, least=1)
        self._context = generator.limits.max_context_tokens
        self._generator, self._session = generator, generator.session(more_ends=template.ends())
        self._documents: list[str] = []
        self._clips: list[Int[np.ndarray, "frames codes"]] = []
        self.reset(system=system)

    def reset(self, *, system: str | None = None) -> None:
        """Forget all turns and all that was added, and tell the model something else beforehand."""
        self.messages = [] if system is None else [Message(role="system", content=(system,))]
        self._documents, self._clips = [], []

    def add_document(self, text: str) -> None:
        """Put a text before the next question."""
        self._documents.append(text)

    def add_clip(self, codes: Int[np.ndarray, "frames codes"]) -> None:
        """Show the frames of a video or an image with the next question."""
        self._clips.append(codes)

    def ask(
        self,
        question: str,
        *,
        stop: Callable[[], bool] = _never,
        on_read: Callable[[int, int], None] = _unreported,
    ) -> Iterator[str]:
        """Yield the answer as it is written.

        A question that cannot be answered leaves no trace, and what was added to it is dropped. One that is
        stopped before the first word leaves all as it was.

        Args:
            question: of the user.
            stop: asked between two chunks that are read and between two tokens; True ends the answer.
            on_read: called with the tokens read so far and those that there are.

        Raises:
            InputError: the conversation does not fit into the context, or the template refuses it.
        """
        asked = joined(self._with_added(), [Message(role="user", content=(question,))])
        documents, clips = self._documents, self._clips
        self._documents, self._clips = [], []
        ids = self._encode(asked)
        begun = time.monotonic()
        for held in self._session.read(ids):
            on_read(held, len(ids))
            if stop():
                self._documents, self._clips = documents, clips
                return
        reading, most = time.monotonic(), min(self._most, self._context - len(ids))
        stream = TextStream(self._template.tokenizer.decode)
        written, stopped = 0, False
        for id in self._session.write(max_new_tokens=most, sampling=self._sampling):
            written += 1
            yield _after(stream.text, stream.push(id))
            if stopped := stop():
                break
        yield _after(stream.text, stream.close())
        self.last_answer = AnswerStats(
            prompt_tokens=len(ids),
            read_tokens=len(ids) - self._session.reused,
            read_seconds=reading - begun,
            written_tokens=written,
            write_seconds=time.monotonic() - reading,
            context_tokens=self._context,
            finish="stopped" if stopped else "length" if written == most else "stop",
        )
        self.messages = [*asked, Message(role="assistant", content=(stream.text.strip(),))]

    def keep(
        self,
        folder: str | PathLike[str],
        *,
        name: str = "",
        on_read: Callable[[int, int], None] = _unreported,
    ) -> Memory:
        """Keep the conversation in a folder, with what was read of it; what was added is read first.

        Args:
            folder: to be written, in place of a memory that stood there.
            name: what people call it; by default as the folder.
            on_read: as for `ask`.

        Raises:
            InputError: nothing was said or added, or a clip stands last, which is read only with its
                question; what was added does not fit; or something else stands in the folder.
        """
        path, messages = Path(folder), self._with_added()
        ids = self._template.beginning(messages)
        self._check_room(ids)
        for held in self._session.read(ids):
            on_read(held, len(ids))
        model = self._generator.remembering
        spans = self._session.spans()
        save_memory(path, name=name or path.name, messages=messages, ids=ids, spans=spans, model=model)
        return Memory.open(path, model=model)

    def reopen(self, folder: str | PathLike[str]) -> Memory:
        """Go on with a conversation that was kept, in place of this one, of which nothing is read again.

        Raises:
            InputError: it is no memory of this model, damaged, of a cache in int8, or longer than the
                context; this conversation is then as it was, but is read again.
        """
        memory = Memory.open(Path(folder), model=self._generator.remembering)
        self._check_room(memory.ids)
        self._session.recall(memory.ids, memory.spans)
        self.reset()
        self.messages, self.last_answer = [*memory.messages], None
        return memory

    def _with_added(self) -> list[Message]:
        """Return the turns, and what was added to the next question, without it."""
        if not self._documents and not self._clips:
            return self.messages
        texts = ("\n\n".join(self._documents),) if self._documents else ()
        return joined(self.messages, [Message(role="user", content=(*texts, *self._clips))])

    def _encode(self, messages: Sequence[Message]) -> Int32[np.ndarray, " tokens"]:
        """Return the ids of a conversation, after which at least one more fits into the context."""
        ids = self._template.encode(messages)
        self._check_room(ids)
        return ids

    def _check_room(self, ids: Int32[np.ndarray, " tokens"]) -> None:
        if len(ids) >= self._context:
            raise InputError(
                f"the conversation would have {len(ids)} tokens, which do not fit into the context of this "
                f"model, {self._context} tokens",
                field="prompt",
                value=len(ids),
                remedy="ask about a shorter text, or begin a new conversation",
            )

    def to_json(self) -> dict[str, Any]:
        """Return the turns as other programs read them; of a clip, the number of its frames."""
        return {
            "messages": [
                {"role": message.role, "content": message.text}
                | ({"frames": [len(clip) for clip in message.clips]} if message.clips else {})
                for message in self.messages
            ]
        }


def _after(text: str, new: str) -> str:
    """Return what is new of an answer, which begins with its first word, whatever blank is left to it."""
    return new if text.strip() else new.lstrip()
