"""`/v1/completions`: texts that are continued, and how likely they are."""

import secrets
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ringworld.core.errors import InputError
from ringworld.inference.engine.sequence import MOST_ALTERNATIVES, Piece, ScoredToken
from ringworld.inference.prompts import Ids
from ringworld.inference.world import World
from ringworld.serving.body import Body
from ringworld.serving.errors import unsupported
from ringworld.serving.text_options import TextOptions, token_text, usage
from ringworld.text.stream import TextStream

_NEW_TOKENS = 16  # OpenAI's default


class Completions:
    """One request for continuations.

    Attributes:
        options: how they are drawn, and whether they are streamed.
        requests: to the engine, one a text.
    """

    def __init__(self, body: Body, world: World, *, name: str, most_choices: int) -> None:
        """Read the request; it may take long, so call it in a thread.

        Raises:
            InputError: a field has another type or is out of range.
            ApiError: a field is not supported.
        """
        for field in ("memory", "modalities"):
            if field in body:
                raise unsupported(field, remedy="ask in /v1/chat/completions")
        self._world = world
        self._common = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": name,
        }
        prompts = _given(body)
        self.options = TextOptions.of(
            body, default=world.sampling.text, prompts=len(prompts), most_choices=most_choices
        )
        self._echo, self._logprobs = body.flag("echo"), "logprobs" in body
        most = body.whole("max_tokens", _NEW_TOKENS, least=0 if self._echo else 1)
        self.requests = self.options.requests(
            [_prompt(each, world) for each in prompts],
            max_new_tokens=most,
            alternatives=body.whole("logprobs", 0, least=0, most=MOST_ALTERNATIVES),
            score_prompt=self._echo and (self._logprobs or not most),
        )
        self._offsets = [
            _Offsets(world, start=len(self._echoed(i)) if self._logprobs else 0)
            for i in range(len(self.requests))
        ]

    def whole(self, pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """Return the response with all texts."""
        choices = []
        for i, each in enumerate(pieces):
            text = self._echoed(i) + "".join(piece.text for piece in each)
            choices.append(self._choice(i, text, self._scores(i, each, begin=True), each[-1].finish))
        return {**self._common, "choices": choices, "usage": usage(self.requests, pieces)}

    def opening(self) -> list[dict[str, Any]]:
        """Return the events with which a stream begins."""
        return []

    def takes_long(self, pieces: Sequence[Piece]) -> bool:
        """Return whether the event of the last piece holds a whole prompt, each token of which is decoded."""
        return self._echo and len(pieces) == 1

    def chunk(self, i: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Return the event of the last of the pieces of a text."""
        piece, begin = pieces[-1], len(pieces) == 1
        text = (self._echoed(i) if begin else "") + piece.text
        scores = self._scores(i, [piece], begin=begin)
        return {**self._common, "choices": [self._choice(i, text, scores, piece.finish)]}

    def closing(self, pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """Return the event of the usage."""
        return {**self._common, "choices": [], "usage": usage(self.requests, pieces)}

    def _echoed(self, i: int) -> str:
        return self._world.prompts.words(self.requests[i].prompt) if self._echo else ""

    @staticmethod
    def _choice(i: int, text: str, logprobs: Any, finish: Any) -> dict[str, Any]:
        return {"index": i, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _scores(self, i: int, pieces: Sequence[Piece], *, begin: bool) -> dict[str, Any] | None:
        """Return log-probabilities as four lists; the first token of a prompt follows nothing.

        The likeliest of a place hold its own token, too, also where it is none of them.
        """
        if not self._logprobs:
            return None
        of_prompt = [token for piece in pieces for token in piece.prompt]
        written = [piece.token for piece in pieces if piece.token]
        scored: list[ScoredToken] = [*of_prompt, *written]
        offsets = [self._offsets[i].of(token.id) for token in written]
        tokens = [token_text(self._world, token.id) for token in scored]
        logprobs: list[float | None] = [token.logprob for token in scored]
        tops: list[dict[str, float] | None] = [
            {
                token_text(self._world, id): logprob
                for id, logprob in ((token.id, token.logprob), *reversed(token.alternatives))
            }
            for token in scored
        ]
        if self._echo and begin:
            prompt = self.requests[i].prompt.tolist()
            tokens.insert(0, token_text(self._world, prompt[0]))
            logprobs.insert(0, None)
            tops.insert(0, None)
            echoed = _Offsets(self._world, start=0)
            offsets = [*(echoed.of(id) for id in prompt), *offsets]
        return {
            "tokens": tokens,
            "token_logprobs": logprobs,
            "top_logprobs": tops,
            "text_offset": offsets,
        }


class _Offsets:
    r"""Where each token of a text begins in it, in characters; those that show as no text take none.

    Example:
        With `<s>`, "A", "\xc3" and "\xa4", of which the last two are the bytes of one character, the offsets
        are 0, 0, 1 and 1.
    """

    def __init__(self, world: World, *, start: int) -> None:
        """Begin after so many characters."""
        self._start, self._tokenizer = start, world.prompts.tokenizer
        self._text = TextStream(self._tokenizer.decode)

    def of(self, id: int) -> int:
        """Return where the next token begins."""
        before, own = len(self._text.text), self._tokenizer.bytes_of(id).decode(errors="replace")
        new = self._text.push(id)
        # Bytes that were held back as half of a character, and are none, come with what follows them.
        begin = len(self._text.text) - len(own) if own and new.endswith(own) else before
        return self._start + begin


def _given(body: Body) -> list[Any]:
    """Return what is continued: one prompt, or several of a list, not looked at yet."""
    given = body.value("prompt")
    return given if isinstance(given, list) and given and not _are_ids(given) else [given]


def _prompt(given: Any, world: World) -> Ids:
    """Return the ids of a text, or of ids.

    Raises:
        InputError: it is neither, or an id is none of the vocabulary.
    """
    if isinstance(given, str):
        return world.prompts.text(given)
    if not isinstance(given, list) or not _are_ids(given):
        raise InputError(
            f"prompt holds {type(given).__name__}, but must be a string, a list of ids, or a list of either",
            field="prompt",
        )
    vocabulary = world.prompts.vocabulary
    size = vocabulary.size if vocabulary.codes else vocabulary.text_size
    wrong = next((id for id in given if not 0 <= id < size), None)
    if wrong is not None:
        raise InputError(f"prompt holds {wrong}, which is none of {size} ids", field="prompt")
    return np.array(given, np.int32)


def _are_ids(given: list[Any]) -> bool:
    return bool(given) and all(type(id) is int for id in given)
