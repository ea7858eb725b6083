"""The VQGAN that LWM's models see and draw with: a pickle of flax's parameters, read as a frame tokenizer.

Source: LWM `lwm/vqgan.py`. Kernels are HWIO there too; only names differ.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ringworld.core.errors import InputError, listed
from ringworld.interop.array_pickle import read_array_pickle
from ringworld.vision.config import FrameTokenizerConfig
from ringworld.vision.frame_tokenizer import FrameTokenizer
from ringworld.vision.vq_model import named_weights, not_numbers
from ringworld.vision.vqgan import FrameAutoencoder

_CODEBOOK = "quantize/embeddings"
_BLOCK = "encoder/DownsamplingBlock_{}/ResnetBlock_{}/Conv_0/kernel"
_RENAMED = (
    (r"^codebook$", _CODEBOOK),
    (r"^encoder\.levels\.(\d+)\.resample", r"encoder.DownsamplingBlock_\1.Downsample_0.Conv_0"),
    (r"^decoder\.levels\.(\d+)\.resample", r"decoder.UpsamplingBlock_\1.Upsample_0.Conv_0"),
    (r"^encoder\.levels\.(\d+)", r"encoder.DownsamplingBlock_\1"),
    (r"^decoder\.levels\.(\d+)", r"decoder.UpsamplingBlock_\1"),
    (r"\.middle", ".MidBlock_0"),
    (r"\.blocks\.(\d+)", r".ResnetBlock_\1"),
    (r"\.(norm1|norm_out)\.", ".GroupNorm_0."),
    (r"\.norm2\.", ".GroupNorm_1."),
    (r"\.(conv1|conv_in)\.", ".Conv_0."),
    (r"\.(conv2|conv_out)\.", ".Conv_1."),
    (r"\.shortcut\.", ".Conv_2."),
    (r"\.", "/"),
)
"""Part of the path of our weight, and what stands there in theirs; flax counts what has no name."""


def read_lwm_vqgan(path: Path, *, resolution: int = 256) -> FrameTokenizer:
    """Read the file that LWM calls `vqgan`; nothing that a pickle could run is run.

    Args:
        path: the file.
        resolution: side of a frame in pixels, which the weights do not say.

    Returns:
        A frame tokenizer that feeds pixels in [-1, 1], as LWM does.

    Raises:
        InputError: the file is no pickle of arrays alone; or one error that names everything that is missing,
            unknown or of another shape.
    """
    arrays = {name.removeprefix("params/"): array for name, array in read_array_pickle(path).items()}
    config = _config(path, {name: array.shape for name, array in arrays.items()}, resolution)
    abstract = FrameAutoencoder.abstract(config)
    expected = {name: leaf.shape for name, leaf in named_weights(abstract, renamed=_RENAMED).items()}
    problems = [f"{name} is missing" for name in expected if name not in arrays]
    problems += [f"{name} is unknown" for name in arrays if name not in expected]
    problems += [
        f"{name} has shape {arrays[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if name in arrays and arrays[name].shape != shape
    ]
    if problems:
        raise _refusal(path, problems)
    numbers = {name: arrays[name].read().astype(np.float32) for name in expected}
    if problems := not_numbers(numbers):
        raise _refusal(path, problems)
    leaves = list(map(jnp.asarray, numbers.values()))
    return FrameTokenizer(config, jax.tree.unflatten(jax.tree.structure(abstract), leaves))


def _config(path: Path, shapes: Mapping[str, tuple[int, ...]], resolution: int) -> FrameTokenizerConfig:
    """Return the sizes that the shapes of a few weights say."""
    levels, blocks = (_count(pattern, shapes) for pattern in (_BLOCK.format("{}", 0), _BLOCK.format(0, "{}")))
    kernels = [shapes[_BLOCK.format(level, 0)] for level in range(levels)]
    codebook = shapes.get(_CODEBOOK, ())
    if not kernels or any(len(kernel) != 4 for kernel in kernels) or len(codebook) != 2:
        named = f"{_CODEBOOK} of 2 dimensions and {_BLOCK.format(0, 0)} of 4"
        raise _refusal(path, [f"without {named} its sizes are not known"])
    codes, latent = codebook
    try:
        return FrameTokenizerConfig(
            resolution=resolution,
            channels=tuple(kernel[-1] for kernel in kernels),
            res_blocks=blocks,
            latent=latent,
            codebook_size=codes,
            pixel_range="signed",
        )
    except InputError as error:
        raise _refusal(path, [error.problem]) from None


def _count(pattern: str, names: Mapping[str, object]) -> int:
    """Return how many names there are with 0, 1, 2 and so on in the pattern."""
    return next(number for number in range(len(names) + 1) if pattern.format(number) not in names)


def _refusal(path: Path, problems: list[str]) -> InputError:
    return InputError(
        f"{path} does not hold LWM's VQGAN: {listed(problems)}", path=path, value=tuple(problems)
    )
