"""The options that requests for chat and completions share: how text is drawn, and where it ends."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ringworld.core.errors import InputError
from ringworld.inference.config import SamplingConfig
from ringworld.inference.engine.sequence import GenerationRequest, Piece
from ringworld.inference.world import World
from ringworld.serving.body import Body
from ringworld.serving.errors import ApiError, unsupported

_DRAWN = ("temperature", "top_p", "min_p", "repetition_penalty")
_MOST_STOPS, _LONGEST_STOP = 16, 1000
_FREELY = "answers are text as the model writes it; leave it out"
_WITHOUT_EFFECT = {
    "min_tokens": (0, "leave it out, or use ignore_eos"),
    "skip_special_tokens": (True, "leave it out"),
    "stop_token_ids": ([], "use stop"),
    "mm_processor_kwargs": ({}, "use max_frames and fps"),
    "media_io_kwargs": ({}, "use max_frames and fps"),
    "frequency_penalty": (0, "use repetition_penalty"),
    "presence_penalty": (0, "use repetition_penalty"),
    "logit_bias": ({}, "leave it out"),
    "best_of": (1, "use n"),
    "suffix": ("", "leave it out"),
    "tools": ([], "answers are text; leave it out"),
    "functions": ([], "answers are text; leave it out"),
    "tool_choice": ("none", "answers are text; leave it out"),
    "function_call": ("none", "answers are text; leave it out"),
    "response_format": ({"type": "text"}, _FREELY),
    "audio": ({}, "leave it out"),
    "structured_outputs": ({}, _FREELY),
    "guided_json": ({}, _FREELY),
    "guided_regex": ("", _FREELY),
    "guided_choice": ([], _FREELY),
    "guided_grammar": ("", _FREELY),
    "json_schema": ({}, _FREELY),
    "grammar": ("", _FREELY),
    "bad_words": ([], "leave it out"),
    "allowed_token_ids": ([], "leave it out"),
    "use_beam_search": (False, "use n"),
    "length_penalty": (1, "leave it out"),
    "include_stop_str_in_output": (False, "leave it out"),
    "truncate_prompt_tokens": (None, "send a shorter prompt"),
    "prompt_logprobs": (None, "use echo and logprobs in /v1/completions"),
    "chat_template": (None, "the template is that of the model folder; leave it out"),
    "chat_template_kwargs": ({}, "leave it out"),
    "add_generation_prompt": (True, "leave it out"),
    "continue_final_message": (False, "use /v1/completions"),
    "documents": ([], "send them as parts of a message"),
}
"""Fields that mean something to OpenAI, vLLM or llama.cpp, with the value at which leaving them out changes
nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextOptions:
    """How texts are drawn, how many, and whether they are streamed."""

    sampling: SamplingConfig
    stop: tuple[str, ...]
    ignores_ends: bool
    choices: int
    stream: bool
    include_usage: bool

    @staticmethod
    def of(body: Body, *, default: SamplingConfig, prompts: int, most_choices: int) -> "TextOptions":
        """Read them, before the prompts are encoded.

        Args:
            body: of the request.
            default: holds for what the request leaves out.
            prompts: how many it has, each of which is answered `n` times.
            most_choices: texts that it may ask for in all.

        Raises:
            InputError: a field has another type or is out of range, or too many texts are asked for.
            ApiError: a field is not supported.
        """
        for name, (harmless, remedy) in _WITHOUT_EFFECT.items():
            if name in body and body.value(name) != harmless:
                raise unsupported(name, remedy=remedy)
        # Whoever asks twice without a seed wants two answers, and one with a seed may have 64 bits.
        seed = body.whole("seed", secrets.randbits(32), least=1 - 2**63) % 2**32
        stop = body.texts("stop")
        if len(stop) > _MOST_STOPS:
            raise InputError(f"stop holds {len(stop)} strings, of {_MOST_STOPS} at most", field="stop")
        if (longest := max(map(len, stop), default=0)) > _LONGEST_STOP:
            # Each token is compared with all that such a string may begin with.
            problem = f"stop holds a string of {longest} characters, of {_LONGEST_STOP} at most"
            raise InputError(problem, field="stop")
        choices = body.whole("n", 1, least=1)
        if prompts * choices > most_choices:
            raise InputError(
                f"{prompts} prompts with n={choices} are more than {most_choices} texts",
                field="n",
                value=choices,
                remedy="ask for fewer at once",
            )
        return TextOptions(
            sampling=replace(
                default,
                seed=seed,
                # Others write -1 for all.
                top_k=max(0, body.whole("top_k", default.top_k, least=-1)),
                **{name: body.number(name, getattr(default, name)) for name in _DRAWN},
            ),
            stop=stop,
            ignores_ends=body.flag("ignore_eos"),
            choices=choices,
            stream=body.flag("stream"),
            include_usage=body.part("stream_options").flag("include_usage"),
        )

    def requests(self, prompts: Sequence[Any], **others: Any) -> list[GenerationRequest]:
        """Return the requests to the engine: `n` texts of each prompt, beside each other."""
        return [
            GenerationRequest(
                prompt=prompt,
                sampling=self.sampling,
                sample=i,
                stop=self.stop,
                ignores_ends=self.ignores_ends,
                **others,
            )
            for prompt in prompts
            for i in range(self.choices)
        ]


def check_model(body: Body, name: str) -> None:
    """Refuse a request for another model.

    Raises:
        ApiError: it is for another.
    """
    wanted = body.text("model", name)
    if wanted != name:
        raise ApiError(
            404,
            f"there is no model {wanted!r:.80}; the model is {name!r}",
            kind="not_found_error",
            param="model",
            code="model_not_found",
        )


def usage(requests: Sequence[GenerationRequest], pieces: Sequence[Sequence[Piece]]) -> dict[str, Any]:
    """Return what a request cost, in tokens; a prompt with several texts counts once."""
    prompt = sum(len(request.prompt) for request in requests if not request.sample)
    written = sum(piece.token is not None for each in pieces for piece in each)
    found = (each[-1].reused_tokens for request, each in zip(requests, pieces) if not request.sample)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
        "prompt_tokens_details": {"cached_tokens": sum(found)},
    }


def token_text(world: World, id: int) -> str:
    """Return the text of a token, or its id where it has none of its own, such as half of a character."""
    text = world.prompts.tokenizer.bytes_of(id).decode(errors="replace")
    return text if text and "\N{REPLACEMENT CHARACTER}" not in text else f"token_id:{id}"
