"""Text to token ids: a byte-level BPE that loses nothing, or any tokenizer.json."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from reprlib import repr as short
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from ringworld.core.config import read_as
from ringworld.core.errors import InputError, plain
from ringworld.core.files import read_json, write_json_atomic, write_text_atomic
from ringworld.core.shared_files import OUR_KEY
from ringworld.text.read_text import decode_file, is_text

BOS, EOS, VISION_START, VISION_END = "<s>", "</s>", "<vision>", "</vision>"
SPECIAL = (BOS, EOS, VISION_START, VISION_END)
_ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
_FILE, _SETTINGS_FILE, _TEMPLATE_FILE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
_NAMES_FILE = "special_tokens_map.json"
"""Of older folders."""
_CONFIG_FILE, _GENERATION_FILE = "config.json", "generation_config.json"
"""Of a model, where they are beside."""
_LONGEST_TEMPLATE_BYTES = 2**20
_SETTINGS = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
"""What transformers needs to know of a tokenizer that we trained."""
_BEGINS_WITH = f"{OUR_KEY}_begins_with"
"""Key of `tokenizer_config.json` for the token that stands in where its `bos_token` is null."""
_ADD_NO_BOS = ("GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast")
"""Classes of transformers that put nothing before a text where neither file says so."""
_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|\p{N}| ?\p{L}{1,64}| ?[^\s\p{L}\p{N}]{1,64}|\s{1,64}(?!\S)|\s{1,64}"
"""Words as GPT-2 finds them, but each digit alone and none longer than 64 characters, as no word of a
language is: merging within a piece takes more than linear time."""
_NAMED = re.compile(r"[^\w\s].+[^\w\s]")
"""What marks turns, such as `<|user|>` and `[INST]`; runs of blanks are added tokens, too."""
_CONTEXTS = ("{0}", "a{0}", "{0}a", " {0}", "{0} ", "{0}{0}", "a {0} b", "\n{0}\n")
_ANOTHER = "use another tokenizer"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""A token of SentencePiece that stands for a byte."""
_PLAIN_BYTES = (*range(33, 127), *range(161, 173), *range(174, 256))
_BYTE_OF = {chr(byte): byte for byte in _PLAIN_BYTES} | {
    chr(256 + i): byte for i, byte in enumerate(sorted({*range(256)} - {*_PLAIN_BYTES}))
}
"""The byte for which a letter stands in the vocabulary of a byte-level BPE (GPT-2's `bytes_to_unicode`)."""
_RARE = "\x00\u2603\u6771\U0001f600"
"""Characters that a vocabulary without bytes lacks: its unknown token may be a special one."""


class TextTokenizer:
    """Encodes text without ever making a special id from it: those come from the fields alone.

    Nor is one made of what the chat template writes between turns, be it marked as special or not; what is
    not, such as `<think>`, shows when it is decoded.
    """

    bos: int
    """Id that begins every example (`<s>`)."""
    adds_bos: bool
    """Whether it begins a text that is to be continued, too, as transformers puts it there."""
    eos: int
    """Id that ends an example (`</s>`)."""
    vision_start: tuple[int, ...]
    """`<vision>`: one id in our own tokenizers, several in Llama's, which spell it out as LWM does."""
    vision_end: tuple[int, ...]
    """`</vision>`."""
    settings: Mapping[str, Any]
    """All that `tokenizer_config.json` says, with the chat template of a file beside it."""
    template_file: Path | None = None
    """From which the chat template was read."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        bos: str = BOS,
        eos: str = EOS,
        ends: Sequence[str] = (),
        settings: Mapping[str, Any] = _SETTINGS,
    ) -> None:
        """Wrap a tokenizer; of `bos`, `eos`, `ends`, `<vision>` and `</vision>` become special what it has.

        Args:
            tokenizer: of the tokenizers library.
            bos: the token that begins a text.
            eos: the token that ends a text.
            ends: others that end one, too.
            settings: what `tokenizer_config.json` says besides; a `bos_token` of None stays, as in the files
                of Qwen, whose texts begin with nothing.

        Raises:
            InputError: it lacks `bos` or `eos`, `add_bos_token` is neither true nor false, or some text is
                encoded as a special id.
        """
        self._rendered: Tokenizer | None = None
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self._ends = tokenizer, (bos, eos)
        named = {"bos_token": bos, "eos_token": eos}
        if "bos_token" in settings and settings["bos_token"] is None:
            named |= {"bos_token": None, _BEGINS_WITH: bos}
        self.settings = {**settings, **named}
        for field, token in (("bos", bos), ("eos", eos)):
            if tokenizer.token_to_id(token) is None:
                raise InputError(
                    f"the tokenizer has no token {token!r}",
                    field=field,
                    value=token,
                    remedy=f"name bos_token and eos_token in its {_SETTINGS_FILE}, such as <|begin_of_text|>",
                )
        # A dict, since one token may both begin and end a text.
        names = {name: tokenizer.token_to_id(name) for name in (bos, eos, VISION_START, VISION_END, *ends)}
        self._special = {name: id for name, id in names.items() if id is not None}
        # An added token is left alone in text only where it is marked as special.
        added = tokenizer.get_added_tokens_decoder().values()
        special = {token.content for token in added if token.special}
        # Such names are looked for in a text that is normalized, where other letters can become theirs.
        self._normalizes_names = tokenizer.normalizer is not None and any(
            token.special and token.normalized for token in added
        )
        missing = [name for name in self._special if name not in special]
        _mark_special(tokenizer, missing)
        template = str(settings.get("chat_template") or "")
        self._shown = {
            token.content: id
            for id, token in tokenizer.get_added_tokens_decoder().items()
            if not token.special and token.content in template and _NAMED.fullmatch(token.content)
        }
        self._spelling = tokenizer
        if self._shown:  # a copy, because they stay as they are where they are decoded
            self._spelling = Tokenizer.from_str(tokenizer.to_str())
            _mark_special(self._spelling, self._shown)
        self._spelling.encode_special_tokens = True
        self._refuse_leaks()
        self.decode(self.encode("a"))  # which not every decoder survives
        self.bos, self.eos = self._special[bos], self._special[eos]
        self.adds_bos = self._begins()
        self.vision_start = self._vision(VISION_START)
        self.vision_end = self._vision(VISION_END)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        *,
        vocab_size: int,
        on_progress: Callable[[int], None] = lambda characters: None,
    ) -> "TextTokenizer":
        """Train a byte-level BPE; the same texts give the same tokenizer.

        No normalization, so that every text comes back as it was. Digits stand alone, as in Llama's
        tokenizer, so that a number never seen is made of known parts. Text without blanks is cut into pieces
        of 64 characters, so that time is linear in its length.

        Args:
            texts: read once.
            vocab_size: upper bound on the number of ids; a small corpus gives fewer.
            on_progress: called after each text with the number of characters read so far.

        Raises:
            InputError: `vocab_size` leaves no room for the 256 bytes and the special tokens.
        """
        smallest = len(_ALPHABET) + len(SPECIAL)
        if vocab_size < smallest:
            raise InputError(
                f"{vocab_size} text ids are too few for the 256 bytes and {len(SPECIAL)} special tokens",
                field="vocab_size",
                value=vocab_size,
                remedy=f"use {smallest} or more; 512 is small already",
            )
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PIECES), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
            initial_alphabet=_ALPHABET,
            show_progress=False,
        )
        tokenizer.train_from_iterator(_counted(texts, on_progress), trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path, *, bos: str | None = None, eos: str | None = None) -> "TextTokenizer":
        """Load a folder that `save` wrote, or a foreign one (or file) that has a `tokenizer.json`.

        A text begins with the first of these that there is:

        | `bos_token` of `tokenizer_config.json` | token |
        |---|---|
        | a name | that one |
        | null, as Qwen's, or absent | the special one of `bos_token_id` in a `config.json` beside it |
        | absent | `<s>`, as LLaMA's |
        | null or absent | the one that ends a text |

        It ends with `eos_token`, that of `eos_token_id`, or `</s>`. What `special_tokens_map.json` says comes
        first, but where `tokenizer_config.json` has `added_tokens_decoder`, as it has in newer folders.

        Args:
            path: a folder, or the `tokenizer.json` itself.
            bos: the token that begins a text, whatever the files say.
            eos: the token that ends one, likewise.

        Raises:
            InputError: no such file, not a tokenizer, it lacks what begins or ends a text, or it encodes some
                text as one of them, as Unigram models do whose vocabulary holds `</s>`.
        """
        file = path / _FILE if path.is_dir() else path
        read_json(file)  # names the file if it is missing or damaged
        settings_file, template_file = (file.parent / name for name in (_SETTINGS_FILE, _TEMPLATE_FILE))
        settings = read_as(dict[str, Any], settings_file) if settings_file.exists() else {**_SETTINGS}
        if "added_tokens_decoder" not in settings and (names := file.parent / _NAMES_FILE).exists():
            # As transformers does: newer folders say all of it in one file.
            said = read_as(dict[str, Any], names).items()
            settings |= {key: _name(value) for key, value in said if key.endswith(("_token", "_tokens"))}
        if template_file.exists():
            settings["chat_template"] = decode_file(
                template_file, max_bytes=_LONGEST_TEMPLATE_BYTES, remedy="copy the model again"
            )
        else:
            template_file = settings_file
        remedy = "train a tokenizer, or name another file"
        with _refusing(f"{file} is not a tokenizer.json of the tokenizers library", path=file, remedy=remedy):
            tokenizer = Tokenizer.from_file(str(file))
        settings |= {key: name for key, name in (("bos_token", bos), ("eos_token", eos)) if name is not None}
        bos, eos = _ends(tokenizer, settings, settings_file)
        ends = _further_ends(tokenizer, file.parent)
        try:
            loaded = cls(tokenizer, bos=bos, eos=eos, ends=ends, settings=settings)
        except InputError as error:
            problem = f"{file} cannot be used: {error.problem}"
            raise InputError(
                problem, field=error.field, value=error.value, path=file, remedy=error.remedy
            ) from None
        loaded.template_file = template_file if "chat_template" in settings else None
        return loaded

    def save(self, directory: Path) -> None:
        """Write `tokenizer.json`, and `tokenizer_config.json` with all that it said when it was loaded."""
        write_text_atomic(directory / _FILE, self._tokenizer.to_str(pretty=True))
        write_json_atomic(directory / _SETTINGS_FILE, self.settings)

    def with_settings(self, settings: Mapping[str, Any]) -> "TextTokenizer":
        """Return a copy of which `tokenizer_config.json` says this besides."""
        bos, eos = self._ends
        same = Tokenizer.from_str(self._tokenizer.to_str())
        return TextTokenizer(same, bos=bos, eos=eos, settings={**self.settings, **settings})

    def without_ours(self) -> "TextTokenizer":
        """Return a copy whose `tokenizer_config.json` has no key of ringworld's, for the folder of a model.

        Its `config.json` says there what begins a text of which `bos_token` is null.
        """
        same = copy(self)
        same.settings = {key: value for key, value in self.settings.items() if not key.startswith(OUR_KEY)}
        return same

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, with none added and none special, whatever the text says.

            "A red circle."  ->  A | red | circle | .
            "a</s>"          ->  a | </ | s | >        (never the id of </s>)

        Raises:
            InputError: `text` is not valid Unicode (it holds half of a surrogate pair).
        """
        return _ids(self._spelling, text)

    def encode_rendered(self, text: str, *, mark: str) -> list[int]:
        """Return the ids of what a chat template wrote: reserved ones where it names them.

            "<s>a</s>"   ->  <s> | a | </s>
            "<s>a<|/s>"  ->  <s> | a | </ | s | >        (with the mark "|")

        Args:
            text: by a template; in all that users wrote, `mark` stands after the first character of what
                begins like a reserved name.
            mark: a character that is none of the text; it is left out.

        Raises:
            InputError: as for `encode`.
        """
        if mark not in text:
            if self._rendered is None:
                # A copy, because the setting is one of the tokenizer, and others may be using it.
                self._rendered = Tokenizer.from_str(self._tokenizer.to_str())
                self._rendered.encode_special_tokens = False
            ids = _ids(self._rendered, text)
            if not self._normalizes_names or self._are_named(ids, text):
                return ids
        reserved, ids = self.reserved, []
        for i, part in enumerate(re.split(f"({self._names})", text)):
            # Every other part is what the parentheses found.
            ids += [reserved[part]] if i % 2 else self.encode(part.replace(mark, ""))
        return ids

    @property
    def begin(self) -> str:
        """Name of the token of `bos`."""
        return self._ends[0]

    @property
    def special(self) -> dict[str, int]:
        """Ids of the special tokens, by their names."""
        added = self._tokenizer.get_added_tokens_decoder().items()
        return {token.content: id for id, token in added if token.special}

    @property
    def reserved(self) -> dict[str, int]:
        """Ids that no text is encoded as, by name: special ones, and others that the chat template writes."""
        return self.special | self._shown

    @property
    def named(self) -> dict[str, str]:
        """Names of the tokens that have a part to play, such as `bos_token`, as chat templates know them."""
        content = {key: _name(value) for key, value in self.settings.items() if key.endswith("_token")}
        return {key: value for key, value in content.items() if isinstance(value, str)}

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids` without the special ones; bytes that are not UTF-8 become U+FFFD."""
        special = set(self._special.values())
        shown = [id for id in ids if id not in special]
        with _refusing("the tokenizer cannot decode", field="ids", value=ids, remedy=_ANOTHER):
            return self._tokenizer.decode(shown, skip_special_tokens=True)

    def bytes_of(self, id: int) -> bytes:
        r"""Return what a token adds to a text that it does not begin; nothing for a special one.

        Example:
            `▁the` of SentencePiece is `b" the"`, which alone is decoded without its blank; of the two tokens
            that spell an a with dots the first is `b"\xc3"`.
        """
        once, twice = self.decode([id]), self.decode([id, id])
        if "\N{REPLACEMENT CHARACTER}" not in twice:
            return twice[len(once) :].encode()
        piece = self._tokenizer.id_to_token(id) or ""
        if (byte := _BYTE.fullmatch(piece)) is not None:
            return bytes.fromhex(byte[1])
        return bytes(_BYTE_OF[letter] for letter in piece) if {*piece} <= _BYTE_OF.keys() else piece.encode()

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Set again what the library does not pickle: without it, texts make special ids in a worker."""
        self.__dict__.update(state)
        self._spelling.encode_special_tokens = True

    @property
    def size(self) -> int:
        """Number of ids: one more than the largest."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides the ids; prepared data carries it."""
        parts = [json.loads(self._tokenizer.to_str()), *self._ends]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def _names(self) -> str:
        """Pattern of the reserved names, the longest first."""
        return "|".join(sorted(map(re.escape, self.reserved), key=len, reverse=True))

    def _are_named(self, ids: Sequence[int], text: str) -> bool:
        """Return whether a text names all reserved ids; others are of what only became a name."""
        reserved = set(self.reserved.values())
        return sum(id in reserved for id in ids) <= len(re.findall(self._names, text))

    def _begins(self) -> bool:
        said = self.settings.get("add_bos_token")
        if not isinstance(said, bool | None):
            raise InputError(
                f"add_bos_token is {said!r:.60}, neither true nor false",
                field="add_bos_token",
                value=said,
                remedy=f"copy {_SETTINGS_FILE} again, or edit it",
            )
        if said is not None:
            return said
        if self._tokenizer.post_processor is not None:
            return self._tokenizer.encode("a").ids[:1] == [self.bos]
        return self.settings["bos_token"] is not None and (
            self.settings.get("tokenizer_class") not in _ADD_NO_BOS
        )

    def _refuse_leaks(self) -> None:
        """Encode the names of the special tokens as a user might write them, and look for special ids."""
        reserved = self._special | self._shown
        names = {id: name for name, id in reserved.items()}
        tried = [context.format(name) for name in reserved for context in _CONTEXTS]
        for text in (*tried, _RARE):
            for id in names.keys() & self.encode(text):
                raise InputError(
                    f"the text {text!r} is encoded as the special token {names[id]!r}, so that any user "
                    "could write it",
                    field="tokenizer",
                    value=text,
                    remedy="use a tokenizer that spells it out, such as a byte-level BPE",
                )

    def _vision(self, name: str) -> tuple[int, ...]:
        return (self._special[name],) if name in self._special else tuple(self.encode(name))


def _mark_special(tokenizer: Tokenizer, names: Iterable[str]) -> None:
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    with _refusing("the tokenizer cannot encode a text", field="text", value=text, remedy=_ANOTHER):
        try:
            # In batches alone the library leaves out where each token stands, a third of its work.
            return tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        except (TypeError, UnicodeEncodeError):
            raise InputError(
                "the text holds half of a surrogate pair, which is not Unicode",
                field="text",
                value=text,
                remedy="fix how it was decoded",
            ) from None


@contextmanager
def _refusing(problem: str, **more: Any) -> Iterator[None]:
    """Turn what the library raises into an error: bare exceptions and panics, which are no `Exception`."""
    try:
        yield
    except (InputError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise InputError(f"{problem} ({plain(str(error))})", **more) from None


def _counted(texts: Iterable[str], on_progress: Callable[[int], None]) -> Iterator[str]:
    characters = 0
    for text in texts:
        yield text
        characters += len(text)
        on_progress(characters)


def _ends(tokenizer: Tokenizer, settings: Mapping[str, Any], file: Path) -> tuple[str, str]:
    """Return the tokens that begin and end a text; see `TextTokenizer.load`."""
    config_file = file.parent / _CONFIG_FILE
    config = read_as(dict[str, Any], config_file) if config_file.exists() else {}
    added = tokenizer.get_added_tokens_decoder()

    def of_config(key: str) -> str | None:
        ids = config.get(key)
        id = ids[0] if isinstance(ids, list) and ids else ids
        token = added.get(id) if type(id) is int else None
        return token.content if token is not None and token.special else None

    eos = _named(settings, "eos_token", file) or of_config("eos_token_id") or EOS
    usual = "bos_token" not in settings and tokenizer.token_to_id(BOS) is not None
    bos = _named(settings, "bos_token", file) or _named(settings, _BEGINS_WITH, file)
    return bos or of_config("bos_token_id") or (BOS if usual else eos), eos


def _further_ends(tokenizer: Tokenizer, folder: Path) -> list[str]:
    """Return the added tokens that the files of a model name as ends of a text."""
    ids: list[Any] = []
    for name in (_CONFIG_FILE, _GENERATION_FILE):
        file = folder / name
        said = read_as(dict[str, Any], file).get("eos_token_id") if file.exists() else None
        ids += said if isinstance(said, list) else [said]
    added = tokenizer.get_added_tokens_decoder()
    names = [added[id].content for id in ids if type(id) is int and id in added]
    return [name for name in names if _NAMED.fullmatch(name)]


def _named(settings: Mapping[str, Any], key: str, file: Path) -> str | None:
    """Read the name of the token that a setting is about."""
    name = _name(value := settings.get(key))
    if name is not None and not is_text(name):
        raise InputError(
            f"{key} in {file} is {short(name)}, not the name of a token",
            field=key,
            value=value,
            path=file,
            remedy="copy the file again, or edit it",
        )
    return name


def _name(value: Any) -> Any:
    """Return a token's name, or several, as Hugging Face writes it: a string, or an object with `content`."""
    if isinstance(value, list):
        return [_name(each) for each in value]
    return value.get("content", value) if isinstance(value, Mapping) else value
