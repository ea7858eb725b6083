"""Our VQGAN against `VQModel` of diffusers with the same random weights: equal codes and equal pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import VQModel

from ringworld.vision.config import FrameTokenizerConfig
from ringworld.vision.vqgan import Conv, FrameAutoencoder, GroupNorm, ResBlock

SMALL = FrameTokenizerConfig(
    resolution=32, hidden=16, channel_multipliers=(1, 2, 2), latent=8, codebook_size=64, groups=8
)
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


def array(parameter: torch.Tensor) -> jax.Array:
    return jnp.asarray(parameter.detach().float().numpy())


def conv(module: torch.nn.Module) -> Conv:
    return Conv(array(module.weight.permute(2, 3, 1, 0)), array(module.bias))


def norm(module: torch.nn.Module) -> GroupNorm:
    return GroupNorm(array(module.weight), array(module.bias), module.num_groups)


def res_block(module: torch.nn.Module) -> ResBlock:
    shortcut = None if module.conv_shortcut is None else conv(module.conv_shortcut)
    return ResBlock(norm(module.norm1), conv(module.conv1), norm(module.norm2), conv(module.conv2), shortcut)


def fill(level, blocks, resample):
    filled = tuple(res_block(block) for block in blocks)
    assert len(filled) == len(level.blocks) and (resample is None) == (level.resample is None)
    return type(level)(filled, None if resample is None else conv(resample))


def to_ours(theirs: VQModel, config: FrameTokenizerConfig) -> FrameAutoencoder:
    shape = FrameAutoencoder.abstract(config)
    encoder, decoder = theirs.encoder, theirs.decoder

    def halves(block):
        return None if block.downsamplers is None else block.downsamplers[0].conv

    def doubles(block):
        return None if block.upsamplers is None else block.upsamplers[0].conv

    ours = FrameAutoencoder(
        type(shape.encoder)(
            conv(encoder.conv_in),
            tuple(fill(o, t.resnets, halves(t)) for o, t in zip(shape.encoder.levels, encoder.down_blocks)),
            fill(shape.encoder.middle, encoder.mid_block.resnets, None),
            norm(encoder.conv_norm_out),
            conv(encoder.conv_out),
        ),
        conv(theirs.quant_conv),
        array(theirs.quantize.embedding.weight),
        conv(theirs.post_quant_conv),
        type(shape.decoder)(
            conv(decoder.conv_in),
            fill(shape.decoder.middle, decoder.mid_block.resnets, None),
            tuple(fill(o, t.resnets, doubles(t)) for o, t in zip(shape.decoder.levels, decoder.up_blocks)),
            norm(decoder.conv_norm_out),
            conv(decoder.conv_out),
        ),
    )
    assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, shape)
    return ours


def run_theirs(model: VQModel, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    parameter = next(model.parameters())
    with torch.no_grad():
        latents = model.encode(torch.tensor(pixels, dtype=parameter.dtype).permute(0, 3, 1, 2)).latents
        quantised, _, (_, _, codes) = model.quantize(latents)
        output = model.decoder(model.post_quant_conv(quantised))
    return codes.reshape(len(pixels), -1).numpy(), output.permute(0, 2, 3, 1).double().numpy()


@pytest.mark.parametrize("config", [SMALL, FULL], ids=["small", "full width"])
def test_codes_and_pixels_are_those_of_diffusers(config):
    theirs = build_theirs(config)
    ours = to_ours(theirs, config)
    side = config.resolution
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, side, side, 3)).astype(np.float32)
    codes = np.asarray(jax.jit(FrameAutoencoder.encode)(ours, pixels))
    output = np.asarray(jax.jit(FrameAutoencoder.decode)(ours, codes))
    single_codes, single = run_theirs(theirs, pixels)
    double_codes, double = run_theirs(theirs.double(), pixels)
    np.testing.assert_array_equal(codes, single_codes)
    np.testing.assert_array_equal(codes, double_codes)
    assert len(np.unique(codes)) > codes.size / 16
    # Their own float32 error against float64 is what rounding costs here; ours rounds in another order.
    rounding = np.abs(single - double).max()
    assert rounding < 1e-3 * np.abs(double).max()
    assert np.abs(output - double).max() < 4 * rounding
