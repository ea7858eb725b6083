"""`/v1/chat/completions`: a conversation to ids, and what is written to messages."""

import base64
import binascii
import secrets
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ringworld.core.errors import InputError
from ringworld.inference.engine.sequence import MOST_ALTERNATIVES, Piece, ScoredToken
from ringworld.inference.world import World
from ringworld.serving.asked import Wanted, token_text, usage
from ringworld.serving.body import Body
from ringworld.serving.errors import unsupported
from ringworld.serving.files import Files
from ringworld.serving.media import Kind, Media
from ringworld.text.templates import ChatTemplate, Message

_ROLES = ("system", "developer", "user", "assistant")
_PICTURES: dict[str, Kind] = {"image_url": "image", "video_url": "video"}


class Speech:
    """How a model is spoken to, which `World.chat` does alike; asked of the template once.

    Attributes:
        template: how turns become ids.
        media: what decodes pictures and films.
        files: those that requests may name.
    """

    def __init__(self, world: World, *, media: Media, files: Files) -> None:
        """Take what came with the model.

        Raises:
            InputError: it is no template.
        """
        prompts = world.prompts
        self.media, self.files = media, files
        self.template = ChatTemplate.of(prompts.tokenizer, vocabulary=prompts.vocabulary)

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """What ends an answer besides what ends any text.

        Raises:
            InputError: the template does not work.
        """
        return self.template.ends()


class Chat:
    """One request for an answer.

    Attributes:
        wanted: how answers are drawn, and whether they are streamed.
        requests: what the engine is asked, a request an answer.
    """

    def __init__(self, body: Body, world: World, *, speech: "Speech", name: str, most_choices: int) -> None:
        """Read the request; it takes long where a video is to be read, so call it in a thread.

        Raises:
            InputError: a field has another type or is out of range, or the template refuses the conversation.
            ApiError: a field is not supported.
        """
        self._world = world
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": name,
        }
        self.wanted = Wanted.of(body, default=world.sampling.answer)
        prompt = speech.template.encode(messages_of(body, speech))
        context = world.generator.limits.max_context_tokens
        asked = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
        self._logprobs = body.flag("logprobs")
        alternatives = body.whole("top_logprobs", 0, least=0, most=MOST_ALTERNATIVES)
        self.requests = self.wanted.requests(
            [prompt],
            most=most_choices,
            max_new_tokens=body.whole(asked, max(1, context - len(prompt)), least=1),
            ends=speech.ends,
            alternatives=alternatives if self._logprobs else 0,
        )

    def whole(self, pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """Return the response with all answers."""
        choices = []
        for i, each in enumerate(pieces):
            content = "".join(piece.text for piece in each).strip()
            tokens = [piece.token for piece in each if piece.token]
            choices.append(
                {
                    "index": i,
                    "message": {"role": "assistant", "content": content, "refusal": None},
                    "logprobs": self._scores(tokens),
                    "finish_reason": each[-1].finish,
                }
            )
        return self._response("chat.completion", choices) | {"usage": usage(self.requests, pieces)}

    def opening(self) -> list[dict[str, Any]]:
        """Return what a stream begins with."""
        return [
            self._chunk(i, {"role": "assistant", "content": ""}, logprobs=None, finish=None)
            for i in range(len(self.requests))
        ]

    def chunk(self, i: int, piece: Piece, *, before: Sequence[Piece]) -> dict[str, Any]:
        """Return what a stream says of a piece; an answer begins with its first word."""
        begun = any(each.text.strip() for each in before)
        text = piece.text if begun else piece.text.lstrip()
        scores = self._scores([piece.token] if piece.token else [])
        return self._chunk(i, {"content": text} if text else {}, logprobs=scores, finish=piece.finish)

    def closing(self, pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """Return what a stream says of its cost."""
        return self._response("chat.completion.chunk", []) | {"usage": usage(self.requests, pieces)}

    def _chunk(self, i: int, delta: dict[str, Any], *, logprobs: Any, finish: Any) -> dict[str, Any]:
        choice = {"index": i, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return self._response("chat.completion.chunk", [choice])

    def _response(self, kind: str, choices: list[Any]) -> dict[str, Any]:
        return {**self._head, "object": kind, "choices": choices}

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
        text = token_text(self._world, id)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def messages_of(body: Body, speech: Speech) -> list[Message]:
    """Return the messages of a conversation; what a message shows stands after its text.

    Raises:
        InputError: there is none, or one has another type, or a picture cannot be read or seen.
        ApiError: a part of a message is not supported.
    """
    messages = []
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
        texts, clips = _content(each, speech)
        role = "system" if role == "developer" else role
        messages.append(Message(role=role, text="\n".join(texts), clips=tuple(clips)))
    if not messages:
        raise InputError("messages is empty", field="messages", value=[], remedy="ask something")
    return messages


def _content(message: Body, speech: Speech) -> tuple[list[str], list[np.ndarray]]:
    if not isinstance(message.value("content"), list):
        return [message.text("content")], []
    texts, clips = [], []
    for part in message.parts("content"):
        kind = part.text("type")
        if kind == "text":
            texts.append(part.text("text"))
        elif kind in _PICTURES:
            given, field = part.value(kind), part.path(kind)
            url = given if isinstance(given, str) else part.part(kind).text("url")
            clips.append(speech.media.codes(_data(url, field=field), kind=_PICTURES[kind], field=field))
        elif kind == "file":
            content = _file(part.part("file"), speech.files)
            text = _as_text(content)
            if text is None:
                clips.append(speech.media.codes(content, kind="any", field=part.path("file")))
            else:
                texts.append(text)
        else:
            raise unsupported(part.path("type"), remedy=f"use one of text, {', '.join(_PICTURES)}, file")
    return texts, clips


def _file(file: Body, files: Files) -> bytes:
    if "file_id" in file:
        return files.content(file.text("file_id"))
    return _data(file.text("file_data"), field=file.path("file_data"))


def _as_text(content: bytes) -> str | None:
    """Return a document, which is UTF-8 without zero bytes; None for anything else."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _data(url: str, *, field: str) -> bytes:
    """Return the bytes of a `data:` address.

    Raises:
        InputError: it is another address, or not Base64.
    """
    scheme, _, rest = url.partition(",")
    if not scheme.startswith("data:") or not scheme.endswith(";base64"):
        raise InputError(
            f"{field} is no data: address in Base64; this server fetches nothing",
            field=field,
            value=url[:40],
            remedy="send the file itself, as data:image/png;base64,...",
        )
    try:
        return base64.b64decode(rest, validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{field} is not Base64", field=field, value=url[:40]) from None
