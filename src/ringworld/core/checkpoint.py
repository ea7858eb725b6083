"""Checkpoints: a tree of arrays and a JSON object at a step, whole or absent, through Orbax."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from ringworld.core.errors import InputError


class Restored(NamedTuple):
    """What a checkpoint held."""

    step: int
    tree: Any
    meta: dict[str, Any]


class Checkpoints:
    """The newest `keep` checkpoints of one run in one folder."""

    def __init__(self, directory: Path, *, keep: int = 2) -> None:
        """Open the folder, and make it if need be."""
        self._directory = directory
        policies = ocp.checkpoint_managers
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                save_decision_policy=policies.FixedIntervalPolicy(1),
                preservation_policy=policies.LatestN(keep),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            ),
        )

    def save(self, step: int, tree: Any, meta: dict[str, Any]) -> None:
        """Write `tree` (arrays, sharded or not) and `meta` (JSON) and return when both are on disk."""
        self._manager.save(
            step, args=ocp.args.Composite(tree=ocp.args.StandardSave(tree), meta=ocp.args.JsonSave(meta))
        )
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
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(_as_abstract, abstract)
        items = ocp.args.Composite(tree=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore())
        try:
            restored = self._manager.restore(step, args=items)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            raise InputError(
                what=str(self._directory / str(step)),
                got=f"a checkpoint that cannot be read ({str(error).splitlines()[0]})",
                expected="a whole checkpoint of the same model",
                remedy="Check memory and configuration. Delete that folder only if it is damaged.",
            ) from error
        return Restored(step, restored["tree"], restored["meta"])

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()


def _as_abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
