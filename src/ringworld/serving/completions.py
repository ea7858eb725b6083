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
from ringworld.serving.asked import Wanted, token_text, usage
from ringworld.serving.body import Body
from ringworld.serving.errors import unsupported

_NEW_TOKENS = 16  # OpenAI's default


class Completions:
    """One request for continuations.

    Attributes:
        wanted: how they are drawn, and whether they are streamed.
        requests: what the engine is asked, a request a text.
        draws: whether there are images or videos among them; there are none.
    """

    draws = False

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
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": name,
        }
        self.wanted = Wanted.of(body, default=world.sampling.text)
        self._echo, self._logprobs = body.flag("echo"), "logprobs" in body
        most = body.whole("max_tokens", _NEW_TOKENS, least=0 if self._echo else 1)
        self.requests = self.wanted.requests(
            prompts_of(body, world, most=most_choices),
            most=most_choices,
            max_new_tokens=most,
            alternatives=body.whole("logprobs", 0, least=0, most=MOST_ALTERNATIVES),
            score_prompt=self._echo and (self._logprobs or not most),
        )

    def whole(self, pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """Return the response with all texts."""
        choices = []
        for i, each in enumerate(pieces):
            scored = [token for piece in each for token in (*piece.prompt, piece.token) if token]
            text = self._echoed(i) + "".join(piece.text for piece in each)
            choices.append(self._choice(i, text, self._scores(i, scored, begin=True), each[-1].finish))
        return {**self._head, "choices": choices, "usage": usage(self.requests, pieces)}

    def opening(self) -> list[dict[str, Any]]:
        """Return what a stream begins with."""
        return []

    def chunk(self, i: int, piece: Piece, *, before: Sequence[Piece]) -> dict[str, Any]:
        """Return what a stream says of a piece."""
        text = (self._echoed(i) if not before else "") + piece.text
        scored = [token for token in (*piece.prompt, piece.token) if token]
        scores = self._scores(i, scored, begin=not before)
        return {**self._head, "choices": [self._choice(i, text, scores, piece.finish)]}

    def closing(self, pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """Return what a stream says of its cost."""
        return {**self._head, "choices": [], "usage": usage(self.requests, pieces)}

    def _echoed(self, i: int) -> str:
        return self._world.prompts.words(self.requests[i].prompt) if self._echo else ""

    @staticmethod
    def _choice(i: int, text: str, logprobs: Any, finish: Any) -> dict[str, Any]:
        return {"index": i, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _scores(self, i: int, scored: Sequence[ScoredToken], *, begin: bool) -> dict[str, Any] | None:
        """Return log-probabilities as four lists; the first token of a prompt follows nothing."""
        if not self._logprobs:
            return None
        tokens = [token_text(self._world, token.id) for token in scored]
        logprobs: list[float | None] = [token.logprob for token in scored]
        tops: list[dict[str, float] | None] = [
            {token_text(self._world, id): logprob for id, logprob in reversed(token.alternatives)}
            for token in scored
        ]
        if self._echo and begin:
            tokens.insert(0, token_text(self._world, int(self.requests[i].prompt[0])))
            logprobs.insert(0, None)
            tops.insert(0, None)
        offsets = [0, *np.cumsum([len(token) for token in tokens])[:-1].tolist()]
        return {
            "tokens": tokens,
            "token_logprobs": logprobs,
            "top_logprobs": tops,
            "text_offset": offsets[: len(tokens)],
        }


def prompts_of(body: Body, world: World, *, most: int) -> list[Ids]:
    """Return the ids of a text, of ids, or of a list of at most so many of either.

    Raises:
        InputError: it is none of them, there are more, or an id is none of the vocabulary.
    """
    given = body.value("prompt")
    several = given if isinstance(given, list) and given and not _are_ids(given) else [given]
    if len(several) > most:
        problem = f"prompt holds {len(several)} prompts, but at most {most} are answered at once"
        raise InputError(problem, field="prompt", value=len(several))
    return [_prompt(each, world) for each in several]


def _prompt(given: Any, world: World) -> Ids:
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
