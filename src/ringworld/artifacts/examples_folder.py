"""Prepared examples with the tokenizers that made them: all that training needs.

FOLDER/origin.json           the files, the tokenizers and the configuration that decide the examples
FOLDER/manifest.parquet ...  see `ringworld.data.store`
FOLDER/tokenizer/            a copy of both tokenizers; see `ringworld.artifacts.tokenizers`
"""

from dataclasses import dataclass
from pathlib import Path

from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.errors import InputError
from ringworld.data.store import ExampleStore
from ringworld.text.vocabulary import Vocabulary

TOKENIZER_FOLDER = "tokenizer"


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
