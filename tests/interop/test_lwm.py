"""Checkpoints of LWM against its forward pass in NumPy, and files that are not what they say."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from msgpack import ExtType

from ringworld.core.errors import InputError
from ringworld.core.files import write_json_atomic
from ringworld.core.mesh import mesh_of
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from ringworld.interop.hf_config import read_architecture
from ringworld.interop.hf_llama import read_weights
from ringworld.interop.lwm import read_lwm
from ringworld.interop.other_model import OtherModel
from ringworld.interop.tensors import PART_NUMBERS, write_tensors
from ringworld.model.arrange import Layout
from ringworld.model.config import Execution
from ringworld.model.forward import Forward
from ringworld.model.world_model import hidden_states
from ringworld.model.world_model import logits as our_logits
from tests.interop import lwm_checkpoint as lwm
from tests.interop.allocations import allocating_at_most

# No two sizes are equal, but a file with as many layers as the model is wide comes below.
SIZES = {"layers": 3, "embed": 16, "mlp": 24}
TEXT, VISION = 40, 20
HEADS, THETA, CONTEXT = 2, 5e3, 64
PARAMS = lwm.draw(**SIZES, text=TEXT, vision=VISION)
TEXT_PARAMS = {name: array for name, array in PARAMS.items() if "vision" not in name and "vte" not in name}
read_small = partial(read_lwm, heads=HEADS, rope_base=THETA, context_tokens=CONTEXT)


def in_bfloat16(params: lwm.Params) -> lwm.Params:
    return {name: array.astype(ml_dtypes.bfloat16) for name, array in params.items()}


def tensors_of(model: OtherModel) -> dict[str, np.ndarray]:
    return {name: np.asarray(tensor.read()) for name, tensor in model.tensors.items()}


def assert_same(found: OtherModel, want: OtherModel) -> None:
    assert found.config == want.config and list(found.tensors) == list(want.tensors)
    theirs = tensors_of(want)
    for name, tensor in found.tensors.items():
        array = tensor.read()
        assert array.shape == tensor.shape and array.dtype == theirs[name].dtype
        np.testing.assert_array_equal(array, theirs[name])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> OtherModel:
    return read_small(lwm.write(tmp_path_factory.mktemp("plain") / "params", PARAMS))


@pytest.mark.parametrize("params", [PARAMS, TEXT_PARAMS], ids=["vision", "text"])
def test_scores_are_those_of_lwm(tmp_path: Path, params: lwm.Params):
    """Through the model folder that `convert` writes, tensor by tensor."""
    model = read_small(lwm.write(tmp_path / "params", lwm.scanned(params, axis=0)))
    write_tensors(tmp_path, model.tensors, largest_file_bytes=2**12)
    write_json_atomic(tmp_path / "config.json", model.config)
    architecture = read_architecture(tmp_path)
    assert (architecture.text_vocab, architecture.vision_vocab) == (TEXT, VISION if params is PARAMS else 0)
    assert architecture.norm_eps == 1e-6 and model.config["max_position_embeddings"] == CONTEXT
    tokens = np.random.default_rng(1).integers(0, architecture.vocab, (2, 32)).astype(np.int32)
    is_vision = tokens >= TEXT
    order = np.tile(np.arange(32, dtype=np.int32), (2, 1))
    forward = Forward.of(architecture, Execution())
    mesh = mesh_of(MeshConfig(ring=2))

    @jax.jit
    def scores(weights, tokens, order):
        x = hidden_states(weights, tokens, order=order, first=jnp.zeros_like(order), forward=forward)
        return our_logits(jax.reshard(x, spec("batch", None, "embed")), weights.output_head)

    with jax.set_mesh(mesh):
        weights = read_weights(tmp_path, architecture)
        placed = Layout(forward.execution.attention, mesh=mesh).place((tokens, order), [[32]] * 2)
        got = placed.restore(scores(weights, *placed.arrays))
    theirs = np.where(is_vision, tokens - TEXT, tokens)
    want = lwm.logits(params, theirs, is_vision, heads=HEADS, theta=THETA, eps=1e-6)
    # Float32 against float64: each of 3 layers sums some 16 to 32 products four times in a row, on numbers of
    # the size of the result.
    np.testing.assert_allclose(got, want, rtol=0, atol=3 * 4 * 32 * 2**-24 * np.abs(want).max())


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("numbers", [None, 7, 300], ids=["whole", "chunks of 7", "chunks of 300"])
def test_stacked_layers_are_the_layers(tmp_path: Path, plain: OtherModel, axis: int, numbers: int | None):
    packed = lwm.whole if numbers is None else partial(lwm.in_chunks, numbers=numbers)
    path = lwm.write(tmp_path / "params", lwm.scanned(PARAMS, axis=axis), packed=packed)
    assert_same(read_small(path), plain)


@pytest.mark.parametrize("rows", [1, 7])
def test_tables_in_parts_are_the_tables(tmp_path: Path, plain: OtherModel, monkeypatch, rows: int):
    monkeypatch.setattr("ringworld.interop.lwm.PART_NUMBERS", rows * SIZES["embed"])
    model = read_small(lwm.write(tmp_path / "params", PARAMS, packed=partial(lwm.in_chunks, numbers=100)))
    for name, tables, transposed in (
        ("model.embed_tokens.weight", ("transformer/wte/embedding", "transformer/vte/embedding"), 0),
        ("lm_head.weight", ("lm_head/kernel", "vision_head/kernel"), 1),
    ):
        want = np.concatenate([PARAMS[one].T if transposed else PARAMS[one] for one in tables])
        parts = list(model.tensors[name].parts())
        assert max(map(len, parts)) == rows
        np.testing.assert_array_equal(np.concatenate(parts), want)


def test_tensors_are_in_the_order_of_the_layers_and_have_the_shapes_that_they_state(plain: OtherModel):
    names = list(plain.tensors)
    assert names[0] == "model.embed_tokens.weight" and names[-1] == "lm_head.weight"
    assert [name.split(".")[2] for name in names if "q_proj" in name] == ["0", "1", "2"]
    assert plain.tensors["lm_head.weight"].shape == (TEXT + VISION, SIZES["embed"])
    assert plain.tensors["model.layers.1.mlp.down_proj.weight"].shape == (16, 24)
    assert plain.tokenizer is None


@pytest.mark.parametrize(
    "dtype", [ml_dtypes.bfloat16, np.float16, np.float32], ids=lambda t: np.dtype(t).name
)
def test_numbers_keep_their_type(tmp_path: Path, dtype: type):
    params = {name: array.astype(dtype) for name, array in PARAMS.items()}
    model = read_small(lwm.write(tmp_path / "params", lwm.scanned(params, axis=0)))
    tensors = tensors_of(model)
    assert {array.dtype for array in tensors.values()} == {np.dtype(dtype)}
    assert model.config["torch_dtype"] == np.dtype(dtype).name
    ids = np.concatenate([params["transformer/wte/embedding"], params["transformer/vte/embedding"]])
    np.testing.assert_array_equal(tensors["model.embed_tokens.weight"], ids)
    up = params["transformer/h/2/feed_forward/w3/kernel"].T
    np.testing.assert_array_equal(tensors["model.layers.2.mlp.up_proj.weight"], up)


@pytest.mark.parametrize("prefix", ["params/params/", "params/"])
def test_a_train_state_gives_its_parameters_and_its_optimizer_is_not_looked_into(
    tmp_path: Path, plain: OtherModel, prefix: str
):
    path = lwm.write(tmp_path / "streaming_train_state", PARAMS, prefix=prefix)
    step = lwm.record("step", lwm.pack(lwm.leaf(np.asarray(3, np.int32))))
    moments = lwm.write(tmp_path / "moments", PARAMS, prefix="opt_state/1/0/mu/params/params/").read_bytes()
    path.write_bytes(
        step + path.read_bytes() + moments + lwm.record("opt_state/0/nothing", b"\xc1 never read")
    )
    assert_same(read_small(path), plain)


def test_as_many_layers_as_the_model_is_wide_are_along_axis_0_unless_told(tmp_path: Path):
    params = lwm.draw(layers=4, embed=4, mlp=6, text=5, vision=0)
    plain = read_small(lwm.write(tmp_path / "plain", params))
    stacked: tuple[tuple[Literal[0, 1], Literal[0, 1] | None], ...] = ((0, None), (0, 0), (1, 1))
    for axis, told in stacked:
        path = lwm.write(tmp_path / "params", lwm.scanned(params, axis=axis))
        assert_same(read_small(path, scan_axis=told), plain)


def test_unused_ids_of_vision_are_dropped_when_asked(tmp_path: Path, plain: OtherModel):
    path = lwm.write(tmp_path / "params", PARAMS)
    model = read_small(path, vision_vocab=12)
    assert model.config["vocab_size"] == TEXT + 12
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        kept = plain.tensors[name].read()[: TEXT + 12]
        np.testing.assert_array_equal(model.tensors[name].read(), kept)
    with pytest.raises(InputError) as caught:
        read_small(path, vision_vocab=VISION + 1)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("vision", "context", "base"),
    [(0, 2**17, 1e7), (0, 2**19, 2.5e7), (0, 2**20, 5e7), (4, 2**15, 5e7), (4, 12345, 5e7)],
)
def test_what_the_file_does_not_say_is_as_in_lwms_models(
    tmp_path: Path, vision: int, context: int, base: float
):
    """Of the size `debug`: 2 layers of width 256 with 2 heads."""
    params = lwm.draw(layers=2, embed=256, mlp=256, text=8, vision=vision)
    model = read_lwm(lwm.write(tmp_path / "params", params), context_tokens=context)
    assert model.config["rope_theta"] == base and model.config["max_position_embeddings"] == context
    assert (model.config["num_attention_heads"], model.config["num_key_value_heads"]) == (2, 2)
    assert model.config["head_dim"] == 128 and model.config["rms_norm_eps"] == 1e-6


def test_what_is_not_known_must_be_given(tmp_path: Path):
    path = lwm.write(tmp_path / "params", TEXT_PARAMS)
    with pytest.raises(InputError) as caught:
        read_lwm(path, context_tokens=100)
    assert caught.value.path == path and len(caught.value.value) == 2
    for field in ("context_tokens", "heads", "vision_vocab"):
        given: dict[str, Any] = {field: 0}
        with pytest.raises(InputError) as caught:
            read_small(path, **given)
        assert caught.value.field == field


def test_all_problems_are_named_at_once(tmp_path: Path):
    kernels = dict(PARAMS)
    del kernels["transformer/h/1/attention/wv/kernel"]
    kernels["transformer/h/0/attention/wk/kernel"] = np.zeros((16, 8), np.float32)
    kernels["transformer/h/2/attention/wo/kernel"] = np.zeros((16, 16), np.int8)
    kernels["transformer/h/2/attention/bias"] = np.zeros(16, np.float32)
    kernels["vision_head/kernel"] = kernels["vision_head/kernel"].astype(np.float16)
    path = lwm.write(tmp_path / "params", kernels)
    with pytest.raises(InputError) as caught:
        read_small(path, heads=3)
    assert caught.value.path == path
    assert {problem.split()[0].rstrip(":") for problem in caught.value.value} == {
        "transformer/h/0/attention/wk/kernel",
        "transformer/h/1/attention/wv/kernel",
        "transformer/h/2/attention/wo/kernel",
        "transformer/h/2/attention/bias",
        "vision_head/kernel",
        "model.embed",
    }


def test_heads_of_vision_or_its_table_alone_are_half_a_model(tmp_path: Path):
    for missing in ("vision_head/kernel", "transformer/vte/embedding"):
        path = lwm.write(tmp_path / "params", {k: v for k, v in PARAMS.items() if k != missing})
        with pytest.raises(InputError) as caught:
            read_small(path)
        assert [problem.split()[0] for problem in caught.value.value] == [missing]


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path):
    path = lwm.write(tmp_path / "params", lwm.draw(layers=1, embed=4, mlp=6, text=5, vision=0))
    content = path.read_bytes()
    for length in [*range(100), *range(100, len(content), 13), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(InputError) as caught:
            read_small(path)
        assert caught.value.path == path


def test_any_byte_of_the_heads_may_be_wrong(tmp_path: Path):
    """A changed byte gives another model or an error of ours, and never anything else."""
    path = lwm.write(tmp_path / "params", lwm.draw(layers=1, embed=4, mlp=6, text=5, vision=0))
    content = path.read_bytes()
    for at in range(64):
        for byte in (0x00, 0x7F, 0xC6, 0xDD, 0xFF):
            path.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
            try:
                tensors_of(read_small(path))
            except InputError as error:
                assert error.path == path


def lying(value: bytes) -> bytes:
    return lwm.record("transformer/wte/embedding", value)


LARGE = (2**40).to_bytes(8, "big")
ARRAY = lwm.pack(((2, 2), "float32", bytes(16)))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80" + lwm.pack({"params": {}}),
        b"\x92\x91\xa1a\xc6\xff\xff\xff\xff",
        b"\x92\xdd\xff\xff\xff\xff",
        b"\x92\x91\xdb\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x92" * 100_000,
        b"\x81\xa1a" * 100_000,
        lwm.pack(["step", b""]),
        lwm.pack([["a"], "text"]),
        lwm.pack([["a\n"], b""]),
        lying(b""),
        lying(b"\xc9\xff\xff\xff\xff\x01"),
        lying(b"\xc7\x20\x01\x93\x92\xcf" + LARGE + b"\xcf" + LARGE + b"\xa7float32\xc4\x00"),
        lying(lwm.pack(ExtType(1, lwm.pack(((2**40,), "float32", b""))))),
        lying(lwm.pack(ExtType(1, lwm.pack(((2,) * 9, "float32", bytes(2048)))))),
        lying(lwm.pack(ExtType(1, lwm.pack(((-1, -4), "float32", bytes(16)))))),
        lying(lwm.pack(ExtType(1, lwm.pack(((2, 2), "float33", bytes(16)))))),
        lying(lwm.pack(ExtType(2, ARRAY))),
        lying(lwm.pack(ExtType(1, ARRAY + b"more"))),
        lying(lwm.pack(ExtType(1, ARRAY)) + b"more"),
        lying(lwm.pack({"__msgpack_chunked_array__": True})),
        lying(lwm.pack({"shape": {"0": 2**40}, "chunks": {"0": ExtType(1, ARRAY)}})),
        lying(lwm.pack({"shape": {"1": 4}, "chunks": {"0": ExtType(1, ARRAY)}})),
        lying(lwm.pack({"kernel": ExtType(1, ARRAY)})),
        lying(b"\x81\xa6chunks\xdf\xff\xff\xff\xff"),
    ],
    ids=lambda content: f"{len(content)}-{content[:24].hex()}",
)
def test_what_lies_is_refused_and_named(tmp_path: Path, content: bytes):
    path = tmp_path / "params"
    path.write_bytes(content)
    with allocating_at_most(2**23), pytest.raises(InputError) as caught:
        read_small(path)
    assert caught.value.path == path


def test_no_file_a_folder_and_a_path_that_comes_twice(tmp_path: Path):
    twice = lwm.write(tmp_path / "params", PARAMS)
    twice.write_bytes(twice.read_bytes() * 2)
    for path in (tmp_path / "none", tmp_path, twice):
        with pytest.raises(InputError) as caught:
            read_small(path)
        assert caught.value.path == path


def test_values_are_read_when_a_tensor_is(tmp_path: Path):
    """A file of holes: 7b as LWM scans it in bfloat16, 13 GB that take no room on the disk."""
    layers, embed, mlp, text = 32, 4096, 11008, 32000
    sizes = {"embed": embed, "mlp": mlp}
    shapes = {
        "transformer/wte/embedding": (text, embed),
        "transformer/ln_f/kernel": (embed,),
        "lm_head/kernel": (embed, text),
    }
    for part, names in lwm.PARTS.items():
        shapes[f"transformer/h/scan_decoder/{part}"] = (layers, *(sizes[name] for name in names))
    path = tmp_path / "params"
    with path.open("wb") as file:
        for name, shape in shapes.items():
            size = 2 * int(np.prod(shape))
            head = b"\x93" + lwm.pack(shape) + lwm.pack("bfloat16") + b"\xc6" + size.to_bytes(4, "big")
            inner = b"\xc9" + (len(head) + size).to_bytes(4, "big") + b"\x01" + head
            outer = b"\x92" + lwm.pack(name.split("/")) + b"\xc6" + (len(inner) + size).to_bytes(4, "big")
            file.write(outer + inner)
            file.seek(size, 1)
        file.truncate()
    with allocating_at_most(2**23):
        model = read_lwm(path, context_tokens=2**20)
    assert model.config["num_hidden_layers"] == 32 and model.config["rope_theta"] == 5e7
    assert len(model.tensors) == 3 + 9 * 32
    # Once as it lies in the file, and once with its rows in the other order.
    with allocating_at_most(2 * (2 * embed * embed) + 2**20):
        assert not model.tensors["model.layers.31.self_attn.k_proj.weight"].read().any()
    with allocating_at_most(2 * PART_NUMBERS + 2**20):
        assert not next(iter(model.tensors["lm_head.weight"].parts())).any()
