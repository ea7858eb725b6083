"""`/v1/chat/completions`: what is asked of the engine, and what it writes as answers."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ringworld.core.errors import InputError
from ringworld.inference.engine.sequence import MOST_ALTERNATIVES, Piece, ScoredToken
from ringworld.inference.world import World
from ringworld.serving.attachments import Attachments
from ringworld.serving.body import Body
from ringworld.serving.clips import clips_in, clips_of, last_clip, shown_as
from ringworld.serving.config import ServingLimits
from ringworld.serving.messages import ChatBackend, messages_of
from ringworld.serving.text_options import TextOptions, token_text, usage


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
            ],
            "refusal": None,
        }

    def _score(self, id: int, logprob: float) -> dict[str, Any]:
        # Those of several tokens together are the text, also where each is a part of a character.
        content = [*self._world.prompts.tokenizer.bytes_of(id)]
        return {"token": token_text(self._world, id), "logprob": logprob, "bytes": content or None}
