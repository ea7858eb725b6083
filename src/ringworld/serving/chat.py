"""`/v1/chat/completions`: a conversation to ids, and what is written to messages."""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from ringworld.core.errors import InputError
from ringworld.inference.batches import TooLong
from ringworld.inference.engine.cache_size import CacheSize
from ringworld.inference.engine.sequence import MOST_ALTERNATIVES, Piece, ScoredToken
from ringworld.inference.world import World
from ringworld.serving.attachments import Attachments
from ringworld.serving.body import Body
from ringworld.serving.clips import clips_in, clips_of, last_clip, shown_as
from ringworld.serving.config import ServingLimits
from ringworld.serving.deadline import Deadline
from ringworld.serving.errors import unsupported
from ringworld.serving.media import Kind
from ringworld.serving.text_options import TextOptions, token_text, usage
from ringworld.text.templates import Message, joined

_ROLES = ("system", "developer", "user", "assistant")
_PICTURES: dict[str, Kind] = {"image_url": "image", "video_url": "video"}


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


class ChatRequest:
    """One request for an answer.

    Attributes:
        options: how answers are drawn, and whether they are streamed.
        requests: to the engine, one an answer.
    """

    def __init__(
        self,
        body: Body,
        world: World,
        *,
        chat: ChatBackend,
        attachments: Attachments,
        name: str,
        limits: ServingLimits,
    ) -> None:
        """Read the request; it takes long where a video is to be read, so call it in a thread.

        Raises:
            InputError: a field has another type or is out of range, or the template refuses the conversation.
            ApiError: a field is not supported.
        """
        self._world, self._attachments = world, attachments
        self._common = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": name,
        }
        self.options = TextOptions.of(
            body, default=world.sampling.answer, prompts=1, most_choices=limits.max_choices
        )
        prompt = chat.template.encode(messages_of(body, chat, attachments=attachments))
        clips, begins = clips_of(body, world, sampling=self.options.sampling, limits=limits)
        self._draws = clips is not None
        if clips is not None and begins:
            prompt = np.concatenate([prompt, np.array(clips.grammar.begin, np.int32)])
        guided = clips is not None and clips.sampling.guidance_scale != 1
        field = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
        self._logprobs = body.flag("logprobs")
        alternatives = body.whole("top_logprobs", 0, least=0, most=MOST_ALTERNATIVES)
        if alternatives and not self._logprobs:
            raise InputError(
                f"top_logprobs is {alternatives}, but logprobs is not asked for",
                field="top_logprobs",
                value=alternatives,
                remedy="set logprobs to true, too",
            )
        requests = self.options.requests(
            [prompt],
            clips=clips,
            unconditional=world.prompts.unconditional() if guided else None,
            max_new_tokens=1,
            ends=chat.ends,
            alternatives=alternatives,
        )
        # Where even one token is too many, the engine says why.
        most = body.whole(field, max(1, chat.size.room(requests[0])), least=1)
        self.requests = [replace(each, max_new_tokens=most) for each in requests]
        # Of each answer that is streamed, characters so far, and the blanks after them, which may be its end.
        self._said, self._blanks = [0] * len(self.requests), [""] * len(self.requests)

    def whole(self, pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """Return the response with all answers."""
        choices = []
        for i, each in enumerate(pieces):
            content = "".join(piece.text for piece in each).strip()
            tokens = [piece.token for piece in each if piece.token]
            message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
            if self._draws:
                drawn = [
                    (len("".join(piece.text for piece in each[:last]).strip()), codes)
                    for last, codes in clips_in(each, self._world)
                ]
                message |= shown_as(drawn, self._world, attachments=self._attachments)
            choices.append(
                {
                    "index": i,
                    "message": message,
                    "logprobs": self._scores(tokens),
                    "finish_reason": each[-1].finish,
                }
            )
        return self._response("chat.completion", choices) | {"usage": usage(self.requests, pieces)}

    def opening(self) -> list[dict[str, Any]]:
        """Return the events with which a stream begins."""
        return [
            self._chunk(i, {"role": "assistant", "content": ""}, logprobs=None, finish=None)
            for i in range(len(self.requests))
        ]

    def takes_long(self, pieces: Sequence[Piece]) -> bool:
        """Return whether an event may hold an image or a video, whose frames are decoded."""
        return self._draws

    def chunk(self, i: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the event of the last piece of an answer, from its first word to its last, as `whole`."""
        piece, said = pieces[-1], self._said[i]
        new = self._blanks[i] + (piece.text if said else piece.text.lstrip())
        text = new.rstrip()
        self._said[i] += len(text)
        self._blanks[i] = new[len(text) :]
        scores = self._scores([piece.token] if piece.token else [])
        delta: dict[str, Any] = {"content": text} if text else {}
        if self._draws:
            drawn = [(said, codes) for codes in last_clip(pieces, self._world)]
            delta |= shown_as(drawn, self._world, attachments=self._attachments)
        return self._chunk(i, delta, logprobs=scores, finish=piece.finish)

    def closing(self, pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """Return the event of the usage."""
        return self._response("chat.completion.chunk", []) | {"usage": usage(self.requests, pieces)}

    def _chunk(self, i: int, delta: dict[str, Any], *, logprobs: Any, finish: Any) -> dict[str, Any]:
        choice = {"index": i, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._response("chat.completion.chunk", [choice])

    def _response(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {**self._common, "object": kind, "choices": choices}

    def _scores(self, tokens: Sequence[ScoredToken]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        return {
            "content": [
                self._score(token.id, token.logprob)
                | {"top_logprobs": [self._score(*each) for each in token.alternatives]}
                for token in tokens
            ]
        }

    def _score(self, id: int, logprob: float) -> dict[str, Any]:
        # Those of several tokens together are the text, also where each is a part of a character.
        content = [*self._world.prompts.tokenizer.bytes_of(id)]
        return {"token": token_text(self._world, id), "logprob": logprob, "bytes": content or None}


def messages_of(body: Body, chat: ChatBackend, *, attachments: Attachments) -> list[Message]:
    """Return the messages of a conversation, those of a memory that it continues before its own.

    What a message says and shows keeps its order.

    Raises:
        InputError: there is none, or one has another type, or a picture cannot be read or seen.
        TooLong: they show more frames than the context holds; those beyond are not read.
        ApiError: a part of a message is not supported, or there is no such memory.
    """
    before = chat.remembered(body.text("memory")) if "memory" in body else ()
    messages: list[Message] = []
    room = chat.context_tokens - sum(_clip_tokens(each.content, chat) for each in before)
    for each in body.parts("messages"):
        role = each.text("role")
        if role in ("tool", "function") or "tool_calls" in each:
            raise unsupported(each.path("role"), remedy="leave tools out")
        if role not in _ROLES:
            raise InputError(
                f"{each.path('role')} is {role!r:.40}, but must be one of {', '.join(_ROLES)}",
                field=each.path("role"),
                value=role,
            )
        content = _content(each, attachments, chat, room=room)
        room -= _clip_tokens(content, chat)
        role = "system" if role == "developer" else role
        messages.append(Message(role=role, content=tuple(content)))
    if not messages:
        raise InputError("messages is empty", field="messages", value=[], remedy="ask something")
    return joined(before, messages)


def _content(
    message: Body, attachments: Attachments, chat: ChatBackend, *, room: int
) -> list[str | np.ndarray]:
    """Return the texts and the codes of the clips of a message, but for blank texts beside others.

    Raises:
        TooLong: its clips have more than `room` tokens.
    """
    if not isinstance(message.value("content"), list):
        return [message.text("content")]
    content: list[str | np.ndarray] = []
    for part in message.parts("content"):
        # A picture may go without a type, as in vLLM.
        kind = part.text("type", next((name for name in _PICTURES if name in part), None))
        if kind == "text":
            content.append(part.text("text"))
        elif kind in _PICTURES:
            given, field = part.value(kind), part.path(kind)
            url = given if isinstance(given, str) else part.part(kind).text("url")
            content.append(
                attachments.codes(attachments.at(url, field=field), kind=_PICTURES[kind], field=field)
            )
        elif kind == "file":
            file = attachments.file(part.part("file"))
            text = _as_text(file)
            content.append(
                attachments.codes(file, kind="any", field=part.path("file")) if text is None else text
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
    return [part for part in content if not isinstance(part, str) or part.strip()] or [""]


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
