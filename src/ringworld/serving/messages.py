"""Conversations of requests, to messages: what they say and show, in its order."""

from collections.abc import Callable, Sequence
from functools import cached_property
from operator import itemgetter

import numpy as np

from ringworld.core.errors import InputError
from ringworld.inference.batches import TooLong
from ringworld.inference.config import WatchingConfig
from ringworld.inference.engine.cache_size import CacheSize
from ringworld.inference.world import World
from ringworld.serving.attachments import Attachments
from ringworld.serving.body import Body
from ringworld.serving.deadline import Deadline
from ringworld.serving.errors import unsupported
from ringworld.serving.media import Kind
from ringworld.text.templates import Message, joined

_ROLES = ("system", "developer", "user", "assistant")
_PICTURES: dict[str, Kind] = {"image_url": "image", "video_url": "video"}
_DRAWN = ("images", "videos")


class ChatBackend:
    """What reads the conversations of requests, as `World.chat` reads them.

    Attributes:
        template: how turns become ids.
        size: of the cache in which they are continued.
        context_tokens: most of them.
        attach: returns what a request attaches, for its deadline.
        remembered: returns the conversation of a memory by its id.
    """

    def __init__(
        self,
        world: World,
        size: CacheSize,
        *,
        attach: Callable[[Deadline], Attachments],
        remembered: Callable[[str], Sequence[Message]],
    ) -> None:
        """Take what came with the model.

        Raises:
            InputError: it is no template.
        """
        self.size, self.attach, self.remembered = size, attach, remembered
        self.template = world.template
        self.context_tokens = world.generator.limits.max_context_tokens

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """What ends an answer besides what ends any text.

        Raises:
            InputError: the template does not work.
        """
        return self.template.ends()


def messages_of(body: Body, chat: ChatBackend, *, attachments: Attachments) -> list[Message]:
    """Return the messages of a conversation, those of a memory that it continues before its own.

    What a message says and shows keeps its order.

    Raises:
        InputError: there is none, or one has another type, or a picture cannot be read or seen.
        TooLong: they show more frames than the context holds; those beyond are not read.
        ApiError: a part of a message is not supported, or there is no such memory.
    """
    before = chat.remembered(body.text("memory")) if "memory" in body else ()
    watching = attachments.watching(body)
    messages: list[Message] = []
    room = chat.context_tokens - sum(_clip_tokens(each.content, chat) for each in before)
    for each in body.parts("messages"):
        role = each.text("role")
        if role in ("tool", "function") or each.value("tool_calls"):
            raise unsupported(each.path("role"), remedy="leave tools out")
        if role not in _ROLES:
            raise InputError(
                f"{each.path('role')} is {role!r:.40}, but must be one of {', '.join(_ROLES)}",
                field=each.path("role"),
                value=role,
            )
        content = _content(each, attachments, chat, room=room, watching=watching)
        room -= _clip_tokens(content, chat)
        role = "system" if role == "developer" else role
        messages.append(Message(role=role, content=tuple(content)))
    if not messages:
        raise InputError("messages is empty", field="messages", value=[], remedy="ask something")
    return joined(before, messages)


def _content(
    message: Body, attachments: Attachments, chat: ChatBackend, *, room: int, watching: WatchingConfig
) -> list[str | np.ndarray]:
    """Return the texts and the codes of the clips of a message, but for blank texts beside others.

    Raises:
        TooLong: its clips have more than `room` tokens.
    """
    content: list[str | np.ndarray] = []
    for part in _parts(message):
        # A picture may go without a type, as in vLLM.
        kind = part.text("type", next((name for name in _PICTURES if name in part), None))
        if kind == "text":
            content.append(part.text("text"))
        elif kind in _PICTURES:
            given, field = part.value(kind), part.path(kind)
            url = given if isinstance(given, str) else part.part(kind).text("url")
            file = attachments.at(url, field=field)
            content.append(attachments.codes(file, kind=_PICTURES[kind], field=field, watching=watching))
        elif kind == "file":
            file, field = attachments.file(part.part("file")), part.path("file")
            text = _as_text(file)
            content.append(
                attachments.codes(file, kind="any", field=field, watching=watching) if text is None else text
            )
        else:
            raise unsupported(part.path("type"), remedy=f"use one of text, {', '.join(_PICTURES)}, file")
        tokens = _clip_tokens(content, chat)
        if tokens > room:
            # Before the next one is decoded, which takes a process.
            raise TooLong(
                f"{message.path('content')} shows {tokens} tokens of pictures and films, but the context has "
                f"room for {room}",
                field="messages",
                value=tokens,
                remedy="show fewer, or use a model of a longer context",
            )
    return [part for part in content if not isinstance(part, str) or part.strip()] or content[:1] or [""]


def _parts(message: Body) -> Sequence[Body]:
    """Return the parts of a message; what an answer drew stands in its text where `content_offset` says.

    Example:
        The content "ab" beside one image with the offset 1 has the parts "a", the image and "b".

    Raises:
        InputError: it is neither a text nor a list of parts, or stands beside images though it is a list.
    """
    beside = [name for name in _DRAWN if name in message]
    if isinstance(message.value("content"), list):
        if beside:
            raise InputError(
                f"{message.path(beside[0])} stands beside a list of parts",
                field=message.path(beside[0]),
                remedy="put what it holds into the list",
            )
        return message.parts("content")
    text = message.text("content", "" if beside else None)
    drawn = [part for name in beside for part in message.parts(name)]
    ends = [part.whole("content_offset", len(text), least=0, most=len(text)) for part in drawn]
    parts, begin = [], 0
    for end, part in sorted(zip(ends, drawn, strict=True), key=itemgetter(0)):
        parts += [_said(text[begin:end]), part]
        begin = end
    return [*parts, _said(text[begin:])]


def _said(text: str) -> Body:
    return Body({"type": "text", "text": text})


def _clip_tokens(content: Sequence[str | np.ndarray], chat: ChatBackend) -> int:
    frames = sum(len(part) for part in content if not isinstance(part, str))
    return frames * chat.template.vocabulary.frame_tokens


def _as_text(content: bytes) -> str | None:
    """Return a document, which is UTF-8 without zero bytes; None for anything else."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
