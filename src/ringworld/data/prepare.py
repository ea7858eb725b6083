"""From the user's files to examples on disk, a shard at a time.

A shard holds the examples of a few files. It is a function of those files, the tokenizers and the
configuration alone, and its name ends in a hash of them. It appears whole, and a run that resumes makes only
the shards that are missing.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa

from ringworld.core.config import from_json, to_json
from ringworld.core.errors import InputError
from ringworld.core.files import parse_json, write_jsonl_atomic
from ringworld.core.origin import Origin, claim
from ringworld.data import store
from ringworld.data.config import Kind, PrepareConfig, Split
from ringworld.data.examples import ExampleMaker, FrameEncoder
from ringworld.data.file_examples import Problems, prepare_file
from ringworld.data.find_sources import find_sources
from ringworld.data.quarantine import Quarantined, nothing_usable
from ringworld.data.sources import Source
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
    questions_unanswered: int
    """Questions that are empty, or whose answer is."""
    questions_too_long: int
    """Questions about documents that are longer than `document_tokens`, or whose end is held out."""
    shards_made: int
    """Shards that this run wrote; the others were there."""
    seconds: float

    def lines(self) -> list[str]:
        """Return the report as lines to read."""
        too_long = "about a document that is longer than one example, or whose end is held out"
        left_out = ((self.questions_unanswered, "without an answer"), (self.questions_too_long, too_long))
        return [
            *(f"{one.split} {one.kind}: {one.examples} examples, {one.tokens} tokens" for one in self.counts),
            *(f"left out: {many} question{'s' * (many > 1)} {why}" for many, why in left_out if many),
            *(f"quarantined: {item.path}: {item.reason}" for item in self.quarantined),
        ]


def prepare(
    *,
    videos: Sequence[Path] = (),
    texts: Sequence[Path] = (),
    out: Path,
    tokenizer: TextTokenizer,
    frame_tokenizer: FrameEncoder | None = None,
    vocabulary: Vocabulary,
    config: PrepareConfig,
    configuration: Any = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> PrepareReport:
    """Write the examples of all usable files under `out`.

    A second call makes only the shards that are missing or whose files have changed; what an earlier one made
    can be used until the new shards are complete.

    Args:
        videos: folders or files of videos and images, with captions and questions beside them.
        texts: folders or files of text, with questions beside them.
        out: folder of the prepared data, of these folders and files alone; see `ringworld.data.store`.
        tokenizer: of the text. Videos need one too: every example begins and ends with its special ids.
        frame_tokenizer: of the frames; None where there are no videos.
        vocabulary: of both.
        config: frame rate, lengths and splits.
        configuration: of the whole run, for the origin of the examples.
        on_progress: called after each shard with the number of files done and of all.

    Raises:
        InputError: a folder is missing, no file can be used, `out` holds the examples of other inputs, or
            there are videos without a frame tokenizer or without codes in the vocabulary.
    """
    started = time.monotonic()
    _check_frames(videos, frame_tokenizer, vocabulary)
    unusable: list[Quarantined] = []
    sources = find_sources(videos=videos, texts=texts, config=config, quarantined=unusable)
    maker = ExampleMaker(
        tokenizer=tokenizer, vocabulary=vocabulary, config=config, frame_tokenizer=frame_tokenizer
    )
    identity = _identity(maker, out=out, videos=videos, texts=texts)
    origin = Origin(kind="examples", identity=identity, configuration=configuration)
    claim(out, origin, results=store.MANIFEST_FILE)  # shards before it are distinguished by their names
    size = config.files_per_shard
    groups = [sources[i : i + size] for i in range(0, len(sources), size)]
    shards: dict[str, tuple[pa.Table, Problems]] = {}
    made = 0
    for index, group in enumerate(groups):
        name = f"{index:05d}-of-{len(groups):05d}-{_fingerprint(group, identity['made_by'])}"
        stem = out / store.SHARDS_FOLDER / name
        shard = find_shard(stem)
        if shard is None:
            shard = prepare_shard(stem, group, maker)
            made += 1
        shards[name] = shard
        on_progress(min((index + 1) * size, len(sources)), len(sources))
    manifest = pa.concat_tables([table.replace_schema_metadata(None) for table, _ in shards.values()])
    problems = [problem for _, problem in shards.values()]
    unusable += [item for problem in problems for item in problem.quarantined]
    report = PrepareReport(
        files=len(sources),
        counts=_counts(manifest),
        quarantined=tuple(unusable),
        questions_unanswered=sum(problem.questions_unanswered for problem in problems),
        questions_too_long=sum(problem.questions_too_long for problem in problems),
        shards_made=made,
        seconds=time.monotonic() - started,
    )
    if not report.counts:
        raise nothing_usable(", ".join(map(str, (*videos, *texts))) or "input", report.quarantined)
    # What joins the shards, and only then those of an earlier run that this one does not have.
    write_jsonl_atomic(out / store.QUARANTINE_FILE, map(to_json, unusable))
    store.write_manifest(out / store.MANIFEST_FILE, manifest)
    for path in (out / store.SHARDS_FOLDER).iterdir():
        if path.stem not in shards:
            path.unlink()
    return report


def find_shard(stem: Path) -> tuple[pa.Table, Problems] | None:
    """Return the manifest and the problems of a shard that is whole on disk, or None."""
    manifest = stem.with_suffix(".parquet")
    if not (manifest.exists() and stem.with_suffix(".array_record").exists()):
        return None
    try:
        table = store.read_manifest(manifest)
        state = parse_json((table.schema.metadata or {}).get(_STATE, b"").decode())
        return table, from_json(Problems, state, where=str(manifest))
    except ValueError:  # a damaged one is written again
        return None


def prepare_shard(stem: Path, sources: Sequence[Source], maker: ExampleMaker) -> tuple[pa.Table, Problems]:
    """Write the shard of these files; a pure function of its arguments and what is in the files."""
    problems = Problems(quarantined=[])
    examples = (made for source in sources for made in prepare_file(source, maker, problems))
    manifest = store.write_shard(stem, examples, vocabulary=maker.vocabulary)
    state = {_STATE: json.dumps(to_json(problems))}
    store.write_manifest(stem.with_suffix(".parquet"), manifest.replace_schema_metadata(state))
    return manifest, problems


def _check_frames(
    videos: Sequence[Path], frame_tokenizer: FrameEncoder | None, vocabulary: Vocabulary
) -> None:
    if videos and frame_tokenizer is None:
        raise InputError(
            "videos cannot be prepared without a frame tokenizer",
            field="frame_tokenizer",
            remedy="pass one, or prepare texts alone",
        )
    if videos and not vocabulary.codes:
        raise InputError(
            "videos cannot be prepared with a vocabulary of text alone",
            field="vocabulary",
            value=vocabulary,
            remedy="use a vocabulary with the codes of the frame tokenizer, or prepare texts alone",
        )


def _fingerprint(sources: Iterable[Source], made_by: dict[str, Any]) -> str:
    files = []
    for source in sources:
        stats = [path.stat() for path in (source.path, *source.sidecars)]
        changes = [(stat.st_size, stat.st_mtime_ns) for stat in stats]
        files.append((source.relative, source.format, source.split, changes))
    return hashlib.sha256(json.dumps([files, made_by]).encode()).hexdigest()[:16]


def _identity(
    maker: ExampleMaker, *, out: Path, videos: Sequence[Path], texts: Sequence[Path]
) -> dict[str, Any]:
    """Return what decides the examples in `out`: the inputs, and by whom each file becomes examples."""

    def named(path: Path) -> str:
        # Inputs below the folder in which `out` lies may move together with it.
        path, base = path.resolve(), out.resolve().parent
        return str(path.relative_to(base) if path.is_relative_to(base) else path)

    frames = maker.frame_tokenizer
    return {
        "videos": [named(path) for path in videos],
        "texts": [named(path) for path in texts],
        "made_by": {
            "format": store.FORMAT,
            "config": to_json(maker.config),
            "vocabulary": to_json(maker.vocabulary),
            "text_tokenizer": maker.tokenizer.fingerprint,
            "frame_tokenizer": frames.fingerprint if frames else None,
            "resolution": frames.resolution if frames else None,
        },
    }


def _counts(manifest: pa.Table) -> tuple[KindCount, ...]:
    sums = [("tokens", "count"), ("tokens", "sum"), ("vision_tokens", "sum")]
    grouped = manifest.group_by(["kind", "split"]).aggregate(sums)
    named = grouped.rename_columns([field.name for field in fields(KindCount)])
    in_order = named.sort_by([("kind", "ascending"), ("split", "ascending")])
    return tuple(KindCount(**row) for row in in_order.to_pylist())
