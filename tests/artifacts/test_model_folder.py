"""A model folder comes back as it was saved, whatever the mesh, and says what is wrong with it."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from ringworld.api.load import ModelDefaults
from ringworld.artifacts.model_folder import ModelFolder, is_saved, save_model
from ringworld.artifacts.tokenizers import Tokenizers
from ringworld.core.errors import InputError
from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import Origin
from ringworld.inference.config import SamplingDefaults
from ringworld.model.config import Rope
from tests.inference.tiny_world import ARCHITECTURE, TOKENIZER, VOCABULARY, make_world

MADE = dataclasses.replace(ARCHITECTURE, rope=Rope(base=2e5))
ORIGIN = Origin(kind="model", identity={"step": 7})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    made = make_world(ring=2)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(
        folder,
        made.model,
        architecture=MADE,
        tokenizers=Tokenizers(text_tokenizer=TOKENIZER, frame_tokenizer=made.frame_tokenizer),
        context_tokens=96,
        generation={"watching": {"max_frames": 3}},
        origin=ORIGIN,
        mesh=made.mesh,
    )
    return folder


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.mark.parametrize("axes", [{}, {"ring": 4}, {"fsdp": 2, "tensor": 1}], ids=str)
def test_everything_comes_back_on_any_mesh(saved, axes):
    folder, made = ModelFolder.open(saved), make_world(ring=2)
    assert (folder.architecture, folder.vocabulary, folder.context_tokens) == (MADE, VOCABULARY, 96)
    assert folder.tokenizers.fingerprint == {
        "text_tokenizer": TOKENIZER.fingerprint,
        "frame_tokenizer": made.frame_tokenizer.fingerprint,
    }
    assert folder.generation == {"watching": {"max_frames": 3}}
    model = folder.read_weights(mesh_of(MeshConfig(**axes)))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), model, made.model)


@pytest.mark.parametrize(
    ("written", "more"),
    [(5, [5]), ([7, 5], [7, 5]), ([TOKENIZER.eos, "x", True, -1, 2**40], []), (None, []), ("x", [])],
    ids=str,
)
def test_every_end_that_a_folder_names_ends_a_text(copy, written, more):
    file = copy / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": written}))
    assert list(ModelFolder.open(copy).ends) == [TOKENIZER.eos, *more]


@pytest.mark.parametrize(
    ("said", "text", "answer"),
    [
        ({"do_sample": True, "top_p": 0.9, "top_k": 20}, (1.0, 0.9, 20, 1.0), (1.0, 0.9, 20, 1.0)),
        ({"do_sample": True, "temperature": 0.6, "top_p": None}, (0.6, 1.0, 0, 1.0), (0.6, 1.0, 0, 1.0)),
        # Without do_sample transformers is greedy, and heeds the penalty alone.
        ({"temperature": 0.6, "repetition_penalty": 1.1}, (1.0, 1.0, 0, 1.1), (0.0, 1.0, 0, 1.1)),
    ],
    ids=str,
)
def test_a_folder_of_transformers_says_how_text_is_drawn(copy, said, text, answer):
    file = copy / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": 2, **said}))
    sampling = ModelDefaults.of(ModelFolder.open(copy).generation, folder=copy).sampling
    found = [
        (one.temperature, one.top_p, one.top_k, one.repetition_penalty)
        for one in (sampling.text, sampling.answer)
    ]
    assert found == [text, answer]
    file.write_text(json.dumps({**said, "ringworld": {"watching": {"max_frames": 3}}}))
    assert ModelDefaults.of(ModelFolder.open(copy).generation, folder=copy).sampling == SamplingDefaults()


def test_a_model_that_is_saved_already_is_recognized(saved):
    assert is_saved(saved, ORIGIN)
    assert not is_saved(saved, dataclasses.replace(ORIGIN, identity={"step": 8}))
    assert not is_saved(saved.parent / "none", ORIGIN)


@pytest.mark.parametrize("part", ["config.json", "model.safetensors", "tokenizer.json", "origin.json"])
def test_a_model_that_lacks_a_part_is_saved_again(copy, part):
    assert is_saved(copy, ORIGIN)
    (copy / part).unlink()
    assert not is_saved(copy, ORIGIN)


def test_a_folder_without_frames_is_a_model_of_text(copy):
    shutil.rmtree(copy / "frame_tokenizer")
    folder = ModelFolder.open(copy)
    assert folder.tokenizers.frame_tokenizer is None
    assert folder.vocabulary.codes == 0


def test_a_folder_of_others_has_no_origin(copy):
    (copy / "origin.json").unlink()
    (copy / "generation_config.json").unlink()
    folder = ModelFolder.open(copy)
    assert (folder.origin, folder.generation) == (None, {})


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("config.json", {"max_position_embeddings": "4096"}),
        ("config.json", {"max_position_embeddings": 1e400}),
        ("config.json", {"max_position_embeddings": None}),
        ("config.json", {"max_position_embeddings": -1}),
        ("config.json", {"max_position_embeddings": 2**70}),
        ("config.json", {"ringworld": [1]}),
        ("config.json", {"ringworld": {"text_vocab": "40"}}),
        ("config.json", {"ringworld": {"text_vocab": -1}}),
        ("config.json", {"ringworld": {"text_vocab": 10**9}}),
        ("config.json", {"num_hidden_layers": True}),
        ("config.json", {"num_hidden_layers": 0}),
        ("config.json", {"rope_parameters": 3}),
        ("config.json", {"rms_norm_eps": "small"}),
        ("config.json", {"rms_norm_eps": 10**400}),
        ("config.json", {"num_hidden_layers": 10**12}),
        ("config.json", {"rope_theta": 10**400, "rope_parameters": None}),
        ("config.json", {"rope_parameters": {"rope_type": "default", "rope_theta": 10**400}}),
        ("frame_tokenizer/config.json", {"num_vq_embeddings": 10**12}),
        ("frame_tokenizer/config.json", {"block_out_channels": [10**9, 10**9]}),
        ("frame_tokenizer/config.json", {"layers_per_block": 10**12}),
        ("generation_config.json", {"ringworld": [1]}),
    ],
)
def test_values_that_mean_nothing_are_refused_with_their_file(copy, file, change):
    described = json.loads((copy / file).read_text())
    (copy / file).write_text(json.dumps(described | change))
    with pytest.raises(InputError) as refused:
        ModelFolder.open(copy)
    assert refused.value.path == copy / file


def test_a_list_where_defaults_of_generation_should_be_is_refused(copy):
    (copy / "generation_config.json").write_text("[]")
    with pytest.raises(InputError) as refused:
        ModelFolder.open(copy)
    assert refused.value.path == copy / "generation_config.json"


def test_other_weights_of_others_have_another_fingerprint(copy):
    (copy / "origin.json").unlink()
    before = ModelFolder.open(copy).fingerprint
    with (copy / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"!")
    assert ModelFolder.open(copy).fingerprint != before


def test_a_fingerprint_that_was_edited_is_refused(copy):
    file = copy / "origin.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"identity": {"weights": 3}}))
    with pytest.raises(InputError) as refused:
        assert ModelFolder.open(copy).fingerprint
    assert refused.value.path == file


@pytest.mark.parametrize("damage", ["config.json", "tokenizer.json", "origin.json"])
def test_a_damaged_part_is_named(copy, damage):
    (copy / damage).write_text("{")
    with pytest.raises(InputError) as refused:
        ModelFolder.open(copy)
    assert refused.value.path == copy / damage


def test_a_tokenizer_of_another_model_is_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    config["ringworld"]["text_vocab"] = TOKENIZER.size - 1
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError) as refused:
        ModelFolder.open(copy)
    assert refused.value.field == "model.text_vocab"


def test_a_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(InputError) as refused:
        ModelFolder.open(tmp_path)
    assert refused.value.path == tmp_path
