"""The texts that a text tokenizer is trained on and judged by."""

from collections.abc import Iterator, Sequence

from ringworld.data.config import PrepareConfig, Split
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.read_text import read_lines, read_text
from ringworld.data.sources import Source, read_sidecar
from ringworld.text import chat


def corpus(
    sources: Sequence[Source], *, split: Split, config: PrepareConfig, quarantined: list[Quarantined]
) -> Iterator[str]:
    """Yield the texts of one split: documents, captions, and questions in the wording of a prompt.

    Args:
        sources: files of all splits and formats.
        split: which of them.
        config: the largest text file that is read.
        quarantined: files that cannot be read are appended here.
    """
    for source in sources:
        if source.split == split:
            with quarantine(source.relative, into=quarantined):
                yield from _texts(source, config)


def _texts(source: Source, config: PrepareConfig) -> Iterator[str]:
    match source.format:
        case "text":
            yield read_text(source.path, max_bytes=config.max_text_bytes)
        case "lines":
            yield from (line.text for line in read_lines(source.path) if not line.problem)
        case "video" | "image":
            pass
    sidecar = read_sidecar(source)
    if sidecar.caption is not None:
        yield sidecar.caption
        yield _words(chat.generation_prompt(sidecar.caption, kind="video"))
    for asked in sidecar.questions:
        if source.format in ("video", "image"):
            prompt = chat.video_question_prompt(asked.question)
        else:
            prompt = chat.document_question_prompt("", asked.question, answers=asked.answers)
        yield _words(chat.answered(prompt, asked.answer))


def _words(segments: chat.Segments) -> str:
    return "".join(segment.text for segment in segments)
