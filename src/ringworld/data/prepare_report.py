"""What preparation made of the user's files, in numbers."""

from dataclasses import dataclass

from ringworld.data.quarantine import Quarantined
from ringworld.data.stats import LengthStats, length_table


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareReport:
    """What preparation made of the files."""

    files: int
    parts: tuple[LengthStats, ...]
    """What there is of each kind of each data set in each split."""
    quarantined: tuple[Quarantined, ...]
    """Files that could not be used."""
    duplicates: int
    """Samples that were left out, since another is the same; `duplicates.jsonl` names both."""
    said_of_duplicates: int
    """Captions and questions that were left out with them."""
    questions_unanswered: int
    """Questions that are empty, or whose answer is."""
    questions_too_long: int
    """Questions about documents that are longer than `document_tokens`, or whose end is held out."""
    shards_made: int
    """Shards that this run wrote; the others were there."""
    failed_on_ray: int
    """Of these, shards that failed on a Ray cluster and were made by this machine."""
    seconds: float

    def lines(self) -> list[str]:
        """Return the report as lines to read."""
        too_long = "about a document that is longer than one example, or whose end is held out"
        left_out = ((self.questions_unanswered, "without an answer"), (self.questions_too_long, too_long))
        said = self.said_of_duplicates
        with_them = f", and {said} captions and questions with them" if said else ""
        failed = f" ({self.failed_on_ray:,} failed on Ray and were made here)" if self.failed_on_ray else ""
        return [
            *length_table(self.parts),
            f"files: {self.files:,}, shards made: {self.shards_made:,}{failed}, in {self.seconds:.1f} s",
            *(f"left out: {many} question{'s' * (many > 1)} {why}" for many, why in left_out if many),
            *([f"left out: {self.duplicates} that are there twice{with_them}"] if self.duplicates else ()),
            *(f"quarantined: {item.path}: {item.reason}" for item in self.quarantined),
        ]
