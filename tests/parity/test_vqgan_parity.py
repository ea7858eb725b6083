"""Our VQGAN against `VQModel` of diffusers, through folders that each writes for the other."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from diffusers import VQModel

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
