"""Our VQGAN against `VQModel` of diffusers, through folders that each writes for the other."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from diffusers import VQModel

from ringworld.core.errors import InputError
from ringworld.vision.config import FrameTokenizerConfig
from ringworld.vision.frame_tokenizer import FrameTokenizer
from ringworld.vision.vqgan import FrameAutoencoder

SMALL = FrameTokenizerConfig(resolution=32, channels=(16, 32, 32), latent=8, codebook_size=64, groups=8)
FULL = FrameTokenizerConfig(resolution=64)  # LWM's widths and weights, on fewer pixels for time


def build_theirs(config: FrameTokenizerConfig) -> VQModel:
    levels = len(config.channels)
    torch.manual_seed(0)
    model = VQModel(
        act_fn="silu",
        block_out_channels=config.channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=config.latent,
        layers_per_block=config.res_blocks,
        norm_num_groups=config.groups,
        num_vq_embeddings=config.codebook_size,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    ).eval()
    # Weights of unit gain, and norms that are not the identity, so that no part can be left out unnoticed.
    for name, parameter in model.named_parameters():
        if parameter.ndim == 4:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            torch.nn.init.normal_(parameter, mean=float("norm" in name and "weight" in name), std=0.3)
    return model


def run_theirs(model: VQModel, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    parameter = next(model.parameters())
    with torch.no_grad():
        latents = model.encode(torch.tensor(pixels, dtype=parameter.dtype).permute(0, 3, 1, 2)).latents
        quantized, _, (_, _, codes) = model.quantize(latents)
        output = model.decoder(model.post_quant_conv(quantized))
    return codes.reshape(len(pixels), -1).numpy(), output.permute(0, 2, 3, 1).double().numpy()


@pytest.mark.parametrize("config", [SMALL, FULL], ids=["small", "full width"])
def test_a_folder_of_diffusers_gives_its_codes_and_pixels(config: FrameTokenizerConfig, tmp_path: Path):
    theirs = build_theirs(config)
    theirs.save_pretrained(tmp_path)
    ours = FrameTokenizer.load(tmp_path, resolution=config.resolution, pixel_range="signed")
    assert ours.config == config
    side = config.resolution
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, side, side, 3)).astype(np.float32)
    codes = np.asarray(jax.jit(FrameAutoencoder.encode)(ours.autoencoder, pixels))
    output = np.asarray(jax.jit(FrameAutoencoder.decode)(ours.autoencoder, codes))
    single_codes, single = run_theirs(theirs, pixels)
    double_codes, double = run_theirs(theirs.double(), pixels)
    np.testing.assert_array_equal(codes, single_codes)
    np.testing.assert_array_equal(codes, double_codes)
    assert len(np.unique(codes)) > codes.size / 16
    # Their own float32 error against float64 is what rounding costs here; ours rounds in another order.
    rounding = np.abs(single - double).max()
    assert rounding < 1e-3 * np.abs(double).max()
    assert np.abs(output - double).max() < 4 * rounding


@pytest.mark.parametrize("lookup", [True, False])
def test_frames_of_a_folder_as_amuseds_come_out_as_its_pipeline_makes_them(tmp_path: Path, lookup: bool):
    """`VQModel.encode` and `decode` on pixels in [0, 1], from bytes to codes to bytes."""
    theirs = build_theirs(SMALL)
    # Whether the decoder is given codes or latents is up to its caller, and no weight depends on it.
    theirs.register_to_config(lookup_from_codebook=lookup, sample_size=32, vq_embed_dim=SMALL.latent)
    theirs.save_pretrained(tmp_path)
    ours = FrameTokenizer.load(tmp_path, resolution=32, pixel_range="unit")
    frames = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    codes, _ = run_theirs(theirs, frames / 255)
    np.testing.assert_array_equal(ours.encode(frames), codes)
    theirs = theirs.double()
    theirs.register_to_config(lookup_from_codebook=True)
    with torch.no_grad():
        given = torch.from_numpy(codes.astype(np.int64))
        pixels = theirs.decode(given, force_not_quantize=True, shape=(2, 8, 8, SMALL.latent)).sample
    pixels = pixels.permute(0, 2, 3, 1).numpy()
    # Half a level from rounding to bytes, and a thousandth of the largest from float32, as above.
    levels = 255 * np.clip(pixels, 0, 1)
    rounding = 0.5 + 1e-3 * 255 * np.abs(pixels).max()
    assert np.abs(ours.decode(codes.astype(np.int32)) - levels).max() < rounding
    assert 0.1 < np.mean((pixels > 0) & (pixels < 1))


@pytest.mark.parametrize(
    "change", [{"act_fn": "relu"}, {"mid_block_add_attention": True}, {"norm_type": "spatial"}], ids=str
)
def test_what_diffusers_computes_otherwise_is_refused(tmp_path: Path, change: dict[str, object]):
    usual = {"act_fn": "silu", "block_out_channels": (32,), "mid_block_add_attention": False}
    VQModel(**(usual | change)).save_pretrained(tmp_path)
    with pytest.raises(InputError) as caught:
        FrameTokenizer.load(tmp_path, resolution=32, pixel_range="unit")
    assert caught.value.path == tmp_path / "config.json" and len(caught.value.value) == 1


def test_diffusers_opens_our_folder_and_gives_equal_codes(tmp_path: Path):
    build_theirs(SMALL).save_pretrained(tmp_path / "theirs")
    ours = FrameTokenizer.load(tmp_path / "theirs", resolution=32, pixel_range="unit")
    ours.save(tmp_path / "ours")
    opened, report = VQModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(report.values())
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    codes, _ = run_theirs(opened.eval(), frames / 255)
    np.testing.assert_array_equal(ours.encode(frames), codes)
    assert FrameTokenizer.load(tmp_path / "ours").fingerprint == ours.fingerprint
