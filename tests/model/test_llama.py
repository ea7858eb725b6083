import json
import shutil
from functools import partial

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.model.config import ModelConfig
from ringworld.model.llama import export_llama, import_llama
from ringworld.model.world_model import WorldModel

# embed, mlp and vocab are equal, so that a matrix which should be turned and is not has the right shape.
CONFIG = ModelConfig(
    layers=2, embed=32, heads=4, kv_heads=2, head=8, mlp=32, text_vocab=20, vision_vocab=12, rope_base=5e5
)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(fsdp=2, tensor=2), devices=jax.devices()[:4])


@pytest.fixture(scope="module")
def original(tmp_path_factory, mesh):
    with jax.set_mesh(mesh):
        model = jax.jit(partial(WorldModel.init, CONFIG))(key=jax.random.key(0))
    directory = tmp_path_factory.mktemp("exported")
    export_llama(model, directory, config=CONFIG, context_tokens=128)
    return directory, model


@pytest.fixture
def exported(tmp_path, original):
    """A copy that a test may damage."""
    shutil.copytree(original[0], tmp_path, dirs_exist_ok=True)
    return tmp_path, original[1]


def change_config(directory, **change):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def change_tensors(directory, change):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def assert_same(model, want):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), model, want)


def test_comes_back_as_it_was_written(exported, mesh):
    directory, model = exported
    with jax.set_mesh(mesh):
        imported = import_llama(directory)
    assert imported.config == CONFIG
    assert_same(imported.model, model)
    assert jax.tree.map(lambda x: x.sharding, imported.model) == jax.tree.map(lambda x: x.sharding, model)


def test_names_the_rotary_base_for_both_transformers(exported):
    config = json.loads((exported[0] / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 5e5


def test_weights_are_out_by_in(exported):
    directory, model = exported
    tensors, layers = load_file(directory / "model.safetensors"), jax.tree.map(np.asarray, model.layers)
    np.testing.assert_array_equal(tensors["model.layers.1.mlp.gate_proj.weight"], layers.mlp.gate[1].T)
    np.testing.assert_array_equal(
        tensors["model.layers.1.self_attn.k_proj.weight"][8:16], layers.attention.wk[1, :, 1, :].T
    )


def test_reads_several_files_in_bfloat16_with_tied_head_and_no_vision(exported, mesh):
    directory, model = exported
    tensors = load_file(directory / "model.safetensors")
    tensors = {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items() if k != "lm_head.weight"}
    (directory / "model.safetensors").unlink()
    files = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, directory / file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    config = json.loads((directory / "config.json").read_text())
    del config["ringworld_text_vocab"], config["rope_parameters"]
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with jax.set_mesh(mesh):
        imported = import_llama(directory)
    assert (imported.config.text_vocab, imported.config.vision_vocab) == (32, 0)
    assert imported.config.rope_base == 5e5
    rounded = np.asarray(model.embed).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(imported.model.embed, rounded)
    np.testing.assert_array_equal(imported.model.head, rounded.T)


def test_names_every_problem_at_once(exported, mesh):
    directory, _ = exported

    def damage(tensors):
        del tensors["model.norm.weight"]
        tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((3, 4), np.float32)
        tensors["model.layers.7.mlp.up_proj.weight"] = np.zeros((3, 4), np.float32)
        tensors["lm_head.weight"] = np.zeros((32, 32), np.int8)

    change_tensors(directory, damage)
    with jax.set_mesh(mesh), pytest.raises(InputError) as caught:
        import_llama(directory)
    for problem in (
        "model.norm.weight is missing",
        "model.layers.0.mlp.up_proj.weight has shape (3, 4), expected (32, 32)",
        "model.layers.7.mlp.up_proj.weight is unknown",
        "lm_head.weight is stored as I8",
    ):
        assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"attention_bias": True, "hidden_act": "gelu"}, "attention_bias is True.*hidden_act is 'gelu'"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, "scaled by 'llama3'"),
        ({"num_key_value_heads": 3}, "kv_heads"),
        ({"hidden_size": "wide"}, "not a number"),
        ({"num_attention_heads": 0}, "heads"),
        ({"rope_parameters": ["default"]}, "RoPE is described by a list"),
        ({"model_type": "mamba"}, "mamba"),
    ],
    ids=str,
)
def test_refuses_what_it_cannot_run(exported, mesh, change, named):
    change_config(exported[0], **change)
    with jax.set_mesh(mesh), pytest.raises(InputError, match=named):
        import_llama(exported[0])


def test_refuses_a_truncated_file_and_a_way_out_of_the_folder(exported, mesh):
    directory, _ = exported
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with jax.set_mesh(mesh), pytest.raises(InputError, match="model.safetensors cannot be read"):
        import_llama(directory)
    path.unlink()
    (directory / "model.safetensors.index.json").write_text('{"weight_map": [3]}')
    with jax.set_mesh(mesh), pytest.raises(InputError, match="weight_map of .*index.json: got list"):
        import_llama(directory)
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"lm_head.weight": "../secret.safetensors"}})
    )
    with jax.set_mesh(mesh), pytest.raises(InputError, match="not a safetensors file of this folder"):
        import_llama(directory)
