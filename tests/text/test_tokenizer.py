import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from ringworld.core.errors import InputError
from ringworld.text.tokenizer import TextTokenizer

TEXTS = ["A red circle moves right.", "The special magic Oslo number is: 1234567", "na\u00efve \u6771\u4eac"]
TOKENIZER = TextTokenizer.train(TEXTS * 3, vocab_size=340)
SPECIAL_IDS = {TOKENIZER.bos, TOKENIZER.eos, *TOKENIZER.vision_start, *TOKENIZER.vision_end}


@settings(deadline=None)
@given(st.text())
def test_every_text_comes_back_as_it_was(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@settings(deadline=None)
@given(st.lists(st.sampled_from(["</s>", "<s>", "<vision>", "</vision>", " ", "a", "<", ">"])).map("".join))
def test_no_text_makes_a_special_id(text):
    ids = TOKENIZER.encode(text)
    assert not SPECIAL_IDS & set(ids)
    assert TOKENIZER.decode(ids) == text


def test_special_ids_are_four_and_decode_to_nothing():
    assert len(SPECIAL_IDS) == 4
    assert TOKENIZER.decode([TOKENIZER.bos, *TOKENIZER.encode("red"), TOKENIZER.eos]) == "red"


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


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(InputError, match="at least 260"):
        TextTokenizer.train(TEXTS, vocab_size=259)


def test_half_of_a_surrogate_pair_is_refused():
    with pytest.raises(InputError, match="surrogate"):
        TOKENIZER.encode("\ud800")


def llama_like(path: Path, *, names: bool) -> None:
    """Write what Llama 2's tokenizer.json is, in small."""
    letters = {letter: 3 + i for i, letter in enumerate("\u2581</>abcdefghijklmnopqrstuvwxyz")}
    tokenizer = Tokenizer(models.BPE({"<unk>": 0, "<s>": 1, "</s>": 2, **letters}, [], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token) for token in ("<unk>", "<s>", "</s>")])
    (path / "tokenizer.json").write_text(tokenizer.to_str())
    if names:
        named = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}
        (path / "tokenizer_config.json").write_text(json.dumps(named))


@pytest.mark.parametrize("names", [True, False])
def test_a_foreign_tokenizer_loads_and_spells_its_vision_marks(tmp_path: Path, names: bool):
    llama_like(tmp_path, names=names)
    loaded = TextTokenizer.load(tmp_path)
    assert (loaded.bos, loaded.eos) == (1, 2)
    assert len(loaded.vision_start) == len("\u2581<vision>")
    assert loaded.decode(loaded.encode("a red circle")) == "a red circle"
    assert 2 not in loaded.encode("a</s>")


def test_ends_of_a_text_can_be_named(tmp_path: Path):
    llama_like(tmp_path, names=False)
    assert TextTokenizer.load(tmp_path / "tokenizer.json", bos="<unk>", eos="<s>").eos == 1
    with pytest.raises(InputError, match=r"<\|begin\|>"):
        TextTokenizer.load(tmp_path, bos="<|begin|>")


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        TextTokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        TextTokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", '{"bos_token": 3}', '{"eos_token": {"content": []}}', "[" * 100_000]
)
def test_a_damaged_tokenizer_config_is_named(tmp_path: Path, content: str):
    TOKENIZER.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer_config\.json"):
        TextTokenizer.load(tmp_path)
