"""Shards made on the machines of a Ray cluster, which share a file system."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ringworld.core.compilation import keep_compiled_programs
from ringworld.core.packages import import_optional
from ringworld.data.making import ExampleMaker
from ringworld.data.shards import Shard, ShardTask, find_shard, prepare_shard


def make_shards_by_ray(
    tasks: Sequence[ShardTask], maker: ExampleMaker, *, workers: int | None
) -> Iterator[tuple[ShardTask, Shard]]:
    """Make shards with Ray Data and yield each when it is on disk; see `shards.make_shards`.

    Ray is started on this machine where it does not run and no address of a cluster is set (`RAY_ADDRESS`).
    A shard that fails, such as with a file that ends the process that reads it, is not yielded: whoever makes
    it here finds out why.

    Args:
        tasks: what is to be made.
        maker: of the examples.
        workers: most shards at once; by default as many as Ray has cores.

    Raises:
        InputError: the package `ray` is not installed.
    """
    ray = _ray()
    if not tasks:
        return
    context = ray.data.DataContext.get_current()
    allowed, context.max_errored_blocks = context.max_errored_blocks, -1  # as many as fail
    try:
        # Each with its own task: all of them would be read again for every shard.
        rows = [{"number": i, "task": ray.cloudpickle.dumps(task)} for i, task in enumerate(tasks)]
        made = ray.data.from_items(rows, override_num_blocks=len(tasks)).map(
            _make,
            fn_kwargs={"maker": ray.put(maker), "folder": os.getcwd()},
            concurrency=workers,
            max_retries=1,
        )
        for row in made.iter_rows():
            task = tasks[row["number"]]
            if (shard := find_shard(task.stem)) is not None:  # or the machines share no file system
                yield task, shard
    finally:
        context.max_errored_blocks = allowed


def _make(row: Mapping[str, Any], *, maker: Any, folder: str) -> dict[str, Any]:
    """Make one shard in a process of Ray's, to which `maker` is a reference."""
    os.chdir(folder)  # paths may be relative to it
    keep_compiled_programs()
    ray = _ray()
    prepare_shard(ray.cloudpickle.loads(row["task"]), ray.get(maker))
    return {"number": row["number"]}


def _ray() -> Any:
    import_optional("ray.data", extra="ray", use="engine ray", field="engine")
    return import_optional("ray", extra="ray", use="engine ray", field="engine")
