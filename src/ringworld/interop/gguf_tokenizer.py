"""The tokenizer that the metadata of a GGUF file describes, as one of the `tokenizers` library."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ringworld.core.errors import InputError
from ringworld.text.tokenizer import TextTokenizer

_BLANK = "\N{LOWER ONE EIGHTH BLOCK}"
"""How SentencePiece writes a blank."""
_LONGEST_PIECE = 256
"""Characters of a piece of SentencePiece, all of whose halves are looked at; its own default is 16."""
_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_CASED_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
)
"""Of Mistral Nemo: a word ends where a capital follows a small letter."""
_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
"""What llama.cpp calls the pre-tokenizer of Llama 3."""
_BEGIN = (*_LLAMA3, "tekken")
"""Whose texts begin with a token unless the file says no."""
_UNLESS_SAID = {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}
"""Ids of the llama kind, as llama.cpp assumes them."""


def read_tokenizer(metadata: Mapping[str, Any]) -> TextTokenizer:
    """Return the tokenizer of a GGUF file, with its chat template among the settings.

    Args:
        metadata: of the file.

    Raises:
        InputError: it is of a kind or has a pre-tokenizer that is not known, or its parts do not fit.
    """
    said = _TokenizerMetadata(metadata)
    match kind := said.one("model", str):
        case "gpt2":
            tokenizer, begins = _byte_level(said), said.metadata.get("tokenizer.ggml.pre") in _BEGIN
        case "llama":
            tokenizer, begins = _sentence_piece(said), True
        case _:
            problem = f"its tokenizer is of the kind {kind!r:.60}, not gpt2 or llama"
            raise InputError(problem, field="tokenizer.ggml.model", value=kind)
    tokenizer.add_special_tokens(said.added(TokenType.CONTROL))
    tokenizer.add_tokens(said.added(TokenType.USER_DEFINED))
    bos, eos = said.token("bos_token_id"), said.token("eos_token_id")
    if bos is None or eos is None:
        raise InputError(
            "its tokenizer does not name the tokens that begin and end a text",
            field="tokenizer.ggml.bos_token_id",
            remedy="name a folder with the model's own tokenizer.json",
        )
    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str | None):
        problem = f"tokenizer.chat_template is a {type(template).__name__}, not a text"
        raise InputError(problem, field="tokenizer.chat_template")
    add_bos, add_eos = said.one("add_bos_token", bool, begins), said.one("add_eos_token", bool, False)
    if add_bos or add_eos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*([bos] if add_bos else []), "$A", *([eos] if add_eos else [])],
            special_tokens=[(name, tokenizer.token_to_id(name)) for name in {bos, eos}],
        )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
        "pad_token": said.token("padding_token_id"),
        "unk_token": said.token("unknown_token_id"),
        "chat_template": template,
    }
    settings = {name: value for name, value in settings.items() if value is not None}
    return TextTokenizer(tokenizer, bos=bos, eos=eos, settings=settings)


class _TokenizerMetadata:
    """Typed access to the metadata under `tokenizer.ggml`."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self.metadata = metadata
        self.tokens: list[str] = self.strings("tokens")
        if not self.tokens or len(set(self.tokens)) < len(self.tokens):
            problem = "its tokenizer has no words" if not self.tokens else "its tokenizer has a word twice"
            raise InputError(problem, field="tokenizer.ggml.tokens")
        self.types = self.numbers("token_type", "i", np.full(len(self.tokens), TokenType.NORMAL))
        """Of each token, a `TokenType`."""

    def one(self, name: str, cls: type[Any], default: Any = None) -> Any:
        value = self.metadata.get(f"tokenizer.ggml.{name}", default)
        return value if type(value) is cls else self._refuse(name, f"is {value!r:.60}, not a {cls.__name__}")

    def strings(self, name: str) -> list[str]:
        value = self.metadata.get(f"tokenizer.ggml.{name}")
        is_list = isinstance(value, list)
        return value if is_list else self._refuse(name, f"is {value!r:.60}, not a list of strings")

    def numbers(self, name: str, kind: str, default: np.ndarray | None = None) -> np.ndarray:
        """Return one finite number for each token."""
        value = self.metadata.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(value, np.ndarray) or value.dtype.kind != kind or not np.isfinite(value).all():
            return self._refuse(name, f"is {value!r:.60}, not a list of numbers")
        if len(value) != len(self.tokens):
            return self._refuse(name, f"has {len(value)} numbers for {len(self.tokens)} tokens")
        return value

    def added(self, token_type: TokenType) -> list[AddedToken]:
        """Return the tokens of a type: those that are special, or those that a text holds whole."""
        special = token_type == TokenType.CONTROL
        ids = np.flatnonzero(self.types == token_type).tolist()
        return [AddedToken(self.tokens[id], special=special, normalized=False) for id in ids]

    def token(self, name: str) -> str | None:
        """Return the token whose id is said, or None."""
        default = _UNLESS_SAID.get(name) if self.metadata["tokenizer.ggml.model"] == "llama" else None
        id = self.metadata.get(f"tokenizer.ggml.{name}", default)
        if id is None:
            return None
        if type(id) is not int or not 0 <= id < len(self.tokens):
            return self._refuse(name, f"is {id!r:.60}, not the id of one of {len(self.tokens)} tokens")
        return self.tokens[id]

    def _refuse(self, name: str, problem: str) -> Any:
        raise InputError(f"tokenizer.ggml.{name} {problem}", field=f"tokenizer.ggml.{name}")


def _byte_level(said: _TokenizerMetadata) -> Tokenizer:
    """Return a byte-level BPE whose merges are listed."""
    pre = said.metadata.get("tokenizer.ggml.pre")
    make = _PRE_TOKENIZERS.get(pre) if isinstance(pre, str) else None
    if make is None:
        raise InputError(
            f"its pre-tokenizer is {pre!r:.60}, not one of {', '.join(_PRE_TOKENIZERS)}",
            field="tokenizer.ggml.pre",
            value=pre,
            remedy="name a folder that holds the model's own tokenizer.json",
        )
    merges: list[tuple[str, str]] = []
    for merge in said.strings("merges"):
        left, blank, right = merge.partition(" ")
        if not (left and right) or blank in right:
            problem = f"its tokenizer has the merge {merge!r:.60}, which is not of two words"
            raise InputError(problem, field="tokenizer.ggml.merges", value=merge)
        merges.append((left, right))
    # Llama 3 and Mistral Nemo take a word that is a token whole, whether or not its merges lead there.
    tokenizer = _bpe(said, merges, ignore_merges=make in (_llama3, _tekken))
    tokenizer.pre_tokenizer = make()
    tokenizer.decoder = decoders.ByteLevel()
    if make is _qwen2:
        tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _llama3() -> pre_tokenizers.PreTokenizer:
    return _split(rf"{_WORDS}|\p{{N}}{{1,3}}")


def _qwen2() -> pre_tokenizers.PreTokenizer:
    return _split(rf"{_WORDS}|\p{{N}}")


def _tekken() -> pre_tokenizers.PreTokenizer:
    return _split(rf"{_CASED_WORDS}|\p{{N}}", after_signs="/")


def _split(words: str, *, after_signs: str = "") -> pre_tokenizers.PreTokenizer:
    """Return what cuts a text into words and digits, signs with line breaks behind them, and blanks."""
    rest = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n{after_signs}]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(f"{words}|{rest}"), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


_PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
    **dict.fromkeys(_LLAMA3, _llama3),
    "qwen2": _qwen2,
    "tekken": _tekken,
}
"""By what llama.cpp calls them, as in the `tokenizer.json` of GPT-2, SmolLM, Llama 3, Qwen2 and Mistral Nemo.

A file with `default` is of a converter that did not know: llama.cpp guesses, and warns of worse answers.
"""


def _sentence_piece(said: _TokenizerMetadata) -> Tokenizer:
    """Return a BPE of characters with bytes for what it lacks, as Llama 2's `tokenizer.json` has it."""
    merges = merges_of(said.tokens, scores=said.numbers("scores", "f"), types=said.types)
    tokenizer = _bpe(
        said, merges, unk_token=said.token("unknown_token_id"), fuse_unk=True, byte_fallback=True
    )
    blanks = normalizers.Replace(" ", _BLANK)
    undo = [decoders.Replace(_BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if said.one("add_space_prefix", bool, True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_BLANK), blanks])
        undo.append(decoders.Strip(" ", left=1, right=0))
    else:
        tokenizer.normalizer = blanks
    tokenizer.decoder = decoders.Sequence(undo)
    return tokenizer


def merges_of(tokens: Sequence[str], *, scores: np.ndarray, types: np.ndarray) -> list[tuple[str, str]]:
    """Return the merges by which SentencePiece's BPE makes its pieces: first those with the best score.

        "a", "b", "c", "ab", "abc" with the scores 0, 0, 0, -1, -2  ->  (a, b), (ab, c)

    Only words that text may become take part: none that is special, a byte, or unused.

    Args:
        tokens: by id.
        scores: of each; the negative order in which SentencePiece learnt it.
        types: of each, a `TokenType`.

    Raises:
        InputError: a piece is longer than any that SentencePiece makes.
    """
    pieces = {tokens[id]: float(scores[id]) for id in np.flatnonzero(types == TokenType.NORMAL).tolist()}
    if (longest := max(map(len, pieces), default=0)) > _LONGEST_PIECE:
        raise InputError(
            f"its tokenizer has a piece of {longest} characters, more than {_LONGEST_PIECE}",
            field="tokenizer.ggml.tokens",
            value=longest,
        )
    found = [
        (-score, piece[:cut], piece[cut:])
        for piece, score in pieces.items()
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
    return [(left, right) for _, left, right in sorted(found, key=lambda merge: merge[0])]


def _bpe(said: _TokenizerMetadata, merges: Sequence[tuple[str, str]], **options: Any) -> Tokenizer:
    vocab = {token: id for id, token in enumerate(said.tokens)}
    try:
        return Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    except Exception as error:  # the library raises bare Exception
        raise InputError(
            f"its tokenizer does not fit together ({error})", field="tokenizer.ggml.merges"
        ) from None
