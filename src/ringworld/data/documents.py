"""The documents of a text file, and which of them, or which end of a long one, is held out."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from ringworld.data.config import PrepareConfig, Split
from ringworld.data.quarantine import Quarantined
from ringworld.data.sources import Source
from ringworld.text.read_text import read_lines, read_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """One text, all of it in one split."""

    name: str
    """That of its file, and `#line` for a line of JSONL, `#end` for the held-out end of a long text."""
    text: str
    split: Split


def read_documents(
    source: Source, *, config: PrepareConfig, quarantined: list[Quarantined]
) -> Iterator[Document]:
    """Yield the documents of a text or JSONL file; bad lines are appended to `quarantined`.

    | file | what of it is held out |
    |---|---|
    | held out | all |
    | JSONL that is trained on | `config.held_out_fraction` of its lines |
    | text that is trained on, long enough | its last `config.held_out_fraction` |
    | any other text | nothing |

    Lines are drawn by what they hold, so that one that occurs twice is in one split. Long enough is a text of
    which at least `config.document_tokens` characters are then held out. So a single book has a held-out
    split, on which neither the text tokenizer nor the model is trained.

    Raises:
        InputError: the file cannot be read.
    """
    if source.format == "lines":
        yield from _lines(source, config, quarantined)
        return
    text = read_text(source.path, max_bytes=config.max_text_bytes)
    end = int(len(text) * config.held_out_fraction)
    if source.split == "held_out" or end < config.document_tokens:
        yield Document(name=source.relative, text=text, split=source.split)
        return
    # At a blank, unless the text has none for long, as Chinese.
    cut = text.rfind(" ", len(text) - 2 * end, len(text) - end) + 1 or len(text) - end
    yield Document(name=source.relative, text=text[:cut], split="train")
    yield Document(name=f"{source.relative}#end", text=text[cut:], split="held_out")


def _lines(source: Source, config: PrepareConfig, quarantined: list[Quarantined]) -> Iterator[Document]:
    for line in read_lines(source.path, longest=config.max_text_bytes):
        name = f"{source.relative}#{line.number}"
        if line.problem:
            quarantined.append(Quarantined(path=name, reason=f"{source.path}: {line.problem}"))
            continue
        drawn = Random(f"{config.seed} {line.text}").random() < config.held_out_fraction
        yield Document(name=name, text=line.text, split="held_out" if drawn else source.split)
