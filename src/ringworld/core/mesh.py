"""Devices, and the mesh that they form."""

import math
import os
from collections.abc import Sequence
from typing import Any, Literal

import jax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AbstractMesh, AxisType, Mesh

from ringworld.core.errors import InputError
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import MESH_AXES


def simulate_devices(count: int) -> None:
    """Ask the CPU backend for `count` devices or more; call it before any array exists.

    Where jax uses an accelerator nothing is simulated, and the number of CPU devices does not matter.

    XLA gets two threads for each device, unless `PJRT_NPROC` says how many: with one, a queue of more than 32
    programs blocks the threads that those before them need, and collectives wait for ever.

    Raises:
        InputError: the backend runs already with fewer CPU devices.
    """
    if count > 1:
        os.environ.setdefault("PJRT_NPROC", str(max(2 * count, os.cpu_count() or 1)))
    try:
        jax.config.update("jax_num_cpu_devices", max(count, jax.config.values["jax_num_cpu_devices"]))
    except RuntimeError:
        running = jax.local_device_count("cpu")
        if running < count and jax.default_backend() == "cpu":
            raise InputError(
                f"this process simulates {running} devices already, too few for {count}",
                field="devices",
                value=count,
                remedy="start a new process",
            ) from None


def make_mesh(
    config: MeshConfig,
    *,
    devices: Sequence[Any] | None = None,
    shardings: Literal["typed", "inferred"] = "typed",
) -> Mesh:
    """Return a mesh.

    Args:
        config: the size of each axis.
        devices: those that form it; all of the process group by default.
        shardings: whether they are part of the type of an array inside a program, or the compiler's choice,
            for a program of operations that have no rule for them.

    Raises:
        InputError: the axes need another number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if len(devices) != config.devices:
        sizes = ", ".join(f"{name} {size}" for name, size in zip(MESH_AXES, config.shape) if size > 1)
        raise InputError(
            f"{len(devices)} devices cannot form a mesh of {config.devices} ({sizes or 'every axis 1'})",
            field="mesh",
            value=config,
            remedy="change the mesh, so that the product of its axes is the number of devices",
        )
    axis_type = AxisType.Explicit if shardings == "typed" else AxisType.Auto
    # An axis of 16 over a torus of 4x8x8 chips takes half of a dimension, which `jax.make_mesh` refuses.
    placed = create_device_mesh(config.shape, devices, allow_split_physical_axes=True)
    return Mesh(placed, MESH_AXES, axis_types=(axis_type,) * len(MESH_AXES))


def mesh_of(config: MeshConfig) -> Mesh:
    """Return a mesh over as many of the devices of this process as it needs.

    Raises:
        InputError: there are fewer; or there are several processes, whose devices it does not need all.
    """
    return make_mesh(config, devices=jax.devices()[: config.devices] if jax.process_count() == 1 else None)


def abstract_mesh(config: MeshConfig) -> AbstractMesh:
    """Return a mesh with no devices, for type-checking a program of any size."""
    return AbstractMesh(config.shape, MESH_AXES, axis_types=(AxisType.Explicit,) * len(MESH_AXES))


def mesh_device() -> Any:
    """Return one device that stands for all of the mesh that is set, with a `platform` and a `device_kind`.

    The mesh may be of another machine's devices, for which a program is compiled ahead of time. A mesh of no
    devices, or none, stands for those that jax would use.
    """
    return jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]


def members_of(mesh: Mesh, axes: Sequence[str]) -> int:
    """Return the number of devices along some axes."""
    return math.prod(mesh.shape[axis] for axis in axes)
