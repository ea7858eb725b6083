"""Files that are written tensor by tensor read back through the library of safetensors."""

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from ringworld.interop.tensors import (
    INDEX_FILE,
    WEIGHTS_FILE,
    FloatType,
    Tensor,
    read_in_any_case,
    write_tensors,
)

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.arange(3, dtype=np.float16),
    "brain": np.arange(5).astype(ml_dtypes.bfloat16),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "nothing": np.zeros((0, 2), np.float32),
}
TYPES: dict[str, FloatType] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}


def lazy(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {
        name: Tensor(shape=array.shape, dtype=TYPES[str(array.dtype)], read=lambda array=array: array)
        for name, array in arrays.items()
    }


def assert_equal(found: dict[str, np.ndarray]) -> None:
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_one_file(tmp_path):
    write_tensors(tmp_path, lazy(ARRAYS))
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS_FILE]
    assert_equal(load_file(tmp_path / WEIGHTS_FILE))


@pytest.mark.parametrize(("largest", "files"), [(40, 2), (1, 5)])
def test_several_files_with_an_index(tmp_path, largest, files):
    """A tensor larger than a file may be has one of its own."""
    write_tensors(tmp_path, lazy(ARRAYS), largest_file_bytes=largest)
    index = json.loads((tmp_path / INDEX_FILE).read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in ARRAYS.values())
    names = set(index["weight_map"].values())
    assert len(names) == files
    found = {}
    for name in names:
        held = load_file(tmp_path / name)
        assert all(index["weight_map"][key] == name for key in held)
        found |= held
    assert_equal(found)


def test_where_writing_fails_what_is_left_is_still_read_once(tmp_path):
    """Other processes that hold parts of a tensor wait for it to be read."""
    read = []
    counted = {
        name: replace(tensor, read=lambda name=name, tensor=tensor: read.append(name) or tensor.read())
        for name, tensor in lazy(ARRAYS).items()
    }
    with pytest.raises(OSError, match="full"), read_in_any_case(counted) as tensors:
        tensors["half"].read()
        raise OSError("full")
    assert sorted(read) == sorted(ARRAYS)
    assert read[0] == "half"
