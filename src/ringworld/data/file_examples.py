"""From one file to its examples."""

from collections.abc import Iterator
from dataclasses import dataclass

from ringworld.data.config import Split
from ringworld.data.documents import read_documents
from ringworld.data.examples import Example, ExampleMaker
from ringworld.data.frames import read_spread, read_windows
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.sources import Source, read_sidecar

Marked = tuple[Example, Split]


@dataclass(kw_only=True, slots=True)
class Problems:
    """What had to be left out; filled while files are read."""

    quarantined: list[Quarantined]
    questions_unanswered: int = 0
    """Questions that are empty, or whose answer is."""
    questions_too_long: int = 0
    """Questions about documents that are longer than an example, or whose end is held out."""


def prepare_file(source: Source, maker: ExampleMaker, problems: Problems) -> Iterator[Marked]:
    """Yield the examples of one file, each with its split; what cannot be used goes to `problems`."""
    with quarantine(source.relative, into=problems.quarantined):
        match source.format:
            case "video" | "image":
                for example in _pictures(source, maker, problems):
                    yield example, source.split
            case "text" | "lines":
                yield from _documents(source, maker, problems)


def _pictures(source: Source, maker: ExampleMaker, problems: Problems) -> list[Example]:
    config, frame_tokenizer = maker.config, maker.frame_tokenizer
    assert frame_tokenizer, "pictures need a frame tokenizer"
    sidecar = read_sidecar(source)
    problems.questions_unanswered += sidecar.unanswered
    if sidecar.caption is None and not sidecar.questions:
        windows = read_windows(source, config=config, resolution=frame_tokenizer.resolution)
        # All of a file, or nothing: a video may turn out to be damaged at its end.
        codes = [frame_tokenizer.encode(window) for window in windows]
        return maker.uncaptioned(codes, source=source.relative)
    frames = read_spread(source, config=config, resolution=frame_tokenizer.resolution)
    codes = frame_tokenizer.encode(frames)
    asked = maker.video_questions(codes, sidecar, source=source.relative)
    if sidecar.caption is None:
        return [*maker.uncaptioned([codes], source=source.relative), *asked]
    return [*maker.captioned(codes, sidecar.caption, source=source.relative), *asked]


def _documents(source: Source, maker: ExampleMaker, problems: Problems) -> Iterator[Marked]:
    """Yield the documents of a file, and questions about a text, where they can be asked about all of it."""
    documents = read_documents(source, config=maker.config, quarantined=problems.quarantined)
    if source.format == "lines":
        for document in documents:
            for part in maker.document(document.text, source=document.name):
                yield part, document.split
        return
    whole, *end = documents
    sidecar = read_sidecar(source)
    for document in (whole, *end):
        for part in maker.document(document.text, source=document.name):
            yield part, document.split
    problems.questions_unanswered += sidecar.unanswered
    if end:  # it is held out, and may hold the answer
        problems.questions_too_long += len(sidecar.questions)
        return
    conversations, left_out = maker.document_questions(whole.text, sidecar, source=source.relative)
    problems.questions_too_long += left_out
    for example in conversations:
        yield example, source.split
