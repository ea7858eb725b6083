"""Images and videos within an answer: whether there may be any, and how clients get them."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ringworld.core.errors import InputError
from ringworld.inference.clip_grammar import ClipGrammar
from ringworld.inference.config import SamplingConfig
from ringworld.inference.engine.sequence import Clips, Piece
from ringworld.inference.world import World
from ringworld.serving.attachments import Attachments
from ringworld.serving.body import Body
from ringworld.serving.config import ServingLimits
from ringworld.serving.errors import ApiError
from ringworld.serving.pictures import mp4, png

_MODALITIES = ("text", "image", "video")
_IN_ORDER: tuple[tuple[Literal["images", "videos"], str], ...] = (
    ("images", "image_url"),
    ("videos", "video_url"),
)


def clips_of(
    body: Body, world: World, *, sampling: SamplingConfig, limits: ServingLimits
) -> tuple[Clips | None, bool]:
    """Return how clips are drawn in an answer, None where it is text alone, and whether it begins with one.

    | `modalities` | the answer |
    |---|---|
    | none, or `text` | text |
    | `text`, `image` | text, and images where the model draws some |
    | `text`, `video` | text, and videos of at most `num_frames` |
    | `image`, or `video` | begins with one |

    They are guided where `guidance_scale` is not 1.

    Raises:
        InputError: a field has another type or is out of range, or the model draws nothing.
        ApiError: there are too many frames.
    """
    modalities = body.texts("modalities") or ("text",)
    if not set(modalities) <= set(_MODALITIES):
        names = ", ".join(_MODALITIES)
        raise InputError(f"modalities may hold {names} alone", field="modalities", value=modalities)
    if set(modalities) == {"text"}:
        return None, False
    world.prompts.seeing()
    frames = 1
    if "video" in modalities:
        frames = body.whole("num_frames", min(world.watching.max_frames, limits.max_frames), least=1)
    if frames > limits.max_frames:
        problem = f"num_frames is {frames}, of {limits.max_frames} at most"
        raise ApiError(400, problem, param="num_frames", code="too_many_frames")
    tokenizer, default = world.prompts.tokenizer, world.sampling
    grammar = ClipGrammar(
        vocabulary=world.prompts.vocabulary,
        begin=tokenizer.vision_start,
        close=tokenizer.vision_end,
        most_frames=frames,
    )
    drawn = replace(
        default.image if frames == 1 else default.video,
        seed=sampling.seed,
        # Unless it is asked for: the whole answer takes two sequences then.
        guidance_scale=body.number("guidance_scale", 1.0),
    )
    return Clips(grammar=grammar, sampling=drawn), "text" not in modalities


def clips_in(pieces: Sequence[Piece], world: World) -> Iterator[tuple[int, np.ndarray]]:
    """Yield, of each clip that is whole, the index of its last piece, and its codes, [frames, codes]."""
    vocabulary, ids = world.prompts.vocabulary, []
    for index, piece in enumerate(pieces):
        if piece.token is None or piece.token.id < vocabulary.code_offset:
            ids = []
            continue
        ids.append(piece.token.id)
        if piece.token.id == vocabulary.eov:
            yield index, vocabulary.decode_frames(np.array(ids, np.int32))
            ids = []


def last_clip(pieces: Sequence[Piece], world: World) -> list[np.ndarray]:
    """Return the codes of the clip that the last piece ends, if it ends one."""
    vocabulary, start, last = world.prompts.vocabulary, len(pieces) - 1, pieces[-1].token
    if last is None or last.id != vocabulary.eov:
        return []
    while start and (token := pieces[start - 1].token) and token.id >= vocabulary.code_offset:
        start -= 1
    return [codes for _, codes in clips_in(pieces[start:], world)]


def shown_as(
    clips: Sequence[tuple[int, np.ndarray]], world: World, *, attachments: Attachments
) -> dict[str, Any]:
    """Return the fields of a message that holds clips: PNG of images, MP4 of videos, as `data:` addresses.

    A client that shows one again later shows the same codes. It decodes them, so call it in a thread.

    Args:
        clips: of each, how many characters of the content stand before it, and its codes.
        world: that drew them.
        attachments: of the request, which remember them.
    """
    fields: dict[str, Any] = {}
    for offset, codes in clips:
        frames = world.prompts.seeing().decode(codes)
        name, part = _IN_ORDER[len(codes) > 1]
        if len(codes) == 1:
            content, kind = png(frames[0]), "image/png"
        else:
            rate = world.watching.frames_per_second
            content, kind = mp4(frames, frames_per_second=rate), "video/mp4"
        attachments.remember(content, codes)
        address = f"data:{kind};base64,{base64.b64encode(content).decode()}"
        shown = {"type": part, part: {"url": address}, "content_offset": offset}
        fields.setdefault(name, []).append(shown)
    return fields
