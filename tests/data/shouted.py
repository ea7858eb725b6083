"""A format of which a file is one document."""

from collections.abc import Iterator

from ringworld.data.config import PrepareConfig
from ringworld.data.quarantine import Quarantined
from ringworld.data.samples import Sample
from ringworld.data.sources import Reader, Source


class Shouted(Reader):
    """Capital letters that are read as small ones."""

    name, holds, shows = "shouted", "one", "text"

    def read(
        self, source: Source, *, config: PrepareConfig, quarantined: list[Quarantined]
    ) -> Iterator[Sample]:
        yield Sample(key=source.relative, split=source.split, text=source.path.read_text().lower())
