"""Prepared examples with the tokenizers that made them: all that training needs.

FOLDER/origin.json           the files, the tokenizers and the configuration that decide the examples
FOLDER/manifest.parquet ...  see `ringworld.data.store`
FOLDER/tokenizer/            a copy of both tokenizers; see `ringworld.artifacts.tokenizers`
FOLDER/report.json           what the last call of `prepare` made of the files
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ringworld.artifacts.tokenizers import FRAME_TOKENIZER_FOLDER, Tokenizers
from ringworld.core.config import to_json
from ringworld.core.errors import InputError
from ringworld.core.files import clear_unfinished, write_json_atomic
from ringworld.core.origin import working_in
from ringworld.data.prepare_report import PrepareReport
from ringworld.data.store import ExampleStore
from ringworld.text.vocabulary import Vocabulary

TOKENIZER_FOLDER = "tokenizer"
REPORT_FILE = "report.json"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ExamplesFolder:
    """What `prepare` wrote."""

    path: Path
    store: ExampleStore
    tokenizers: Tokenizers

    @staticmethod
    def open(path: Path) -> "ExamplesFolder":
        """Read the manifest and the tokenizers.

        Raises:
            InputError: the folder holds no examples, they are not finished, or a file is damaged.
        """
        if not path.is_dir():
            raise InputError(f"there is no folder {path} of examples", path=path)
        store = ExampleStore(path)
        return ExamplesFolder(path=path, store=store, tokenizers=Tokenizers.load(path / TOKENIZER_FOLDER))

    @property
    def fingerprint(self) -> str:
        """What changes with any example, or with their order."""
        return self.store.fingerprint

    def check(self, vocabulary: Vocabulary) -> None:
        """Refuse examples whose ids mean something else than a model's.

        Raises:
            InputError: the vocabularies differ.
        """
        theirs = self.store.dataset.vocabulary
        if theirs != vocabulary:
            raise InputError(
                f"{self.path} was prepared for {theirs}, not for the run's {vocabulary}",
                path=self.path,
                field="data",
                remedy="prepare it again with the same preset, or use the preset that it was prepared with",
            )


@contextmanager
def preparing(folder: Path) -> Iterator[None]:
    """Make a folder where it is missing, clear what an earlier call left half, and keep others out of it.

    `ringworld.data.prepare` claims it, when it knows the files.

    Raises:
        InputError: the folder holds something else, another process is at work in it, or it is a file.
    """
    with working_in(folder, kind="examples"):
        tokenizer = folder / TOKENIZER_FOLDER
        clear_unfinished(folder, tokenizer, tokenizer / FRAME_TOKENIZER_FOLDER)
        yield


def save_beside_examples(folder: Path, *, tokenizers: Tokenizers, report: PrepareReport) -> None:
    """Write what belongs to examples that are prepared: the tokenizers that made them, and the report."""
    tokenizers.save(folder / TOKENIZER_FOLDER)
    write_json_atomic(folder / REPORT_FILE, to_json(report))
