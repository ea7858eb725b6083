"""From the user's files to examples on disk, a shard at a time.

A shard holds the examples of a few files and is a function of those files, the tokenizers and the
configuration alone. It appears whole, and a run that was stopped makes only the shards that are missing.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ringworld.core.config import to_json
from ringworld.core.files import write_json_atomic, write_text_atomic
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
    """Write the examples of all usable files under `out`; what an earlier run wrote is kept.

    Args:
        videos: folders or files of videos and images, with captions and questions beside them.
        texts: folders or files of text, with questions beside them.
        out: folder of the prepared data; see `ringworld.data.store`.
        tokenizer: of the text.
        frame_tokenizer: of the frames.
        frame_tokenizer_fingerprint: changes when its weights do.
        resolution: side of its frames in pixels.
        vocabulary: of both.
        config: frame rate, lengths and splits.
        on_progress: called after each shard with the number of files done and of all.

    Raises:
        InputError: a folder is missing, or no file can be used.
    """
    started = time.monotonic()
    sources = find_sources(videos=videos, texts=texts, config=config)
    tools = Tools(
        maker=ExampleMaker(tokenizer=tokenizer, vocabulary=vocabulary, config=config),
        frame_tokenizer=frame_tokenizer,
        frame_tokenizer_fingerprint=frame_tokenizer_fingerprint,
        resolution=resolution,
    )
    size = config.files_per_shard
    groups = [sources[i : i + size] for i in range(0, len(sources), size)]
    folder = out / store.SHARDS_FOLDER
    stems = [folder / f"{i:05d}-of-{len(groups):05d}" for i in range(len(groups))]
    made = 0
    for index, (stem, group) in enumerate(zip(stems, groups)):
        if not is_whole(stem, group, tools):
            (out / store.MANIFEST_FILE).unlink(missing_ok=True)
            prepare_shard(stem, group, tools)
            made += 1
        on_progress(min((index + 1) * size, len(sources)), len(sources))
    tables = [pq.read_table(stem.with_suffix(".parquet")) for stem in stems]
    report = _report(tables, files=len(sources), made=made, seconds=time.monotonic() - started)
    if not report.counts:
        raise nothing_usable(", ".join(map(str, (*videos, *texts))) or "input", report.quarantined)
    _publish(out, tables, stems, report, tools)
    return report


def is_whole(stem: Path, sources: Sequence[Source], tools: Tools) -> bool:
    """Say whether a shard is there and was made of these very files with these very tools."""
    manifest = stem.with_suffix(".parquet")
    if not (manifest.exists() and stem.with_suffix(".array_record").exists()):
        return False
    try:
        state = json.loads((pq.read_schema(manifest).metadata or {}).get(_STATE, b"{}"))
    except (OSError, ValueError):
        return False
    return state.get("fingerprint") == _fingerprint(sources, tools)


def prepare_shard(stem: Path, sources: Sequence[Source], tools: Tools) -> None:
    """Write the shard of these files; a pure function of its arguments and what is in the files."""
    fingerprint = _fingerprint(sources, tools)
    problems = Problems(quarantined=[])
    with store.ShardWriter(stem, vocabulary=tools.maker.vocabulary) as writer:
        for source in sources:
            for example, split in prepare_file(source, tools, problems):
                writer.add(example, split=split)
        state = {
            "fingerprint": fingerprint,
            "quarantined": to_json(problems.quarantined),
            "questions_left_out": problems.questions_left_out,
        }
        writer.finish({_STATE.decode(): json.dumps(state)})


def _fingerprint(sources: Iterable[Source], tools: Tools) -> str:
    maker = tools.maker
    files = []
    for source in sources:
        beside = (source.path, source.path.with_suffix(".json"), source.path.with_suffix(".txt"))
        stats = [(path.stat().st_size, path.stat().st_mtime_ns) for path in beside if path.exists()]
        files.append((source.relative, source.split, stats))
    parts = (
        store.FORMAT,
        files,
        to_json(maker.config),
        to_json(maker.vocabulary),
        maker.tokenizer.fingerprint,
        tools.frame_tokenizer_fingerprint,
        tools.resolution,
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _report(tables: Sequence[pa.Table], *, files: int, made: int, seconds: float) -> PrepareReport:
    states = [json.loads(table.schema.metadata[_STATE]) for table in tables]
    columns = ["kind", "split"]
    merged = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    grouped = merged.group_by(columns).aggregate(
        [("tokens", "count"), ("tokens", "sum"), ("vision_tokens", "sum")]
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
        quarantined=tuple(Quarantined(**item) for state in states for item in state["quarantined"]),
        questions_left_out=sum(state["questions_left_out"] for state in states),
        shards_made=made,
        seconds=seconds,
    )


def _publish(
    out: Path, tables: Sequence[pa.Table], stems: Sequence[Path], report: PrepareReport, tools: Tools
) -> None:
    """Remove shards of an earlier run that this one does not have, then write what joins the shards."""
    kept = {stem.name for stem in stems}
    for path in (out / store.SHARDS_FOLDER).iterdir():
        if path.stem not in kept:
            path.unlink()
    dataset = store.Dataset(
        format=store.FORMAT,
        vocabulary=tools.maker.vocabulary,
        text_tokenizer=tools.maker.tokenizer.fingerprint,
        frame_tokenizer=tools.frame_tokenizer_fingerprint,
    )
    write_json_atomic(out / store.DATASET_FILE, to_json(dataset))
    lines = (json.dumps(to_json(item), ensure_ascii=False) + "\n" for item in report.quarantined)
    write_text_atomic(out / store.QUARANTINE_FILE, "".join(lines))
    merged = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    store.write_table(out / store.MANIFEST_FILE, merged)
