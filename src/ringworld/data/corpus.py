"""The texts that a text tokenizer is trained on and judged by."""

from collections.abc import Iterator, Sequence

from ringworld.data.config import PrepareConfig, Split
from ringworld.data.documents import read_documents
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.sources import Source, read_sidecar
from ringworld.text import chat


def corpus(
    sources: Sequence[Source], *, config: PrepareConfig, quarantined: list[Quarantined]
) -> Iterator[tuple[str, Split]]:
    """Yield texts, each with its split: documents, captions, and questions in the wording of a prompt.

    Args:
        sources: files of all splits and formats.
        config: the largest text file that is read, and what of a file is held out.
        quarantined: files and lines that cannot be read are appended here.
    """
    for source in sources:
        with quarantine(source.relative, into=quarantined):
            beside = [] if source.format == "lines" else list(_beside(source))
            if source.format in ("text", "lines"):
                for document in read_documents(source, config=config, quarantined=quarantined):
                    yield document.text, document.split
            for words in beside:
                yield words, source.split


def _beside(source: Source) -> Iterator[str]:
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
