"""The wording and layout of every prompt: the one place that knows LWM's templates.

A template is a tuple of segments. `encode` turns it into token ids. What a user wrote is always inside a
text segment, which never gives a special id.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Int32
from numpy.typing import ArrayLike

from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary

_SYSTEM = "You are a helpful assistant."
_OUTSIDE = "Don't give information outside the document"
_MANNER = {
    "one": f"{_OUTSIDE} or repeat your findings. Keep your response short and direct.",
    "several": f"{_OUTSIDE}.",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A part of a template, all of whose tokens carry loss or none of them."""

    kind: Literal["begin", "end", "text", "vision_start", "frames", "vision_end"]
    text: str = ""
    """Words of a `text` segment."""
    loss: bool = False


Segments = tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoded:
    """Token ids, and which of them are trained on as targets."""

    tokens: Int32[np.ndarray, " tokens"]
    loss: Bool[np.ndarray, " tokens"]


_BEGIN = Segment(kind="begin")
_VISION = (Segment(kind="vision_start"), Segment(kind="frames"), Segment(kind="vision_end"))


def document(text: str) -> Segments:
    """`<s>{text}</s>`, all of it with loss."""
    return (_BEGIN, Segment(kind="text", text=text, loss=True), Segment(kind="end", loss=True))


def uncaptioned_video() -> Segments:
    """`<s><vision>{frames}</vision></s>`, all of it with loss."""
    parts = (*_VISION, Segment(kind="end"))
    return (_BEGIN, *(Segment(kind=part.kind, loss=True) for part in parts))


def caption_prompt() -> Segments:
    """`<s><vision>{frames}</vision>`, to be continued with a caption."""
    return (_BEGIN, *_VISION)


def question_prompt(question: str) -> Segments:
    """`<s>You are a helpful assistant. USER: {question} ASSISTANT:`."""
    return (_BEGIN, Segment(kind="text", text=f"{_SYSTEM} USER: {question} ASSISTANT:"))


def document_question(context: str, question: str, *, answers: Literal["one", "several"] = "one") -> str:
    """Return `{context} {question} Don't give information outside the document ...`, as LWM asks."""
    return f"{context} {question} {_MANNER[answers]}"


def document_question_prompt(
    context: str, question: str, *, answers: Literal["one", "several"] = "one"
) -> Segments:
    """Ask a question about a document.

    LWM leaves a space after `ASSISTANT:`. Here the answer brings its own, since a byte-level BPE keeps a word
    and the space before it in one token.
    """
    return question_prompt(document_question(context, question, answers=answers))


def next_question(question: str) -> Segments:
    """`USER: {question} ASSISTANT:`, the next turn of a conversation, after the `</s>` of an answer."""
    return (Segment(kind="text", text=f"USER: {question} ASSISTANT:"),)


def video_question_prompt(question: str) -> Segments:
    r"""`<s>You are a helpful assistant. USER: {question}\n<vision>{frames}</vision> ASSISTANT:`."""
    asked = Segment(kind="text", text=f"{_SYSTEM} USER: {question}\n")
    return (_BEGIN, asked, *_VISION, Segment(kind="text", text=" ASSISTANT:"))


def generation_prompt(caption: str, *, kind: Literal["image", "video"]) -> Segments:
    """`<s>You are a helpful assistant. USER: Generate a video of {caption} ASSISTANT:<vision>`.

    For an image it says "an image of". The caption becomes the end of that sentence: "A red circle moves." is
    written "a red circle moves".
    """
    article = "an image" if kind == "image" else "a video"
    words = f"{_SYSTEM} USER: Generate {article} of {_as_object(caption)} ASSISTANT:"
    return (_BEGIN, Segment(kind="text", text=words), Segment(kind="vision_start"))


def unconditional_prompt() -> Segments:
    """`<s><vision>`: the unconditional half of classifier-free guidance."""
    return (_BEGIN, Segment(kind="vision_start"))


def answered(prompt: Segments, answer: str) -> Segments:
    """Add ` {answer}</s>`, the only part with loss."""
    reply = Segment(kind="text", text=f" {answer.strip()}", loss=True)
    return (*prompt, reply, Segment(kind="end", loss=True))


def generated(prompt: Segments) -> Segments:
    """Add `{frames}</vision></s>` to a generation prompt; only the frames have loss."""
    return (*prompt, Segment(kind="frames", loss=True), Segment(kind="vision_end"), Segment(kind="end"))


def encode(
    segments: Segments,
    *,
    tokenizer: TextTokenizer,
    vocabulary: Vocabulary,
    frames: Sequence[Int[np.ndarray, "_ codes"]] = (),
) -> Encoded:
    r"""Turn a template into ids; each `frames` segment takes the next of `frames`.

    A video question over one frame of two codes, answered (`*` marks what has loss):

        <s> | You | are | ... | USER | : | What | color | ? | \n | <vision> | code 3 | code 0 | end of vision
            | </vision> | ASSISTANT | : | red* | </s>*

    A generation example of two such frames, where the end of a frame has loss as its codes have:

        <s> | You | ... | of | a | red | circle | ASSISTANT | : | <vision> | code 3* | code 0* | end of frame*
            | code 7* | code 1* | end of vision* | </vision> | </s>
    """
    clips = iter(frames)
    makers: dict[str, Callable[[Segment], ArrayLike]] = {
        "begin": lambda _: (tokenizer.bos,),
        "end": lambda _: (tokenizer.eos,),
        "vision_start": lambda _: tokenizer.vision_start,
        "vision_end": lambda _: tokenizer.vision_end,
        "frames": lambda _: vocabulary.encode_frames(next(clips)),
        "text": lambda segment: tokenizer.encode(segment.text),
    }
    parts = [np.asarray(makers[segment.kind](segment), np.int32) for segment in segments]
    assert next(clips, None) is None, "more frames than the template shows"
    loss = [np.full(len(part), segment.loss) for part, segment in zip(parts, segments)]
    return Encoded(tokens=np.concatenate(parts), loss=np.concatenate(loss))


def _as_object(caption: str) -> str:
    words = caption.strip().rstrip(".")
    first, space, rest = words.partition(" ")
    return f"{first.lower()}{space}{rest}" if first in ("A", "An", "The") else words
