"""A question about a video, an image or a document, as the ids that ask it."""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from ringworld.core.errors import InputError
from ringworld.inference.arguments import names_a_file, text_of
from ringworld.inference.config import WatchingConfig
from ringworld.inference.prompts import Ids, Prompts
from ringworld.text.read_text import read_text
from ringworld.vision.media import read_image
from ringworld.vision.sampling import fit_frames, read_spread

_MOST_BYTES = 2**28
"""Of a document; a million tokens are a few million bytes."""
Pictures = Path | str | UInt8[np.ndarray, "..."]
"""A file, or RGB arrays [height, width, 3] or [frames, height, width, 3] of any size."""


def question_prompt(
    prompts: Prompts,
    question: str,
    *,
    video: Pictures | None,
    image: Pictures | None,
    document: str | Path | None,
    answers: Literal["one", "several"],
    watching: WatchingConfig,
) -> Ids:
    """Return the ids that ask a question, alone or about one video, image or document.

    Raises:
        InputError: a file cannot be read, the question is about two things, or the model has no frame
            tokenizer.
    """
    if sum(about is not None for about in (video, image, document)) > 1:
        problem = "a question is about one video, image or document, not about several"
        raise InputError(problem, field="document", remedy="ask several questions")
    seen = video is not None or image is not None
    return prompts.question(
        text_of("question", question),
        frames=frames_of(prompts, video=video, image=image, watching=watching) if seen else None,
        document=None if document is None else _text_of_document(document),
        answers=answers,
    )


def frames_of(
    prompts: Prompts, *, video: Pictures | None, image: Pictures | None, watching: WatchingConfig
) -> UInt8[np.ndarray, "frames side side 3"]:
    """Return the frames of a video, or of an image, as a model watches it.

    Raises:
        InputError: it cannot be read, or the model has no frame tokenizer.
    """
    pictures, resolution = image if video is None else video, prompts.seeing().config.resolution
    assert pictures is not None, "neither a video nor an image"
    if isinstance(pictures, np.ndarray):
        return fit_frames(pictures, resolution)
    if image is not None:
        return read_image(Path(pictures), resolution=resolution)[None]
    return read_spread(
        Path(pictures),
        most_frames=watching.max_frames,
        frames_per_second=watching.frames_per_second,
        resolution=resolution,
    )


def _text_of_document(document: str | Path) -> str:
    if isinstance(document, Path):
        return read_text(document, max_bytes=_MOST_BYTES)
    if names_a_file(text_of("document", document)):
        problem = f"document is the text {document!r}, which is also the name of a file"
        raise InputError(problem, field="document", value=document, remedy="give a file as a pathlib.Path")
    return document
