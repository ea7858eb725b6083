"""Checkpoints: a tree of arrays and a JSON object at a step, whole or absent, through Orbax."""

import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from ringworld.core.errors import InputError
from ringworld.core.files import room_for


class Restored(NamedTuple):
    """What a checkpoint held."""

    step: int
    tree: Any
    meta: dict[str, Any]


class Checkpoints:
    """The newest two checkpoints of one run in one folder, which holds nothing else."""

    def __init__(self, directory: Path) -> None:
        """Open the folder, or make it, and clear away what was not finished."""
        self.directory = directory
        policies = ocp.checkpoint_managers
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policies.FixedIntervalPolicy(1),
                preservation_policy=policies.LatestN(2),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """Return the step of the newest checkpoint, or None."""
        return self._manager.latest_step()

    def save(self, step: int, tree: Any, meta: dict[str, Any]) -> None:
        """Write `tree` (arrays, sharded or not) and `meta` (JSON) and return when both are on disk."""
        items = ocp.args.Composite(tree=ocp.args.PyTreeSave(tree), meta=ocp.args.JsonSave(meta))
        with room_for(self.directory / str(step)):
            self._manager.save(step, args=items)
            self._manager.wait_until_finished()

    def restore(self, abstract: Any) -> Restored | None:
        """Read the newest checkpoint into the shapes, dtypes and shardings of `abstract`.

        Args:
            abstract: a tree of `jax.ShapeDtypeStruct` (or arrays) like the one that was saved; shardings may
                belong to another mesh than the one that saved.

        Returns:
            None where the folder holds no checkpoint.

        Raises:
            InputError: the newest checkpoint is damaged, or is of another tree.
        """
        step = self.latest_step
        if step is None:
            return None
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), abstract
        )
        tree = ocp.args.PyTreeRestore(
            abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract)
        )
        items = ocp.args.Composite(tree=tree, meta=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=items)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            path = self.directory / str(step)
            reason = textwrap.shorten(str(error), 120, placeholder=" ...")
            raise InputError(
                f"{path} cannot be read as a checkpoint of this model ({reason})",
                path=path,
                remedy="check the configuration; delete the folder only if it is damaged",
            ) from error
        return Restored(step, restored["tree"], restored["meta"])

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()
