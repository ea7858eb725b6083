"""From one file to its examples."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from ringworld.data.config import Split
from ringworld.data.examples import Example, ExampleMaker, FrameEncoder
from ringworld.data.frames import read_spread, read_windows
from ringworld.data.quarantine import Quarantined, quarantine
from ringworld.data.read_text import read_lines, read_text
from ringworld.data.sources import Source, read_sidecar

Marked = tuple[Example, Split]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tools:
    """What files are turned into examples with."""

    maker: ExampleMaker
    frame_tokenizer: FrameEncoder
    frame_tokenizer_fingerprint: str
    resolution: int


@dataclass(kw_only=True, slots=True)
class Problems:
    """What had to be left out; filled while files are read."""

    quarantined: list[Quarantined]
    questions_left_out: int = 0


def prepare_file(source: Source, tools: Tools, problems: Problems) -> Iterator[Marked]:
    """Yield the examples of one file, each with its split; what cannot be used goes to `problems`."""
    with quarantine(source.relative, into=problems.quarantined):
        match source.format:
            case "video" | "image":
                for example in _pictures(source, tools):
                    yield example, source.split
            case "text":
                yield from _document(source, tools, problems)
            case "lines":
                yield from _lines(source, tools, problems)


def _pictures(source: Source, tools: Tools) -> list[Example]:
    maker, config = tools.maker, tools.maker.config
    sidecar = read_sidecar(source)
    if sidecar.caption is None and not sidecar.questions:
        windows = read_windows(source, config=config, resolution=tools.resolution)
        # All of a file, or nothing: a video may turn out to be damaged at its end.
        codes = [tools.frame_tokenizer.encode(window) for window in windows]
        return maker.uncaptioned(codes, source=source.relative)
    frames = read_spread(
        source,
        most_frames=config.max_frames,
        frames_per_second=config.frames_per_second,
        resolution=tools.resolution,
    )
    codes = tools.frame_tokenizer.encode(frames)
    asked = maker.video_questions(codes, sidecar, source=source.relative)
    if sidecar.caption is None:
        return [*maker.uncaptioned([codes], source=source.relative), *asked]
    return [*maker.captioned(codes, sidecar.caption, source=source.relative), *asked]


def _document(source: Source, tools: Tools, problems: Problems) -> Iterator[Marked]:
    """Yield a document, and questions about it; of a long one the end is held out.

    A document of ten examples or more, with a tenth held out, gives the last tenth of them to the held-out
    split, so that a single book has one.
    """
    config = tools.maker.config
    text = read_text(source.path, max_bytes=config.max_text_bytes)
    sidecar = read_sidecar(source)
    parts = tools.maker.document(text, source=source.relative)
    trained = len(parts) - int(len(parts) * config.held_out_fraction)
    for index, part in enumerate(parts):
        yield part, source.split if index < trained else "held_out"
    asked = tools.maker.document_questions(text, sidecar, source=source.relative)
    problems.questions_left_out += len(sidecar.questions) - len(asked)
    for example in asked:
        yield example, source.split


def _lines(source: Source, tools: Tools, problems: Problems) -> Iterator[Marked]:
    """Yield the documents of a JSONL file; of a file that is trained on, a part of the lines is held out."""
    config = tools.maker.config
    for line in read_lines(source.path):
        name = f"{source.relative}#{line.number}"
        if line.problem:
            problems.quarantined.append(Quarantined(path=name, reason=f"{source.path}: {line.problem}"))
            continue
        drawn = Random(f"{config.seed} {name}").random() < config.held_out_fraction
        split = "held_out" if drawn else source.split
        for part in tools.maker.document(line.text, source=name):
            yield part, split
