"""Documents of text or Markdown, one a file."""

from collections.abc import Iterator

from ringworld.data.config import PrepareConfig
from ringworld.data.quarantine import Quarantined
from ringworld.data.samples import Sample
from ringworld.data.sidecars import read_sidecars
from ringworld.data.sources import Reader, Source
from ringworld.text.read_text import read_text


class TextReader(Reader):
    """A file of one document.

    | file | what of it is held out |
    |---|---|
    | held out | all |
    | trained on, long enough | its last `config.held_out_fraction` |
    | any other | nothing |

    Long enough is a text of which at least `config.document_tokens` characters are then held out. So a single
    book has a held-out split, on which neither the text tokenizer nor the model is trained.
    """

    name, holds, shows = "text", "one", "text"

    def read(
        self, source: Source, *, config: PrepareConfig, quarantined: list[Quarantined]
    ) -> Iterator[Sample]:
        """Yield the document, and its held-out end as another, `#end`, where it has one.

        Questions are about the whole. Where the end is held out, which may hold the answers, none is asked.
        """
        text = read_text(source.path, max_bytes=config.max_text_bytes)
        said = read_sidecars(source.sidecars)
        end = int(len(text) * config.held_out_fraction)
        if source.split == "held_out" or end < config.document_tokens:
            yield Sample(
                key=source.relative,
                split=source.split,
                text=text,
                questions=said.questions,
                unanswered=said.unanswered,
            )
            return
        # At a blank, unless the text has none for long, as Chinese.
        cut = text.rfind(" ", len(text) - 2 * end, len(text) - end) + 1 or len(text) - end
        yield Sample(
            key=source.relative,
            split="train",
            text=text[:cut],
            unanswered=said.unanswered,
            unasked=len(said.questions),
        )
        yield Sample(key=f"{source.relative}#end", split="held_out", text=text[cut:])


TEXT = TextReader()
