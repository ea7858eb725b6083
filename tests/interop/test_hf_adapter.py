"""Adapters in peft's format: read, added to slices, and refused where more is meant than a sum."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ringworld.core.errors import InputError
from ringworld.interop.hf_adapter import ADAPTER_CONFIG_FILE, ADAPTER_FILE, HfAdapter
from ringworld.model.config import Architecture

ARCHITECTURE = Architecture(layers=2, embed=16, heads=2, kv_heads=1, head=8, mlp=24, text_vocab=20)
LAYER = "model.layers.1."
SHAPES = {LAYER + "self_attn.k_proj": (8, 16), LAYER + "mlp.down_proj": (16, 24), "lm_head": (20, 16)}
PREFIX = "base_model.model."


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {}
    for name, (out, into) in SHAPES.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = rng.normal(size=(2, into)).astype(np.float32)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = rng.normal(size=(out, 2)).astype(np.float32)
    save_file(tensors, tmp_path / ADAPTER_FILE)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 8, "bias": "none"}
    (tmp_path / ADAPTER_CONFIG_FILE).write_text(json.dumps(config | {"base_model_name_or_path": "hub/x"}))
    return tmp_path


def change(folder, **fields):
    path = folder / ADAPTER_CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def change_tensors(folder, change):
    tensors = load_file(folder / ADAPTER_FILE)
    change(tensors)
    save_file(tensors, folder / ADAPTER_FILE)


@pytest.mark.parametrize(("fields", "scale"), [({}, 4.0), ({"use_rslora": True}, 8 / 2**0.5)])
def test_a_slice_gains_its_part_of_the_product(folder, fields, scale):
    change(folder, **fields)
    adapter, tensors = HfAdapter.open(folder), load_file(folder / ADAPTER_FILE)
    adapter.check(ARCHITECTURE)
    for name, shape in SHAPES.items():
        weight = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        a, b = (tensors[f"{PREFIX}{name}.lora_{part}.weight"] for part in "AB")
        index = slice(1, 5), slice(2, None)
        wanted = (weight + scale * b @ a)[index]
        found = adapter.added_to(weight[index], f"{name}.weight", index)
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-5)
    untouched = np.ones(3, np.float32)
    assert adapter.added_to(untouched, "model.norm.weight", (slice(None),)) is untouched


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "IA3"},
        {"bias": "all"},
        {"use_dora": True},
        {"fan_in_fan_out": True},
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"q_proj": 4}},
        {"init_lora_weights": "pissa"},
        {"r": 0},
        {"r": None},
        {"r": True},
        {"r": 10**400},
        {"lora_alpha": 10**400},
        {"lora_alpha": "8"},
        {"lora_alpha": None},
    ],
)
def test_what_is_more_than_a_sum_is_refused(folder, fields):
    change(folder, **fields)
    with pytest.raises(InputError) as refused:
        HfAdapter.open(folder)
    assert refused.value.path == folder and len(refused.value.value) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: tensors.clear(),
        lambda tensors: tensors.pop(PREFIX + "lm_head.lora_A.weight"),
        lambda tensors: tensors.update({"lora_A.weight": np.ones(2, np.float32)}),
        lambda tensors: tensors.update({PREFIX + "lm_head.lora_A.weight": np.ones((2, 16), np.int32)}),
    ],
)
def test_tensors_that_are_no_pairs_of_floats_are_refused(folder, damage):
    change_tensors(folder, damage)
    with pytest.raises(InputError) as refused:
        HfAdapter.open(folder)
    assert refused.value.path == folder


def test_a_file_that_is_cut_off_or_missing_is_refused(folder):
    file = folder / ADAPTER_FILE
    file.write_bytes(file.read_bytes()[:100])
    for _ in range(2):
        with pytest.raises(InputError) as refused:
            HfAdapter.open(folder)
        assert refused.value.path == folder
        file.unlink(missing_ok=True)


def test_matrices_of_another_rank_than_is_said_are_refused(folder):
    change(folder, r=4)
    with pytest.raises(InputError) as refused:
        HfAdapter.open(folder).check(ARCHITECTURE)
    assert (refused.value.field, len(refused.value.value)) == ("adapter", len(SHAPES))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lm_head", (2, 8)),
        ("lm_head", (3, 16)),
        ("lm_head", (16,)),
        ("model.layers.2.mlp.up_proj", (2, 16)),
        ("model.norm", (2, 16)),
    ],
)
def test_a_model_of_other_matrices_is_refused(folder, name, shape):
    a, b = (f"{PREFIX}{name}.lora_{part}.weight" for part in "AB")
    made = {a: np.ones(shape, np.float32)} | ({} if name == "lm_head" else {b: np.ones((24, 2), np.float32)})
    change_tensors(folder, lambda tensors: tensors.update(made))
    with pytest.raises(InputError) as refused:
        HfAdapter.open(folder).check(ARCHITECTURE)
    assert (refused.value.field, len(refused.value.value)) == ("adapter", 1)
