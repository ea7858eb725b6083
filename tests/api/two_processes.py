"""What tests have two processes do together: `python -m tests.api.two_processes ROOT`, started twice.

They train the run of ROOT/one into ROOT/two by the command, until a signal stops them, and the adapter of
ROOT/thin into ROOT/thin2. Then one of them fails in several ways, and each prints, as JSON, how every one of
these ended for it.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

import ringworld as rw
from ringworld.cli.main import main as command
from ringworld.core.checkpoint import Checkpoints
from ringworld.core.config import from_json
from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.origin import read_origin
from ringworld.core.processes import by_writer
from ringworld.core.sharding import spec
from ringworld.core.steps import Batch, Interval, RunFiles, check_rows, run_steps
from ringworld.interop.hf_config import read_architecture
from ringworld.interop.hf_llama import read_weights
from ringworld.interop.tensors import WEIGHTS_FILE
from ringworld.presets.run import RunConfig
from tests.core.full_disk import room_in_a_file

FAILS = 1
"""Which of the two does."""
NUMBERS = 2**16
LAST = 8


def here() -> bool:
    return jax.process_index() == FAILS


def numbers(mesh: Mesh) -> jax.Array:
    """Return random numbers, of which each device holds some."""
    drawn = np.random.default_rng(0).random(NUMBERS, np.float32)
    where = NamedSharding(mesh, spec("weight"))
    return jax.make_array_from_callback(drawn.shape, where, lambda index: drawn[index])


def steps(out: Path, *, mesh: Mesh, at_step: Callable[[int], None]) -> None:
    """Add to numbers for some steps, and call `at_step` in both when the batch of each is made."""

    def batches() -> Iterator[Batch[float]]:
        for step in range(1, LAST + 1):
            at_step(step)
            yield Batch(inputs=float(step))

    @jax.jit
    def update(state: jax.Array, more: float) -> tuple[jax.Array, jax.Array]:
        return state + more, state.sum()

    with closing(Checkpoints(out / "checkpoints")) as checkpoints, jax.set_mesh(mesh):
        files = RunFiles(
            folder=out, checkpoints=checkpoints, log_every_steps=1, checkpoint_every_steps=2, check=check_rows
        )
        start = files.resume(numbers(mesh), begin=lambda: numbers(mesh))

        def row(output: jax.Array, interval: Interval) -> dict[str, Any]:
            return {"value": float(output)}

        run_steps(
            start,
            batches(),
            last=LAST,
            files=files,
            update=update,
            row=row,
            title="numbers",
            total=LAST,
            shown=(),
        )


def a_batch_that_one_cannot_read(root: Path, mesh: Mesh) -> None:
    def unreadable(step: int) -> None:
        if step == 4 and here():
            raise InputError("shards/7 is damaged", path=root / "shards" / "7")

    steps(root / "unread", mesh=mesh, at_step=unreadable)


def a_disk_that_is_full_for_one(root: Path, mesh: Mesh) -> None:
    with room_in_a_file(2**14 if here() else 2**30):
        steps(root / "full", mesh=mesh, at_step=lambda step: None)


def a_model_that_one_cannot_read(root: Path, mesh: Mesh) -> None:
    mine = shutil.copytree(root / "one" / "models" / "fsdp", root / f"model{jax.process_index()}")
    if here():
        (mine / WEIGHTS_FILE).write_bytes(b"")
    run = from_json(RunConfig, read_origin(root / "thin").configuration)
    rw.train(run, data=root / "examples", init=mine, out=root / "unused", evaluate="never")


def a_layer_that_one_cannot_read(root: Path, mesh: Mesh) -> None:
    """Its file is whole when the reading begins, and gone for that process within the layers."""
    mine = shutil.copytree(root / "one" / "models" / "fsdp", root / f"layers{jax.process_index()}")

    def as_it_is(tensor: np.ndarray, key: str, part: tuple[slice, ...]) -> np.ndarray:
        if here() and "layers" in key:
            (mine / WEIGHTS_FILE).unlink(missing_ok=True)
        return tensor

    with jax.set_mesh(mesh):
        read_weights(mine, read_architecture(mine), weights="int8", adapt=as_it_is)


def a_checkpoint_that_one_cannot_read(root: Path, mesh: Mesh) -> None:
    """Each reads a copy of its own: both resume from the one before, until that is damaged, too."""
    with closing(Checkpoints(root / "shards")) as checkpoints:
        for step in (3, 4):
            checkpoints.save(step, {"numbers": numbers(mesh)}, {})
        checkpoints.wait()
    by_writer(lambda: None)
    mine = shutil.copytree(root / "shards", root / f"copy{jax.process_index()}")
    for damaged in ("4", "3"):
        for file in (mine / damaged).glob(f"tree/ocdbt.process_{FAILS}/d/*") if here() else ():
            file.write_bytes(file.read_bytes()[:100])
        with closing(Checkpoints(mine)) as checkpoints:
            assert checkpoints.restore({"numbers": numbers(mesh)}).step == 3


FAILURES = (
    a_batch_that_one_cannot_read,
    a_disk_that_is_full_for_one,
    a_model_that_one_cannot_read,
    a_layer_that_one_cannot_read,
    a_checkpoint_that_one_cannot_read,
)


def main() -> None:
    """Train, and fail, as the module says."""
    root, said = Path(sys.argv[1]), {}
    try:
        command(["train", "--config", "one", "--data", "examples", "--out", "two", "--evaluate", "never"])
    except SystemExit as ended:
        said["train"] = ended.code
    run = from_json(RunConfig, read_origin(root / "thin").configuration)
    init = root / "one" / "models" / "fsdp"
    rw.train(run, data=root / "examples", init=init, out=root / "thin2", evaluate="never")
    mesh = make_mesh(MeshConfig(fsdp=8))
    for fail in FAILURES:
        try:
            fail(root, mesh)
        except InputError as error:
            said[fail.__name__] = [str(error), str(error.path)]
    print(json.dumps(said))


if __name__ == "__main__":
    main()
