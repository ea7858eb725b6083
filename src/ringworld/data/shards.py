"""One shard: the examples of a few files, a function of these files, the tokenizers and the configuration."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ringworld.core.config import from_json, to_json
from ringworld.core.files import parse_json
from ringworld.data import store
from ringworld.data.making import ExampleMaker, Group, Problems
from ringworld.data.quarantine import Quarantined
from ringworld.data.sources import Source

_STATE = b"ringworld"


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


def prepare_shard(
    stem: Path,
    sources: Sequence[Source],
    maker: ExampleMaker,
    *,
    skipped: Mapping[str, str],
    on_file: Callable[[Source], None] = lambda source: None,
) -> Shard:
    """Write the shard of these files; a pure function of its arguments and what is in the files.

    Args:
        stem: of the files that are written.
        sources: whose examples it holds, in this order.
        maker: of the examples.
        skipped: why files are not read, by their names.
        on_file: called before each file is read.

    Raises:
        InputError: the disk is full.
    """
    problems = Problems(quarantined=[])

    def groups() -> Iterator[Group]:
        for source in sources:
            on_file(source)
            if source.relative in skipped:
                reason = skipped[source.relative]
                problems.quarantined.append(Quarantined(path=source.relative, reason=reason))
            else:
                yield from maker.of_file(source, problems)

    manifest = store.write_shard(stem, groups(), vocabulary=maker.vocabulary)
    state = {_STATE: json.dumps(to_json(problems))}
    store.write_manifest(stem.with_suffix(".parquet"), manifest.replace_schema_metadata(state))
    return Shard(manifest=manifest, problems=problems)
