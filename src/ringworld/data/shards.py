"""One shard: examples of a few files or a part of one, a function of these, tokenizers and configuration."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from ringworld.core.compilation import keep_compiled_programs
from ringworld.core.config import from_json, to_json
from ringworld.core.files import parse_json
from ringworld.data import store
from ringworld.data.config import PrepareConfig
from ringworld.data.frames import stream_frames
from ringworld.data.making import ExampleMaker, Problems
from ringworld.data.progress import FileCount
from ringworld.data.quarantine import quarantine
from ringworld.data.reading import Reading
from ringworld.data.samples import MediaFile
from ringworld.data.sources import Files
from ringworld.data.workers import OnFile

_STATE = b"ringworld"
_TRIED_PIXELS = 8


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
    tasks: Sequence[ShardTask], maker: ExampleMaker, *, reading: Reading, count: FileCount
) -> Iterator[tuple[ShardTask, Shard]]:
    """Make shards and yield each when it is on disk; their bytes do not depend on who reads.

    Args:
        tasks: what is to be made.
        maker: of the examples; each process gets a copy.
        reading: by whom the files are read.
        count: is told of each file that is begun.

    Raises:
        InputError: the disk is full.
    """
    work = partial(_work, stems=[task.stem for task in tasks], maker=maker)
    for index, _, shard in reading.read([task.sources for task in tasks], work, count=count):
        yield tasks[index], shard


def try_files(tasks: Sequence[ShardTask], config: PrepareConfig, *, reading: Reading) -> None:
    """Let other processes read files to their end, without encoding anything: what ends one is then known.

    An accelerator is opened by one process, which encodes, and which a file must not end.

    Args:
        tasks: whose files are to be read.
        config: of preparation.
        reading: remembers what is not to be read.
    """
    apart = replace(reading, by="others")
    groups = [task.sources for task in tasks]
    count = reading.count("trying", total=sum(map(len, groups)))
    for _, files, _ in apart.read(groups, partial(_try, config=config), count=count):
        count.ends(len(files))


def _try(index: int, files: Files, on_file: OnFile, *, config: PrepareConfig) -> None:
    for source in files:
        on_file(source)
        # What is wrong with it is said when it is read.
        with quarantine(source.relative, into=[]):
            samples = () if source.unread else source.reader.read(source, config=config, quarantined=[])
            for clip in (clip for sample in samples for clip in sample.clips):
                if isinstance(clip, MediaFile):
                    with quarantine(source.relative, into=[]):
                        for _ in stream_frames(clip, config=config, resolution=_TRIED_PIXELS):
                            on_file(source)


def _work(index: int, files: Files, on_file: OnFile, *, stems: Sequence[Path], maker: ExampleMaker) -> Shard:
    keep_compiled_programs()
    return prepare_shard(ShardTask(stem=stems[index], sources=files), maker, on_file=on_file)


def prepare_shard(task: ShardTask, maker: ExampleMaker, *, on_file: OnFile = lambda source: None) -> Shard:
    """Write one shard; a pure function of its arguments and what is in the files.

    Args:
        task: its files, whose examples it holds in their order, and where it is written.
        maker: of the examples.
        on_file: called before each file is read, and while it is.

    Raises:
        InputError: the disk is full.
    """
    problems = Problems(quarantined=[])
    groups = maker.of_files(task.sources, problems, on_file=on_file)
    manifest = store.write_shard(task.stem, groups, vocabulary=maker.vocabulary)
    state = {_STATE: json.dumps(to_json(problems))}
    store.write_manifest(task.stem.with_suffix(".parquet"), manifest.replace_schema_metadata(state))
    return Shard(manifest=manifest, problems=problems)
