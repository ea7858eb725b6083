"""The one place that chooses a kernel, and runs functions that call it on every device."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from ringworld.attention import xla
from ringworld.attention.config import AttentionConfig, KernelName
from ringworld.attention.kernel import Kernel
from ringworld.core.errors import InputError


def kernel_for(config: AttentionConfig) -> Kernel:
    """Return the module that computes attention between shards on the devices of the mesh that is set.

    The mesh may be of another machine's devices, for which a program is compiled ahead of time. A mesh of no
    devices, or none, stands for those that jax would use.

    Raises:
        InputError: these devices cannot run the kernel that is named.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    serving = _serving(platform=device.platform, kind=device.device_kind)
    name = serving[0] if config.kernel == "auto" else config.kernel
    if name not in serving and config.pallas_mode == "compiled":
        raise InputError(
            what="attention kernel",
            got=f"{name} on {device.device_kind}",
            expected=" or ".join(serving),
            remedy="Name none, so that the best is chosen, or interpret it, slowly, with pallas_mode.",
        )
    # Pallas is imported only where it is used: it takes long.
    match name:
        case "pallas_tpu":
            from ringworld.attention import pallas_tpu

            return pallas_tpu
        case "pallas_triton":
            from ringworld.attention import pallas_triton

            return pallas_triton
        case _:
            return xla


def on_each_device(
    f: Callable[..., Any], *, in_specs: Any, out_specs: Any, config: AttentionConfig
) -> Callable[..., Any]:
    """Return `jax.shard_map` of a function that calls a kernel, and takes the configuration by name."""
    return jax.shard_map(
        functools.partial(f, config=config),
        in_specs=in_specs,
        out_specs=out_specs,
        # The interpreter of Pallas does not keep account of what varies over the mesh.
        check_vma=config.pallas_mode == "compiled",
    )


def _serving(*, platform: str, kind: str) -> tuple[KernelName, ...]:
    """Return the kernels that such devices run, the best first.

    | platform | kind | kernels |
    |---|---|---|
    | tpu | any | pallas_tpu, xla |
    | gpu | any `NVIDIA ...` | pallas_triton, xla |
    | any other | any | xla |
    """
    if platform == "tpu":
        return "pallas_tpu", "xla"
    if platform == "gpu" and kind.startswith("NVIDIA"):
        return "pallas_triton", "xla"
    return ("xla",)
