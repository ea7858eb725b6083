"""From the user's files to examples on disk, a shard at a time.

A shard holds the examples of a few files. It is a function of those files, the tokenizers and the
configuration alone, and its name is a hash of them. It appears whole, and a run that resumes makes only the
shards that are missing.
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from ringworld.core.config import to_json
from ringworld.core.errors import InputError
from ringworld.core.files import write_jsonl_atomic
from ringworld.core.origin import Origin, claim, library_versions
from ringworld.core.ranges import check_number
from ringworld.core.tables import aligned
from ringworld.data import store
from ringworld.data.by_ray import make_shards_by_ray
from ringworld.data.clips import FrameEncoder
from ringworld.data.config import PrepareConfig, Split
from ringworld.data.duplicates import Duplicate, mark_duplicates
from ringworld.data.find_sources import RECORD_READERS, find_sources
from ringworld.data.groups import cut_into_groups, name_groups, version_of
from ringworld.data.making import ExampleMaker
from ringworld.data.quarantine import Quarantined, nothing_usable
from ringworld.data.recipe import Recipe
from ringworld.data.recipes import RECIPES
from ringworld.data.shards import Shard, ShardTask, find_shard, make_shards
from ringworld.data.sources import Reader, Source
from ringworld.data.workers import Files
from ringworld.text.tokenizer import TextTokenizer
from ringworld.text.training_template import wording_of
from ringworld.text.vocabulary import Vocabulary

Engine = Literal["pool", "ray"]
OnProgress = Callable[[int, int, int], None]
_BYTES_A_WORKER = 16 * 2**20
"""A worker takes seconds to start, in which another reads so much."""
_DECODERS = ("av", "pillow")
"""Libraries whose releases may decode a clip to other pixels."""
_READING_FILE = ".reading"
"""Stands in the folder while files are read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KindCount:
    """Size of one kind of example of one data set in one split."""

    dataset: str
    kind: str
    split: Split
    examples: int
    tokens: int
    """Where each clip is shown with all its frames."""
    vision_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareReport:
    """What preparation made of the files."""

    files: int
    counts: tuple[KindCount, ...]
    quarantined: tuple[Quarantined, ...]
    """Files that could not be used."""
    duplicates: int
    """Texts that were left out, since another holds the same; `duplicates.jsonl` names both."""
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
        heads = ("split", "data set", "kind", "examples", "tokens", "vision")
        rows = [
            (one.split, one.dataset, one.kind)
            + (f"{one.examples:,}", f"{one.tokens:,}", f"{one.vision_tokens:,}")
            for one in self.counts
        ]
        return [
            *aligned([heads, *rows], words=3),
            f"files: {self.files:,}, shards made: {self.shards_made:,}, in {self.seconds:.1f} s",
            *(f"left out: {many} question{'s' * (many > 1)} {why}" for many, why in left_out if many),
            *([f"left out: {self.duplicates} texts that are there twice"] if self.duplicates else ()),
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
    readers: Mapping[str, Reader] = RECORD_READERS,
    recipes: Sequence[Recipe] = RECIPES,
    configuration: Any = None,
    workers: int | None = None,
    engine: Engine = "pool",
    on_progress: OnProgress = lambda done, total, quarantined: None,
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
        readers: of files of many samples, by the end of their names.
        recipes: the kinds of example that are made.
        configuration: of the whole run, for the origin of the examples.
        workers: processes that read files; with 1, this one does. By default as many as there are cores,
            where there is enough to read for each. After a run that did not come to its end, as where a file
            ended it, no file is read by this process.
        engine: whether these are of this machine or of a Ray cluster; the examples do not depend on it.
        on_progress: called as files are read, with the number of those done, of all and of those quarantined.

    Raises:
        InputError: a folder is missing, no file can be used, `out` holds the examples of other inputs, or
            there are videos without a frame tokenizer or without codes in the vocabulary.
    """
    started = time.monotonic()
    _check_frames(videos, frame_tokenizer, vocabulary)
    maker = ExampleMaker(
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        config=config,
        frame_tokenizer=frame_tokenizer,
        recipes=tuple(recipes),
        conversation=wording_of(config.chat_template, tokenizer),
    )
    unusable: list[Quarantined] = []
    found = find_sources(videos=videos, texts=texts, config=config, readers=readers, quarantined=unusable)
    identity = _identity(maker, out=out, videos=videos, texts=texts)
    origin = Origin(kind="examples", identity=identity, configuration=configuration)
    claim(out, origin, results=store.MANIFEST_FILE)  # shards before it are distinguished by their names
    reading = out / _READING_FILE
    apart = engine == "ray" or reading.exists()  # what ended a process would end this one
    reading.touch()
    at_once = _count_workers(workers, [(source,) for source in found], apart=apart)
    sources, duplicates = mark_duplicates(found, config=config, workers=at_once)
    tasks = _plan(sources, config=config, made_by=identity["made_by"], out=out)
    shards, made = _make(tasks, maker, workers=workers, engine=engine, apart=apart, on_progress=on_progress)
    reading.unlink(missing_ok=True)
    unusable += [item for shard in shards for item in shard.problems.quarantined]
    problems = [shard.problems for shard in shards]
    manifest = pa.concat_tables([shard.manifest for shard in shards])
    report = PrepareReport(
        files=len(sources),
        counts=_counts(manifest),
        quarantined=tuple(unusable),
        duplicates=len(duplicates),
        questions_unanswered=sum(problem.questions_unanswered for problem in problems),
        questions_too_long=sum(problem.questions_too_long for problem in problems),
        shards_made=made,
        seconds=time.monotonic() - started,
    )
    if not report.counts:
        raise nothing_usable(", ".join(map(str, (*videos, *texts))) or "input", report.quarantined)
    _commit(out, tasks, manifest, unusable, duplicates)
    return report


def _plan(
    sources: Sequence[Source], *, config: PrepareConfig, made_by: dict[str, Any], out: Path
) -> list[ShardTask]:
    """Return the shards of all files, those that are whole already among them."""
    groups = cut_into_groups(sources, most=config.files_per_shard)
    names = name_groups(groups, made_by=made_by)
    return [
        ShardTask(stem=out / store.SHARDS_FOLDER / name, sources=group) for name, group in zip(names, groups)
    ]


def _make(
    tasks: Sequence[ShardTask],
    maker: ExampleMaker,
    *,
    workers: int | None,
    engine: Engine,
    apart: bool,
    on_progress: OnProgress,
) -> tuple[list[Shard], int]:
    """Make the shards that are missing, and return all in their order, and how many were made."""
    shards = {task.stem: shard for task in tasks if (shard := find_shard(task.stem)) is not None}
    missing = [task for task in tasks if task.stem not in shards]
    made_here = _count_workers(workers, [task.sources for task in missing], apart=apart)
    files = sum(len(task.sources) for task in tasks)
    progress = _Progress(files, missing, on_progress, at_once=max(1, made_here))
    if engine == "ray":
        for task, shard in make_shards_by_ray(missing, maker, workers=workers):
            shards[task.stem] = shard
            progress.ends(task, shard)
    left = [task for task in missing if task.stem not in shards]
    for task, shard in make_shards(left, maker, workers=made_here, on_file=progress.begins):
        shards[task.stem] = shard
        progress.ends(task, shard)
    return [shards[task.stem] for task in tasks], len(missing)


def _commit(
    out: Path,
    tasks: Sequence[ShardTask],
    manifest: pa.Table,
    unusable: Sequence[Quarantined],
    duplicates: Sequence[Duplicate],
) -> None:
    """Write what joins the shards, and only then delete those of an earlier run that are none of them."""
    write_jsonl_atomic(out / store.QUARANTINE_FILE, map(to_json, unusable))
    write_jsonl_atomic(out / store.DUPLICATES_FILE, map(to_json, duplicates))
    store.write_manifest(out / store.MANIFEST_FILE, manifest)
    stems = {task.stem for task in tasks}
    for path in (out / store.SHARDS_FOLDER).iterdir():
        if path.with_suffix("") not in stems:
            path.unlink()


class _Progress:
    """Counts files that are done, those of shards that were there among them."""

    def __init__(
        self, files: int, missing: Sequence[ShardTask], on_progress: OnProgress, *, at_once: int
    ) -> None:
        self._files, self._on_progress, self._at_once = files, on_progress, at_once
        self._whole = files - sum(len(task.sources) for task in missing)
        """Files of shards that are whole."""
        self._done, self._begun = self._whole, self._whole
        self._quarantined = 0

    def begins(self, source: Source) -> None:
        """Take note that a file is begun; of those at most `at_once` are not done."""
        self._begun += 1
        self._show(self._begun - self._at_once)

    def ends(self, task: ShardTask, shard: Shard) -> None:
        """Take note of a whole shard."""
        self._whole += len(task.sources)
        self._quarantined += len(shard.problems.quarantined)
        self._show(self._whole)

    def _show(self, done: int) -> None:
        self._done = max(self._done, done)
        self._on_progress(self._done, self._files, self._quarantined)


def _count_workers(workers: int | None, groups: Sequence[Files], *, apart: bool) -> int:
    """Return how many processes read, 0 for this one alone; with `apart` it reads nothing.

    By default there is one for each `_BYTES_A_WORKER`, where these are two or more.
    """
    if workers is None:
        files = (version_of(source.path) for group in groups for source in group)
        size = sum(version[0] for version in files if version)
        workers = min(os.cpu_count() or 1, len(groups), size // _BYTES_A_WORKER)
    else:
        check_number("workers", workers, least=1)
    return workers if workers > 1 else int(apart)


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


def _identity(
    maker: ExampleMaker, *, out: Path, videos: Sequence[Path], texts: Sequence[Path]
) -> dict[str, Any]:
    """Return what decides the examples in `out`: the inputs, and by whom each file becomes examples."""

    def named(path: Path) -> str:
        # Inputs below the folder in which `out` lies may move together with it.
        path, base = path.resolve(), out.resolve().parent
        return str(path.relative_to(base) if path.is_relative_to(base) else path)

    frames, own = maker.frame_tokenizer, maker.config.chat_template == "own"
    return {
        "videos": [named(path) for path in videos],
        "texts": [named(path) for path in texts],
        "made_by": {
            "format": store.FORMAT,
            "recipes": {recipe.kind: recipe.version for recipe in maker.recipes},
            "config": to_json(maker.config),
            "vocabulary": to_json(maker.vocabulary),
            "text_tokenizer": maker.tokenizer.fingerprint,
            "chat_template": maker.tokenizer.settings.get("chat_template") if own else None,
            "frame_tokenizer": frames.fingerprint if frames else None,
            "resolution": frames.resolution if frames else None,
            "decoders": library_versions(*_DECODERS) if frames else None,
        },
    }


def _counts(manifest: pa.Table) -> tuple[KindCount, ...]:
    sums = [("tokens", "count"), ("tokens", "sum"), ("vision_tokens", "sum")]
    grouped = manifest.group_by(["dataset", "kind", "split"]).aggregate(sums)
    named = grouped.rename_columns([field.name for field in fields(KindCount)])
    in_order = named.sort_by([(name, "ascending") for name in ("dataset", "kind", "split")])
    return tuple(KindCount(**row) for row in in_order.to_pylist())
