"""The kinds of example that ringworld makes.

| kind | of | tokens | loss on |
|---|---|---|---|
| text | a text | the document, or a piece of it | all |
| text_qa | a text with questions | the document, then each question and its answer | the answers |
| video | a clip without a caption | its frames | all |
| video_caption | a clip of several frames with a caption | the frames, then the caption | the caption |
| image_caption | a clip of one frame with a caption | the frame, then the caption | the caption |
| video_qa | a clip of several frames with questions | a question, the frames, the answer | the answer |
| image_qa | a clip of one frame with questions | a question, the frame, the answer | the answer |
| caption_video | a clip with a caption | a request for a video, then the frames | the frames |
| caption_image | a clip with a caption | a request for an image, then one frame | the frame |
| chat | a conversation about nothing that is shown | its turns | what the assistant says |
| video_chat | a conversation with a clip of several frames | its turns, with their clips | likewise |
| image_chat | a conversation with clips of one frame | its turns, with their clips | likewise |
| fields | what another program laid out | its parts | as it says |
"""

from collections.abc import Iterator
from random import Random

from ringworld.data.recipe import Draft, PreparationContext, Recipe, Shown
from ringworld.data.samples import Question, Sample
from ringworld.text import chat

_CLIP = (Shown(clip=0),)
_Turn = tuple[chat.Role, chat.Content]


class Text(Recipe):
    """A document, all of it with loss; preparation cuts it into pieces of `config.document_tokens`."""

    kind = "text"

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft]:
        """Yield the document."""
        if sample.text is not None and sample.text.strip():
            yield Draft(segments=chat.document(sample.text), cut="tokens")


class TextQuestions(Recipe):
    """A document with the questions about it as one conversation.

    Where `config.document_tokens` do not suffice for all of them, the document comes again with the rest. A
    longer document would lose a part, perhaps what holds the answer: its questions are left out.
    """

    kind = "text_qa"

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft | Question]:
        """Yield the conversations, and each question that does not fit beside the document."""
        if sample.text is None or not sample.questions:
            return
        most, spoken = context.config.document_tokens, context.conversation
        short = _exchange("a", "b")
        made: list[list[_Turn]] = []
        length, around = 0, context.count_tokens(spoken(short))
        for asked in sample.questions:
            if made:
                turn = _exchange(asked.question, asked.answer)
                longer = length + context.count_tokens(spoken((*short, *turn))) - around
                if longer <= most:
                    made[-1] += turn
                    length = longer
                    continue
            question = chat.document_question(sample.text, asked.question, answers=asked.answers)
            alone = [*_exchange(question, asked.answer)]
            tokens = context.count_tokens(spoken(alone))
            if tokens <= most:
                made.append(alone)
                length = tokens
            else:
                yield asked
        yield from (Draft(segments=spoken(turns)) for turns in made)


class Footage(Recipe):
    """A video or an image without a caption, all of it with loss; a longer one is cut between frames."""

    kind = "video"

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft]:
        """Yield the clip."""
        if sample.clip is not None and sample.caption is None:
            yield Draft(segments=chat.uncaptioned_video(), shown=_CLIP, cut="frames")


class Caption(Recipe):
    """A video, then its caption."""

    kind, version = "video_caption", 2

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft]:
        """Yield both, where there are several frames."""
        if sample.clip is not None and context.frames[0] > 1:
            yield from _captioned(sample)


class ImageCaption(Recipe):
    """An image, then its caption."""

    kind = "image_caption"

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft]:
        """Yield both, where there is one frame."""
        if sample.clip is not None and context.frames[0] == 1:
            yield from _captioned(sample)


class ClipQuestions(Recipe):
    """A video with each question about it."""

    kind, version = "video_qa", 2

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft]:
        """Yield each question with the whole clip, where there are several frames."""
        if sample.clip is not None and context.frames[0] > 1:
            yield from _asked(sample, context)


class ImageQuestions(Recipe):
    """An image with each question about it."""

    kind = "image_qa"

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft]:
        """Yield each question with the image, where there is one frame."""
        if sample.clip is not None and context.frames[0] == 1:
            yield from _asked(sample, context)


class DrawnVideo(Recipe):
    """A caption, then the video that it is of; `config.drop_caption_fraction` of them without the caption."""

    kind = "caption_video"

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft]:
        """Yield the request and the video, where there are several frames."""
        if sample.clip is not None and sample.caption is not None and context.frames[0] > 1:
            yield Draft(
                segments=_drawn(sample, context, of="video", random=_random(sample, context)), shown=_CLIP
            )


class DrawnImage(Recipe):
    """A caption, then an image: a captioned one, or `config.images_per_video` frames of a captioned video."""

    kind = "caption_image"

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft]:
        """Yield the request and the frame, of each frame that is drawn."""
        if sample.clip is None or sample.caption is None:
            return
        (frames,) = context.frames
        random = _random(sample, context)
        shown = [0]
        if frames > 1:
            _is_dropped(context, random)  # that of the video
            shown = random.sample(range(frames), min(frames, context.config.images_per_video))
        for frame in shown:
            segments = _drawn(sample, context, of="image", random=random)
            yield Draft(segments=segments, shown=(Shown(clip=0, frame=frame),))


class ChatMessages(Recipe):
    """A conversation of texts; what the assistant says carries loss."""

    kind, version = "chat", 3

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft]:
        """Yield the whole conversation, where it shows nothing."""
        if sample.turns and not context.frames:
            yield _spoken(sample, context)


class VideoChat(Recipe):
    """A conversation that shows a video, and perhaps images."""

    kind = "video_chat"

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft]:
        """Yield the whole conversation, where a clip of it has several frames."""
        if sample.turns and max(context.frames, default=0) > 1:
            yield _spoken(sample, context)


class ImageChat(Recipe):
    """A conversation that shows images."""

    kind = "image_chat"

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft]:
        """Yield the whole conversation, where all clips of it have one frame."""
        if sample.turns and max(context.frames, default=0) == 1:
            yield _spoken(sample, context)


class Fields(Recipe):
    """What another program laid out, between `<s>` and `</s>`."""

    kind = "fields"

    def drafts(self, sample: Sample, context: PreparationContext) -> Iterator[Draft]:
        """Yield the parts as one example."""
        if sample.parts:
            contents = [
                (part.content if isinstance(part.content, str) else None, part.loss) for part in sample.parts
            ]
            shown = tuple(Shown(clip=index) for index in range(len(sample.clips)))
            yield Draft(segments=chat.laid_out(contents), shown=shown)


RECIPES: tuple[Recipe, ...] = (
    Text(),
    TextQuestions(),
    Footage(),
    Caption(),
    ImageCaption(),
    DrawnVideo(),
    DrawnImage(),
    ClipQuestions(),
    ImageQuestions(),
    ChatMessages(),
    VideoChat(),
    ImageChat(),
    Fields(),
)


def _captioned(sample: Sample) -> Iterator[Draft]:
    if sample.caption is not None:
        yield Draft(segments=chat.answered(chat.caption_prompt(), sample.caption), shown=_CLIP)


def _asked(sample: Sample, context: PreparationContext) -> Iterator[Draft]:
    for asked in sample.questions:
        turns = _exchange(asked.question, asked.answer, clips=1)
        yield Draft(segments=context.conversation(turns), shown=_CLIP)


def _spoken(sample: Sample, context: PreparationContext) -> Draft:
    turns = [turn.outline for turn in sample.turns]
    shown = tuple(Shown(clip=index) for index in range(len(sample.clips)))
    return Draft(segments=context.conversation(turns), shown=shown)


def _exchange(question: str, answer: str, *, clips: int = 0) -> tuple[_Turn, _Turn]:
    return ("user", (question, *(None,) * clips)), ("assistant", (answer,))


def _random(sample: Sample, context: PreparationContext) -> Random:
    return Random(f"{context.config.seed} {sample.key}")


def _is_dropped(context: PreparationContext, random: Random) -> bool:
    return random.random() < context.config.drop_caption_fraction


def _drawn(
    sample: Sample, context: PreparationContext, *, of: chat.Drawable, random: Random
) -> chat.Segments:
    assert sample.caption is not None
    prompt = chat.generation_prompt(sample.caption, kind=of)
    if _is_dropped(context, random):
        prompt = chat.unconditional_prompt()
    return chat.generated(prompt)
