"""From the user's files to examples on disk, a shard at a time.

A shard holds the examples of a few files. It is a function of those files, the tokenizers and the
configuration alone, and its name ends in a hash of them. It appears whole, and a run that was stopped makes
only the shards that are missing.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ringworld.core.config import from_json, to_json
from ringworld.core.files import claim_folder, parse_json, write_json_atomic, write_jsonl_atomic
from ringworld.data import store
from ringworld.data.config import Kind, PrepareConfig, Split
from ringworld.data.examples import ExampleMaker, FrameEncoder
from ringworld.data.file_examples import Problems, Tools, prepare_file
from ringworld.data.quarantine import Quarantined, nothing_usable
from ringworld.data.sources import Source, find_sources
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.vocabulary import Vocabulary

_STATE = b"ringworld"


@dataclass(frozen=True, kw_only=True, slots=True)
class KindCount:
    """Size of one kind of example in one split."""

    kind: Kind
    split: Split
    examples: int
    tokens: int
    vision_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareReport:
    """What preparation made of the files."""

    files: int
    counts: tuple[KindCount, ...]
    quarantined: tuple[Quarantined, ...]
    """Files that could not be used."""
    questions_left_out: int
    """Questions about documents that are longer than `document_tokens`."""
    shards_made: int
    """Shards that this run wrote; the others were there."""
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shard:
    """One shard, whole on disk."""

    stem: Path
    manifest: pa.Table
    problems: Problems


def prepare(
    *,
    videos: Sequence[Path] = (),
    texts: Sequence[Path] = (),
    out: Path,
    tokenizer: TextTokenizer,
    frame_tokenizer: FrameEncoder,
    frame_tokenizer_fingerprint: str,
    resolution: int,
    vocabulary: Vocabulary,
    config: PrepareConfig,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PrepareReport:
    """Write the examples of all usable files under `out`.

    A second call makes only the shards that are missing or whose files have changed; what an earlier one made
    can be used until all is made anew.

    Args:
        videos: folders or files of videos and images, with captions and questions beside them.
        texts: folders or files of text, with questions beside them.
        out: folder of the prepared data, of these folders and files alone; see `ringworld.data.store`.
        tokenizer: of the text.
        frame_tokenizer: of the frames.
        frame_tokenizer_fingerprint: changes when its weights do.
        resolution: side of its frames in pixels.
        vocabulary: of both.
        config: frame rate, lengths and splits.
        on_progress: called after each shard with the number of files done and of all.

    Raises:
        InputError: a folder is missing, no file can be used, or `out` holds the examples of other inputs.
    """
    started = time.monotonic()
    aside: list[Quarantined] = []
    sources = find_sources(videos=videos, texts=texts, config=config, set_aside=aside)
    tools = Tools(
        maker=ExampleMaker(tokenizer=tokenizer, vocabulary=vocabulary, config=config),
        frame_tokenizer=frame_tokenizer,
        frame_tokenizer_fingerprint=frame_tokenizer_fingerprint,
        resolution=resolution,
    )
    made_by = _identity(tools)
    _claim(out, made_by, videos=videos, texts=texts)
    size = config.files_per_shard
    groups = [sources[i : i + size] for i in range(0, len(sources), size)]
    shards, made = [], 0
    for index, group in enumerate(groups):
        name = f"{index:05d}-of-{len(groups):05d}-{_fingerprint(group, made_by)}"
        stem = out / store.SHARDS_FOLDER / name
        shard = find_shard(stem)
        if shard is None:
            shard = prepare_shard(stem, group, tools)
            made += 1
        shards.append(shard)
        on_progress(min((index + 1) * size, len(sources)), len(sources))
    report = _report(shards, files=len(sources), made=made, seconds=time.monotonic() - started)
    report = replace(report, quarantined=(*aside, *report.quarantined))
    if not report.counts:
        raise nothing_usable(", ".join(map(str, (*videos, *texts))) or "input", report.quarantined)
    _publish(out, shards, report, tools)
    return report


def find_shard(stem: Path) -> Shard | None:
    """Return a shard that is there whole, or None."""
    manifest = stem.with_suffix(".parquet")
    if not (manifest.exists() and stem.with_suffix(".array_record").exists()):
        return None
    try:
        table = store.read_manifest(manifest)
        state = parse_json((table.schema.metadata or {}).get(_STATE, b"").decode())
        problems = from_json(Problems, state, where=str(manifest))
    except ValueError:  # a damaged one is made again
        return None
    return Shard(stem=stem, manifest=table, problems=problems)


def prepare_shard(stem: Path, sources: Sequence[Source], tools: Tools) -> Shard:
    """Write the shard of these files; a pure function of its arguments and what is in the files."""
    problems = Problems(quarantined=[])
    examples = (made for source in sources for made in prepare_file(source, tools, problems))
    manifest = store.write_shard(stem, examples, vocabulary=tools.maker.vocabulary)
    state = {_STATE: json.dumps(to_json(problems))}
    store.write_manifest(stem.with_suffix(".parquet"), manifest.replace_schema_metadata(state))
    return Shard(stem=stem, manifest=manifest, problems=problems)


def _claim(out: Path, made_by: dict[str, Any], *, videos: Sequence[Path], texts: Sequence[Path]) -> None:
    def named(path: Path) -> str:
        # Inputs below the folder in which `out` lies may move together with it.
        path, base = path.resolve(), out.resolve().parent
        return str(path.relative_to(base) if path.is_relative_to(base) else path)

    claim_folder(
        out / "prepared_from.json",
        {
            "videos": [named(path) for path in videos],
            "texts": [named(path) for path in texts],
            "made_by": made_by,
        },
        holds="examples of other files, of other tokenizers or of another configuration",
        results=out / store.DATASET_FILE,  # shards before it are told apart by their names
    )


def _fingerprint(sources: Iterable[Source], made_by: dict[str, Any]) -> str:
    files = []
    for source in sources:
        beside = (source.path, source.path.with_suffix(".json"), source.path.with_suffix(".txt"))
        stats = [(path.stat().st_size, path.stat().st_mtime_ns) for path in beside if path.exists()]
        files.append((source.relative, source.split, stats))
    return hashlib.sha256(json.dumps([files, made_by]).encode()).hexdigest()[:16]


def _identity(tools: Tools) -> dict[str, Any]:
    """Return what decides the examples of a file, besides the file."""
    maker = tools.maker
    return {
        "format": store.FORMAT,
        "config": to_json(maker.config),
        "vocabulary": to_json(maker.vocabulary),
        "text_tokenizer": maker.tokenizer.fingerprint,
        "frame_tokenizer": tools.frame_tokenizer_fingerprint,
        "resolution": tools.resolution,
    }


def _report(shards: Sequence[Shard], *, files: int, made: int, seconds: float) -> PrepareReport:
    columns = ["kind", "split"]
    grouped = (
        _merged(shards)
        .group_by(columns)
        .aggregate([("tokens", "count"), ("tokens", "sum"), ("vision_tokens", "sum")])
    )
    counts = [
        KindCount(
            kind=row["kind"],
            split=row["split"],
            examples=row["tokens_count"],
            tokens=row["tokens_sum"],
            vision_tokens=row["vision_tokens_sum"],
        )
        for row in grouped.sort_by([(name, "ascending") for name in columns]).to_pylist()
    ]
    return PrepareReport(
        files=files,
        counts=tuple(counts),
        quarantined=tuple(item for shard in shards for item in shard.problems.quarantined),
        questions_left_out=sum(shard.problems.questions_left_out for shard in shards),
        shards_made=made,
        seconds=seconds,
    )


def _publish(out: Path, shards: Sequence[Shard], report: PrepareReport, tools: Tools) -> None:
    """Write what joins the shards, then remove those of an earlier run that this one does not have."""
    dataset = store.Dataset(
        format=store.FORMAT,
        vocabulary=tools.maker.vocabulary,
        text_tokenizer=tools.maker.tokenizer.fingerprint,
        frame_tokenizer=tools.frame_tokenizer_fingerprint,
    )
    write_json_atomic(out / store.DATASET_FILE, to_json(dataset))
    write_jsonl_atomic(out / store.QUARANTINE_FILE, map(to_json, report.quarantined))
    store.write_manifest(out / store.MANIFEST_FILE, _merged(shards))
    kept = {shard.stem.name for shard in shards}
    for path in (out / store.SHARDS_FOLDER).iterdir():
        if path.stem not in kept:
            path.unlink()


def _merged(shards: Sequence[Shard]) -> pa.Table:
    return pa.concat_tables([shard.manifest.replace_schema_metadata(None) for shard in shards])
