"""The texts that a text tokenizer is trained on, and those that it is judged by."""

from collections.abc import Iterator, Sequence

from ringworld.data.config import PrepareConfig, Split
from ringworld.data.documents import read_documents
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.sources import Source, read_sidecar
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
            # All of a file or nothing: what stands beside it may be damaged.
            beside = list(_beside(source)) if source.split == split else []
            parts = 0
            if source.format in ("text", "lines"):
                for document in read_documents(source, config=config, quarantined=quarantined):
                    parts += 1
                    if document.split == split:
                        yield document.text
            if source.format != "text" or parts == 1:
                yield from beside


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
