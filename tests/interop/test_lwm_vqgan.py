"""LWM's VQGAN against VQModel in NumPy, and pickles that would do something."""

import builtins
import os
import pickle
import pickletools
import re
import subprocess
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from ringworld.core.errors import InputError
from ringworld.interop.array_pickle import read_array_pickle
from ringworld.interop.lwm_vqgan import read_lwm_vqgan
from ringworld.vision.config import FrameTokenizerConfig
from ringworld.vision.frame_tokenizer import FrameTokenizer
from tests.interop.allocations import allocating_at_most
from tests.vision.numpy_vq_model import NumPyVQModel

CHANNELS, BLOCKS, LATENT, CODES, GROUPS = (32, 64), 1, 3, 32, 32
CONFIG = FrameTokenizerConfig(
    resolution=8, channels=CHANNELS, res_blocks=BLOCKS, latent=LATENT, codebook_size=CODES, groups=GROUPS
)
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)


def lwm_params() -> dict[str, np.ndarray]:
    """Draw what flax names so in `lwm/vqgan.py`, written out by hand for two levels of one block."""
    rng = np.random.default_rng(0)
    params: dict[str, np.ndarray] = {}

    def conv(name: str, size: int, inputs: int, outputs: int) -> None:
        kernel = rng.standard_normal((size, size, inputs, outputs)) * (size * size * inputs) ** -0.5
        params[f"{name}/kernel"] = kernel.astype(np.float32)
        params[f"{name}/bias"] = (0.3 * rng.standard_normal(outputs)).astype(np.float32)

    def norm(name: str, channels: int) -> None:
        params[f"{name}/scale"] = (1 + 0.3 * rng.standard_normal(channels)).astype(np.float32)
        params[f"{name}/bias"] = (0.3 * rng.standard_normal(channels)).astype(np.float32)

    def block(name: str, inputs: int, outputs: int) -> None:
        norm(f"{name}/GroupNorm_0", inputs)
        conv(f"{name}/Conv_0", 3, inputs, outputs)
        norm(f"{name}/GroupNorm_1", outputs)
        conv(f"{name}/Conv_1", 3, outputs, outputs)
        if inputs != outputs:
            conv(f"{name}/Conv_2", 1, inputs, outputs)

    narrow, wide = CHANNELS
    conv("encoder/Conv_0", 3, 3, narrow)
    block("encoder/DownsamplingBlock_0/ResnetBlock_0", narrow, narrow)
    conv("encoder/DownsamplingBlock_0/Downsample_0/Conv_0", 3, narrow, narrow)
    block("encoder/DownsamplingBlock_1/ResnetBlock_0", narrow, wide)
    conv("decoder/Conv_0", 3, LATENT, wide)
    for half in ("encoder", "decoder"):
        block(f"{half}/MidBlock_0/ResnetBlock_0", wide, wide)
        block(f"{half}/MidBlock_0/ResnetBlock_1", wide, wide)
    block("decoder/UpsamplingBlock_0/ResnetBlock_0", wide, wide)
    block("decoder/UpsamplingBlock_0/ResnetBlock_1", wide, wide)
    conv("decoder/UpsamplingBlock_0/Upsample_0/Conv_0", 3, wide, wide)
    block("decoder/UpsamplingBlock_1/ResnetBlock_0", wide, narrow)
    block("decoder/UpsamplingBlock_1/ResnetBlock_1", narrow, narrow)
    norm("encoder/GroupNorm_0", wide)
    norm("decoder/GroupNorm_0", narrow)
    conv("encoder/Conv_1", 3, wide, LATENT)
    conv("decoder/Conv_1", 3, narrow, 3)
    conv("quant_conv", 1, LATENT, LATENT)
    conv("post_quant_conv", 1, LATENT, LATENT)
    params["quantize/embeddings"] = rng.standard_normal((CODES, LATENT)).astype(np.float32)
    return params


PARAMS = lwm_params()


def nested(params: dict[str, Any], kind: Callable[[], Any] = dict) -> Any:
    tree = kind()
    for name, leaf in params.items():
        *path, last = name.split("/")
        inside = tree
        for key in path:
            inside = inside.setdefault(key, kind())
        inside[last] = leaf
    return tree


def written(path: Path, tree: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(tree, protocol=protocol))
    return path


def name_in_diffusers(name: str) -> str:
    """Name a weight as aMUSEd's conversion does; the names of a block's parts depend on where it is."""
    in_block = {"GroupNorm_0": "norm1", "Conv_0": "conv1", "GroupNorm_1": "norm2", "Conv_1": "conv2"}
    in_block["Conv_2"] = "conv_shortcut"
    outside = {"Conv_0": "conv_in", "GroupNorm_0": "conv_norm_out", "Conv_1": "conv_out"}
    name = name.replace("quantize/embeddings", "quantize.embedding.weight")
    *path, part = re.sub(r"/(kernel|scale)$", ".weight", re.sub(r"/bias$", ".bias", name)).split("/")
    part, _, kind = part.partition(".")
    if path and path[-1].startswith("ResnetBlock"):
        part = in_block[part]
    elif path and path[-1] in ("Downsample_0", "Upsample_0"):
        part = "conv"
    elif path:
        part = outside[part]
    named = ".".join([*path, part, kind])
    for theirs, diffusers in (
        (r"DownsamplingBlock_(\d)", r"down_blocks.\1"),
        (r"UpsamplingBlock_(\d)", r"up_blocks.\1"),
        (r"MidBlock_0", "mid_block"),
        (r"ResnetBlock_(\d)", r"resnets.\1"),
        (r"Downsample_0", "downsamplers.0"),
        (r"Upsample_0", "upsamplers.0"),
    ):
        named = re.sub(theirs, diffusers, named)
    return named


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> FrameTokenizer:
    path = written(tmp_path_factory.mktemp("plain") / "vqgan", nested(PARAMS))
    return read_lwm_vqgan(path, resolution=8)


def test_codes_and_pixels_are_those_of_vq_model_in_numpy(tokenizer: FrameTokenizer, tmp_path: Path):
    assert tokenizer.config == CONFIG
    tensors = {
        name_in_diffusers(name): array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        for name, array in PARAMS.items()
    }
    theirs = NumPyVQModel(tensors, groups=GROUPS)
    codes = theirs.encode(FRAMES.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.int32)
    np.testing.assert_array_equal(tokenizer.encode(FRAMES), codes)
    assert len(np.unique(codes)) > 4
    pixels = theirs.decode(codes).transpose(0, 2, 3, 1)
    # Some sixty float32 operations in a row, each on numbers as large as the result; then bytes are rounded.
    rounding = 0.5 + 128 * 64 * 2**-24 * np.abs(pixels).max()
    np.testing.assert_allclose(tokenizer.decode(codes), np.clip((pixels + 1) * 127.5, 0, 255), atol=rounding)
    tokenizer.save(tmp_path)
    assert FrameTokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("kind", [dict, OrderedDict])
def test_each_protocol_and_dictionary_gives_the_same(
    tmp_path: Path, tokenizer: FrameTokenizer, protocol: int, kind: Callable[[], Any]
):
    tree = nested({f"params/{name}": array for name, array in PARAMS.items()}, kind)
    path = written(tmp_path / "vqgan", tree, protocol)
    assert read_lwm_vqgan(path, resolution=8).fingerprint == tokenizer.fingerprint


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(24, dtype=np.float16).reshape(2, 3, 4)[:, ::2],
        np.arange(300).astype(ml_dtypes.bfloat16),
        np.float32(np.zeros((0, 3))),
        np.array(2.5, np.float32),
        jnp.arange(6.0).reshape(2, 3),
        jnp.arange(6, dtype=jnp.bfloat16),
    ],
    ids=lambda array: f"{type(array).__name__}-{array.dtype}-{array.shape}",
)
def test_arrays_come_back_as_they_were_pickled(tmp_path: Path, protocol: int, array: Any):
    arrays = read_array_pickle(written(tmp_path / "arrays", {"a": {"b": array}, "c": array}, protocol))
    assert set(arrays) == {"a/b", "c"}
    for found in arrays.values():
        assert found.read().dtype == array.dtype
        np.testing.assert_array_equal(found.read(), np.asarray(array))


def test_arrays_of_older_numpy_and_of_flax_are_read(tmp_path: Path):
    """`numpy.core` was renamed in version 2, and no flax is needed for its dictionaries."""
    array = np.arange(4, dtype=np.float32)
    content = pickle.dumps({"a": array}, protocol=3).replace(b"numpy._core", b"numpy.core")
    (tmp_path / "old").write_bytes(content)
    inside = pickle.dumps({"a": array}, protocol=3)
    frozen = b"\x80\x03cflax.core.frozen_dict\nFrozenDict\n" + inside[2:-1] + b"\x85R."
    (tmp_path / "frozen").write_bytes(frozen)
    for name in ("old", "frozen"):
        arrays = read_array_pickle(tmp_path / name)
        np.testing.assert_array_equal(arrays["a"].read(), array)


def test_all_problems_are_named_at_once(tmp_path: Path):
    params = {name: array for name, array in PARAMS.items() if name != "quant_conv/bias"}
    params["encoder/MidBlock_0/AttnBlock_0/Conv_0/kernel"] = np.zeros((1, 1, 64, 64), np.float32)
    params["decoder/Conv_0/kernel"] = np.zeros((3, 3, 64, LATENT), np.float32)
    path = written(tmp_path / "vqgan", nested(params))
    with pytest.raises(InputError) as caught:
        read_lwm_vqgan(path, resolution=8)
    assert caught.value.path == path
    assert {problem.split()[0] for problem in caught.value.value} == {
        "quant_conv/bias",
        "encoder/MidBlock_0/AttnBlock_0/Conv_0/kernel",
        "decoder/Conv_0/kernel",
    }


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path):
    bias = PARAMS["quant_conv/bias"].copy()
    bias[0] = np.inf
    path = written(tmp_path / "vqgan", nested(PARAMS | {"quant_conv/bias": bias}))
    with pytest.raises(InputError) as caught:
        read_lwm_vqgan(path, resolution=8)
    assert caught.value.path == path and [problem.split()[0] for problem in caught.value.value] == [
        "quant_conv/bias"
    ]


@pytest.mark.parametrize(
    ("change", "resolution"),
    [
        ({"quantize/embeddings": None}, 8),
        ({"quantize/embeddings": np.zeros((0, 2**40), np.float32)}, 8),
        ({"encoder/DownsamplingBlock_0/ResnetBlock_0/Conv_0/kernel": None}, 8),
        ({"encoder/DownsamplingBlock_1/ResnetBlock_0/Conv_0/kernel": np.zeros(4, np.float32)}, 8),
        ({}, 9),
    ],
    ids=["no codebook", "empty codebook", "no level", "a level of one dimension", "odd frames"],
)
def test_weights_that_do_not_say_their_sizes(tmp_path: Path, change: dict[str, Any], resolution: int):
    params = {name: array for name, array in (PARAMS | change).items() if array is not None}
    path = written(tmp_path / "vqgan", nested(params))
    with pytest.raises(InputError) as caught:
        read_lwm_vqgan(path, resolution=resolution)
    assert caught.value.path == path


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("where", ["alone", "leaf", "key", "shape"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, protocol: int, where: str):
    ran = tmp_path / "ran"
    for harm in (
        Calls(os.system, f"touch {ran}"),
        Calls(builtins.eval, f"open({str(ran)!r}, 'w')"),
        Calls(subprocess.Popen, ["touch", str(ran)]),
        Calls(getattr, Calls(__import__, "os"), "system"),
        Calls(np.load, str(ran)),
        Calls(open, str(ran), "w"),
    ):
        trees = {
            "alone": harm,
            "leaf": nested(PARAMS | {"encoder/Conv_9/kernel": harm}),
            "key": {(harm,): 1},
            "shape": {"a": Calls(np.ndarray, harm)},
        }
        path = written(tmp_path / "vqgan", trees[where], protocol)
        with pytest.raises(InputError) as caught:
            read_lwm_vqgan(path, resolution=8)
        assert caught.value.path == path and not ran.exists()
    # The pickles are what they claim to be: Python's own unpickler runs them.
    pickle.loads(pickle.dumps(Calls(open, str(ran), "w"), protocol=protocol)).close()
    assert ran.exists()


def instructions(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def called(module: bytes, name: bytes, arguments: bytes) -> bytes:
    return b"c" + module + b"\n" + name + b"\n" + arguments + b"R"


F4 = called(b"numpy", b"dtype", b"X\x02\x00\x00\x00f4\x89\x88\x87")
LARGE = b"\x8a\x06" + (2**40).to_bytes(6, "little")
DESCRIBED = b"cnumpy.core.numeric\n_frombuffer\n(C\x08" + bytes(8) + F4
DOUBLINGS = b"}q\x00" + b"".join(
    b"}(X\x01\x00\x00\x00ah" + bytes([i]) + b"X\x01\x00\x00\x00bh" + bytes([i]) + b"uq" + bytes([i + 1])
    for i in range(60)
)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04",
        b"\x80\x04.",
        instructions(b"N"),
        instructions(b"}X\x01\x00\x00\x00aK\x01s"),
        instructions(b"0"),
        instructions(b"u"),
        instructions(b"h\x07"),
        instructions(b"}q\x00X\x01\x00\x00\x00ah\x00s"),
        instructions(DOUBLINGS),
        instructions(b"}" * 2**16),
        instructions(b"(" * 2**16),
        instructions(b"X\xff\xff\xff\xff"),
        instructions(b"\x8e" + (2**40).to_bytes(8, "little")),
        instructions(b"\x96" + (2**63).to_bytes(8, "little")),
        instructions(b"\x95" + (2**62).to_bytes(8, "little") + b"}r\xff\xff\xff\xff" + b"]"),
        instructions(b"\x8b\xff\xff\xff\x7f"),
        instructions(b"}X\x01\x00\x00\x00a" + DESCRIBED + LARGE + b"\x85X\x01\x00\x00\x00CtRs"),
        instructions(b"}X\x01\x00\x00\x00a" + DESCRIBED + b"K\x00" + LARGE + b"\x86X\x01\x00\x00\x00CtRs"),
        instructions(b"}X\x01\x00\x00\x00a" + called(b"numpy", b"ndarray", LARGE + b"\x85") + b"s"),
        instructions(b"}X\x01\x00\x00\x00a" + called(b"numpy", b"dtype", LARGE + b"\x89\x88\x87") + b"s"),
        instructions(b"\x82\x01"),
        instructions(b"Pname\n"),
        instructions(b"(ios\nsystem\n"),
        pickle.dumps({"a": np.array([{}], object)}),
        pickle.dumps({"a": np.arange(3)}),
        pickle.dumps({"a": np.arange(3, dtype=">f4")}),
        pickle.dumps({"a": np.zeros(2, [("x", "f4")])}),
        pickle.dumps({"a": [np.zeros(2, np.float32)]}),
        pickle.dumps({"a": np.float32(1)}),
        pickle.dumps({1: np.zeros(2, np.float32)}),
        pickle.dumps({"a" * 1000: np.zeros(2, np.float32)}),
        pickle.dumps({str(i): np.zeros(1, np.float32) for i in range(1100)}),
        pickle.dumps({"a": np.zeros(2, np.float32)}, protocol=2),
    ],
    ids=lambda content: f"{len(content)}-{content[:20].hex()}",
)
def test_pickles_that_lie_explode_or_hold_something_else(tmp_path: Path, content: bytes):
    path = tmp_path / "vqgan"
    path.write_bytes(content)
    # What a long one takes is bounded by its instructions, and to trace it takes half a minute.
    watched = allocating_at_most(2**20) if len(content) < 2**12 else nullcontext()
    with watched, pytest.raises(InputError) as caught:
        read_lwm_vqgan(path)
    assert caught.value.path == path


def test_many_arrays_of_the_same_bytes_are_refused(tmp_path: Path):
    numbers = np.zeros(1000, np.float32)
    path = written(tmp_path / "same", {str(i): numbers for i in range(100)}, protocol=5)
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError) as caught:
        read_array_pickle(path)
    assert caught.value.path == path


def test_a_truncated_or_changed_pickle_is_refused_or_read(tmp_path: Path):
    """Whatever happens to a byte, nothing but an error of ours comes of it."""
    tree = {"a": np.arange(3, dtype=np.float32), "b": {"c": np.ones((2, 2), np.float32)}}
    path = written(tmp_path / "arrays", tree)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(InputError):
            read_array_pickle(path)
    codes = sorted(ord(instruction.code) for instruction in pickletools.opcodes)
    for at in range(len(content)):
        for byte in codes[at % 16 :: 16]:
            path.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
            try:
                for array in read_array_pickle(path).values():
                    array.read()
            except InputError as error:
                assert error.path == path
