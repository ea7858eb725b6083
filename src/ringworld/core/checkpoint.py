"""Checkpoints: a tree of arrays and a JSON object at a step, whole or absent, through Orbax."""

import itertools
import logging
import sys
import tempfile
import textwrap
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding

from ringworld.core.commit import Commit, FailedElsewhere
from ringworld.core.errors import InputError
from ringworld.core.files import room_for
from ringworld.core.fingerprint import fingerprint
from ringworld.core.processes import by_all, by_writer, is_alone, is_writer

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
    its shards; what one of them fails with is raised in all, but by `check` and `close`. Theirs is whole with
    the next `wait`, `save` or `allow` after all have written their parts.
    """

    def __init__(self, directory: Path) -> None:
        """Open the folder, or make it, and clear away what was not finished."""
        self.directory = directory
        self._newest = directory
        """Where the last checkpoint that was begun goes."""
        self._commit = Commit()
        for name in ("absl", "asyncio"):
            logging.getLogger(name).addFilter(_not_raised)
        if not isinstance(sys.unraisablehook, _Unraisable):
            sys.unraisablehook = _Unraisable(sys.unraisablehook)
        by_writer(self._make_room)
        policies = ocp.checkpoint_managers
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policies.FixedIntervalPolicy(1),
                preservation_policy=policies.LatestN(2),
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(
                    timeout_secs=_MOST_WRITE_SECONDS,
                    barrier_sync_fn=self._commit,
                    # Else threads that wait for a folder would not learn that there is no room for it.
                    create_directories_asynchronously=False,
                ),
            ),
            item_handlers={"tree": _arrays(), "meta": ocp.JsonCheckpointHandler()},
        )

    @property
    def latest_step(self) -> int | None:
        """Return the step of the newest checkpoint, or None."""
        return by_writer(self._manager.latest_step)

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
        by_writer(self._make_room)
        self._commit.begin()
        with room_for(self._newest):
            # On accelerators Orbax copies to the host before this returns. On CPU it holds the arrays
            # themselves, and a program that is to take over their memory then gets a copy from jax.
            self._manager.save(step, args=items)

    @property
    def written(self) -> int:
        """How many checkpoints this process has written its part of since the folder was opened."""
        return self._commit.written

    def allow(self, count: int) -> None:
        """Let the first so many checkpoints have their names, of which every process has written its part."""
        self._commit.allow(count)

    def check(self) -> None:
        """Raise what the last save failed with in this process, once; this waits for nothing.

        Raises:
            InputError: there was no room on the disk; the checkpoints before are still there.
        """
        if not self._manager.is_saving_in_progress():
            self._wait()

    def wait(self) -> None:
        """Return when the last checkpoint is on disk, or raise what any process failed to write it with."""
        if not is_alone():
            by_all(self._write_part)
            self._commit.allow(self._commit.written)
        by_all(self._wait)

    def _write_part(self) -> None:
        if not self._commit.part_is_written():
            self._wait()

    def _wait(self) -> None:
        with room_for(self._newest):
            self._manager.wait_until_finished()

    def _make_room(self) -> None:
        """Make the folder, and see whether it takes another: process 0 makes them while the others wait."""
        with room_for(self._newest):
            self.directory.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryDirectory(dir=self.directory).cleanup()

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
        for step in by_writer(lambda: sorted(self._manager.all_steps(), reverse=True)):
            try:
                found = self._whole(step, abstract, read)
            except Exception as error:  # Orbax and TensorStore raise many kinds
                refusals[step] = self._refusal(step, error)
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

    def _whole(self, step: int, abstract: Any, read: Callable[[Restored], Any]) -> Any:
        """Return what is made of a checkpoint, or raise in every process what any of them found."""
        restored, saved = by_all(partial(self._read, step, abstract))
        if saved != _fingerprint(restored.tree):
            raise ValueError("its values are not those that were saved")
        return by_all(partial(read, restored))

    def _read(self, step: int, abstract: Any) -> tuple[Restored, str]:
        """Return what devices of this process hold of a checkpoint, and the fingerprint that was saved."""
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), abstract
        )
        tree = ocp.args.PyTreeRestore(
            abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract)
        )
        items = ocp.args.Composite(tree=tree, meta=ocp.args.JsonRestore())
        handlers = ocp.CompositeCheckpointHandler(tree=_arrays(), meta=ocp.JsonCheckpointHandler())
        me = jax.process_index()
        # The manager's own would meet the others when it has read, and wait for one that could not.
        alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
        with ocp.Checkpointer(handlers, multiprocessing_options=alone) as reader:
            restored = reader.restore(self.directory.absolute() / str(step), args=items)
        beside = restored["meta"]
        return Restored(step, restored["tree"], beside["meta"]), beside["fingerprint"]

    def _refusal(self, step: int, error: Exception) -> InputError:
        path = self.directory / str(step)
        reason = textwrap.shorten(str(error), 120, placeholder=" ...")
        refusal = InputError(
            f"{path} cannot be read as a checkpoint of this model ({reason})",
            path=path,
            remedy="check the configuration; delete the folder only if it is damaged",
        )
        # Their frames hold what was read, for which there may be no room beside the checkpoint before it.
        if error.__cause__ is not None:
            error.__cause__.with_traceback(None)
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
        """Release the folder; a process that is alone waits for what is being written, and raises as `check`.

        Several have waited before, or one of them failed.
        """
        self._commit.give_up()
        try:
            with suppress(FailedElsewhere):
                self._wait()
        finally:
            self._manager.close()
            logging.getLogger("absl").removeFilter(_not_raised)


def _not_raised(record: logging.LogRecord) -> bool:
    """Leave out what Orbax, or asyncio of its tasks, logs with a traceback: it raises the first of them."""
    if not record.exc_info:
        return True
    frames = traceback.walk_tb(record.exc_info[2])
    files = (record.pathname, *(frame.f_code.co_filename for frame, _ in frames))
    return not any("orbax" in file for file in files)


@dataclass(frozen=True, slots=True)
class _Unraisable:
    """Leaves out what TensorStore has to say of arrays whose writing ends after that of one has failed.

    Orbax raises the failure, and closes the event loop that the others would tell of their end.
    """

    otherwise: Callable[["sys.UnraisableHookArgs"], Any]

    def __call__(self, raised: "sys.UnraisableHookArgs") -> None:
        """Say anything else."""
        where = raised.exc_traceback
        in_loop = where is not None and where.tb_frame.f_globals.get("__name__") == "asyncio.base_events"
        if not (raised.object is None and in_loop and isinstance(raised.exc_value, RuntimeError)):
            self.otherwise(raised)


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
