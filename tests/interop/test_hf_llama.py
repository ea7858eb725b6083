import json
import shutil
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ringworld.attention.config import AttentionConfig
from ringworld.core.errors import InputError
from ringworld.core.files import write_json_atomic
from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.interop.hf_config import hf_config, longest_context, read_architecture
from ringworld.interop.hf_llama import read_generation_weights, read_weights, write_weights
from ringworld.model.config import Architecture, Execution, Linear, Llama3, Rope, Yarn
from ringworld.model.decode import GenerationWeights, target_losses
from ringworld.model.forward import Forward
from ringworld.model.weights import Int8Weight
from ringworld.model.world_model import WorldModel
from tests.model.families import FAMILIES, drawn

# embed, mlp and vocab are equal, so that a matrix which should be transposed and is not has the right shape.
ARCHITECTURE = Architecture(
    layers=3,
    embed=32,
    heads=4,
    kv_heads=2,
    head=8,
    mlp=32,
    text_vocab=20,
    vision_vocab=12,
    rope=Rope(base=5e5),
)

SLIDING = {"use_sliding_window": True, "sliding_window": 8}


@pytest.fixture(scope="module")
def mesh():
    return mesh_of(MeshConfig(fsdp=2, tensor=2))


@pytest.fixture(scope="module")
def original(tmp_path_factory, mesh):
    with jax.set_mesh(mesh):
        model = jax.jit(partial(WorldModel.init, ARCHITECTURE))(key=jax.random.key(0))
        # Norms begin at one, which would hide a norm read from the wrong place.
        model = jax.tree.map(lambda x: x + jnp.arange(x.size, dtype=x.dtype).reshape(x.shape) / x.size, model)
        folder = tmp_path_factory.mktemp("written")
        write_weights(folder, model, ARCHITECTURE)
    write_json_atomic(folder / "config.json", hf_config(ARCHITECTURE, context_tokens=128, bos=1, eos=2))
    return folder, model


@pytest.fixture
def written(tmp_path, original):
    """A copy that a test may damage."""
    shutil.copytree(original[0], tmp_path, dirs_exist_ok=True)
    return tmp_path, original[1]


def _is_int8(leaf: object) -> bool:
    return isinstance(leaf, Int8Weight)


def change_config(folder, **change):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def change_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def assert_same(model, want):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), model, want)


def read(folder, mesh):
    with jax.set_mesh(mesh):
        return read_weights(folder, read_architecture(folder))


def test_comes_back_as_it_was_written(written, mesh):
    folder, model = written
    assert read_architecture(folder) == ARCHITECTURE
    again = read(folder, mesh)
    assert_same(again, model)
    assert jax.tree.map(lambda x: x.sharding, again) == jax.tree.map(lambda x: x.sharding, model)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_is_read_ready_for_inference_as_masters_are_made_ready(written, mesh, compute):
    folder, model = written
    with jax.set_mesh(mesh):
        ready = read_generation_weights(folder, read_architecture(folder), compute=compute)
        made = GenerationWeights.from_model(model, compute=compute)
    assert_same(ready, made)
    assert jax.tree.map(lambda x: (x.dtype, x.sharding), ready) == jax.tree.map(
        lambda x: (x.dtype, x.sharding), made
    )


@pytest.mark.parametrize("name", ["llama-tied", "qwen2"])
def test_int8_weights_score_as_the_numbers_that_they_stand_for(tmp_path, mesh, name):
    architecture = FAMILIES[name]
    model = drawn(architecture, mesh=mesh)

    def losses(weights: GenerationWeights) -> np.ndarray:
        rows = np.tile(np.arange(32, dtype=np.int32), (2, 1))
        order = jax.device_put(rows, jax.NamedSharding(mesh, spec("batch", "seq")))
        forward = Forward.of(architecture, Execution(attention=AttentionConfig(layout="contiguous")))
        first = jnp.zeros_like(order)
        return np.asarray(target_losses(weights, order, order, order=order, first=first, forward=forward))

    with jax.set_mesh(mesh):
        write_weights(tmp_path, model, architecture)
        rounded = read_generation_weights(tmp_path, architecture, compute="float32", weights="int8")
        is_int8 = [isinstance(leaf, Int8Weight) for leaf in jax.tree.leaves(rounded, is_leaf=_is_int8)]
        assert sum(is_int8) == 1 + 7 * architecture.layers
        meant = jax.tree.map(lambda w: w.to("float32") if _is_int8(w) else w, rounded, is_leaf=_is_int8)
        made = GenerationWeights.from_model(model, compute="float32")
        for close, exact in zip(jax.tree.leaves(meant), jax.tree.leaves(made), strict=True):
            half_a_step = np.abs(exact).max() / 254
            np.testing.assert_allclose(close, exact, rtol=0, atol=half_a_step * (1 + 1e-5))
        wanted, found = losses(meant), losses(rounded)
    # Two ways to one number through some 60 roundings, of scores up to 4.
    np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_weights_may_be_kept_in_another_type_than_is_computed_in(written, mesh, weights):
    folder, model = written
    with jax.set_mesh(mesh):
        ready = read_generation_weights(folder, ARCHITECTURE, compute="bfloat16", weights=weights)
        assert_same(ready, GenerationWeights.from_model(model, compute=weights))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_back_as_it_was_written(tmp_path, mesh, name):
    architecture = FAMILIES[name]
    model = drawn(architecture, mesh=mesh)
    with jax.set_mesh(mesh):
        write_weights(tmp_path, model, architecture)
        config = hf_config(architecture, context_tokens=128, bos=1, eos=2)
        write_json_atomic(tmp_path / "config.json", config)
        assert read_architecture(tmp_path) == architecture
        assert_same(read_weights(tmp_path, architecture), model)
        ready = read_generation_weights(tmp_path, architecture, compute="float32")
        assert_same(ready, GenerationWeights.from_model(model, compute="float32"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_type": "mixtral"}, "model_type"),
        ({**SLIDING, "model_type": "qwen2", "max_window_layers": 2}, "use_sliding_window"),
        ({**SLIDING, "model_type": "qwen3", "max_window_layers": None}, "use_sliding_window"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"layer_types": {"0": "sliding_attention"}}, "layer_types"),
        ({**SLIDING, "model_type": "mistral", "layer_types": ["full_attention"] * 3}, "layer_types"),
        ({"model_type": "qwen2", "dual_chunk_attention_config": {"local_size": 8}}, "dual_chunk_attention"),
    ],
)
def test_what_a_family_does_otherwise_is_refused(written, change, named):
    change_config(written[0], **change)
    with pytest.raises(InputError) as caught:
        read_architecture(written[0])
    assert any(named in problem for problem in caught.value.value)


@pytest.mark.parametrize(
    "change",
    [
        {"use_sliding_window": True},  # from layer 28 on
        {"use_sliding_window": True, "max_window_layers": 3},
        {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": None},
        {"use_sliding_window": True, "max_window_layers": 0, "layer_types": ["full_attention"] * 3},
        {"use_sliding_window": False, "max_window_layers": 0, "sliding_window": 64},
    ],
    ids=str,
)
def test_a_qwen_none_of_whose_layers_slides_is_read(written, change):
    change_config(written[0], model_type="qwen2", sliding_window=4096)
    change_config(written[0], **change)
    assert read_architecture(written[0]).window_tokens == 0


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        # Qwen2.5-7B-Instruct-1M.
        ({"max_position_embeddings": 1_010_000, "dual_chunk_attention_config": {"chunk_size": 2**18}}, 2**18),
        ({"max_position_embeddings": 4096, "dual_chunk_attention_config": {"chunk_size": 2**18}}, 4096),
        # As the pages of Qwen2.5 and Qwen3 say for long texts.
        (
            {
                "max_position_embeddings": 40_960,
                "rope_scaling": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32_768,
                },
            },
            131_072,
        ),
        # Llama 3.1, whose factor is not by how much the context grew.
        (
            {
                "max_position_embeddings": 131_072,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 32.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            },
            131_072,
        ),
    ],
    ids=["chunks", "within a chunk", "yarn", "llama3"],
)
def test_the_context_is_the_one_that_this_attention_is_right_for(written, said, tokens):
    change_config(written[0], model_type="qwen2", rope_parameters=None, rope_theta=1e6, **said)
    read_architecture(written[0])
    assert longest_context(json.loads((written[0] / "config.json").read_text())) == tokens


def test_what_a_config_leaves_out_is_as_transformers_has_it(written):
    folder, _ = written
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "mistral"}
    del config["sliding_window"]
    write_json_atomic(folder / "config.json", config)
    assert read_architecture(folder).window_tokens == 4096


def test_is_read_onto_another_mesh(written):
    folder, model = written
    assert_same(read(folder, mesh_of(MeshConfig(ring=4, fsdp=2))), model)


def test_files_of_bounded_size_come_back_too(written, mesh, tmp_path):
    _, model = written
    folder = tmp_path / "sharded"
    folder.mkdir()
    shutil.copy(tmp_path / "config.json", folder)
    with jax.set_mesh(mesh):
        write_weights(folder, model, ARCHITECTURE, largest_file_bytes=2**13)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 3 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert max(path.stat().st_size for path in folder.glob("*.safetensors")) < 2**13 + 2**12
    assert_same(read(folder, mesh), model)


@pytest.mark.parametrize(
    "scaling",
    [None, Linear(factor=4.0), Llama3(factor=8.0), Yarn(factor=4.0, original_context_tokens=64)],
    ids=lambda scaling: type(scaling).__name__,
)
def test_rope_comes_back_and_is_named_for_both_transformers(tmp_path, scaling):
    rope = Rope(base=5e5, scaling=scaling)
    architecture = Architecture(
        layers=1, embed=8, heads=2, kv_heads=1, head=4, mlp=8, text_vocab=8, rope=rope
    )
    config = hf_config(architecture, context_tokens=256, bos=1, eos=2)
    write_json_atomic(tmp_path / "config.json", config)
    assert read_architecture(tmp_path) == architecture
    assert config["rope_theta"] == config.pop("rope_parameters")["rope_theta"] == 5e5
    write_json_atomic(tmp_path / "config.json", config)
    assert read_architecture(tmp_path) == architecture


def test_rope_scaling_that_was_added_to_a_folder_of_transformers_5_is_heeded(written):
    added = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    change_config(written[0], rope_scaling=added)
    scaling = Yarn(factor=4.0, original_context_tokens=32)
    assert read_architecture(written[0]).rope == Rope(base=5e5, scaling=scaling)


@pytest.mark.parametrize("kind", ["type", "rope_type"])
@pytest.mark.parametrize(
    ("said", "scaling"),
    [
        # As in Llama 3.1 to 3.3, whose context is 131,072.
        (
            {
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            Llama3(factor=8.0, original_context_tokens=8192),
        ),
        # As the page of Qwen2.5 says for long texts.
        (
            {"factor": 4.0, "original_max_position_embeddings": 32768},
            Yarn(factor=4.0, original_context_tokens=32768),
        ),
        ({"factor": 4.0}, Linear(factor=4.0)),
        ({}, None),
    ],
    ids=["llama3", "yarn", "linear", "default"],
)
def test_folders_of_transformers_4_describe_rope_under_another_key(written, kind, said, scaling):
    folder, _ = written
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    named = "default" if scaling is None else type(scaling).__name__.lower()
    config |= {"rope_theta": 1e6, "rope_scaling": {kind: named, **said}, "max_position_embeddings": 131072}
    write_json_atomic(folder / "config.json", config)
    assert read_architecture(folder).rope == Rope(base=1e6, scaling=scaling)
    write_json_atomic(folder / "config.json", config | {"rope_scaling": None})
    assert read_architecture(folder).rope == Rope(base=1e6)


def test_weights_are_out_by_in(written):
    folder, model = written
    tensors, layers = load_file(folder / "model.safetensors"), jax.tree.map(np.asarray, model.layers)
    np.testing.assert_array_equal(tensors["model.layers.1.mlp.gate_proj.weight"], layers.mlp.gate[1].T)
    np.testing.assert_array_equal(
        tensors["model.layers.1.self_attn.k_proj.weight"][8:16], layers.attention.wk[1, :, 1, :].T
    )


def test_reads_several_files_in_bfloat16_with_tied_head_and_no_vision(written, mesh):
    folder, model = written
    tensors = load_file(folder / "model.safetensors")
    tensors = {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items() if k != "lm_head.weight"}
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    config = json.loads((folder / "config.json").read_text())
    del config["ringworld"], config["rope_parameters"]
    config["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    architecture = read_architecture(folder)
    assert (architecture.text_vocab, architecture.vision_vocab) == (32, 0)
    assert architecture.rope == Rope(base=5e5)
    again = read(folder, mesh)
    rounded = np.asarray(model.embed).astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(again.embed, rounded)
    np.testing.assert_array_equal(again.read_out, rounded.T)


def test_names_every_problem_at_once(written, mesh):
    folder, _ = written

    def damage(tensors):
        del tensors["model.norm.weight"]
        tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((3, 4), np.float32)
        tensors["model.layers.7.mlp.up_proj.weight"] = np.zeros((3, 4), np.float32)
        tensors["lm_head.weight"] = np.zeros((32, 32), np.int8)

    change_tensors(folder, damage)
    with pytest.raises(InputError) as caught:
        read(folder, mesh)
    assert caught.value.path == folder
    named = [problem.split()[0] for problem in caught.value.value]
    assert named == [
        "lm_head.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.7.mlp.up_proj.weight",
        "model.norm.weight",
    ]


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        ({"attention_bias": True, "hidden_act": "gelu"}, 2),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 5e5}}, 1),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}}, 1),
        ({"num_key_value_heads": 3}, 1),
        ({"hidden_size": "wide", "vocab_size": None}, 2),
        ({"num_attention_heads": 0}, 1),
        ({"rope_parameters": ["default"]}, 1),
        ({"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 5e5}}}, 1),
        ({"model_type": "mamba"}, 1),
        ({"partial_rotary_factor": 0.5}, 1),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5}}, 1),
        ({"quantization_config": {"quant_method": "gptq"}, "hidden_act": "gelu"}, 2),
        ({"num_hidden_layers": 10**12}, 1),
    ],
    ids=str,
)
def test_refuses_what_it_cannot_run(written, change, problems):
    change_config(written[0], **change)
    with pytest.raises(InputError) as caught:
        read_architecture(written[0])
    assert caught.value.path == written[0] / "config.json"
    assert len(caught.value.value) == problems


def test_more_layers_than_tensors_are_all_missing(written, mesh):
    change_config(written[0], num_hidden_layers=2**16 - 1)
    with pytest.raises(InputError) as caught:
        read(written[0], mesh)
    assert len(caught.value.value) == 9 * (2**16 - 1 - ARCHITECTURE.layers)
    assert len(str(caught.value)) < 1000


def test_a_file_that_cannot_be_read_is_the_problem_and_its_tensors_are_not(written, mesh):
    folder, _ = written
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError) as caught:
        read(folder, mesh)
    assert [problem.split()[0] for problem in caught.value.value] == ["model.safetensors"]


def test_refuses_a_truncated_file_and_a_way_out_of_the_folder(written, mesh):
    folder, _ = written
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError):
        read(folder, mesh)
    path.unlink()
    index = folder / "model.safetensors.index.json"
    for damaged in ('{"weight_map": [3]}', '{"weight_map": {"lm_head.weight": "../secret.safetensors"}}'):
        index.write_text(damaged)
        with pytest.raises(InputError):
            read(folder, mesh)


def test_a_tensor_in_two_files_and_a_file_whose_name_is_no_text_are_refused(written, mesh):
    folder, _ = written
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    save_file({"model.norm.weight": np.ones(ARCHITECTURE.embed, np.float32)}, folder / "b.safetensors")
    index = folder / "model.safetensors.index.json"
    for other in ("b.safetensors", "\ud800.safetensors"):
        index.write_text(json.dumps({"weight_map": {"lm_head.weight": "a.safetensors", "more": other}}))
        with pytest.raises(InputError) as caught:
            read(folder, mesh)
        assert caught.value.path == folder and len(caught.value.value) == 1
