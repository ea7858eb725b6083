"""The wording and layout of every prompt: the one place that knows LWM's templates.

A template is a tuple of segments. `encode` turns it into token ids. What a user wrote is always inside a
text segment, which never gives a special id.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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


Role = Literal["system", "user", "assistant"]
Content = tuple[str | None, ...]
"""What one message says and shows, in order: texts, and None in place of each clip."""
Turns = Sequence[tuple[Role, Content]]
Drawable = Literal["image", "video"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A part of a template, all of whose tokens carry loss or none of them."""

    kind: Literal["begin", "end", "text", "rendered", "vision_start", "frames", "vision_end"]
    text: str = ""
    """Words of a `text` segment; or what a chat template wrote, special tokens by their names."""
    mark: str = ""
    """In a `rendered` segment, what sets apart the names that are a user's words; see `encode_rendered`."""
    loss: bool = False


Segments = tuple[Segment, ...]
FRAMES = -1
"""Stands among ids for frames that are not chosen yet."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Encoded:
    """Token ids, and which of them are trained on as targets."""

    tokens: Int32[np.ndarray, " tokens"]
    loss: Bool[np.ndarray, " tokens"]


_BEGIN = Segment(kind="begin")
VISION = (Segment(kind="vision_start"), Segment(kind="frames"), Segment(kind="vision_end"))
"""Shows a clip."""


def document(text: str) -> Segments:
    """`<s>{text}</s>`, all of it with loss."""
    return (_BEGIN, Segment(kind="text", text=text, loss=True), Segment(kind="end", loss=True))


def uncaptioned_video() -> Segments:
    """`<s><vision>{frames}</vision></s>`, all of it with loss."""
    parts = (*VISION, Segment(kind="end"))
    return (_BEGIN, *(Segment(kind=part.kind, loss=True) for part in parts))


def caption_prompt() -> Segments:
    """`<s><vision>{frames}</vision>`, to be continued with a caption."""
    return (_BEGIN, *VISION)


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
    return (_BEGIN, asked, *VISION, Segment(kind="text", text=" ASSISTANT:"))


def generation_prompt(caption: str, *, kind: Drawable) -> Segments:
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


def conversation(turns: Turns) -> Segments:
    r"""Lay out a whole conversation: the role of each turn, and what it says and shows.

    `<s>{system} USER: {question}\n<vision>{frames}</vision> ASSISTANT: {answer}</s>USER: ...`, where the
    answers and what ends them have loss. Without a system's turn it says "You are a helpful assistant."

    A clip stands where its message has it, on a separate line; that of a user who shows one, says "or" and
    shows another is `USER: <vision>{frames}</vision>\nor\n<vision>{frames}</vision> ASSISTANT:`.
    """
    system, said = _SYSTEM, turns
    if turns[0][0] == "system":
        system, said = in_lines(turns[0][1]), turns[1:]
    laid: list[Segment] = [_BEGIN]
    words = f"{system} "
    for role, content in said:
        if role == "assistant":
            laid += [Segment(kind="text", text=f"{words} ASSISTANT:"), *answered((), in_lines(content))]
            words = ""
            continue
        words += "USER: "
        for part in _lines(content):
            if part is None:
                laid += [Segment(kind="text", text=words), *VISION]
                words = ""
            else:
                words += part
    return tuple(laid)


def in_lines(content: Content, *, clip: str = "") -> str:
    """Return the parts of a message, each on a separate line, with `clip` in place of each clip."""
    return "".join(clip if part is None else part for part in _lines(content))


def _lines(content: Content) -> Iterator[str | None]:
    """Yield the parts of a message, and what ends a line between two of them."""
    for index, part in enumerate(content):
        yield from ("\n", part) if index else (part,)


def laid_out(parts: Sequence[tuple[str | None, bool]]) -> Segments:
    """`<s>`, texts and clips (None) as they are, each with loss or without, then `</s>` with loss."""
    laid: list[Segment] = [_BEGIN]
    for text, loss in parts:
        segments = VISION if text is None else (Segment(kind="text", text=text),)
        laid += [replace(segment, loss=loss) for segment in segments]
    return (*laid, Segment(kind="end", loss=True))


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
    clips: Sequence[Int[np.ndarray, "_ codes"]] = (),
) -> Encoded:
    r"""Turn a template into ids; each `frames` segment takes the codes of the next of `clips`.

    A video question over one frame of two codes, answered (`*` marks what has loss):

        <s> | You | are | ... | USER | : | What | color | ? | \n | <vision> | code 3 | code 0 | end of vision
            | </vision> | ASSISTANT | : | red* | </s>*

    A generation example of two such frames, where the end of a frame has loss as its codes have:

        <s> | You | ... | of | a | red | circle | ASSISTANT | : | <vision> | code 3* | code 0* | end of frame*
            | code 7* | code 1* | end of vision* | </vision> | </s>
    """
    return fill(encode_words(segments, tokenizer=tokenizer), clips, vocabulary=vocabulary)


def encode_words(segments: Segments, *, tokenizer: TextTokenizer) -> Encoded:
    """Turn a template into ids, with `FRAMES` in place of each `frames` segment."""
    makers: dict[str, Callable[[Segment], ArrayLike]] = {
        "begin": lambda _: (tokenizer.bos,),
        "end": lambda _: (tokenizer.eos,),
        "vision_start": lambda _: tokenizer.vision_start,
        "vision_end": lambda _: tokenizer.vision_end,
        "frames": lambda _: (FRAMES,),
        "text": lambda segment: tokenizer.encode(segment.text),
        "rendered": lambda segment: tokenizer.encode_rendered(segment.text, mark=segment.mark),
    }
    parts = [np.asarray(makers[segment.kind](segment), np.int32) for segment in segments]
    loss = [np.full(len(part), segment.loss) for part, segment in zip(parts, segments)]
    return Encoded(tokens=np.concatenate(parts), loss=np.concatenate(loss))


def fill(encoded: Encoded, clips: Sequence[Int[np.ndarray, "_ codes"]], *, vocabulary: Vocabulary) -> Encoded:
    """Put the ids of clips where `FRAMES` stands, as many as there are.

    Of `<s> <vision> FRAMES </vision>`, one frame of the codes 3 and 0 makes `<s> <vision> 103 100 109
    </vision>` with 100 text ids and 8 codes; its ids carry loss where `FRAMES` does.
    """
    missing = encoded.tokens == FRAMES
    assert missing.sum() == len(clips), "a template shows as many clips as there are"
    if not len(clips):
        return encoded
    ids = [vocabulary.encode_frames(clip) for clip in clips]
    lengths = np.ones(len(missing), int)
    lengths[missing] = [len(clip) for clip in ids]
    tokens = np.repeat(encoded.tokens, lengths)
    tokens[tokens == FRAMES] = np.concatenate(ids)
    return Encoded(tokens=tokens, loss=np.repeat(encoded.loss, lengths))


def _as_object(caption: str) -> str:
    words = caption.strip().rstrip(".")
    article, space, rest = words.partition(" ")
    return f"{article.lower()}{space}{rest}" if article in ("A", "An", "The") else words
