"""One shard: the examples of a few files, a function of these files, the tokenizers and the configuration."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from ringworld.core.compilation import keep_compiled_programs
from ringworld.core.config import from_json, to_json
from ringworld.core.files import parse_json
from ringworld.data import store
from ringworld.data.making import ExampleMaker, Group, Problems
from ringworld.data.quarantine import Quarantined
from ringworld.data.workers import Files, OnFile, read_in_processes

_STATE = b"ringworld"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardTask:
    """One shard that is to be made."""

    stem: Path
    """Where, without suffix."""
    sources: Files


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A shard that is whole on disk."""

    manifest: pa.Table
    problems: Problems


def find_shard(stem: Path) -> Shard | None:
    """Return a shard that is whole on disk, or None."""
    manifest = stem.with_suffix(".parquet")
    if not (manifest.exists() and stem.with_suffix(".array_record").exists()):
        return None
    try:
        table = store.read_manifest(manifest)
        state = parse_json((table.schema.metadata or {}).get(_STATE, b"").decode())
        problems = from_json(Problems, state, where=str(manifest))
    except ValueError:  # a damaged one is written again
        return None
    return Shard(manifest=table.replace_schema_metadata(None), problems=problems)


def make_shards(
    tasks: Sequence[ShardTask], maker: ExampleMaker, *, workers: int, on_file: OnFile
) -> Iterator[tuple[ShardTask, Shard]]:
    """Make shards and yield each when it is on disk; their bytes do not depend on the number of workers.

    Args:
        tasks: what is to be made.
        maker: of the examples; each process gets a copy.
        workers: processes; with 0, this one does the work.
        on_file: called before each file is read.

    Raises:
        InputError: the disk is full.
    """
    if workers == 0:
        for task in tasks:
            yield task, prepare_shard(task, maker, on_file=on_file)
        return
    work = partial(_work, stems=[task.stem for task in tasks], maker=maker)
    groups = [task.sources for task in tasks]
    for index, _, shard in read_in_processes(groups, work, workers=workers, on_file=on_file):
        yield tasks[index], shard


def _work(index: int, files: Files, on_file: OnFile, *, stems: Sequence[Path], maker: ExampleMaker) -> Shard:
    keep_compiled_programs()
    return prepare_shard(ShardTask(stem=stems[index], sources=files), maker, on_file=on_file)


def prepare_shard(task: ShardTask, maker: ExampleMaker, *, on_file: OnFile = lambda source: None) -> Shard:
    """Write one shard; a pure function of its arguments and what is in the files.

    Args:
        task: its files, whose examples it holds in their order, and where it is written.
        maker: of the examples.
        on_file: called before each file is read.

    Raises:
        InputError: the disk is full.
    """
    problems = Problems(quarantined=[])

    def groups() -> Iterator[Group]:
        for source in task.sources:
            on_file(source)
            if source.unread:
                problems.quarantined.append(Quarantined(path=source.relative, reason=source.unread))
            else:
                yield from maker.of_file(source, problems)

    manifest = store.write_shard(task.stem, groups(), vocabulary=maker.vocabulary)
    state = {_STATE: json.dumps(to_json(problems))}
    store.write_manifest(task.stem.with_suffix(".parquet"), manifest.replace_schema_metadata(state))
    return Shard(manifest=manifest, problems=problems)
