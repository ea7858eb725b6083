"""The one place that chooses a kernel, and runs functions that call it on every device of the mesh."""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ringworld.attention import xla
from ringworld.attention.config import AttentionConfig, KernelName
from ringworld.attention.kernel import Kernel
from ringworld.core.errors import InputError
from ringworld.core.mesh import mesh_device

_HOPPER_LARGEST_HEAD = 128
_HOPPER_FEWEST_QUERIES = 64  # of the 128 rows that its products have
# ptxas 12.8 to 12.9.0 miscompiles masks; jax refuses its own kernel for the same reason.
_HOPPER_MISCOMPILED_CUDA = range(12080, 12091)


def kernel_for(config: AttentionConfig, *, queries: Float[Array, "batch heads q_seq head"]) -> Kernel:
    """Return the module that computes attention between shards on the devices of the mesh that is set.

    Raises:
        InputError: these devices cannot run the kernel that is named, or it does not support these queries.
    """
    device = mesh_device()
    cuda = _local_cuda_version()
    runnable = _runnable(platform=device.platform, kind=device.device_kind, cuda=cuda)
    name: KernelName = config.kernel
    if name == "auto":
        # Of the rows of its products, pallas_hopper wastes most on a few queries.
        few = ("pallas_hopper",) if queries.shape[2] < _HOPPER_FEWEST_QUERIES else ()
        name = next(each for each in runnable if _takes(each, queries) and each not in few)
    if name not in runnable and config.pallas_mode == "compiled":
        on = device.device_kind + (f" with CUDA {cuda}" if cuda else "")
        raise InputError(
            f"kernel {name} does not run on {on}, but {' and '.join(runnable)} would",
            field="kernel",
            value=name,
            remedy='use kernel="auto"',
        )
    if not _takes(name, queries):
        raise InputError(
            f"kernel {name} supports bfloat16 and heads of up to {_HOPPER_LARGEST_HEAD}, not "
            f"{queries.dtype} and heads of {queries.shape[-1]}",
            field="kernel",
            value=name,
            remedy='use kernel="auto"',
        )
    # Importing Pallas takes long.
    match name:
        case "pallas_tpu":
            from ringworld.attention import pallas_tpu

            return pallas_tpu
        case "pallas_triton":
            from ringworld.attention import pallas_triton

            return pallas_triton
        case "pallas_hopper":
            from ringworld.attention import pallas_hopper

            return pallas_hopper
        case _:
            return xla


def on_each_device(
    f: Callable[..., Any], *, in_specs: Any, out_specs: Any, config: AttentionConfig
) -> Callable[..., Any]:
    """Return `jax.shard_map` of a function that calls a kernel and takes the configuration by keyword."""
    return jax.shard_map(
        functools.partial(f, config=config),
        in_specs=in_specs,
        out_specs=out_specs,
        # The interpreter of Pallas does not track which values vary over the mesh.
        check_vma=config.pallas_mode == "compiled",
    )


def platform_version() -> str:
    """Return the version of this machine's backend, such as "cuda 12090"."""
    return jax.devices()[0].client.platform_version


def _local_cuda_version() -> int | None:
    """Return 12090 for CUDA 12.9, or None on a machine without CUDA, which may compile for one with it."""
    found = re.search(r"\bcuda (\d+)", platform_version())
    return int(found[1]) if found else None


def _runnable(*, platform: str, kind: str, cuda: int | None) -> tuple[KernelName, ...]:
    """Return the kernels that run on such devices, the best first.

    | platform | kind | kernels |
    |---|---|---|
    | tpu | any | pallas_tpu, xla |
    | gpu | `NVIDIA ...` with a word such as H100, H200, H20, GH200 | pallas_hopper, pallas_triton, xla |
    | gpu | any other `NVIDIA ...` | pallas_triton, xla |
    | any other | any | xla |

    CUDA 12.8 to 12.9.0 excludes pallas_hopper.
    """
    if platform == "tpu":
        return "pallas_tpu", "xla"
    if platform == "gpu" and kind.startswith("NVIDIA"):
        # An abstract device has a name, but no compute capability.
        hopper = re.search(r"\bG?H\d{2,3}\b", kind) and cuda not in _HOPPER_MISCOMPILED_CUDA
        return ("pallas_hopper", "pallas_triton", "xla") if hopper else ("pallas_triton", "xla")
    return ("xla",)


def _takes(name: KernelName, queries: Array) -> bool:
    """Return whether a kernel supports such queries at all.

    | kernel | types | heads |
    |---|---|---|
    | pallas_hopper | bfloat16 | up to 128 |
    | any other | any | any |
    """
    small = queries.dtype == jnp.bfloat16 and queries.shape[-1] <= _HOPPER_LARGEST_HEAD
    return name != "pallas_hopper" or small
