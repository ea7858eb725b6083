"""`ringworld data`, `make-qa` and `runs`: what examples hold, questions about texts, what runs reached."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ringworld.cli.options import given, otherwise
from ringworld.data.qa.config import QaConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Look at prepared examples: print how many and how long they are, or draw the first batch of a stage."""

    what: tyro.conf.Positional[Literal["stats", "show"]]
    """A table of examples by data set and kind, or each packed sequence as a picture and as text."""
    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="EXAMPLES")]
    """Folder that prepare wrote."""
    out: Annotated[Path | None, otherwise("no picture; show needs a folder", metavar="PATH")] = None
    """PNG of the lengths, or the folder for what show draws."""
    stage: Annotated[str | None, otherwise("the first", metavar="NAME")] = None
    """Stage to show, of the run that the data was prepared for."""

    def run(self) -> None:
        """Print a table, or the files that were drawn."""
        import ringworld as rw

        if self.what == "stats":
            return print("\n".join(rw.data_stats(self.data, out=self.out).lines()))
        print("\n".join(map(str, rw.data_show(self.data, out=self.out, stage=self.stage))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """Compare runs in one table, finished or not: loss, held-out loss, needles, tokens a second."""

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], otherwise("none", metavar="RUN ...")] = ()
    """Folders of runs, or folders that hold some."""
    out: Annotated[Path | None, otherwise("no picture", metavar="PATH")] = None
    """PNG to write, with a line for each run."""

    def run(self) -> None:
        """Print the table, and what could not be read."""
        import ringworld as rw

        print("\n".join(rw.runs(self.folders, out=self.out).lines()))


@dataclass(frozen=True, kw_only=True, slots=True)
class MakeQa:
    """Have a model write questions about texts, and join them to conversations as long as a context."""

    texts: tuple[Path, ...]
    """Folders or files of text, as prepare reads them."""
    tokenizer: Path
    """Tokenizer folder or model folder, in whose tokens lengths are counted."""
    out: Path
    """Folder to write; the same command on it resumes, and asks nothing twice."""
    config: Annotated[QaConfig, tyro.conf.arg(name="")]

    def run(self) -> None:
        """Ask what was not asked yet, and print what came of it."""
        import ringworld as rw

        print("\n".join(rw.make_qa(**given(self, "texts", "tokenizer", "out", "config")).lines()))
