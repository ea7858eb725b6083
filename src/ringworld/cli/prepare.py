"""`ringworld prepare`: a user's files to examples on disk."""

from dataclasses import dataclass, field
from pathlib import Path

from ringworld.cli.options import ConfigOptions, Folders
from ringworld.core.files import only_one


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepare:
    """Turn videos, images and texts into tokenised examples: ArrayRecord shards with a Parquet manifest."""

    out: Path
    """Folder for the examples."""
    tokenizer: Path
    """Folder that train-tokenizer wrote."""
    videos: Folders = ()
    """Folders or files of videos and images, with captions and questions beside them."""
    texts: Folders = ()
    """Folders or files of text (.txt, .md) or of JSON lines with a field "text"."""
    configuration: ConfigOptions = field(default_factory=ConfigOptions)

    def run(self) -> None:
        """Prepare what is not prepared yet, and print counts and what was set aside."""
        from ringworld.cli.jobs.preparation import prepare_examples

        run = self.configuration.load()
        with only_one(self.out):
            report = prepare_examples(
                run, videos=self.videos, texts=self.texts, tokenizer=self.tokenizer, out=self.out
            )
        for count in report.counts:
            print(f"{count.split} {count.kind}: {count.examples} examples, {count.tokens} tokens")
        if report.questions_left_out:
            print(f"left out: {report.questions_left_out} questions about documents longer than one example")
        for item in report.quarantined:
            print(f"set aside: {item.path}: {item.reason}")
