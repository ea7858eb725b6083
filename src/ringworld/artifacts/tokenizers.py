"""Both tokenizers of a model, in the files that a tokenizer folder and a model folder share.

FOLDER/tokenizer.json, tokenizer_config.json    words; read by tokenizers and transformers
FOLDER/frame_tokenizer/                         frames; read by diffusers as a VQModel; absent for text alone
"""

from dataclasses import dataclass
from pathlib import Path

from ringworld.core.errors import InputError
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary
from ringworld.vision.frame_tokenizer import FrameTokenizer

FRAME_TOKENIZER_FOLDER = "frame_tokenizer"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tokenizers:
    """Words to ids, and frames to codes where a model sees any."""

    text_tokenizer: TextTokenizer
    frame_tokenizer: FrameTokenizer | None

    @staticmethod
    def load(folder: Path) -> "Tokenizers":
        """Read the tokenizers of a tokenizer folder, an examples folder or a model folder.

        Raises:
            InputError: there is no such folder or no text tokenizer in it, or a file is damaged.
        """
        frame_tokenizer = folder / FRAME_TOKENIZER_FOLDER
        if not folder.is_dir():
            raise InputError(f"there is no folder {folder} with tokenizers", path=folder)
        return Tokenizers(
            text_tokenizer=TextTokenizer.load(folder),
            frame_tokenizer=FrameTokenizer.load(frame_tokenizer) if frame_tokenizer.exists() else None,
        )

    def save(self, folder: Path) -> None:
        """Write both."""
        self.text_tokenizer.save(folder)
        if self.frame_tokenizer is not None:
            self.frame_tokenizer.save(folder / FRAME_TOKENIZER_FOLDER)

    @property
    def fingerprint(self) -> dict[str, str | None]:
        """What changes when either does."""
        return {
            "text_tokenizer": self.text_tokenizer.fingerprint,
            "frame_tokenizer": None if self.frame_tokenizer is None else self.frame_tokenizer.fingerprint,
        }

    def unlike(self, other: "Tokenizers") -> list[str]:
        """Return the names of those that make other ids than those of `other`; one may be missing here."""
        theirs = other.fingerprint
        return [name for name, value in self.fingerprint.items() if value not in (None, theirs[name])]

    def vocabulary(self, *, text_vocab: int) -> Vocabulary:
        """Return the one id space of a model of `text_vocab` text ids, of which a small corpus fills fewer.

        Raises:
            InputError: the text tokenizer has more.
        """
        if (size := self.text_tokenizer.size) > text_vocab:
            raise InputError(
                f"the text tokenizer has {size} ids, more than the {text_vocab} of the model",
                field="model.text_vocab",
                value=text_vocab,
                remedy="raise text_vocab, or train a smaller tokenizer",
            )
        shape = None if self.frame_tokenizer is None else self.frame_tokenizer.config
        return Vocabulary(
            text_size=text_vocab,
            codes=shape.codebook_size if shape else 0,
            codes_per_frame=shape.codes_per_frame if shape else 0,
        )
