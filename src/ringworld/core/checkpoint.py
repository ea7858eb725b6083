"""Checkpoints: a tree of arrays and a JSON object at a step, whole or absent, through Orbax."""

import itertools
import logging
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding

from ringworld.core.errors import InputError
from ringworld.core.files import room_for
from ringworld.core.fingerprint import fingerprint
from ringworld.core.processes import all_agree, by_writer, is_writer

_LEAST_SHARE_BYTES = 1 << 20
_MOST_WRITE_SECONDS = 4 * 3_600
"""After which Orbax gives up a checkpoint; a process that is lost ends the others long before."""


class Restored(NamedTuple):
    """What a checkpoint held."""

    step: int
    tree: Any
    meta: dict[str, Any]


class Checkpoints:
    """The newest two checkpoints of one run in one folder, which holds nothing else.

    Threads write a checkpoint while the run continues. Until it is whole it is named otherwise, and only
    then goes the oldest. Of several processes each calls every method at the same time, and writes and reads
    its shards.
    """

    def __init__(self, directory: Path) -> None:
        """Open the folder, or make it, and clear away what was not finished."""
        self.directory = directory
        self._newest = directory
        """Where the last checkpoint that was begun goes."""
        logging.getLogger("absl").addFilter(_not_raised)
        policies = ocp.checkpoint_managers
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policies.FixedIntervalPolicy(1),
                preservation_policy=policies.LatestN(2),
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(
                    timeout_secs=_MOST_WRITE_SECONDS,
                    barrier_sync_fn=_barrier(),
                    # Else threads that wait for a folder would not learn that there is no room for it.
                    create_directories_asynchronously=False,
                ),
            ),
            item_handlers={"tree": _arrays(), "meta": ocp.JsonCheckpointHandler()},
        )

    @property
    def latest_step(self) -> int | None:
        """Return the step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, tree: Any, meta: dict[str, Any]) -> None:
        """Copy `tree` (arrays, sharded or not) and `meta` (JSON), and return while they are being written.

        The memory of the arrays may be taken over as soon as this returns. It first waits for the checkpoint
        before, so that the host holds one copy at a time.

        Raises:
            InputError: there is no room on the disk, for this checkpoint or for the one before.
        """
        self.wait()
        self._newest = self.directory / str(step)
        # What Orbax reads back is not compared with what it wrote, so that a bit that flips goes unseen.
        beside = {"fingerprint": _fingerprint(tree), "meta": meta}
        items = ocp.args.Composite(tree=ocp.args.PyTreeSave(tree), meta=ocp.args.JsonSave(beside))
        with room_for(self._newest):
            # On accelerators Orbax copies to the host before this returns. On CPU it holds the arrays
            # themselves, and a program that is to take over their memory then gets a copy from jax.
            self._manager.save(step, args=items)

    def check(self) -> None:
        """Raise what the last save failed with, once; this waits for nothing.

        Raises:
            InputError: there was no room on the disk; the checkpoints before are still there.
        """
        if not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Return when the last checkpoint that was saved is on disk, or raise as `check` does."""
        with room_for(self._newest):
            self._manager.wait_until_finished()

    def restore(self, abstract: Any, *, read: Callable[[Restored], Any] = lambda restored: restored) -> Any:
        """Read the newest checkpoint that is whole into the shapes, dtypes and shardings of `abstract`.

        | newest | one before it | then |
        |---|---|---|
        | whole | any | the newest |
        | damaged | whole | the one before; the newest is moved aside, and a line on stderr says so |
        | damaged, or of another tree | the same, or there is none | an error, and nothing is moved |

        Args:
            abstract: a tree of `jax.ShapeDtypeStruct` (or arrays) like the one that was saved; shardings may
                belong to another mesh than the one that saved.
            read: returns what is made of a checkpoint; one for which it raises is damaged.

        Returns:
            None where the folder holds no checkpoint.

        Raises:
            InputError: no checkpoint is whole, or they are of another tree; of the newest.
        """
        refusals: dict[int, InputError] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            found, refusal = None, None
            try:
                found = read(self._read(step, abstract))
            except Exception as error:  # Orbax and TensorStore raise many kinds
                refusal = self._refusal(step, error)
            if not all_agree(refusal is None):
                other = RuntimeError("another process could not read its part")
                refusals[step] = refusal or self._refusal(step, other)
                continue
            for damaged, why in refusals.items():
                aside = self._move_aside(damaged)
                if is_writer():
                    line = f"{why.problem}: moved to {aside}, and resumed from step {step}"
                    print(line, file=sys.stderr, flush=True)
            return found
        if refusals:
            newest = max(refusals)
            raise refusals[newest] from refusals[newest].__cause__
        return None

    def _read(self, step: int, abstract: Any) -> Restored:
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), abstract
        )
        tree = ocp.args.PyTreeRestore(
            abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract)
        )
        items = ocp.args.Composite(tree=tree, meta=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=items)
        beside = restored["meta"]
        if beside["fingerprint"] != _fingerprint(restored["tree"]):
            raise ValueError("its values are not those that were saved")
        return Restored(step, restored["tree"], beside["meta"])

    def _refusal(self, step: int, error: Exception) -> InputError:
        path = self.directory / str(step)
        reason = textwrap.shorten(str(error), 120, placeholder=" ...")
        refusal = InputError(
            f"{path} cannot be read as a checkpoint of this model ({reason})",
            path=path,
            remedy="check the configuration; delete the folder only if it is damaged",
        )
        # Its frames hold what was read, for which there may be no room beside the checkpoint before it.
        refusal.__cause__ = error.with_traceback(None)
        return refusal

    def _move_aside(self, step: int) -> Path:
        """Move a checkpoint beside the folder, so that the run can save the step again."""
        aside = self.directory.with_name(f"{self.directory.name}-damaged")

        def move() -> str:
            aside.mkdir(exist_ok=True)
            to = next(path for n in itertools.count() if not (path := aside / f"{step}-{n}").exists())
            (self.directory / str(step)).rename(to)
            return str(to)

        to = by_writer(move)
        self._manager.reload()
        return Path(to)

    def close(self) -> None:
        """Wait for what is being written, and release the folder; raises as `check` does."""
        try:
            self.wait()
        finally:
            self._manager.close()
            logging.getLogger("absl").removeFilter(_not_raised)


def _barrier() -> Callable[..., None]:
    """Return how Orbax's threads wait for those of other processes: not at all once one failed.

    A thread that failed to write meets the others before its failure can be raised, but they wait elsewhere,
    for that writing.
    """
    begun_by = threading.get_ident()

    def wait(*, key: str, timeout_ms: int) -> None:
        failed = threading.get_ident() != begun_by and sys.exc_info()[1] is not None
        if not failed:
            ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)

    return wait


def _not_raised(record: logging.LogRecord) -> bool:
    """Leave out what Orbax logs with a traceback: it raises the same."""
    return not (record.exc_info and "orbax" in record.pathname)


def _arrays() -> ocp.PyTreeCheckpointHandler:
    """Return a handler that lets copies of an array share its writing only where a share is worth a cut.

    By itself Orbax cuts each copied array by the number of its copies, one operation and one program a share.
    """
    handler = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=_LEAST_SHARE_BYTES)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, handler))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _fingerprint(tree: Any) -> str:
    """Return the fingerprint of arrays on the mesh on which they lie."""
    where = jax.tree.leaves(tree)[0].sharding
    mesh = where.mesh if isinstance(where, NamedSharding) else None
    with jax.set_mesh(mesh) if isinstance(mesh, Mesh) else nullcontext():
        return fingerprint(tree)
