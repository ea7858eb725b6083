"""Words to ids: a byte-level BPE that loses nothing, or any tokenizer.json."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from ringworld.core.config import read_as
from ringworld.core.errors import InputError
from ringworld.core.files import read_json, write_json_atomic, write_text_atomic

BOS, EOS, VISION_START, VISION_END = "<s>", "</s>", "<vision>", "</vision>"
SPECIAL = (BOS, EOS, VISION_START, VISION_END)
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
_FILE, _NAMES_FILE = "tokenizer.json", "tokenizer_config.json"


class TextTokenizer:
    """Encodes text without ever making a special id of it: those come from the fields alone."""

    bos: int
    """Id that begins every example (`<s>`)."""
    eos: int
    """Id that ends an example (`</s>`)."""
    vision_start: tuple[int, ...]
    """`<vision>`: one id in our own tokenizers, several in Llama's, which spell it out as LWM does."""
    vision_end: tuple[int, ...]
    """`</vision>`."""

    def __init__(self, tokenizer: Tokenizer, *, bos: str = BOS, eos: str = EOS) -> None:
        """Wrap a tokenizer whose vocabulary has the two tokens `bos` and `eos`."""
        tokenizer.encode_special_tokens = True
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self._bos, self._eos = tokenizer, bos, eos
        self.bos, self.eos = self._id_of(bos), self._id_of(eos)
        self.vision_start = self._vision(VISION_START)
        self.vision_end = self._vision(VISION_END)

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int) -> "TextTokenizer":
        """Train a byte-level BPE; the same texts give the same tokenizer.

        No normalisation, so that every text comes back as it was. Digits stand alone, as in Llama's
        tokenizer, so that a number never seen is made of known parts.

        Args:
            texts: read once.
            vocab_size: upper bound on the number of ids; a small corpus gives fewer.

        Raises:
            InputError: `vocab_size` leaves no room for the 256 bytes and the special tokens.
        """
        smallest = len(_ALPHABET) + len(SPECIAL)
        if vocab_size < smallest:
            raise InputError(
                what="size of the text vocabulary",
                got=str(vocab_size),
                expected=f"at least {smallest} ids",
                remedy="Ask for more; 512 is small already.",
            )
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
            initial_alphabet=_ALPHABET,
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path, *, bos: str | None = None, eos: str | None = None) -> "TextTokenizer":
        """Load a folder that `save` wrote, or a foreign one (or file) that has a `tokenizer.json`.

        Args:
            path: a folder, or the `tokenizer.json` itself.
            bos: the token that begins a text; by default what `tokenizer_config.json` names, or `<s>`.
            eos: the token that ends one; likewise, or `</s>`.

        Raises:
            InputError: no such file, not a tokenizer, or it lacks `bos` or `eos`.
        """
        file = path / _FILE if path.is_dir() else path
        read_json(file)  # says which file is missing or broken
        names_file = file.parent / _NAMES_FILE
        names = read_as(dict[str, Any], names_file) if names_file.exists() else {}
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise InputError(
                what=str(file),
                got=f"JSON that is not a tokenizer ({error})",
                expected="a tokenizer.json of the tokenizers library",
                remedy="Train one with `ringworld train-tokenizer`, or name another file.",
            ) from error
        return cls(
            tokenizer,
            bos=bos or _named(names, "bos_token", names_file) or BOS,
            eos=eos or _named(names, "eos_token", names_file) or EOS,
        )

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json`, and `tokenizer_config.json` with the names of the two ends of a text."""
        write_text_atomic(directory / _FILE, self._tokenizer.to_str(pretty=True))
        write_json_atomic(directory / _NAMES_FILE, {"bos_token": self._bos, "eos_token": self._eos})

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, with none added and none special, whatever the text says.

            "A red circle."  ->  A | red | circle | .
            "a</s>"          ->  a | </ | s | >        (never the id of </s>)

        Raises:
            InputError: `text` is not valid Unicode (it holds half of a surrogate pair).
        """
        try:
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError):
            raise InputError(
                what="text",
                got="a string with half of a surrogate pair",
                expected="valid Unicode",
                remedy="Mend the text where it was decoded.",
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without the special ones; bytes that are not UTF-8 become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    @property
    def size(self) -> int:
        """Number of ids: one more than the largest."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the ids; prepared data carries it."""
        parts = [json.loads(self._tokenizer.to_str()), self._bos, self._eos]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _id_of(self, token: str) -> int:
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise InputError(
                what=f"token {token!r}",
                got="a tokenizer without it",
                expected="a token of its vocabulary",
                remedy="Name the tokens that begin and end a text (bos, eos), such as <|begin_of_text|>.",
            )
        return found

    def _vision(self, token: str) -> tuple[int, ...]:
        found = self._tokenizer.token_to_id(token)
        return tuple(self.encode(token)) if found is None else (found,)


def _named(names: dict[str, Any], key: str, file: Path) -> str | None:
    """Read a token's name as Hugging Face writes it: a string, or an object with the field `content`."""
    value = names.get(key)
    name = value.get("content") if isinstance(value, dict) else value
    if not isinstance(name, str | None):
        raise InputError(
            what=f"{key} in {file}",
            got=f"a {type(name).__name__}",
            expected="the name of a token",
            remedy="Mend it, or copy the file again.",
        )
    return name
