"""The devices of this machine, as runs and models use them."""

import sys
from collections.abc import Iterable
from contextlib import suppress
from os import PathLike
from pathlib import Path

import jax
from jax.sharding import Mesh

from ringworld.core.compilation import keep_compiled_programs
from ringworld.core.errors import InputError
from ringworld.core.mesh import mesh_of, simulate_devices
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.ranges import check_number
from ringworld.data.remote import address_of, fetch
from ringworld.presets.run import RunConfig

PathArgument = str | PathLike[str]
Paths = Iterable[PathArgument] | PathArgument
FETCHED_FOLDER = ".fetched"
"""In an output folder: copies of the inputs that are addresses."""
_MOST_SIMULATED = 16


def as_paths(paths: Paths) -> tuple[Path, ...]:
    """Return one path or several as a tuple."""
    return (Path(paths),) if isinstance(paths, (str, PathLike)) else tuple(map(Path, paths))


def as_local(paths: Iterable[Path], *, out: Path) -> tuple[Path, ...]:
    """Return paths of this machine: what is at an address, such as `s3://bucket/clips`, is copied to `out`.

    Raises:
        InputError: an address cannot be read; see `ringworld.data.remote`.
    """
    addresses = ((path, address_of(path)) for path in paths)
    return tuple(
        path if address is None else fetch(address, into=out / FETCHED_FOLDER) for path, address in addresses
    )


def check_apart(out: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write results into a folder of inputs.

    Raises:
        InputError: `out` is one of them.
    """
    if out.resolve() in {path.resolve() for path in inputs}:
        problem = f"{out} holds inputs, and results would stand among them"
        raise InputError(problem, field="out", value=out, path=out, remedy="choose another folder")


def check_run(run: RunConfig) -> None:
    """Refuse what is no configuration of a run.

    Raises:
        InputError: `run` is of another type.
    """
    if not isinstance(run, RunConfig):
        problem = f"run is of type {type(run).__name__}, not RunConfig"
        raise InputError(problem, field="run", value=run, remedy="use such as ringworld.presets.laptop()")


def begin_process(run: RunConfig | None = None, *, devices: int | None = None, processes: int = 1) -> None:
    """Let jax keep what it compiles, and simulate devices while that can be done.

    The number of CPU devices is settled with the first array of a process; after that it stays as it is.

    Args:
        run: that `train` will be asked for, now or later in this process.
        devices: those that are asked for now.
        processes: in how many the devices are, where this one is not alone.

    Raises:
        InputError: `run` is none, or `devices` is below 1.
    """
    if run is not None:
        check_run(run)
    if devices is not None:
        check_number("devices", devices, least=1)
    keep_compiled_programs()
    if devices is None and run is not None and run.devices <= _MOST_SIMULATED:
        devices = run.devices
    if devices is not None:
        with suppress(InputError):
            simulate_devices(-(-devices // processes))


def on_this_machine(run: RunConfig, *, devices: int | None) -> RunConfig:
    """Return a run on the devices that there are.

    Without an accelerator, as many CPU devices are simulated as the run asks for; where the process has made
    arrays on fewer already, the run takes those, and a line on stderr says so. With an accelerator, all of
    them form the ring unless `devices` says how many. Of several processes all devices are taken: the meshes
    of the run stay where they are of so many.

    Raises:
        InputError: the axes of the mesh, the model or a context do not divide, or `devices` are not there.
    """
    if devices is not None:
        check_number("devices", devices, least=1)
        run = run.on_devices(devices)
        if not jax.distributed.is_initialized():
            simulate_devices(run.devices)
        return run
    if jax.distributed.is_initialized():
        meshes = {stage.mesh.devices for stage in run.training.stages}
        return run if meshes == {jax.device_count()} else run.on_devices(jax.device_count())
    with suppress(InputError):
        simulate_devices(run.devices)
    if jax.default_backend() != "cpu":
        return run.on_devices(jax.device_count())
    if run.devices <= jax.device_count():
        return run
    fewer = _on_at_most(run, jax.device_count())
    print(
        f"ringworld: this process simulates {jax.device_count()} devices already: the run asks for "
        f"{run.devices}, and takes {fewer.devices}",
        file=sys.stderr,
    )
    return fewer


def ring_of(devices: int | None) -> Mesh:
    """Return a ring of `devices`: by default of one CPU, or of all accelerators.

    Raises:
        InputError: there are fewer devices.
    """
    if devices is not None:
        check_number("devices", devices, least=1)
        simulate_devices(devices)
    elif jax.default_backend() != "cpu":
        devices = jax.device_count()
    return mesh_of(MeshConfig(ring=devices or 1))


def _on_at_most(run: RunConfig, count: int) -> RunConfig:
    for fewer in range(count, 1, -1):
        with suppress(InputError):
            return run.on_devices(fewer)
    return run.on_devices(1)
