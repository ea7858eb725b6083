"""What is converted opens as a model folder and comes back to the bit, or is refused with nothing left."""

import errno
import json
import os
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from safetensors.numpy import load_file, save_file

import ringworld as rw
from ringworld.artifacts.model_folder import ModelFolder, save_model
from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.errors import InputError
from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import Origin, read_origin
from ringworld.interop.hf_config import hf_config
from ringworld.interop.hf_llama import write_weights
from ringworld.model.extend import add_vision_ids
from tests.inference.tiny_world import ARCHITECTURE, FRAME_TOKENIZER, TOKENIZER, VOCABULARY, make_world
from tests.interop import lwm_checkpoint
from tests.interop.gguf_files import EMBED, TEMPLATE, arrays, byte_level, write_gguf
from tests.model.families import FAMILIES, drawn
from tests.text.chat_templates import TEMPLATES, tokenizer_of

VOCAB = len(byte_level()["tokenizer.ggml.tokens"])
VISION = FRAME_TOKENIZER.codebook_size + 2


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("source") / "tiny.gguf", arrays(VOCAB))


@pytest.fixture(scope="module")
def folder(source):
    return rw.convert(source, out=source.parent / "model")


@pytest.fixture(scope="module")
def frame_tokenizer(tmp_path_factory):
    directory = tmp_path_factory.mktemp("sight") / "frame_tokenizer"
    make_world(ring=1).frame_tokenizer.save(directory)
    return directory


@pytest.fixture(scope="module")
def seeing(tmp_path_factory):
    """A model folder of ours whose model sees."""
    made = make_world(ring=1)
    directory = tmp_path_factory.mktemp("seeing") / "model"
    save_model(
        directory,
        made.model,
        architecture=ARCHITECTURE,
        tokenizers=Tokenizers(text_tokenizer=TOKENIZER, frame_tokenizer=made.frame_tokenizer),
        context_tokens=64,
        generation={"watching": {"max_frames": 3}},
        origin=Origin(kind="model"),
        mesh=made.mesh,
    )
    return directory


def tensors(folder) -> dict[str, np.ndarray]:
    return {name: array for file in folder.glob("*.safetensors") for name, array in load_file(file).items()}


def assert_same_tensors(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def refused(*arguments, **options) -> InputError:
    with pytest.raises(InputError) as caught:
        rw.convert(*arguments, **options)
    return caught.value


def test_a_gguf_file_becomes_a_model_that_speaks(source, folder):
    opened = ModelFolder.open(folder)
    assert (opened.architecture.layers, opened.architecture.kv_heads, opened.context_tokens) == (1, 2, 512)
    assert opened.vocabulary.vision_size == 0
    assert_same_tensors(tensors(folder), arrays(VOCAB))
    assert json.loads((folder / "tokenizer_config.json").read_text())["chat_template"] == TEMPLATE
    origin = read_origin(folder, kind="model")
    assert origin.parents["source"]["path"] == str(source)
    assert origin.identity["weights"] == opened.fingerprint
    world = rw.load(folder)
    assert world.prompts.text("The river").tolist() == opened.tokenizers.text_tokenizer.encode("The river")
    assert isinstance(world.complete("The river", max_new_tokens=2), str)


def test_converting_again_replaces_the_folder(source, tmp_path):
    out = tmp_path / "model"
    out.mkdir()  # nothing is lost
    rw.convert(source, out=out, tokenizer=source.parent / "model")
    (out / "left.txt").write_text("by someone")
    rw.convert(source, out=out)
    assert not (out / "left.txt").exists()


@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_weights_come_back_to_the_bit_in_a_plain_folder(tmp_path, kind):
    path = write_gguf(tmp_path / "tiny.gguf", arrays(VOCAB, tied=True), kind=GGMLQuantizationType[kind])
    ours = rw.convert(path, out=tmp_path / "ours")
    theirs = rw.convert(ours, out=tmp_path / "theirs", to="hf")
    again = rw.convert(theirs, out=tmp_path / "again")
    assert not (theirs / "origin.json").exists()
    for file in ("config.json", "generation_config.json"):
        assert "ringworld" not in json.loads((theirs / file).read_text())
    for found in (theirs, again):
        assert_same_tensors(tensors(found), tensors(ours))
        opened = ModelFolder.open(found)
        assert opened.architecture == ModelFolder.open(ours).architecture and opened.architecture.tied
        assert opened.tokenizers.fingerprint == ModelFolder.open(ours).tokenizers.fingerprint


@pytest.mark.parametrize("to", ["ringworld", "hf"])
def test_weights_are_written_in_the_type_that_is_asked_for(folder, tmp_path, to):
    out = rw.convert(folder, out=tmp_path / "out", to=to, dtype="bfloat16")
    # float32 cut off behind the bits of bfloat16 after half of the last of them, ties to even, was added.
    bits = {name: array.view(np.uint32) for name, array in tensors(folder).items()}
    nearest = {name: (kept + 0x7FFF + (kept >> 16 & 1)) >> 16 for name, kept in bits.items()}
    found = tensors(out)
    assert {array.dtype.name for array in found.values()} == {"bfloat16"}
    assert_same_tensors(
        {name: array.view(np.uint16) for name, array in found.items()},
        {name: kept.astype(np.uint16) for name, kept in nearest.items()},
    )
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    assert ModelFolder.open(out).architecture == ModelFolder.open(folder).architecture
    wide = rw.convert(out, out=tmp_path / "wide", dtype="float32")
    assert_same_tensors(tensors(wide), {name: array.astype(np.float32) for name, array in found.items()})


def test_a_type_that_no_weights_are_stored_in_is_refused(folder, tmp_path):
    assert refused(folder, out=tmp_path / "out", dtype="int8").field == "dtype"
    assert not (tmp_path / "out").exists()


def test_parts_of_a_tensor_make_the_whole(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("ringworld.interop.hf_folder.PART_NUMBERS", 7 * EMBED)
    assert VOCAB % 7
    assert_same_tensors(tensors(rw.convert(folder, out=tmp_path / "out")), tensors(folder))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    """A random Qwen2.5 whose tokenizer names nothing that begins a text, as theirs do not."""
    directory, words = tmp_path_factory.mktemp("qwen"), tokenizer_of("qwen")
    begin, end = (words.get_vocab()[name] for name in ("<|endoftext|>", "<|im_end|>"))
    architecture = replace(FAMILIES["qwen2"], text_vocab=words.get_vocab_size(), vision_vocab=0)
    mesh = mesh_of(MeshConfig())
    with jax.set_mesh(mesh):
        write_weights(directory, drawn(architecture, mesh=mesh), architecture)
    config = hf_config(architecture, context_tokens=512, bos=begin, eos=end)
    del config["ringworld"]
    said = {
        "tokenizer_class": "Qwen2Tokenizer",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "add_bos_token": False,
        "chat_template": TEMPLATES["qwen"],
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer_config.json").write_text(json.dumps(said))
    words.save(str(directory / "tokenizer.json"))
    return directory


def test_a_qwen_whose_bos_is_null_is_converted_loaded_and_chats(qwen, tmp_path):
    ours = rw.convert(qwen, out=tmp_path / "ours")
    plain = rw.convert(ours, out=tmp_path / "plain", to="hf")
    for folder in (ours, plain):
        assert_same_tensors(tensors(folder), tensors(qwen))
        assert (
            ModelFolder.open(folder).tokenizers.fingerprint == ModelFolder.open(qwen).tokenizers.fingerprint
        )
        assert json.loads((folder / "tokenizer_config.json").read_text())["bos_token"] is None
        # Where an empty one stands, transformers does not look at the ends in config.json.
        assert not (folder / "generation_config.json").exists()
    settings = json.loads((plain / "tokenizer_config.json").read_text())
    assert not [name for name in settings if name.startswith("ringworld")]
    world = rw.load(ours)
    begin = json.loads((qwen / "config.json").read_text())["bos_token_id"]
    assert world.prompts.text("").tolist() == [begin]
    assert world.prompts.text("user").tolist() == world.prompts.tokenizer.encode("user")
    chat = world.chat(max_new_tokens=2)
    list(chat.ask("user"))
    assert [message.role for message in chat.messages] == ["user", "assistant"]


def test_what_stands_in_files_of_its_own_comes_along(qwen, tmp_path):
    theirs = shutil.copytree(qwen, tmp_path / "theirs")
    said = json.loads((theirs / "tokenizer_config.json").read_text())
    (theirs / "chat_template.jinja").write_text(said.pop("chat_template"))
    (theirs / "tokenizer_config.json").write_text(json.dumps(said))
    (theirs / "special_tokens_map.json").write_text('{"pad_token": {"content": "<|endoftext|>"}}')
    drawn = {"do_sample": True, "top_k": 20, "eos_token_id": [1, 2], "transformers_version": "4.37.0"}
    (theirs / "generation_config.json").write_text(json.dumps(drawn))
    plain = rw.convert(rw.convert(theirs, out=tmp_path / "ours"), out=tmp_path / "plain", to="hf")
    for folder in (tmp_path / "ours", plain):
        found = json.loads((folder / "tokenizer_config.json").read_text())
        assert (found["chat_template"], found["pad_token"]) == (TEMPLATES["qwen"], "<|endoftext|>")
        assert json.loads((folder / "generation_config.json").read_text()) == drawn
    config = json.loads((plain / "config.json").read_text())
    assert config == json.loads((theirs / "config.json").read_text())


@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_chat_template_that_cannot_be_used_is_refused_and_its_file_named(qwen, tmp_path, file):
    theirs, broken = shutil.copytree(qwen, tmp_path / "theirs"), "{% for %}"
    if file.endswith(".jinja"):
        (theirs / file).write_text(broken)
    else:
        said = json.loads((theirs / file).read_text()) | {"chat_template": broken}
        (theirs / file).write_text(json.dumps(said))
    error = refused(theirs, out=tmp_path / "out")
    assert (error.field, error.path) == ("chat_template", theirs / file)
    assert not (tmp_path / "out").exists()


def test_a_chat_template_in_a_gguf_file_is_refused_by_that_file(tmp_path):
    words = byte_level() | {"tokenizer.chat_template": "{{ ''.__class__.__mro__ }}"}
    path = write_gguf(tmp_path / "tiny.gguf", arrays(VOCAB), words=words)
    assert refused(path, out=tmp_path / "out").path == path


def test_all_that_is_wrong_with_a_folder_is_said_at_once(qwen, tmp_path):
    theirs = shutil.copytree(qwen, tmp_path / "theirs")
    held = tensors(theirs)
    del held["model.norm.weight"]
    save_file(held, theirs / "model.safetensors")
    (theirs / "generation_config.json").write_text("{")
    (theirs / "tokenizer.json").unlink()
    error = refused(theirs, out=tmp_path / "out")
    assert (error.path, len(error.value)) == (theirs, 3)
    (theirs / "config.json").write_text("{")
    assert len(refused(theirs, out=tmp_path / "out").value) == 3
    damaged = shutil.copytree(qwen, tmp_path / "damaged")
    (damaged / "config.json").write_text("{")
    assert refused(damaged, out=tmp_path / "out").path == damaged / "config.json"


@pytest.mark.parametrize("ours", [[1], {"sampling": {"text": {"temperature": -1.0}}}], ids=str)
def test_defaults_that_could_not_be_loaded_are_refused(folder, tmp_path, ours):
    shutil.copytree(folder, tmp_path / "edited")
    (tmp_path / "edited/generation_config.json").write_text(json.dumps({"ringworld": ours}))
    error = refused(tmp_path / "edited", out=tmp_path / "out")
    assert error.path == tmp_path / "edited/generation_config.json"
    assert [path.name for path in tmp_path.iterdir()] == ["edited"]


def test_float64_becomes_float32_and_the_configuration_says_so(qwen, tmp_path):
    for name in ("dtype", "torch_dtype"):
        theirs = shutil.copytree(qwen, tmp_path / name / "theirs")
        config = json.loads((theirs / "config.json").read_text())
        del config["torch_dtype"]
        (theirs / "config.json").write_text(json.dumps(config | {name: "float64"}))
        held = tensors(theirs)
        save_file(
            {key: array.astype(np.float64) for key, array in held.items()}, theirs / "model.safetensors"
        )
        out = rw.convert(theirs, out=tmp_path / name / "out", to="hf")
        assert_same_tensors(tensors(out), held)
        config = json.loads((out / "config.json").read_text())
        assert config["torch_dtype"] == "float32" and "dtype" not in config


def test_a_head_beside_a_tied_one_and_float64_are_left_behind(folder, tmp_path):
    theirs = tmp_path / "theirs"
    shutil.copytree(folder, theirs)
    config = json.loads((theirs / "config.json").read_text()) | {"tie_word_embeddings": True}
    (theirs / "config.json").write_text(json.dumps(config))
    held = tensors(theirs)
    wide = held | {"model.norm.weight": held["model.norm.weight"].astype(np.float64)}
    save_file(wide, theirs / "model.safetensors")
    out = rw.convert(theirs, out=tmp_path / "out")
    del held["lm_head.weight"]
    assert_same_tensors(tensors(out), held)


@pytest.mark.parametrize("tied", [False, True], ids=["own-head", "tied-head"])
@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_ids_of_vision_begin_at_the_mean_of_the_others(tmp_path, frame_tokenizer, kind, tied):
    """Of numbers below 0.3 the sum of VOCAB is off by VOCAB roundings at most, then the mean is rounded."""
    path = write_gguf(tmp_path / "tiny.gguf", arrays(VOCAB, tied=tied), kind=GGMLQuantizationType[kind])
    before = tensors(rw.convert(path, out=tmp_path / "text"))
    out = rw.convert(path, out=tmp_path / "seeing", add_vision=frame_tokenizer)
    after = tensors(out)
    for name, old in before.items():
        np.testing.assert_array_equal(after[name][: len(old)], old)
    for name in {"model.embed_tokens.weight", "lm_head.weight"} & before.keys():
        old, new = before[name], after[name][VOCAB:]
        assert new.shape == (VISION, old.shape[1])
        mean = old.astype(np.float64).mean(axis=0)
        rounding = {"F32": 2**-24, "F16": 2**-11, "BF16": 2**-8}[kind]
        bound = VOCAB * 2**-24 * np.abs(old.astype(np.float64)).max() + rounding * np.abs(mean)
        assert (np.abs(new.astype(np.float64) - mean) <= bound).all()
    opened = ModelFolder.open(out)
    assert (opened.vocabulary.text_size, opened.vocabulary.codes) == (VOCAB, FRAME_TOKENIZER.codebook_size)
    assert opened.architecture.vision_vocab == VISION


def test_ids_of_vision_are_those_that_training_would_add(folder, frame_tokenizer, tmp_path):
    mesh = mesh_of(MeshConfig())
    with jax.set_mesh(mesh):
        trained = add_vision_ids(ModelFolder.open(folder).read_weights(mesh), ids=VISION)
    converted = ModelFolder.open(rw.convert(folder, out=tmp_path / "out", add_vision=frame_tokenizer.parent))
    # Sums of VOCAB float32 numbers below 0.3, in another order.
    for ours, theirs in zip(jax.tree.leaves(converted.read_weights(mesh)), jax.tree.leaves(trained)):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), rtol=0, atol=VOCAB * 2**-24)


def test_a_model_that_sees_is_kept_whole(seeing, tmp_path):
    out = rw.convert(seeing, out=tmp_path / "out")
    opened, before = ModelFolder.open(out), ModelFolder.open(seeing)
    assert (opened.vocabulary, opened.generation) == (VOCABULARY, {"watching": {"max_frames": 3}})
    assert opened.tokenizers.fingerprint == before.tokenizers.fingerprint
    assert_same_tensors(tensors(out), tensors(seeing))


def test_a_plain_folder_of_a_model_that_sees_is_asked_for_by_dropping_vision(seeing, tmp_path):
    error = refused(seeing, out=tmp_path / "out", to="hf")
    assert (error.field, error.path) == ("to", seeing)
    out = rw.convert(seeing, out=tmp_path / "out", to="hf", vision="drop")
    text = VOCABULARY.text_size
    for name, array in tensors(out).items():
        whole = tensors(seeing)[name]
        vocab_first = name in ("model.embed_tokens.weight", "lm_head.weight")
        np.testing.assert_array_equal(array, whole[:text] if vocab_first else whole)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == text
    assert not (out / "frame_tokenizer").exists()


def test_a_model_that_sees_takes_another_frame_tokenizer_where_its_ids_suffice(
    seeing, frame_tokenizer, tmp_path
):
    kept = rw.convert(seeing, out=tmp_path / "kept", add_vision=frame_tokenizer)
    assert_same_tensors(tensors(kept), tensors(seeing))
    config = json.loads((seeing / "config.json").read_text())
    narrow = shutil.copytree(seeing, tmp_path / "narrow")
    config["ringworld"] = {"text_vocab": config["vocab_size"] - 1}
    (narrow / "config.json").write_text(json.dumps(config))
    error = refused(narrow, out=tmp_path / "out", add_vision=frame_tokenizer)
    assert (error.field, error.path) == ("add_vision", narrow)


def test_a_tokenizer_that_is_named_is_used_and_must_fit(source, tmp_path):
    TOKENIZER.save(tmp_path / "words")
    opened = ModelFolder.open(rw.convert(source, out=tmp_path / "out", tokenizer=tmp_path / "words"))
    assert opened.tokenizers.text_tokenizer.fingerprint == TOKENIZER.fingerprint
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (TOKENIZER.bos, TOKENIZER.eos)
    small = write_gguf(tmp_path / "small.gguf", arrays(TOKENIZER.size - 1))
    assert refused(small, out=tmp_path / "out2", tokenizer=tmp_path / "words").path == small
    assert not (tmp_path / "out2").exists()


def test_a_source_of_no_known_kind_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "empty").mkdir()
    for name in ("notes.txt", "empty", "none"):
        error = refused(tmp_path / name, out=tmp_path / "out")
        assert (error.field, error.path) == ("source", tmp_path / name)


def test_a_gguf_file_is_known_by_its_first_bytes_too(source, tmp_path):
    shutil.copy(source, tmp_path / "blob")
    assert ModelFolder.open(rw.convert(tmp_path / "blob", out=tmp_path / "out"))


def test_nothing_that_stands_elsewhere_is_replaced(source, folder, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    for out, to in ((tmp_path / "mine", "ringworld"), (tmp_path / "mine", "hf"), (folder, "hf")):
        assert refused(source, out=out, to=to).path == out
    assert refused(source, out=source.parent).field == "out"
    assert refused(folder, out=folder).field == "out"
    assert source.exists() and ModelFolder.open(folder)


def test_nothing_half_written_is_left(source, tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ringworld.artifacts.model_folder.write_origin", full)
    assert refused(source, out=tmp_path / "out").path == tmp_path / "out"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "dtype"), [(np.nan, None), (-np.inf, None), (3.4e38, "bfloat16")])
def test_weights_that_are_not_numbers_are_refused(tmp_path, number, dtype):
    weights = {name: array.copy() for name, array in arrays(VOCAB).items()}
    weights["model.layers.0.mlp.down_proj.weight"][-1, -1] = number
    source = write_gguf(tmp_path / "tiny.gguf", weights)
    assert refused(source, out=tmp_path / "out", dtype=dtype).path == source
    assert list(tmp_path.iterdir()) == [source]


@pytest.fixture(scope="module")
def of_lwm(tmp_path_factory):
    """A checkpoint of LWM, which has room for the ids of a tiny world, and as many of vision as LWM."""
    sizes = {"layers": 2, "embed": 16, "mlp": 16, "text": VOCABULARY.text_size, "vision": 12}
    return lwm_checkpoint.write(
        tmp_path_factory.mktemp("lwm") / "streaming_params", lwm_checkpoint.draw(**sizes)
    )


def test_a_checkpoint_of_lwm_becomes_a_model_that_sees(of_lwm, seeing, frame_tokenizer, tmp_path):
    options = {"context_tokens": 128, "heads": 2, "tokenizer": seeing, "add_vision": frame_tokenizer}
    folder = rw.convert(of_lwm, out=tmp_path / "model", **options)
    opened = ModelFolder.open(folder)
    assert (opened.context_tokens, opened.architecture.heads) == (128, 2)
    assert (opened.vocabulary.code_offset, opened.architecture.vision_vocab) == (VOCABULARY.text_size, 12)
    assert opened.tokenizers.text_tokenizer.fingerprint == TOKENIZER.fingerprint
    assert rw.load(folder).draw("A red circle.", frames=2).shape == (2, 4, 4, 3)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"tokenizer": True}, "context_tokens"),
        ({"context_tokens": 64, "heads": 2}, "tokenizer"),
        ({"context_tokens": 0, "heads": 2, "tokenizer": True}, "context_tokens"),
    ],
)
def test_what_a_checkpoint_of_lwm_does_not_say_must_be_given(of_lwm, seeing, tmp_path, options, field):
    if "tokenizer" in options:
        options = options | {"tokenizer": seeing}
    with pytest.raises(InputError) as caught:
        rw.convert(of_lwm, out=tmp_path / "model", **options)
    assert caught.value.field == field
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "option", [{"context_tokens": 64}, {"rope_base": 1e4}, {"heads": 2}, {"resolution": 4}], ids=str
)
def test_what_other_models_say_themselves_is_not_overridden(source, tmp_path, option):
    with pytest.raises(InputError) as caught:
        rw.convert(source, out=tmp_path / "model", **option)
    assert caught.value.field in option
