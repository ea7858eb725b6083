import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ringworld.core.errors import InputError
from ringworld.vision.config import FrameTokenizerConfig, PixelRange
from ringworld.vision.frame_tokenizer import FrameTokenizer, to_bytes, to_pixels
from ringworld.vision.vqgan import FrameAutoencoder, draw_on_host
from tests.vision.numpy_vq_model import NumPyVQModel

CONFIG = FrameTokenizerConfig(
    resolution=8, channels=(4, 8), res_blocks=1, latent=3, codebook_size=32, groups=2
)
FRAMES = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def tokenizer() -> FrameTokenizer:
    """Weights of unit gain and norms that are not the identity, so that no part can be left out unnoticed."""
    rng = np.random.default_rng(0)

    def drawn(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        scale = {1: 0.3, 2: 1.0, 4: np.prod(leaf.shape[:-1]) ** -0.5}[len(leaf.shape)]
        mean = float(jax.tree_util.keystr(path).endswith("scale"))
        return jnp.asarray(mean + scale * rng.standard_normal(leaf.shape), jnp.float32)

    weights = jax.tree.map_with_path(drawn, FrameAutoencoder.abstract(CONFIG))
    return FrameTokenizer(CONFIG, weights, batch_frames=4)


@pytest.fixture
def saved(tokenizer: FrameTokenizer, tmp_path: Path) -> Path:
    tokenizer.save(tmp_path)
    return tmp_path


def change_config(folder: Path, **changes: object) -> None:
    """Set fields of `config.json`; None takes a field out."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def problems_of(folder: Path) -> tuple[Path | None, list[str]]:
    """Return the file that `load` refuses, and the problems that it lists."""
    with pytest.raises(InputError) as refused:
        FrameTokenizer.load(folder)
    assert isinstance(refused.value.value, list)
    return refused.value.path, refused.value.value


@pytest.mark.parametrize(("pixel_range", "least", "width"), [("signed", -1, 2), ("unit", 0, 1)])
def test_codes_and_pixels_are_those_of_vq_model_in_numpy(
    saved: Path, pixel_range: PixelRange, least: int, width: int
):
    """In the range that is asked for, and is then kept."""
    FrameTokenizer.load(saved, pixel_range=pixel_range).save(saved)
    tokenizer = FrameTokenizer.load(saved)
    assert tokenizer.config == dataclasses.replace(CONFIG, pixel_range=pixel_range)
    theirs = NumPyVQModel(load_file(saved / WEIGHTS_FILE), groups=CONFIG.groups)
    codes = theirs.encode(FRAMES.transpose(0, 3, 1, 2) / 255 * width + least)
    np.testing.assert_array_equal(tokenizer.encode(FRAMES), codes)
    assert len(np.unique(codes)) > 4
    pixels = theirs.decode(codes).transpose(0, 2, 3, 1)
    # Some sixty float32 operations in a row, each on numbers as large as the result.
    rounding = 64 * 2**-24 * np.abs(pixels).max()
    exact = np.asarray(jax.jit(FrameAutoencoder.decode)(tokenizer.autoencoder, codes.astype(np.int32)))
    np.testing.assert_allclose(exact, pixels, atol=rounding)
    expected = np.clip((pixels - least) / width * 255, 0, 255)
    np.testing.assert_allclose(tokenizer.decode(codes.astype(np.int32)), expected, atol=0.5 + 256 * rounding)
    assert 0.2 < np.mean((expected > 0) & (expected < 255))


@pytest.mark.parametrize(("pixel_range", "black", "white"), [("signed", -1.0, 1.0), ("unit", 0.0, 1.0)])
def test_bytes_become_the_range_of_the_network_and_back(pixel_range, black, white):
    config = FrameTokenizerConfig(pixel_range=pixel_range)
    levels = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    pixels = to_pixels(levels, config)
    assert (pixels.min(), pixels.max()) == (black, white)
    assert bool((to_bytes(pixels, config) == levels).all())
    outside = jnp.array([black - 1, white + 1]).reshape(1, 1, 2, 1).repeat(3, axis=3)
    assert to_bytes(outside, config)[0, 0, :, 0].tolist() == [0, 255]


def test_frames_do_not_depend_on_their_batch(tokenizer):
    codes = tokenizer.encode(FRAMES)
    assert codes.shape == (7, 16) and codes.dtype == np.int32
    np.testing.assert_array_equal(codes[5:6], tokenizer.encode(FRAMES[5:6]))
    decoded = tokenizer.decode(codes)
    assert decoded.shape == FRAMES.shape and decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded[2:5], tokenizer.decode(codes[2:5]))


def test_no_frames(tokenizer):
    codes = tokenizer.encode(FRAMES[:0])
    assert codes.shape == (0, 16)
    assert tokenizer.decode(codes).shape == (0, 8, 8, 3)


def test_what_is_saved_is_what_is_loaded(tokenizer, saved):
    assert sorted(file.name for file in saved.iterdir()) == ["config.json", WEIGHTS_FILE]
    loaded = FrameTokenizer.load(saved)
    assert loaded.config == CONFIG and loaded.resolution == 8
    assert loaded.fingerprint == tokenizer.fingerprint
    np.testing.assert_array_equal(loaded.encode(FRAMES), tokenizer.encode(FRAMES))


def test_the_folder_is_described_as_diffusers_describes_it(saved):
    config = json.loads((saved / "config.json").read_text())
    assert config["_class_name"] == "VQModel"
    assert config["block_out_channels"] == [4, 8] and config["num_vq_embeddings"] == 32
    assert config["down_block_types"] == ["DownEncoderBlock2D"] * 2
    assert config["mid_block_add_attention"] is False
    assert config["ringworld"] == {"resolution": 8, "pixel_range": "signed"}
    stored = load_file(saved / WEIGHTS_FILE)
    assert stored["encoder.down_blocks.1.resnets.0.conv_shortcut.weight"].shape == (8, 4, 1, 1)
    assert stored["decoder.up_blocks.0.upsamplers.0.conv.weight"].shape == (8, 8, 3, 3)


def test_the_fingerprint_changes_with_one_bit_of_a_weight_and_with_the_pixel_range(saved):
    same = FrameTokenizer.load(saved)
    change_config(saved, ringworld={"resolution": 8, "pixel_range": "unit"})
    seen = {same.fingerprint, FrameTokenizer.load(saved).fingerprint}
    change_config(saved, ringworld={"resolution": 8, "pixel_range": "signed"})
    stored = load_file(saved / WEIGHTS_FILE)
    names = ("encoder.conv_in.weight", "quantize.embedding.weight", "decoder.conv_norm_out.bias")
    for name in names:
        changed = stored[name].copy()
        changed.flat[-1] = np.nextafter(changed.flat[-1], np.float32(9))
        save_file(stored | {name: changed}, saved / WEIGHTS_FILE)
        seen.add(FrameTokenizer.load(saved).fingerprint)
    assert len(seen) == 2 + len(names)


def test_a_folder_that_diffusers_wrote_needs_only_what_diffusers_does_not_store(tokenizer, saved):
    change_config(saved, ringworld=None, act_fn=None, norm_type=None, sample_size=32, scaling_factor=0.18215)
    change_config(saved, lookup_from_codebook=False, vq_embed_dim=3, force_upcast=True)
    path, problems = problems_of(saved)
    assert len(problems) == 2 and path == saved / "config.json"
    halves = {name: array.astype(np.float16) for name, array in load_file(saved / WEIGHTS_FILE).items()}
    save_file(halves, saved / WEIGHTS_FILE)
    loaded = FrameTokenizer.load(saved, resolution=8, pixel_range="unit")
    assert loaded.config.pixel_range == "unit"
    kernel = tokenizer.autoencoder.encoder.conv_in.kernel
    np.testing.assert_allclose(loaded.autoencoder.encoder.conv_in.kernel, kernel, rtol=2**-11)


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "AutoencoderKL"},
        {"mid_block_add_attention": None},
        {"mid_block_add_attention": True},
        {"act_fn": "relu"},
        {"norm_type": "spatial"},
        {"down_block_types": ["AttnDownEncoderBlock2D"] * 2},
        {"up_block_types": 3},
        {"vq_embed_dim": 4},
        {"block_out_channels": [4, "8"]},
        {"block_out_channels": 4},
        {"num_vq_embeddings": 2**63},
        {"ringworld": [8]},
        {"ringworld": {"resolution": 8, "pixel_range": "half"}},
        {"layers_per_block": None},
    ],
    ids=str,
)
def test_another_architecture_is_refused(saved, changes):
    change_config(saved, **changes)
    with pytest.raises(InputError) as refused:
        FrameTokenizer.load(saved)
    assert refused.value.path == saved / "config.json"


def test_all_problems_are_named_at_once(saved):
    change_config(saved, act_fn="relu", latent_channels=None)
    assert len(problems_of(saved)[1]) == 2
    change_config(saved, act_fn="silu", latent_channels=3)
    stored = load_file(saved / WEIGHTS_FILE)
    moved = stored.pop("quant_conv.bias")
    stored["quantize.embedding.weight"] = stored["quantize.embedding.weight"][:, :2].copy()
    stored["quant_conv.weight"] = stored["quant_conv.weight"].astype(ml_dtypes.float8_e4m3fn)
    save_file(stored | {"quant_conv.offset": moved}, saved / WEIGHTS_FILE)
    path, problems = problems_of(saved)
    assert path == saved / WEIGHTS_FILE
    assert {problem.split()[0] for problem in problems} == {
        "quant_conv.bias",
        "quant_conv.offset",
        "quant_conv.weight",
        "quantize.embedding.weight",
    }


@pytest.mark.parametrize("name", ["config.json", WEIGHTS_FILE])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_missing_or_damaged_file_is_named(saved, name, damage):
    content = (saved / name).read_bytes()
    (saved / name).unlink()
    if damage != "missing":
        (saved / name).write_bytes(content[:100] if damage == "cut" else b"")
    with pytest.raises(InputError) as refused:
        FrameTokenizer.load(saved)
    assert refused.value.path == saved / name


def test_weights_that_are_not_numbers_are_refused(saved):
    tensors = load_file(saved / WEIGHTS_FILE)
    tensors["quantize.embedding.weight"][0, 0] = np.nan
    save_file(tensors, saved / WEIGHTS_FILE)
    with pytest.raises(InputError) as refused:
        FrameTokenizer.load(saved)
    assert (refused.value.path, len(refused.value.value)) == (saved / WEIGHTS_FILE, 1)


def test_frames_and_codes_of_another_tokenizer(tokenizer):
    with pytest.raises(InputError) as refused:
        tokenizer.encode(np.zeros((1, 16, 16, 3), np.uint8))
    assert refused.value.field == "frames"
    for codes in (np.zeros((1, 9), np.int32), np.full((1, 16), -1, np.int32), np.full((1, 16), 32, np.int32)):
        with pytest.raises(InputError) as refused:
            tokenizer.decode(codes)
        assert refused.value.field == "codes"


def test_the_same_seed_draws_the_same_tokenizer():
    one, same, other = (
        FrameTokenizer(CONFIG, FrameAutoencoder.init(CONFIG, draw=draw_on_host(seed))).fingerprint
        for seed in (1, 1, 2)
    )
    assert one == same != other
