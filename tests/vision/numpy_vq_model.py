"""`VQModel` of diffusers without attention, in NumPy and float64, on the tensors of a folder in its names.

Written from diffusers' `autoencoders/vae.py` and torch's definition of its layers; arrays are [frames,
channels, height, width].
"""

import numpy as np


class NumPyVQModel:
    def __init__(self, tensors: dict[str, np.ndarray], *, groups: int) -> None:
        self.tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
        self.groups = groups

    def encode(self, pixels: np.ndarray) -> np.ndarray:
        """Return the index of the nearest code of every position, row by row."""
        x = self.conv("encoder.conv_in", pixels)
        for level in self.levels("encoder.down_blocks"):
            x = self.blocks(f"{level}.resnets", x)
            if f"{level}.downsamplers.0.conv.weight" in self.tensors:
                padded = np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)))
                x = self.conv(f"{level}.downsamplers.0.conv", padded, stride=2, padding=0)
        x = self.blocks("encoder.mid_block.resnets", x)
        x = self.conv("encoder.conv_out", silu(self.norm("encoder.conv_norm_out", x)))
        latents = self.conv("quant_conv", x).transpose(0, 2, 3, 1)
        codebook = self.tensors["quantize.embedding.weight"]
        distances = np.square(latents[..., None, :] - codebook).sum(-1)
        return distances.argmin(-1).reshape(len(pixels), -1)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        side = round(codes.shape[1] ** 0.5)
        latents = self.tensors["quantize.embedding.weight"][codes].reshape(len(codes), side, side, -1)
        x = self.conv("post_quant_conv", latents.transpose(0, 3, 1, 2))
        x = self.blocks("decoder.mid_block.resnets", self.conv("decoder.conv_in", x))
        for level in self.levels("decoder.up_blocks"):
            x = self.blocks(f"{level}.resnets", x)
            if f"{level}.upsamplers.0.conv.weight" in self.tensors:
                x = self.conv(f"{level}.upsamplers.0.conv", np.kron(x, np.ones((2, 2))))
        return self.conv("decoder.conv_out", silu(self.norm("decoder.conv_norm_out", x)))

    def levels(self, prefix: str) -> list[str]:
        depth = prefix.count(".") + 1
        numbers = {int(name.split(".")[depth]) for name in self.tensors if name.startswith(f"{prefix}.")}
        return [f"{prefix}.{number}" for number in sorted(numbers)]

    def blocks(self, prefix: str, x: np.ndarray) -> np.ndarray:
        for block in self.levels(prefix):
            h = self.conv(f"{block}.conv1", silu(self.norm(f"{block}.norm1", x)))
            h = self.conv(f"{block}.conv2", silu(self.norm(f"{block}.norm2", h)))
            shortcut = f"{block}.conv_shortcut"
            x = h + (self.conv(shortcut, x) if f"{shortcut}.weight" in self.tensors else x)
        return x

    def conv(self, name: str, x: np.ndarray, *, stride: int = 1, padding: int | None = None) -> np.ndarray:
        kernel, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        size = kernel.shape[-1]
        margin = size // 2 if padding is None else padding
        x = np.pad(x, ((0, 0), (0, 0), (margin, margin), (margin, margin)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))
        return np.einsum("nihwrc,oirc->nohw", windows[:, :, ::stride, ::stride], kernel) + bias[:, None, None]

    def norm(self, name: str, x: np.ndarray) -> np.ndarray:
        grouped = x.reshape(len(x), self.groups, -1)
        mean, variance = grouped.mean(-1, keepdims=True), grouped.var(-1, keepdims=True)
        normal = ((grouped - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
        return (
            normal * self.tensors[f"{name}.weight"][:, None, None]
            + self.tensors[f"{name}.bias"][:, None, None]
        )


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))
