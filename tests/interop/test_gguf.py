"""A GGUF file comes back as the weights and words that it was made of, and anything else is one error."""

import struct

import ml_dtypes
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from ringworld.core.errors import InputError
from ringworld.core.files import read_json, write_json_atomic
from ringworld.interop.gguf import read_gguf
from ringworld.interop.gguf_file import read_header
from ringworld.interop.gguf_tokenizer import merges_of, read_tokenizer
from ringworld.interop.hf_config import read_architecture
from ringworld.model.config import Linear, Llama3, Rope, Yarn
from ringworld.model.rope import inverse_frequencies
from tests.interop.ggml_blocks import BLOCKS, numbers, random_blocks
from tests.interop.gguf_files import (
    BLANK,
    EMBED,
    HEADS,
    KV_HEADS,
    TEMPLATE,
    arrays,
    byte_level,
    sentence_piece,
    write_gguf,
)

VOCAB = len(byte_level()["tokenizer.ggml.tokens"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A file of float32 that tests may read but not change."""
    return write_gguf(tmp_path_factory.mktemp("plain") / "tiny.gguf", arrays(VOCAB))


def damaged(plain, tmp_path, change):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(change(plain.read_bytes()))
    return path


def refused(path) -> InputError:
    with pytest.raises(InputError) as caught:
        read_gguf(path)
    assert caught.value.path == path
    return caught.value


def unpermuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """Row `i` of a half of a head lies at `2 i` of the head, those of the other half between them."""
    size = len(rows) // heads
    order = [
        head * size + 2 * (i % (size // 2)) + i // (size // 2) for head in range(heads) for i in range(size)
    ]
    return rows[order]


@pytest.mark.parametrize(
    ("kind", "dtype"), [("F32", np.float32), ("F16", np.float16), ("BF16", ml_dtypes.bfloat16)]
)
def test_floats_come_back_to_the_bit_with_rotated_rows_as_they_were(tmp_path, kind, dtype):
    weights = arrays(VOCAB)
    model = read_gguf(write_gguf(tmp_path / "tiny.gguf", weights, kind=GGMLQuantizationType[kind]))
    assert model.tensors.keys() == weights.keys()
    for name, array in weights.items():
        expected = array if array.ndim == 1 else array.astype(dtype)
        tensor = model.tensors[name]
        assert (tensor.shape, tensor.read().dtype) == (array.shape, expected.dtype)
        np.testing.assert_array_equal(tensor.read(), expected)
        np.testing.assert_array_equal(np.concatenate(list(tensor.parts())), expected)


@pytest.mark.parametrize("kind", BLOCKS)
def test_what_is_quantized_is_read_as_its_format_says(tmp_path, kind):
    """Float32 against float64: each number is a product of three and a difference."""
    rotated = random_blocks(kind, rows=KV_HEADS * EMBED // HEADS, columns=EMBED)
    plain = random_blocks(kind, rows=16, columns=EMBED)
    weights = arrays(VOCAB)
    file_kind = GGMLQuantizationType[kind]
    embedding = np.resize(plain, (VOCAB, plain.shape[1]))
    raw = {"blk.0.attn_k.weight": (rotated, file_kind), "token_embd.weight": (embedding, file_kind)}
    model = read_gguf(write_gguf(tmp_path / "tiny.gguf", weights, raw=raw))
    for name, expected in (
        ("model.layers.0.self_attn.k_proj.weight", unpermuted(numbers(kind, rotated), KV_HEADS)),
        ("model.embed_tokens.weight", np.resize(numbers(kind, plain), (VOCAB, EMBED))),
    ):
        found = model.tensors[name].read()
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=4 * 2**-24 * np.abs(expected).max())


def test_large_tensors_are_read_in_parts_of_whole_heads(plain, monkeypatch):
    whole = {name: tensor.read() for name, tensor in read_gguf(plain).tensors.items()}
    monkeypatch.setattr("ringworld.interop.gguf_file.PART_NUMBERS", 3 * EMBED)
    for name, tensor in read_gguf(plain).tensors.items():
        parts = list(tensor.parts())
        assert len(parts) > 1 or len(tensor.shape) == 1
        np.testing.assert_array_equal(np.concatenate(parts), whole[name])


def test_configuration(plain):
    config = read_gguf(plain).config
    expected = {
        "num_hidden_layers": 1,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 256,
        "vocab_size": VOCAB,
        "rms_norm_eps": 1e-5,
        "rope_theta": 5e5,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    assert {name: config[name] for name in expected} == expected
    assert config["rope_parameters"]["rope_type"] == "default"


def test_a_head_of_another_width_a_tied_head_and_no_groups(tmp_path):
    weights = arrays(VOCAB, head=32, tied=True)
    said = {
        "attention.key_length": 32,
        "attention.value_length": 32,
        "rope.dimension_count": 32,
        "vocab_size": VOCAB,
    }
    path = write_gguf(tmp_path / "tiny.gguf", weights, said=said)
    model = read_gguf(path)
    assert (model.config["head_dim"], model.config["tie_word_embeddings"]) == (32, True)
    for name, array in weights.items():
        np.testing.assert_array_equal(model.tensors[name].read(), array)


def factors(llama3: Llama3) -> np.ndarray:
    """What llama.cpp's converter makes of Llama 3's numbers, pair by pair."""
    made = []
    for pair in range(0, 64, 2):
        wavelength = 2 * np.pi * 5e5 ** (pair / 64)
        low = llama3.original_context_tokens / llama3.low_frequency_factor
        high = llama3.original_context_tokens / llama3.high_frequency_factor
        if wavelength < high:
            made.append(1.0)
        elif wavelength > low:
            made.append(llama3.factor)
        else:
            smooth = (llama3.original_context_tokens / wavelength - llama3.low_frequency_factor) / (
                llama3.high_frequency_factor - llama3.low_frequency_factor
            )
            made.append(1 / ((1 - smooth) / llama3.factor + smooth))
    return np.array(made, np.float32)


@pytest.mark.parametrize(
    ("said", "scaling"),
    [
        ({}, None),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, None),
        ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, Linear(factor=4.0)),
        ({"rope.scale_linear": 8.0}, Linear(factor=8.0)),
        (
            {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": 4.0,
                "rope.scaling.original_context_length": 128,
                "rope.scaling.finetuned": True,
            },
            Yarn(factor=4.0, original_context_tokens=128),
        ),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0},
            Yarn(factor=2.0, original_context_tokens=512),
        ),
    ],
    ids=str,
)
def test_rope_is_scaled_as_the_metadata_say(tmp_path, said, scaling):
    model = read_gguf(write_gguf(tmp_path / "tiny.gguf", arrays(VOCAB), said=said))

    write_json_atomic(tmp_path / "config.json", dict(model.config))
    assert read_architecture(tmp_path).rope == Rope(base=5e5, scaling=scaling)


@pytest.mark.parametrize("scaling", [Llama3(factor=8.0), Llama3(factor=32.0)], ids=["3.1", "3.2"])
def test_the_frequencies_of_llama3_are_recognized(tmp_path, scaling):
    weights = arrays(VOCAB) | {"rope_freqs.weight": factors(scaling)}
    model = read_gguf(write_gguf(tmp_path / "tiny.gguf", weights))
    parameters = model.config["rope_parameters"]
    assert parameters == {
        "rope_type": "llama3",
        "rope_theta": 5e5,
        "factor": scaling.factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    assert "rope_freqs.weight" not in model.tensors
    np.testing.assert_allclose(
        inverse_frequencies(Rope(base=5e5), head=64) / factors(scaling),
        inverse_frequencies(Rope(base=5e5, scaling=scaling), head=64),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    "frequencies",
    [np.linspace(1, 7, 32), np.full(32, np.nan), np.zeros(32), np.ones(31), np.full(32, -1.0)],
    ids=["others", "nan", "zero", "short", "negative"],
)
def test_other_frequencies_are_refused(tmp_path, frequencies):
    weights = arrays(VOCAB) | {"rope_freqs.weight": frequencies.astype(np.float32)}
    assert len(refused(write_gguf(tmp_path / "tiny.gguf", weights)).value) == 1


@pytest.mark.parametrize(
    ("said", "problems"),
    [
        ({"rope.scaling.type": "longrope"}, 1),
        ({"rope.scaling.type": "yarn", "rope.scaling.yarn_log_multiplier": 0.1}, 1),
        ({"rope.dimension_count": 32}, 1),
        ({"attention.value_length": 32, "expert_count": 8, "expert_used_count": 2}, 2),
        ({"attention.sliding_window": 4096, "logit_scale": 0.5}, 2),
        ({"block_count": None, "context_length": None}, 2),
        ({"attention.head_count": [4, 4]}, 1),
        ({"attention.head_count": 0}, 1),
        ({"attention.layer_norm_rms_epsilon": None}, 1),
        ({"rope.freq_base": "wide"}, 1),
        ({"vocab_size": VOCAB + 1}, 1),
        ({"vocab_size": [1, 2]}, 1),
        ({"expert_count": [0, 0]}, 1),
        ({"rope.scaling.type": [1, 2]}, 1),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": [2.0, 2.0]}, 1),
        ({"attention.value_length": [64, 64]}, 1),
        ({"block_count": 3}, 18),
        ({"block_count": 2**32 - 1}, 1),
    ],
    ids=str,
)
def test_what_cannot_be_expressed_is_refused_all_at_once(tmp_path, said, problems):
    assert len(refused(write_gguf(tmp_path / "tiny.gguf", arrays(VOCAB), said=said)).value) == problems


def test_tensors_that_do_not_fit_are_named_all_at_once(tmp_path):
    weights = arrays(VOCAB)
    del weights["model.norm.weight"]
    weights["model.layers.0.mlp.up_proj.weight"] = weights["model.layers.0.mlp.up_proj.weight"][:7]
    weights["model.layers.0.self_attn.q_proj.bias"] = np.zeros(EMBED, np.float32)
    weights["model.layers.0.mlp.gate_proj.weight"] = np.zeros((256, 256), np.float64)
    problems = refused(write_gguf(tmp_path / "tiny.gguf", weights)).value
    assert [problem.split()[0] for problem in problems] == [
        "output_norm.weight",
        "blk.0.ffn_gate.weight",
        "blk.0.ffn_up.weight",
        "blk.0.attn_q.bias",
    ]


def test_a_quantization_that_is_not_supported_is_named(tmp_path):
    blocks = np.zeros((256, 136), np.uint8)
    raw = {"blk.0.ffn_up.weight": (blocks, GGMLQuantizationType.IQ4_XS)}
    (problem,) = refused(write_gguf(tmp_path / "tiny.gguf", arrays(VOCAB), raw=raw)).value
    assert problem.startswith("blk.0.ffn_up.weight") and "IQ4_XS" in problem


def test_a_type_that_nobody_knows_is_a_number(plain, tmp_path):
    def change(content):
        at = content.index(b"blk.0.ffn_up.weight") + len(b"blk.0.ffn_up.weight") + 4 + 2 * 8
        return content[:at] + struct.pack("<I", 999) + content[at + 4 :]

    (problem,) = refused(damaged(plain, tmp_path, change)).value
    assert "999" in problem


def test_another_architecture_is_named(plain, tmp_path):
    error = refused(damaged(plain, tmp_path, lambda content: content.replace(b"llama", b"mamba", 1)))
    assert (error.field, error.value) == ("general.architecture", "mamba")


def test_one_of_several_files_is_no_model(tmp_path):
    words = byte_level() | {"split.count": 3}
    error = refused(write_gguf(tmp_path / "tiny.gguf", arrays(VOCAB), words=words))
    assert (error.field, error.value) == ("split.count", 3)
    assert (
        refused(write_gguf(tmp_path / "lists.gguf", {}, words={"split.count": [1, 1]})).field == "split.count"
    )


@pytest.mark.parametrize("size", [0, 3, 4, 7, 16, 23, 24, 31, 100, 700, 5000, 12000, -300_000, -1])
def test_a_file_that_is_cut_off_is_refused(plain, tmp_path, size):
    refused(damaged(plain, tmp_path, lambda content: content[:size]))


@pytest.mark.parametrize(
    "begin",
    [b"GGML" + struct.pack("<I", 3), b"GGUF" + struct.pack("<I", 1), b"GGUF" + struct.pack(">I", 3)],
    ids=["magic", "version", "byte-order"],
)
def test_another_format_is_refused(plain, tmp_path, begin):
    refused(damaged(plain, tmp_path, lambda content: begin + content[8:]))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    refused(tmp_path / "none.gguf")


def after(name: bytes, skip: int, code: str, value: int):
    """Return a change of the number that stands so many bytes after a name."""

    def change(content: bytes) -> bytes:
        at = content.index(name) + len(name) + skip
        return content[:at] + struct.pack(code, value) + content[at + struct.calcsize(code) :]

    return change


@pytest.mark.parametrize(
    "change",
    [
        after(b"GGUF", 4, "<Q", 2**60),
        after(b"GGUF", 12, "<Q", 2**60),
        after(b"general.architecture", 4, "<Q", 2**63),
        after(b"general.architecture", 0, "<I", 77),
        after(b"tokenizer.ggml.tokens", 8, "<Q", 2**60),
        after(b"tokenizer.ggml.tokens", 4, "<I", 9),
        after(b"tokenizer.ggml.token_type", 8, "<Q", 2**60),
        after(b"output_norm.weight", 0, "<I", 2**31),
        after(b"output_norm.weight", 0, "<I", 0),
        after(b"output_norm.weight", 4, "<Q", 2**60),
        after(b"output_norm.weight", 4, "<Q", 0),
        after(b"output_norm.weight", 16, "<Q", 2**60),
        after(b"output_norm.weight", 16, "<Q", 0),
        after(b"token_embd.weight", 12, "<Q", 2**60),
        after(b"token_embd.weight", 4, "<Q", 2**63),
        after(b"llama.block_count", 4, "<I", 2**31),
    ],
    ids=[
        "tensors",
        "values",
        "string",
        "type",
        "words",
        "lists-of-lists",
        "numbers",
        "dimensions",
        "no-dimensions",
        "elements",
        "no-elements",
        "offset",
        "overlap",
        "rows",
        "columns",
        "layers",
    ],
)
def test_counts_that_lie_are_refused(plain, tmp_path, change):
    refused(damaged(plain, tmp_path, change))


def test_more_strings_than_any_model_has_are_refused(plain):
    with pytest.raises(InputError) as caught:
        read_header(plain, most_strings=100)
    assert caught.value.path == plain


def test_a_name_that_is_there_twice_is_refused(plain, tmp_path):
    def change(content: bytes) -> bytes:
        return content.replace(b"blk.0.attn_k.weight", b"blk.0.attn_v.weight", 1)

    refused(damaged(plain, tmp_path, change))


def test_a_file_that_is_cut_off_while_it_is_read_is_refused(plain, tmp_path):
    path = damaged(plain, tmp_path, lambda content: content)
    tensor = read_gguf(path).tensors["model.embed_tokens.weight"]
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(InputError) as caught:
        tensor.read()
    assert caught.value.path == path


@given(st.text(alphabet="The river s37'LIl\n  \U0001f600\xe9", max_size=40))
def test_bytes_lose_nothing_and_never_become_special(text):
    tokenizer = read_tokenizer(byte_level())
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {0, 1, 2, 4} & set(ids)


def test_tokens_of_the_gpt2_kind_keep_their_ids_and_types(tmp_path):
    said = byte_level()
    tokenizer = read_tokenizer(said)
    words = said["tokenizer.ggml.tokens"]
    assert (tokenizer.bos, tokenizer.eos, tokenizer.size) == (1, 2, len(words))
    (thought,) = set(tokenizer.encode("<think>")) & {3}
    assert thought == words.index("<think>")
    assert tokenizer.encode("The") == [words.index("The")]
    assert not set(tokenizer.encode("<|im_start|>[PAD4]<|endoftext|>")) & {0, 1, 2, 4}
    tokenizer.save(tmp_path)
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert [saved.id_to_token(id) for id in range(len(words))] == words
    special = {id for id, token in saved.get_added_tokens_decoder().items() if token.special}
    assert special == {0, 1, 2}


def test_settings_are_kept(tmp_path):
    read_tokenizer(byte_level()).save(tmp_path)
    settings = read_json(tmp_path / "tokenizer_config.json")
    expected = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "chat_template": TEMPLATE,
        "add_bos_token": False,
    }
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["I", "'", "LL", "Ġsay", "Ġ1234", "!", "ĊĊĠ", "Ġso"]),
        ("smollm", ["I", "'", "LL", "Ġsay", "Ġ", "1", "2", "3", "4", "!", "ĊĊĠ", "Ġso"]),
        ("llama-bpe", ["I", "'LL", "Ġsay", "Ġ", "123", "4", "!ĊĊ", "Ġ", "Ġso"]),
        ("qwen2", ["I", "'LL", "Ġsay", "Ġ", "1", "2", "3", "4", "!ĊĊ", "Ġ", "Ġso"]),
        ("tekken", ["I", "'LL", "Ġsay", "Ġ", "1", "2", "3", "4", "!ĊĊ", "Ġ", "Ġso"]),
    ],
)
def test_text_is_cut_as_each_pre_tokenizer_does(tmp_path, pre, pieces):
    read_tokenizer(byte_level() | {"tokenizer.ggml.pre": pre}).save(tmp_path)
    cut = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).pre_tokenizer
    assert [piece for piece, _ in cut.pre_tokenize_str("I'LL say 1234!\n\n  so")] == pieces


def test_words_of_mistral_nemo_end_before_a_capital(tmp_path):
    read_tokenizer(byte_level() | {"tokenizer.ggml.pre": "tekken"}).save(tmp_path)
    cut = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).pre_tokenizer
    pieces = [piece for piece, _ in cut.pre_tokenize_str("likeThisHTTP 12!/\n")]
    assert pieces == ["like", "This", "HTTP", "\u0120", "1", "2", "!/\u010a"]


def test_llama3_begins_a_text_and_takes_a_known_word_whole(tmp_path):
    said = byte_level() | {"tokenizer.ggml.pre": "llama-bpe", "tokenizer.ggml.add_bos_token": None}
    words = [*said["tokenizer.ggml.tokens"], "xyz"]
    said |= {"tokenizer.ggml.tokens": words, "tokenizer.ggml.token_type": None}
    tokenizer = read_tokenizer({name: value for name, value in said.items() if value is not None})
    assert tokenizer.encode("xyz") == [words.index("xyz")]
    tokenizer.save(tmp_path)
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert saved.encode("xyz").ids == [tokenizer.bos, words.index("xyz")]


def by_sentence_piece(text: str, said) -> list[int]:
    """Merge the neighbors whose piece has the best score, the leftmost of equals, until there are none."""
    ids = {word: id for id, word in enumerate(said["tokenizer.ggml.tokens"])}
    scores = said["tokenizer.ggml.scores"]
    pieces = list(text.replace(" ", BLANK))
    while True:
        pairs = ["".join(pair) for pair in zip(pieces, pieces[1:])]
        known = [i for i, pair in enumerate(pairs) if ids.get(pair, 0) > 258]
        if not known:
            break
        best = max(known, key=lambda i: scores[ids[pairs[i]]])
        pieces[best : best + 2] = [pairs[best]]
    made = []
    for piece in pieces:
        found = ids.get(piece)
        made += [found] if found is not None else [3 + byte for byte in piece.encode()]
    return made


@given(st.text(alphabet="The river sola<>/\n  \U0001f600", max_size=40))
def test_the_llama_kind_merges_as_sentence_piece_does(text):
    said = sentence_piece()
    tokenizer = read_tokenizer(said)
    ids = tokenizer.encode(text)
    assert ids == (by_sentence_piece(f" {text}", said) if text else [])
    assert tokenizer.decode(ids) == text
    exact = read_tokenizer(said | {"tokenizer.ggml.add_space_prefix": False})
    assert exact.encode(text) == by_sentence_piece(text, said)
    assert exact.decode(exact.encode(text)) == text


def test_the_llama_kind_spells_its_special_tokens_out_and_begins_a_text(tmp_path):
    said = sentence_piece()
    path = write_gguf(tmp_path / "tiny.gguf", arrays(len(said["tokenizer.ggml.tokens"])), words=said)
    tokenizer = read_gguf(path).tokenizer
    assert tokenizer is not None
    assert not {0, 1, 2} & set(tokenizer.encode("<s></s><unk><0x0A>\U0001f600"))
    assert 3 + 10 not in tokenizer.encode("<0x0A>")
    tokenizer.save(tmp_path)
    saved = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert saved.encode("so").ids[0] == 1 and saved.encode("so").ids[1:] == tokenizer.encode("so")


def test_only_words_of_text_are_merged():
    """`</` and `s>` would be the special `</s>`."""
    merges = merges_of(
        ["</s>", "<", "/", "s", ">", "</", "s>", "<s>"],
        scores=np.array([9, 0, 0, 0, 0, -2, -1, 5], np.float32),
        types=np.array([3, 1, 1, 1, 1, 1, 1, 5]),
    )
    assert merges == [("s", ">"), ("<", "/")]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tokenizer.ggml.model": "bert"}, "tokenizer.ggml.model"),
        ({"tokenizer.ggml.model": None}, "tokenizer.ggml.model"),
        ({"tokenizer.ggml.pre": "command-r"}, "tokenizer.ggml.pre"),
        ({"tokenizer.ggml.pre": "default"}, "tokenizer.ggml.pre"),
        ({"tokenizer.ggml.pre": None}, "tokenizer.ggml.pre"),
        ({"tokenizer.ggml.tokens": None}, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.tokens": ["a"] * 320}, "tokenizer.ggml.tokens"),
        ({"tokenizer.ggml.token_type": np.ones(3, np.int32)}, "tokenizer.ggml.token_type"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["a b c"]}, "tokenizer.ggml.merges"),
        ({"tokenizer.ggml.merges": ["\u2603 \u2603"]}, "tokenizer.ggml.merges"),
        ({"tokenizer.ggml.bos_token_id": None}, "tokenizer.ggml.bos_token_id"),
        ({"tokenizer.ggml.eos_token_id": 2**31}, "tokenizer.ggml.eos_token_id"),
        ({"tokenizer.chat_template": np.zeros(2)}, "tokenizer.chat_template"),
        ({"tokenizer.ggml.pre": np.zeros(2)}, "tokenizer.ggml.pre"),
        ({"tokenizer.ggml.model": np.zeros(2)}, "tokenizer.ggml.model"),
        ({"tokenizer.ggml.add_bos_token": 1}, "tokenizer.ggml.add_bos_token"),
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.scores"),
    ],
    ids=str,
)
def test_a_tokenizer_that_is_not_known_or_does_not_fit_together_is_refused(change, field):
    said = {name: value for name, value in (byte_level() | change).items() if value is not None}
    with pytest.raises(InputError) as caught:
        read_tokenizer(said)
    assert caught.value.field == field


def test_a_score_that_is_no_number_is_refused():
    said = sentence_piece()
    scores = said["tokenizer.ggml.scores"].copy()
    scores[300] = np.nan
    with pytest.raises(InputError) as caught:
        read_tokenizer(said | {"tokenizer.ggml.scores": scores})
    assert caught.value.field == "tokenizer.ggml.scores"


def test_a_tokenizer_with_more_words_than_embeddings_is_refused(tmp_path):
    assert len(refused(write_gguf(tmp_path / "tiny.gguf", arrays(VOCAB - 1))).value) == 1


def test_a_tokenizer_that_is_named_stands_in_for_one_that_is_not_known(tmp_path):
    words = byte_level() | {"tokenizer.ggml.pre": "command-r"}
    path = write_gguf(tmp_path / "tiny.gguf", arrays(VOCAB), words=words)
    refused(path)
    own = read_tokenizer(byte_level())
    assert read_gguf(path, tokenizer=own).tokenizer is own


def test_metadata_are_read_as_they_are_typed(plain):
    header = read_header(plain)
    assert header.metadata["llama.attention.layer_norm_rms_epsilon"] == 1e-5
    assert header.metadata["tokenizer.ggml.add_bos_token"] is False
    assert header.metadata["tokenizer.ggml.token_type"].tolist()[:5] == [3, 3, 3, 4, 5]
