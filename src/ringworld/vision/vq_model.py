"""The folder of a frame tokenizer: diffusers' `VQModel`, in its own names, which diffusers opens.

`config.json` holds VQModel's fields, and under the key `ringworld` the two that it lacks: the resolution and
the pixel range. `diffusion_pytorch_model.safetensors` holds kernels as OIHW. Folders of the same architecture
that diffusers wrote, such as aMUSEd's `vqvae`, are read too.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, PyTree, Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ringworld.core.config import from_json, read_as
from ringworld.core.errors import InputError, listed
from ringworld.core.files import reading, write_json_atomic, writing
from ringworld.core.shared_files import FLOATS, OUR_KEY
from ringworld.vision.config import FrameTokenizerConfig, PixelRange
from ringworld.vision.vqgan import FrameAutoencoder

CONFIG_FILE, WEIGHTS_FILE = "config.json", "diffusion_pytorch_model.safetensors"

_SIZES = {
    "channels": "block_out_channels",
    "res_blocks": "layers_per_block",
    "latent": "latent_channels",
    "codebook_size": "num_vq_embeddings",
    "groups": "norm_num_groups",
}
"""Our field, and theirs."""
_FIXED = {
    "_class_name": "VQModel",
    "act_fn": "silu",
    "in_channels": 3,
    "out_channels": 3,
    "norm_type": "group",
    "mid_block_add_attention": False,
}
"""What their other fields must say."""
_DEFAULTS = _FIXED | {"mid_block_add_attention": True}
"""What VQModel takes where a field is absent."""
_BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}
_VQ_MODEL_NAMES = (
    (r"^codebook$", "quantize.embedding.weight"),
    (r"encoder\.levels\.(\d+)\.blocks", r"encoder.down_blocks.\1.resnets"),
    (r"encoder\.levels\.(\d+)\.resample", r"encoder.down_blocks.\1.downsamplers.0.conv"),
    (r"decoder\.levels\.(\d+)\.blocks", r"decoder.up_blocks.\1.resnets"),
    (r"decoder\.levels\.(\d+)\.resample", r"decoder.up_blocks.\1.upsamplers.0.conv"),
    (r"\.middle\.blocks", ".mid_block.resnets"),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.shortcut\.", ".conv_shortcut."),
    (r"\.(kernel|scale)$", ".weight"),
)
"""Part of the path of our weight, and its name there; the other parts are the same."""


def named_weights(
    autoencoder: FrameAutoencoder, *, renamed: Sequence[tuple[str, str]] = _VQ_MODEL_NAMES
) -> dict[str, PyTree]:
    """Return the weights by their name in someone else's model, in our order.

    `encoder.levels.0.blocks.1.conv1.kernel` is in `VQModel` `encoder.down_blocks.0.resnets.1.conv1.weight`.

    Args:
        autoencoder: arrays, or their shapes.
        renamed: patterns of parts of our names, and what stands there instead; by default those of `VQModel`.
    """
    named = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(autoencoder):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        for ours, theirs in renamed:
            name = re.sub(ours, theirs, name)
        named[name] = leaf
    return named


def write_vq_model(folder: Path, config: FrameTokenizerConfig, autoencoder: FrameAutoencoder) -> None:
    """Write `config.json` and the weights so that `VQModel.from_pretrained(folder)` reads them."""
    tensors = {name: _to_theirs(np.asarray(leaf)) for name, leaf in named_weights(autoencoder).items()}
    with writing(folder / WEIGHTS_FILE) as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt"})
    shapes = asdict(config)
    described = {
        **_FIXED,
        **{theirs: shapes[ours] for ours, theirs in _SIZES.items()},
        **{key: [block] * len(config.channels) for key, block in _BLOCKS.items()},
        "sample_size": config.resolution,
        "lookup_from_codebook": True,
        OUR_KEY: {"resolution": config.resolution, "pixel_range": config.pixel_range},
    }
    write_json_atomic(folder / CONFIG_FILE, described)


def read_vq_model(
    folder: Path, *, resolution: int | None, pixel_range: PixelRange | None
) -> tuple[FrameTokenizerConfig, FrameAutoencoder]:
    """Read a folder; see `FrameTokenizer.load`.

    Raises:
        InputError: one error that names all that is missing, unknown, of another shape or not supported.
    """
    problems: list[str] = []
    config = _read_config(folder / CONFIG_FILE, resolution, pixel_range)
    abstract = FrameAutoencoder.abstract(config)
    expected = {name: _their_shape(leaf.shape) for name, leaf in named_weights(abstract).items()}
    weights = folder / WEIGHTS_FILE
    # NumPy lacks the number types of some checkpoints: safetensors passes on its AttributeError.
    damage = (SafetensorError, AttributeError)
    remedy = "copy it again, or train again"
    with reading(weights, expected="the weights of a frame tokenizer", damage=damage, remedy=remedy):
        with safe_open(weights, framework="numpy") as tensors:
            _check_tensors(tensors, expected, problems)
            if not problems:
                numbers = {name: tensors.get_tensor(name) for name in expected}
                if not (problems := not_numbers(numbers)):
                    leaves = list(map(_to_ours, numbers.values()))
                    return config, jax.tree.unflatten(jax.tree.structure(abstract), leaves)
    raise _refusal(weights, problems)


def not_numbers(tensors: Mapping[str, Shaped[np.ndarray, "..."]]) -> list[str]:
    """Return a problem for each tensor that holds NaN or infinity."""
    return [
        f"{name} holds numbers that are NaN or infinite"
        for name, tensor in tensors.items()
        if not np.isfinite(tensor).all()
    ]


def _read_config(path: Path, resolution: int | None, pixel_range: PixelRange | None) -> FrameTokenizerConfig:
    theirs = read_as(dict[str, Any], path)
    widths = theirs.get("block_out_channels")
    levels = len(widths) if isinstance(widths, list) else 1
    fixed = _FIXED | {key: [block] * levels for key, block in _BLOCKS.items()}
    stated = _DEFAULTS | theirs
    problems = [
        f"{key} is {stated.get(key)!r}, but only {value!r} is supported"
        for key, value in fixed.items()
        if stated.get(key) != value
    ]
    if theirs.get("vq_embed_dim") not in (None, theirs.get("latent_channels")):
        problems.append(f"vq_embed_dim is {theirs['vq_embed_dim']!r}, which is not latent_channels")
    shapes = {ours: theirs[key] for ours, key in _SIZES.items() if key in theirs}
    problems += [f"{key} is missing" for key in _SIZES.values() if key not in theirs]
    own = theirs.get(OUR_KEY, {})
    if not isinstance(own, dict):
        problems.append(f"{OUR_KEY} is a {type(own).__name__}, not an object")
        own = {}
    given = {"resolution": resolution, "pixel_range": pixel_range}
    shapes |= own | {key: value for key, value in given.items() if value is not None}
    problems += [
        f"{key} is not known; pass {key}=, since diffusers does not store it"
        for key in given
        if key not in shapes
    ]
    if problems:
        raise _refusal(path, problems)
    try:
        return from_json(FrameTokenizerConfig, shapes, where=str(path))
    except InputError as error:
        raise _refusal(path, [error.problem]) from None


def _check_tensors(tensors: Any, expected: dict[str, tuple[int, ...]], problems: list[str]) -> None:
    found = {name: tensors.get_slice(name) for name in tensors.keys()}
    problems += [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in expected]
    for name, shape in expected.items():
        if name not in found:
            continue
        if tuple(found[name].get_shape()) != shape:
            problems.append(f"{name} has the shape {tuple(found[name].get_shape())}, not {shape}")
        if found[name].get_dtype() not in FLOATS:
            problems.append(f"{name} is stored as {found[name].get_dtype()}, not as {', '.join(FLOATS)}")


def _to_theirs(array: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)


def _to_ours(tensor: Shaped[np.ndarray, "..."]) -> Float32[Array, "..."]:
    tensor = tensor.astype(np.float32)
    return jnp.asarray(tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor)


def _their_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[i] for i in (3, 2, 0, 1)) if len(shape) == 4 else shape


def _refusal(path: Path, problems: list[str]) -> InputError:
    return InputError(
        f"{path} does not hold the frame tokenizer that is supported: {listed(problems)}",
        path=path,
        value=problems,
        remedy="take both files from one run, or from a VQModel of diffusers without attention",
    )
