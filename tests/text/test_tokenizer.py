import json
import pickle
import string
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from ringworld.core.errors import InputError
from ringworld.text.tokenizer import TextTokenizer
from tests.text.chat_templates import tokenizer_of

TEXTS = ["A red circle moves right.", "The special magic Oslo number is: 1234567", "na\u00efve \u6771\u4eac"]
TOKENIZER = TextTokenizer.train(TEXTS * 3, vocab_size=340)
SPECIAL_IDS = {TOKENIZER.bos, TOKENIZER.eos, *TOKENIZER.vision_start, *TOKENIZER.vision_end}


@given(st.text())
def test_every_text_comes_back_as_it_was(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.lists(st.sampled_from(["</s>", "<s>", "<vision>", "</vision>", " ", "a", "<", ">"])).map("".join))
def test_no_text_makes_a_special_id(text):
    ids = TOKENIZER.encode(text)
    assert not SPECIAL_IDS & set(ids)
    assert TOKENIZER.decode(ids) == text


def test_special_ids_are_four_and_decode_to_nothing():
    assert len(SPECIAL_IDS) == 4
    assert TOKENIZER.decode([TOKENIZER.bos, *TOKENIZER.encode("red"), TOKENIZER.eos]) == "red"


@given(st.text())
def test_the_bytes_of_tokens_are_those_of_their_text(text):
    assert b"".join(map(TOKENIZER.bytes_of, TOKENIZER.encode(text))) == text.encode()
    assert TOKENIZER.bytes_of(TOKENIZER.bos) == b""


def test_each_digit_is_a_token():
    assert len(TOKENIZER.encode("1234567")) == 7


def test_training_again_in_another_process_gives_the_same_ids():
    program = (
        "import sys, json; from ringworld.text.tokenizer import TextTokenizer;"
        "print(TextTokenizer.train(json.loads(sys.argv[1]) * 3, vocab_size=340).fingerprint)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, json.dumps(TEXTS)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == TOKENIZER.fingerprint


def test_saved_and_loaded_it_is_the_same(tmp_path: Path):
    TOKENIZER.save(tmp_path)
    loaded = TextTokenizer.load(tmp_path)
    assert loaded.fingerprint == TOKENIZER.fingerprint
    assert 260 < loaded.size == TOKENIZER.size <= 340
    assert loaded.encode("a </s> red") == TOKENIZER.encode("a </s> red")


def test_in_another_process_texts_make_no_special_id_either():
    there = pickle.loads(pickle.dumps(TOKENIZER))
    text = "a</s><vision>"
    assert there.encode(text) == TOKENIZER.encode(text)
    assert not SPECIAL_IDS & set(there.encode(text))


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(InputError) as refused:
        TextTokenizer.train(TEXTS, vocab_size=259)
    assert (refused.value.field, refused.value.value) == ("vocab_size", 259)
    TextTokenizer.train(TEXTS, vocab_size=260)


def test_half_of_a_surrogate_pair_is_refused():
    with pytest.raises(InputError) as refused:
        TOKENIZER.encode("\ud800")
    assert refused.value.field == "text"


def test_a_text_without_blanks_is_merged_in_bounded_pieces_and_comes_back():
    """What is quadratic in the longest piece stays linear in the text: no token is longer than a piece."""
    text = "".join(chr(ord("a") + i * i % 23) for i in range(50_000)) + "\u6771" * 5_000
    seen: list[int] = []
    tokenizer = TextTokenizer.train([text, "end"], vocab_size=600, on_progress=seen.append)
    assert seen == [55_000, 55_003]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert max(len(tokenizer.decode([id])) for id in set(ids)) <= 64
    # The pieces of a text begin where they begin in its first half alone.
    half = text[:25_600]
    assert ids[: len(tokenizer.encode(half))] == tokenizer.encode(half)


LETTERS = f"\u2581</>\n{string.ascii_letters}"
ENDS = ("<unk>", "<s>", "</s>")


def llama_like(
    *, special: Sequence[str] = ENDS, plain: Sequence[str] = (), spelt: Sequence[str] = ()
) -> Tokenizer:
    """Build what Llama 2's tokenizer is, in small, with added tokens special and plain, and bytes spelt."""
    vocabulary = {token: id for id, token in enumerate((*ENDS, *LETTERS, "bc", "abc", "abcabc", *spelt))}
    merges = [("b", "c"), ("a", "bc"), ("abc", "abc")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=bool(spelt)))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token) for token in special])
    tokenizer.add_tokens([AddedToken(token, special=False) for token in plain])
    return tokenizer


def unigram() -> Tokenizer:
    """Build a Unigram model whose vocabulary holds the ends, as T5's and XLM-R's do."""
    pieces = [(token, 0.0) for token in ENDS] + [(letter, -3.0) for letter in LETTERS]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, byte_fallback=False))
    tokenizer.add_special_tokens([AddedToken(token) for token in ENDS])
    return tokenizer


def words() -> Tokenizer:
    """Build a model of whole words, of which the ends are two."""
    vocabulary = {token: id for id, token in enumerate((*ENDS, "a"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def write(tokenizer: Tokenizer, folder: Path, **settings: object) -> Path:
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    if settings:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_blank_before_a_word_and_a_byte_of_a_character_are_bytes_of_their_tokens():
    tokenizer = TextTokenizer(llama_like(spelt=["<0xC3>", "<0xA4>"]), eos="</s>")
    ids = tokenizer.encode("abc abc\u00e4")
    assert [*map(tokenizer.bytes_of, ids)] == [b" ", b"abc", b" ", b"abc", b"\xc3", b"\xa4"]


@pytest.mark.parametrize("settings", [{"bos_token": {"content": "<s>"}, "eos_token": "</s>"}, {}])
def test_a_foreign_tokenizer_loads_and_spells_its_vision_marks(tmp_path: Path, settings):
    loaded = TextTokenizer.load(write(llama_like(), tmp_path, **settings))
    assert (loaded.bos, loaded.eos) == (1, 2)
    assert len(loaded.vision_start) == len("\u2581<vision>")
    assert loaded.decode(loaded.encode("a red circle")) == "a red circle"
    assert 2 not in loaded.encode("a</s>")


@pytest.mark.parametrize(
    "tokenizer",
    [
        llama_like(special=["<unk>", "<s>"], plain=["</s>"]),
        llama_like(special=["<unk>"]),
        llama_like(plain=["<vision>", "</vision>"]),
        llama_like(special=["<unk>"], plain=["<s>", "</s>", "<vision>", "</vision>"]),
    ],
    ids=["end added plainly", "ends not added", "vision added plainly", "all added plainly"],
)
@given(texts=st.lists(st.sampled_from(["</s>", "<s>", "<vision>", "</vision>", " ", "a", "<"])))
def test_tokens_that_are_not_marked_special_are_never_made_from_text_nor_printed(
    tmp_path_factory, tokenizer: Tokenizer, texts: list[str]
):
    loaded = TextTokenizer.load(write(tokenizer, tmp_path_factory.mktemp("foreign")))
    special = [loaded.bos, loaded.eos]
    special += [ids[0] for ids in (loaded.vision_start, loaded.vision_end) if len(ids) == 1]
    assert not set(special) & set(loaded.encode("".join(texts)))
    assert loaded.decode([*special, *loaded.encode("red"), *special]) == "red"


@pytest.mark.parametrize(
    ("tokenizer", "options"),
    [
        (unigram(), {}),
        (words(), {}),
        (llama_like(), {"eos": "a"}),
        (llama_like(), {"bos": "<unk>"}),
    ],
    ids=["Unigram that holds the ends", "whole words", "a letter as end", "the unknown token as begin"],
)
def test_a_tokenizer_that_makes_special_ids_from_text_is_refused(tmp_path: Path, tokenizer, options):
    with pytest.raises(InputError) as refused:
        TextTokenizer.load(write(tokenizer, tmp_path), **options)
    assert (refused.value.field, refused.value.path) == ("tokenizer", tmp_path / "tokenizer.json")


def test_a_million_characters_without_a_blank_are_encoded_by_a_foreign_tokenizer():
    tokenizer = TextTokenizer(llama_like())
    text = "abc" * 333_334
    ids = tokenizer.encode(text)
    assert len(ids) == 1 + 333_334 // 2  # all is merged, across the whole piece
    assert tokenizer.decode(ids) == text


def test_ends_of_a_text_can_be_named(tmp_path: Path):
    write(llama_like(), tmp_path)
    assert TextTokenizer.load(tmp_path / "tokenizer.json", bos="</s>", eos="<s>").eos == 1
    with pytest.raises(InputError) as refused:
        TextTokenizer.load(tmp_path, bos="<|begin|>")
    assert (refused.value.field, refused.value.value) == ("bos", "<|begin|>")


def test_every_end_that_the_files_of_a_model_name_is_never_made_from_text(tmp_path: Path):
    names = ("<|end|>", "<|over|>", " ", "<|other|>")
    tokenizer = llama_like()
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in names])
    end, over, blank, other = map(tokenizer.token_to_id, names)
    write(tokenizer, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": end}))
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, over, blank, 10**9, "x"]})
    )
    loaded = TextTokenizer.load(tmp_path)
    loaded.save(tmp_path / "copied")
    for one in (loaded, TextTokenizer.load(tmp_path / "copied")):
        made = set(one.encode("a<|end|> b<|over|><|other|>"))
        assert not {end, over} & made
        assert {blank, other} <= made


QWEN = {
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "add_bos_token": False,
    "tokenizer_class": "Qwen2Tokenizer",
}


def test_where_bos_is_null_that_of_the_configuration_begins_and_null_is_kept(tmp_path: Path):
    tokenizer = tokenizer_of("qwen")
    begin, end = (tokenizer.token_to_id(name) for name in ("<|endoftext|>", "<|im_end|>"))
    write(tokenizer, tmp_path, **QWEN)
    assert TextTokenizer.load(tmp_path).bos == TextTokenizer.load(tmp_path).eos == end
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": begin}))
    loaded = TextTokenizer.load(tmp_path)
    assert (loaded.bos, loaded.eos, loaded.adds_bos) == (begin, end, False)
    assert "bos_token" not in loaded.named
    # Without the model's configuration beside it, as in a folder of examples.
    again = loaded.with_settings({"chat_template": "x"})
    again.save(tmp_path / "again")
    settings = json.loads((tmp_path / "again/tokenizer_config.json").read_text())
    assert settings["bos_token"] is None and settings["chat_template"] == "x"
    assert TextTokenizer.load(tmp_path / "again").fingerprint == loaded.fingerprint


@pytest.mark.parametrize("id", [5, 10**9, "a", None, [], True], ids=str)
def test_an_id_of_the_configuration_that_is_no_special_token_begins_nothing(tmp_path: Path, id):
    write(tokenizer_of("qwen"), tmp_path, **QWEN)
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": id}))
    loaded = TextTokenizer.load(tmp_path)
    assert loaded.bos == loaded.eos


def test_a_plain_s_in_the_vocabulary_is_no_special_token_where_bos_is_null(tmp_path: Path):
    tokenizer = llama_like(special=["<unk>", "</s>"])
    loaded = TextTokenizer.load(write(tokenizer, tmp_path, bos_token=None, eos_token="</s>"))
    assert loaded.bos == loaded.eos == 2
    assert "<s>" not in loaded.special


@pytest.mark.parametrize(
    ("settings", "begins", "adds"),
    [
        ({"tokenizer_class": "LlamaTokenizer"}, False, True),
        ({}, False, True),
        ({"add_bos_token": False}, True, False),
        ({"add_bos_token": True}, False, True),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, True, True),
        ({"tokenizer_class": "GPT2Tokenizer"}, False, False),
        ({"bos_token": None}, False, False),
    ],
    ids=str,
)
def test_what_begins_a_text_is_added_where_the_files_say_so(tmp_path: Path, settings, begins, adds):
    tokenizer = llama_like()
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    assert TextTokenizer.load(write(tokenizer, tmp_path, **settings)).adds_bos is adds


def test_a_setting_that_is_neither_true_nor_false_is_refused(tmp_path: Path):
    with pytest.raises(InputError) as refused:
        TextTokenizer.load(write(llama_like(), tmp_path, add_bos_token="yes"))
    assert (refused.value.field, refused.value.path) == ("add_bos_token", tmp_path / "tokenizer.json")


def test_older_folders_name_special_tokens_in_a_file_of_its_own(tmp_path: Path):
    names = {"bos_token": {"content": "</s>", "lstrip": False}, "pad_token": "<unk>"}
    write(llama_like(), tmp_path, bos_token="<s>", eos_token="</s>")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    older = TextTokenizer.load(tmp_path)
    assert (older.bos, older.eos) == (2, 2)
    assert older.named == {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<unk>"}
    write(llama_like(), tmp_path, bos_token="<s>", eos_token="</s>", added_tokens_decoder={})
    assert TextTokenizer.load(tmp_path).bos == 1


@pytest.mark.parametrize("content", [b"{{ messages }}\xff", b"a" * (2**20 + 1)], ids=["bytes", "long"])
def test_a_damaged_template_file_is_named(tmp_path: Path, content: bytes):
    TOKENIZER.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(content)
    with pytest.raises(InputError) as refused:
        TextTokenizer.load(tmp_path)
    assert refused.value.path == tmp_path / "chat_template.jinja"


def test_saving_keeps_what_a_foreign_tokenizer_config_said(tmp_path: Path):
    (tmp_path / "in").mkdir()
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    write(llama_like(), tmp_path / "in", chat_template=template, model_max_length=10**30, eos_token="<s>")
    loaded = TextTokenizer.load(tmp_path / "in")
    loaded.save(tmp_path / "out")
    settings = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert settings["chat_template"] == template and settings["model_max_length"] == 10**30
    assert TextTokenizer.load(tmp_path / "out").fingerprint == loaded.fingerprint
    (tmp_path / "in/chat_template.jinja").write_text("{{ messages }}")
    TextTokenizer.load(tmp_path / "in").save(tmp_path / "out")
    settings = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert settings["chat_template"] == "{{ messages }}"


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path):
    for content in (None, '{"model": 3}', "{"):
        if content is not None:
            (tmp_path / "tokenizer.json").write_text(content)
        with pytest.raises(InputError) as refused:
            TextTokenizer.load(tmp_path)
        assert refused.value.path == tmp_path / "tokenizer.json"


def changed(**model: object) -> dict[str, Any]:
    """Return a `tokenizer.json` with another model."""
    parsed = json.loads(llama_like().to_str())
    return parsed | {"model": parsed["model"] | model}


BACKTRACKS = {"type": "Split", "pattern": {"Regex": "(\\w+)+$"}, "behavior": "Isolated", "invert": False}
NO_UNKNOWN = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<none>"}


@pytest.mark.parametrize(
    "content",
    [
        changed() | {"model": NO_UNKNOWN},
        changed(unk_token="<none>", byte_fallback=False),
        changed(continuing_subword_prefix="a" * 99),
        changed() | {"decoder": {"type": "Strip", "content": "a", "start": 0, "stop": 9}},
    ],
    ids=["no unknown word", "no unknown letter", "panics when read", "panics when decoding"],
)
def test_a_tokenizer_that_does_not_work_is_named(tmp_path: Path, content: dict[str, Any]):
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as refused:
        TextTokenizer.load(tmp_path)
    assert refused.value.path == tmp_path / "tokenizer.json"


def test_a_text_over_which_the_tokenizer_panics_is_refused(tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(changed() | {"pre_tokenizer": BACKTRACKS}))
    loaded = TextTokenizer.load(tmp_path)
    assert loaded.decode(loaded.encode("a red circle")) == "a red circle"
    with pytest.raises(InputError) as refused:
        loaded.encode("a" * 40 + "!")
    assert refused.value.field == "text"


@pytest.mark.parametrize(
    "content",
    ["[]", '{"bos_token": 3}', r'{"bos_token": "\ud800"}', '{"eos_token": {"content": []}}', "[" * 100_000],
)
def test_a_damaged_tokenizer_config_is_refused(tmp_path: Path, content: str):
    TOKENIZER.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(InputError):
        TextTokenizer.load(tmp_path)
