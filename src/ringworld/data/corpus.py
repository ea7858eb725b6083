"""The texts that a text tokenizer is trained on, and those that it is judged by."""

from collections.abc import Iterator, Sequence

from ringworld.data.config import PrepareConfig, Split
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.samples import Sample
from ringworld.data.sources import Source
from ringworld.text import chat


def corpus(
    sources: Sequence[Source], *, split: Split, config: PrepareConfig, quarantined: list[Quarantined]
) -> Iterator[str]:
    """Yield the texts of one split: documents, captions, and questions in the wording of a prompt.

    Questions about a text whose end is held out are in neither split, since that end may hold the answers.

    Args:
        sources: files of all splits and formats; there may be no texts among them.
        split: which texts to yield.
        config: the largest text file that is read, and what of a file is held out.
        quarantined: files and lines that cannot be read are appended here.
    """
    for source in sources:
        if source.split == "held_out" and split == "train":
            continue
        with quarantine(source.relative, into=quarantined):
            for sample in source.reader.read(source, config=config, quarantined=quarantined):
                if sample.split == split:
                    yield from _words_of(sample)


def _words_of(sample: Sample) -> Iterator[str]:
    if sample.text is not None:
        yield sample.text
    if sample.caption is not None:
        yield sample.caption
        yield _joined(chat.generation_prompt(sample.caption, kind="video"))
    for asked in sample.questions:
        if sample.clip is not None:
            prompt = chat.video_question_prompt(asked.question)
        else:
            prompt = chat.document_question_prompt("", asked.question, answers=asked.answers)
        yield _joined(chat.answered(prompt, asked.answer))
    if sample.turns:
        yield _joined(chat.conversation([turn.outline for turn in sample.turns]))
    yield from (part.content for part in sample.parts if isinstance(part.content, str))


def _joined(segments: chat.Segments) -> str:
    return "".join(segment.text for segment in segments)
